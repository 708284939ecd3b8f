"""The CUDA kernels of mamba-ssm against the CPU path, on a machine that has both."""

import copy

import pytest
import torch

from mambadream_lite.dream import dream
from mambadream_lite.market import HestonParams, make_heston_market
from mambadream_lite.model import Mamba, MambaWorldModel
from mambadream_lite.model.scan import scan_in_a_loop, scan_with_kernel

if not torch.cuda.is_available():
    pytest.skip("no CUDA device: its kernels are not compared", allow_module_level=True)
selective_scan_fn = pytest.importorskip(
    "mamba_ssm.ops.selective_scan_interface",
    reason="mamba-ssm is not installed: its kernels are not compared (see requirements-gpu.txt)",
).selective_scan_fn

BATCH, TICKS, WIDTH, INNER, STATES = 3, 70, 32, 64, 16


@pytest.fixture(autouse=True)
def exact_matmuls():
    """TensorFloat-32 would round the matrices around the kernels to 3 digits."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def gap(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.detach().cpu().double(), b.detach().cpu().double()
    return ((a - b).abs().max() / b.abs().max()).item()


def scan_inputs() -> list[torch.Tensor]:
    """x, dt, A, B, C, D and the initial state, float64 on the CPU."""
    g = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    return [
        normal(BATCH, TICKS, INNER),
        normal(BATCH, TICKS, INNER).exp() / 10,
        -normal(INNER, STATES).exp(),
        normal(BATCH, TICKS, STATES),
        normal(BATCH, TICKS, STATES),
        normal(INNER),
        normal(BATCH, INNER, STATES),
    ]


def blocks() -> tuple[Mamba, Mamba]:
    torch.manual_seed(2)
    block = Mamba(WIDTH, STATES)
    return block, copy.deepcopy(block).cuda()


def test_scan_and_its_gradients_are_those_of_the_loop_in_float64() -> None:
    exact = [z.requires_grad_() for z in scan_inputs()]
    fast = [z.float().cuda().requires_grad_() for z in scan_inputs()]
    y, state = scan_in_a_loop(*exact)
    fast_y, fast_state = scan_with_kernel(selective_scan_fn, *fast)
    assert gap(fast_y, y) < 1e-4
    assert gap(fast_state, state) < 1e-4
    (y.sum() + state.square().sum()).backward()
    (fast_y.sum() + fast_state.square().sum()).backward()
    for name, a, b in zip(("x", "dt", "A", "B", "C", "D", "h"), fast, exact, strict=True):
        assert gap(a.grad, b.grad) < 1e-3, name


def test_a_block_gives_the_same_on_both_devices() -> None:
    block, on_gpu = blocks()
    x = torch.randn(BATCH, TICKS, WIDTH)
    y, state = block(x)
    gpu_y, gpu_state = on_gpu(x.cuda())
    assert gap(gpu_y, y) < 1e-4
    assert gap(gpu_state.ssm, state.ssm) < 1e-4


@torch.no_grad()
def test_steps_by_the_kernel_give_the_sequence_and_leave_their_state_alone() -> None:
    block, on_gpu = blocks()
    x = torch.randn(BATCH, TICKS, WIDTH)
    y, _ = block(x)
    state = on_gpu.initial_state(BATCH)
    for t in range(TICKS):
        before = state.ssm.clone()
        out, after = on_gpu.step(x[:, t].cuda(), state)
        assert torch.equal(state.ssm, before)
        assert gap(out, y[:, t]) < 1e-3
        state = after


@torch.no_grad()
def test_a_model_dreams_on_the_gpu() -> None:
    market = make_heston_market(HestonParams(), 2, 60, seed=3)
    torch.manual_seed(4)
    model = MambaWorldModel(d_model=WIDTH, d_state=STATES)
    model.fit_scaler(market)
    law, reward, _ = model(market.features)
    model = model.cuda()
    gpu_law, gpu_reward, _ = model(market.features.cuda())
    assert gap(gpu_law.mean, law.mean) < 1e-3
    assert gap(gpu_law.stddev, law.stddev) < 1e-3
    assert torch.allclose(gpu_reward.cpu(), reward, atol=1e-3 * model.velocity_unit)
    generator = torch.Generator("cuda").manual_seed(5)
    path = dream(model, market, n_dreams=4, horizon=5, generator=generator)
    assert path.features.is_cuda
    assert torch.isfinite(path.log_price).all()
