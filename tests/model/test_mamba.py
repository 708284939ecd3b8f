"""The Mamba block: the weights and numbers of the reference, at constant cost a tick."""

import copy

import pytest
import torch
import torch.nn.functional as nnf
from transformers import MambaConfig
from transformers.models.mamba.modeling_mamba import MambaMixer

from mambadream_lite.model import Mamba, MambaState
from mambadream_lite.model.scan import scan_in_a_loop

WIDTH, STATES = 20, 8
# of mamba_ssm.Mamba, the order aside
KEYS = {
    "A_log",
    "D",
    "in_proj.weight",
    "conv1d.weight",
    "conv1d.bias",
    "x_proj.weight",
    "dt_proj.weight",
    "dt_proj.bias",
    "out_proj.weight",
}


@pytest.fixture
def block() -> Mamba:
    """A block whose weights are all random, also those that start equal."""
    torch.manual_seed(1)
    block = Mamba(WIDTH, STATES)
    with torch.no_grad():
        for weight in block.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return block.requires_grad_(False)


def ticks(n: int, seed: int = 2) -> torch.Tensor:
    return torch.randn(3, n, WIDTH, generator=torch.Generator().manual_seed(seed))


def gap(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


def reference() -> MambaMixer:
    config = MambaConfig(
        hidden_size=WIDTH, state_size=STATES, conv_kernel=4, expand=2, time_step_rank="auto"
    )
    return MambaMixer(config, layer_idx=0).requires_grad_(False)


def test_weights_have_the_names_of_mamba_ssm(block: Mamba) -> None:
    assert set(block.state_dict()) == KEYS


def test_a_block_that_loads_the_references_weights_gives_its_outputs() -> None:
    theirs, ours, x = reference(), Mamba(WIDTH, STATES), ticks(40)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert gap(ours(x)[0], theirs(x)) <= 1e-5


def test_the_reference_loads_our_weights_and_gives_our_outputs(block: Mamba) -> None:
    theirs, x = reference(), ticks(40)
    theirs.load_state_dict(block.state_dict(), strict=True)
    assert gap(block(x)[0], theirs(x)) <= 1e-5


def test_steps_give_what_the_sequence_gives(block: Mamba) -> None:
    x = ticks(400)
    y, last = block(x)
    state, outputs = block.initial_state(3), []
    for t in range(x.shape[1]):
        out, state = block.step(x[:, t], state)
        outputs.append(out)
    assert gap(torch.stack(outputs, dim=1), y) <= 1e-4
    assert gap(state.ssm, last.ssm) <= 1e-4
    assert gap(state.conv, last.conv) <= 1e-5


@pytest.mark.parametrize("cut", [1, 2, 3, 17, 39])
def test_a_sequence_may_be_read_in_two_pieces(block: Mamba, cut: int) -> None:
    x = ticks(40)
    whole, last = block(x)
    first, state = block(x[:, :cut])
    second, end = block(x[:, cut:], state)
    assert gap(torch.cat([first, second], dim=1), whole) <= 1e-5
    assert gap(end.ssm, last.ssm) <= 1e-5


def test_a_state_can_be_used_twice(block: Mamba) -> None:
    """Futures are forked from one state: neither call may write into it."""
    _, state = block(ticks(10))
    before = MambaState(state.conv.clone(), state.ssm.clone())
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            block.step(ticks(1, seed=3)[:, 0], state)
            block(ticks(5, seed=4), state)
    assert torch.equal(state.conv, before.conv)
    assert torch.equal(state.ssm, before.ssm)


def test_the_state_does_not_grow(block: Mamba) -> None:
    shapes = [[z.shape for z in block(ticks(n))[1]] for n in (5, 50)]
    assert shapes[0] == shapes[1] == [(3, 2 * WIDTH, 3), (3, 2 * WIDTH, STATES)]


def test_no_output_knows_a_later_input(block: Mamba) -> None:
    x = ticks(20)
    changed = x.clone()
    changed[:, 12:] += 1
    assert torch.equal(block(x)[0][:, :12], block(changed)[0][:, :12])


def test_gradients_are_those_of_the_plain_loop_in_float64(monkeypatch) -> None:
    torch.manual_seed(5)
    block = Mamba(WIDTH, STATES)
    plain = copy.deepcopy(block).double()
    x = ticks(30)
    block(x)[0].square().sum().backward()
    zeros = torch.zeros(3, 2 * WIDTH, STATES, dtype=torch.float64)
    monkeypatch.setattr(
        "mambadream_lite.model.mamba.selective_scan", lambda *z: scan_in_a_loop(*z[:-1], zeros)
    )
    plain(x.double())[0].square().sum().backward()
    for (name, a), b in zip(block.named_parameters(), plain.parameters(), strict=True):
        assert gap(a.grad.double(), b.grad) <= 1e-4, name


def test_initial_weights_are_those_of_the_paper() -> None:
    torch.manual_seed(6)
    block = Mamba(128, 16)
    step = nnf.softplus(block.dt_proj.bias)
    assert step.min() >= 1e-3 * (1 - 1e-4)
    assert step.max() <= 1e-1 * (1 + 1e-4)
    assert step.log().std() > 1  # spread over the two decades, not in one place
    assert torch.equal(block.A_log, torch.arange(1, 17).float().log().expand(256, 16))
    assert (block.D == 1).all()
    assert block.dt_proj.weight.abs().max() <= 8**-0.5


@pytest.mark.parametrize(
    ("name", "value"), [("d_model", 0), ("d_state", 0), ("d_conv", 1), ("expand", 0)]
)
def test_an_impossible_size_is_named(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be at least.*{value}"):
        Mamba(**({"d_model": 8} | {name: value}))
