"""The Transformer: attention as it is written down, a cache that changes nothing, a fair size."""

import math

import pytest
import torch

from mambadream_lite.dream import dream
from mambadream_lite.market import Market
from mambadream_lite.model import (
    MambaWorldModel,
    TransformerWorldModel,
    fit,
    load_world_model,
    save_world_model,
)
from mambadream_lite.model.attend_cpu import attend
from mambadream_lite.model.transformer import CachedStep, TransformerBlock
from mambadream_lite.model.world_model import EagerStep


@pytest.fixture
def transformer(market: Market) -> TransformerWorldModel:
    torch.manual_seed(0)
    model = TransformerWorldModel(d_model=16, n_heads=2, d_ff=24, n_layers=2, n_components=3)
    for weight in (model.head.skip.weight, model.reward_head.weight):
        torch.nn.init.normal_(weight, std=0.1)
    model.fit_scaler(market)
    return model.eval().requires_grad_(False)


def by_hand(block: TransformerBlock, x: torch.Tensor) -> torch.Tensor:
    """One sequence (T, D), a head and a tick at a time; rotations as complex numbers."""
    rows = (x @ block.in_proj.weight.T).split(block.sizes, dim=-1)
    d = block.d_head
    turn = torch.tensor([10_000 ** (-2 * i / d) for i in range(d // 2)], dtype=x.dtype)

    def rotated(z: torch.Tensor, t: int) -> torch.Tensor:
        pair = torch.complex(z[: d // 2], z[d // 2 :]) * torch.polar(
            torch.ones_like(turn), turn * t
        )
        return torch.cat([pair.real, pair.imag])

    out = []
    for t in range(len(x)):
        heads = []
        for h in range(block.n_heads):
            mine = slice(h * d, (h + 1) * d)
            query = rotated(rows[0][t, mine], t)
            score = torch.stack([query @ rotated(rows[1][s, mine], s) for s in range(t + 1)])
            weight = torch.softmax(score / math.sqrt(d), 0)
            heads.append(weight @ rows[2][: t + 1, mine])
        gate = rows[3][t]
        heads.append(gate / (1 + torch.exp(-gate)) * rows[4][t])
        out.append(torch.cat(heads) @ block.out_proj.weight.T)
    return torch.stack(out)


def test_a_block_is_attention_beside_a_gated_layer() -> None:
    torch.manual_seed(1)
    block = TransformerBlock(16, n_heads=2, d_ff=10).double()
    x = torch.randn(3, 9, 16, dtype=torch.float64)
    with torch.no_grad():
        known = torch.stack([by_hand(block, one) for one in x])
        torch.testing.assert_close(block(x)[0], known, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cut", [1, 4, 8])
def test_a_sequence_may_be_read_in_pieces_or_tick_by_tick(cut: int) -> None:
    torch.manual_seed(1)
    block, x = TransformerBlock(16, 2, 10), torch.randn(3, 9, 16)
    with torch.no_grad():
        whole, end = block(x)
        first, state = block(x[:, :cut])
        second, _ = block(x[:, cut:], state)
        torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=1e-4, atol=1e-5)
        state, ticks = block.initial_state(3), []
        for t in range(9):
            y, state = block.step(x[:, t], state)
            ticks.append(y)
        torch.testing.assert_close(torch.stack(ticks, 1), whole, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(state.keys, end.keys)


def test_no_prediction_knows_a_later_tick(transformer, market: Market) -> None:
    x, t = market.features[:, :40].clone(), 25
    before = transformer(x)[0].mean[:, :t]
    x[:, t:] += 1
    torch.testing.assert_close(transformer(x)[0].mean[:, :t], before)


def test_the_cached_step_is_the_models_own(transformer, market: Market) -> None:
    with torch.no_grad():
        hidden = transformer(market.features[:, :20])[2]
        cached = transformer.stepper(hidden, 10)
        assert isinstance(cached, CachedStep)
        eager = EagerStep(transformer, hidden)
        for t in range(20, 30):
            x, ahead = market.features[:, t], market.features[:, t + 1]
            (law, reward, risk), (known, its_reward, its_risk) = cached(x), eager(x)
            torch.testing.assert_close(
                law.log_prob(ahead), known.log_prob(ahead), rtol=1e-4, atol=1e-4
            )
            torch.testing.assert_close(reward, its_reward, rtol=1e-4, atol=1e-9)
            torch.testing.assert_close(risk, its_risk, rtol=1e-4, atol=0)


@pytest.mark.parametrize("length", [1, 2, 7, 40])
def test_compiled_attention_is_pytorchs(length: int) -> None:
    generator = torch.Generator().manual_seed(length)
    query = 3 * torch.randn(5, 2, 8, generator=generator)
    cache = torch.randn(2, 5, 2, 40, 8, generator=generator)
    known = torch.nn.functional.scaled_dot_product_attention(
        query.unsqueeze(2), *cache[:, :, :, :length]
    )
    found = attend(query, *cache, length)
    torch.testing.assert_close(found, known.squeeze(2), rtol=1e-4, atol=1e-6)


def test_its_dreams_are_its_forecasts(transformer, market: Market) -> None:
    context = market.window(0, 25)
    path = dream(
        transformer, context, n_dreams=2, horizon=6, generator=torch.Generator().manual_seed(1)
    )
    seen = torch.cat([context.features.repeat_interleave(2, 0), path.features], 1)[:, :-1]
    with torch.no_grad():
        reward = transformer(seen)[1][:, 24:]
    torch.testing.assert_close(path.reward, reward, rtol=1e-3, atol=1e-6)


def test_it_is_as_large_as_mamba() -> None:
    sizes = [
        sum(p.numel() for p in m().parameters()) for m in (MambaWorldModel, TransformerWorldModel)
    ]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.01)


def test_it_learns_and_comes_back_from_its_file(market: Market, tmp_path) -> None:
    torch.manual_seed(0)
    model = TransformerWorldModel(d_model=16, n_heads=2, d_ff=24, n_components=2)
    history = fit(model, market, n_steps=80, window=64, batch_size=8, seed=1, progress=False)
    assert history.log_score[-1] > history.log_score[0] + 1
    path = save_world_model(model, tmp_path / "transformer.safetensors")
    again, _ = load_world_model(path)
    assert isinstance(again, TransformerWorldModel)
    with torch.no_grad():
        x = market.features[:, :30]
        assert torch.equal(again(x)[0].mean, model(x)[0].mean)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"n_heads": 3}, "multiple of 2"),
        ({"d_ff": 0}, "d_ff must be"),
        ({"n_layers": 0}, "n_layers"),
    ],
)
def test_impossible_sizes_are_named(sizes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransformerWorldModel(**sizes)
