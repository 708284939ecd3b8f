"""Every way to run the recurrence, held to its solution written out as a sum over the past."""

import importlib
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

from mambadream_lite.model import scan
from mambadream_lite.model.scan_cpu import FusedScan, fused_step

BATCH, TICKS, INNER, STATES = 2, 9, 5, 4
NAMES = ("x", "dt", "A", "B", "C", "D", "h")


def make_inputs() -> list[Tensor]:
    """x, dt, A, B, C, D and the initial state, float64."""
    g = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    return [
        normal(BATCH, TICKS, INNER),
        normal(BATCH, TICKS, INNER).exp() / 5,
        -normal(INNER, STATES).exp(),
        normal(BATCH, TICKS, STATES),
        normal(BATCH, TICKS, STATES),
        normal(INNER),
        normal(BATCH, INNER, STATES),
    ]


def unrolled(x, dt, A, B, C, D, h) -> tuple[Tensor, Tensor]:
    """The scan without a recurrence: with s the running sum of dt,
    h_t = e^{A s_t} h + sum_{u <= t} e^{A (s_t - s_u)} dt_u x_u B_u."""
    clock = dt.cumsum(1)
    past = torch.ones(TICKS, TICKS, dtype=torch.bool).tril()[..., None]
    age = torch.where(past, clock[:, :, None] - clock[:, None], 0.0)  # (B, T, T, E)
    kept = torch.exp(age[..., None] * A) * past[..., None]
    drive = (dt * x)[..., None] * B[:, :, None]  # (B, T, E, S)
    state = torch.einsum("btues,bues->btes", kept, drive)
    state = state + torch.exp(clock[..., None] * A) * h[:, None]
    return torch.einsum("btes,bts->bte", state, C) + D * x, state[:, -1]


def kernel_in_float64(u, delta, A, B, C, D) -> Tensor:
    """Stands in for mamba-ssm's ``selective_scan_fn``: channels first, no state in or out."""
    state = torch.zeros(len(u), *A.shape, dtype=torch.float64)
    outputs = []
    for t in range(u.shape[2]):
        decay = torch.exp(torch.einsum("be,es->bes", delta[..., t].double(), A.double()))
        drive = torch.einsum("be,bs->bes", (delta * u)[..., t].double(), B[..., t].double())
        state = decay * state + drive
        outputs.append(torch.einsum("bes,bs->be", state, C[..., t].double()))
    return (torch.stack(outputs, dim=2) + D.double()[:, None] * u).to(u.dtype)


def by_kernel(x, dt, A, B, C, D, h) -> tuple[Tensor, Tensor]:
    return scan.scan_with_kernel(kernel_in_float64, x, dt, A, B, C, D, h)


SCANS = {
    "loop": scan.scan_in_a_loop,
    "fused": FusedScan.apply,
    "kernel": by_kernel,
    "chosen": scan.selective_scan,
}


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    return bool((a.double() - b).abs().max() <= tolerance * b.abs().max())


@pytest.mark.parametrize("name", SCANS)
def test_outputs_and_final_state_solve_the_recurrence(name: str) -> None:
    inputs = make_inputs()
    y, final = SCANS[name](*(z.float() for z in inputs))
    expected_y, expected_final = unrolled(*inputs)
    assert close(y, expected_y)
    assert close(final, expected_final)


@pytest.mark.parametrize("name", SCANS)
@pytest.mark.parametrize("through", ["outputs", "state"])
def test_gradients_are_those_of_the_solution(name: str, through: str) -> None:
    g = torch.Generator().manual_seed(2)
    if through == "outputs":
        pull = torch.randn(BATCH, TICKS, INNER, generator=g, dtype=torch.float64)
    else:
        pull = torch.randn(BATCH, INNER, STATES, generator=g, dtype=torch.float64)

    def gradients(f, inputs: list[Tensor]) -> tuple[Tensor, ...]:
        leaves = [z.clone().requires_grad_() for z in inputs]
        y, final = f(*leaves)
        out = y if through == "outputs" else final
        return torch.autograd.grad((out * pull).sum(), leaves, materialize_grads=True)

    expected = gradients(unrolled, make_inputs())
    found = gradients(SCANS[name], [z.float() for z in make_inputs()])
    for what, a, b in zip(NAMES, found, expected, strict=True):
        assert close(a, b, 1e-4), what


@pytest.mark.parametrize("name", ["kernel", "chosen"])
def test_no_state_is_a_state_of_zeros(name: str) -> None:
    *inputs, h = make_inputs()
    y, final = SCANS[name](*(z.float() for z in inputs), None)
    expected_y, expected_final = unrolled(*inputs, torch.zeros_like(h))
    assert close(y, expected_y)
    assert close(final, expected_final)


@pytest.mark.parametrize("grad", [True, False])
def test_a_step_is_a_scan_of_one_tick(grad: bool) -> None:
    x, dt, A, B, C, D, h = make_inputs()
    now = slice(0, 1)
    y, state = scan.scan_in_a_loop(x[:, now], dt[:, now], A, B[:, now], C[:, now], D, h)
    single = [h, x[:, 0], dt[:, 0], A, B[:, 0], C[:, 0], D]
    with torch.set_grad_enabled(grad):
        found_y, found_state = scan.selective_step(*(z.float() for z in single))
    assert close(found_y, y[:, 0])
    assert close(found_state, state)


def test_fused_step_solves_the_recurrence() -> None:
    x, dt, A, B, C, D, h = (z.numpy() for z in make_inputs())
    state = np.exp(dt[:, 0, :, None] * A) * h + np.einsum("be,bs->bes", dt[:, 0] * x[:, 0], B[:, 0])
    y = np.einsum("bes,bs->be", state, C[:, 0]) + D * x[:, 0]
    single = (h, x[:, 0], dt[:, 0], A, B[:, 0], C[:, 0], D)
    found_y, found_state = fused_step(*(torch.from_numpy(z).float() for z in single))
    assert close(found_y, torch.from_numpy(y))
    assert close(found_state, torch.from_numpy(state))


def test_fused_exponential_is_exact_from_no_decay_to_complete_decay() -> None:
    exponent = torch.linspace(-150, 0, 5001, dtype=torch.float64)
    n = len(exponent)
    zeros, one = torch.zeros(1, n), torch.ones(1, n)
    A = exponent.float()[:, None]
    _, state = fused_step(one[..., None], zeros, one, A, zeros[:, :1], zeros[:, :1], zeros[0])
    exact = A[:, 0].double().exp()
    rounding = 1e-7 * (1 - exponent)  # a float32 exponent is known to a share of its size
    assert ((state[0, :, 0] - exact).abs() <= 2 * rounding * exact + 2e-38).all()


def test_a_step_leaves_the_state_it_was_given_alone() -> None:
    """A future is forked by using a state twice."""
    x, dt, A, B, C, D, h = (z.float() for z in make_inputs())
    before = h.clone()
    with torch.no_grad():
        scan.selective_step(h, x[:, 0], dt[:, 0], A, B[:, 0], C[:, 0], D)
        scan.selective_scan(x, dt, A, B, C, D, h)
    assert torch.equal(h, before)


def without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Make the imports of ``scan`` fail as if ``package`` were not installed."""
    real = importlib.import_module

    def missing(name: str):
        if name.startswith(package):
            raise ImportError(f"No module named {package!r}")
        return real(name)

    monkeypatch.setattr(scan.importlib, "import_module", missing)


@pytest.fixture
def forgetful_scan():
    """``scan`` with its memory of what can be imported cleared, before and after."""
    for lookup in (scan.numba_kernels, scan._mamba_ssm):
        lookup.cache_clear()
    yield scan
    for lookup in (scan.numba_kernels, scan._mamba_ssm):
        lookup.cache_clear()


def test_without_numba_the_loop_runs_and_says_so_once(forgetful_scan, monkeypatch) -> None:
    without(monkeypatch, "mambadream_lite.model.scan_cpu")
    inputs = make_inputs()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(3):
            y, _ = scan.selective_scan(*(z.float() for z in inputs))
    assert close(y, unrolled(*inputs)[0])
    assert len(said) == 1
    assert "pip install numba" in str(said[0].message)


def test_without_mamba_ssm_the_cure_is_named_once(forgetful_scan, monkeypatch) -> None:
    without(monkeypatch, "mamba_ssm")
    with pytest.warns(UserWarning, match="requirements-gpu.txt") as said:
        for _ in range(3):
            assert scan._mamba_ssm("selective_scan_fn") is None
    assert len(said) == 1
