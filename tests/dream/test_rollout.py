"""Dreams: what the model said before each tick, one price path, one generator, no surprises."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mambadream_lite.dream import Dream, advance, dream, observe, rollout, watch
from mambadream_lite.market import HestonParams, Market, make_heston_market
from mambadream_lite.market.features import VELOCITY
from mambadream_lite.model import MambaWorldModel, load_world_model

SHIPPED = Path(__file__).parents[2] / "data" / "heston.safetensors"
FIELDS = tuple(Dream.__dataclass_fields__)


def dreams(model: MambaWorldModel, context, seed: int = 1, **changes) -> Dream:
    settings = {"n_dreams": 5, "horizon": 12, "generator": torch.Generator().manual_seed(seed)}
    return dream(model, context, **(settings | changes))


# --- shapes and order ---------------------------------------------------------------------------


def test_a_dream_has_the_declared_shapes(model, market: Market) -> None:
    path = dreams(model, market)
    assert len(path) == 15
    assert path.horizon == 12
    assert path.features.shape == (15, 12, 6)
    assert path.log_price.shape == (15, 13)
    for name in ("reward", "risk", "alive", "high", "low"):
        assert getattr(path, name).shape == (15, 12), name
    assert path.alive.all()


def test_dreams_of_one_context_lie_side_by_side(model, market: Market) -> None:
    path = dreams(model, market)
    assert torch.equal(path.start, market.features[:, -1].repeat_interleave(5, dim=0))
    expected = market.price[:, -1].log().repeat_interleave(5)
    assert torch.equal(path.log_price[:, 0], expected)
    # before the first sampled tick the five dreams of a context are one
    said = path.reward[:, 0].view(3, 5)
    apart = (said[:, 0] - said[:, 0].roll(1)).abs().min()
    assert (said - said[:, :1]).abs().max() < 1e-3 * apart


def test_the_contexts_state_is_not_spent_by_dreaming(model, market: Market) -> None:
    belief = observe(model, market)
    first, again = (dreams(model, belief) for _ in range(2))
    for name in FIELDS:
        assert torch.equal(getattr(first, name), getattr(again, name)), name


def test_a_tensor_dreams_as_its_market_does_from_price_one(model, market: Market) -> None:
    of_market, of_tensor = dreams(model, market), dreams(model, market.features)
    assert torch.equal(of_market.features, of_tensor.features)
    assert (of_tensor.log_price[:, 0] == 0).all()


def test_a_generator_fixes_the_dreams(model, market: Market) -> None:
    first, again, other = (dreams(model, market, seed=s) for s in (2, 2, 3))
    for name in FIELDS:
        assert torch.equal(getattr(first, name), getattr(again, name)), name
    assert not torch.equal(first.features, other.features)


def test_the_dreams_of_one_context_differ(model, market: Market) -> None:
    path = dreams(model, market.features[:1])
    assert len(path.features[:, 0, 0].unique()) == 5


def test_at_temperature_zero_there_is_one_dream(model, market: Market) -> None:
    path = dreams(model, market.features[:1], temperature=0.0)
    assert torch.allclose(path.features, path.features[:1].expand(5, -1, -1), atol=1e-5)


# --- what the model said ------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [4, 1024])
def test_reward_and_risk_were_said_before_the_tick(model, market, chunk: int, monkeypatch) -> None:
    """Read the context and the dream as one sequence: its predictions must be the dream's."""
    monkeypatch.setattr(rollout, "TILE", chunk)
    path = dreams(model, market)
    context = market.features.repeat_interleave(5, dim=0)
    law, reward, _ = model(torch.cat([context, path.features], dim=1))
    said = slice(context.shape[1] - 1, -1)
    sd = law[:, said].stddev[..., VELOCITY] * model.velocity_unit
    assert torch.allclose(path.reward, reward[:, said], atol=1e-5 * model.velocity_unit)
    assert torch.allclose(path.risk, sd, rtol=1e-4)


def test_dreamed_ticks_have_the_predicted_mean(model, market: Market) -> None:
    path = dreams(model, market.features[:1], n_dreams=20_000, horizon=1)
    law, _, _ = model(market.features[:1])
    predicted = law[:, -1]
    gap = path.features[:, 0].mean(0) - predicted.mean[0]
    assert (gap.abs() < 5 * predicted.stddev[0] / 20_000**0.5).all()


def test_dreams_of_a_model_that_extrapolates_stay_finite(model, market: Market) -> None:
    wild = copy.deepcopy(model)
    torch.manual_seed(1)
    torch.nn.init.normal_(wild.head.skip.weight, std=0.2)
    path = dreams(wild, market, horizon=100)
    assert path.features.abs().max() > 100 * market.features.abs().max()  # it does run away
    for name in FIELDS:
        if name not in ("high", "low"):  # as prices: the exponential of an absurd return
            assert torch.isfinite(getattr(path, name)).all(), name


def test_prices_follow_from_velocity(model, market: Market) -> None:
    path = dreams(model, market)
    move = path.features[..., VELOCITY].double() * 0.2 * market.bar**0.5
    assert torch.allclose(path.log_price.diff(dim=1), move, atol=1e-12)


def test_high_and_low_bracket_the_tick(model, market: Market) -> None:
    path = dreams(model, market)
    ends = torch.stack([path.log_price[:, :-1], path.log_price[:, 1:]]).exp()
    slack = 1e-9 * ends.amax()
    assert (path.high >= ends.amax(0) - slack).all()
    assert (path.low <= ends.amin(0) + slack).all()
    assert (path.high > ends.amax(0) + slack).any()


# --- reading a context --------------------------------------------------------------------------


def test_one_tick_more_is_the_longer_context(model, market: Market) -> None:
    whole = observe(model, market)
    belief = observe(model, market.window(0, 50))
    for t in range(50, 60):
        belief = advance(model, belief, market.features[:, t], market.log_return[:, t])
    assert torch.equal(belief.features, whole.features)
    assert torch.allclose(belief.log_price, whole.log_price, atol=1e-9)
    for a, b in zip(belief.hidden, whole.hidden, strict=True):
        assert torch.allclose(a.conv, b.conv, atol=1e-5)
        assert torch.allclose(a.ssm, b.ssm, atol=1e-5)


def test_five_hundred_ticks_at_once_or_one_by_one_give_the_same_dreams() -> None:
    shipped, _ = load_world_model(SHIPPED)
    market = make_heston_market(HestonParams(), 2, 500, seed=3)
    belief = observe(shipped, market.window(0, 4))
    for t in range(4, 500):
        belief = advance(shipped, belief, market.features[:, t], market.log_return[:, t])
    at_once, one_by_one = dreams(shipped, market), dreams(shipped, belief)
    for name in ("features", "reward", "risk", "log_price"):
        a, b = getattr(at_once, name), getattr(one_by_one, name)
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_gradients_flow_through_a_dream(market: Market) -> None:
    """Against central differences, in the direction of the gradient itself."""
    torch.manual_seed(0)
    model = MambaWorldModel(d_model=8, d_state=2, n_components=1)
    model.fit_scaler(market)
    weight = model.head.skip.weight
    torch.nn.init.normal_(weight, std=0.02)

    def worth() -> torch.Tensor:
        return dreams(model, market, grad=True).features.square().mean()

    worth().backward()
    slope, start, step = weight.grad.norm(), weight.detach().clone(), 1e-2
    with torch.no_grad():
        values = []
        for sign in (1, -1):
            weight.copy_(start + sign * step * weight.grad / slope)
            values.append(worth().item())
    assert slope > 1e-3
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(slope.item(), rel=0.02)


def test_take_and_fork_keep_what_belongs_together(model, market: Market) -> None:
    belief = observe(model, market)
    forked = belief.fork(4)
    assert torch.equal(forked.features, belief.features.repeat_interleave(4, dim=0))
    back = forked.take(torch.tensor([0, 4, 8]))
    for a, b in zip(back.hidden, belief.hidden, strict=True):
        assert torch.equal(a.conv, b.conv)
        assert torch.equal(a.ssm, b.ssm)
    assert torch.equal(back.log_price, belief.log_price)


def test_bars_of_another_length_are_refused(model, market: Market) -> None:
    with pytest.raises(ValueError, match="^context has bars of"):
        observe(model, replace(market, bar=2 * market.bar))
    with pytest.raises(ValueError, match="^market has bars of"):
        watch(model, replace(market, bar=2 * market.bar), 5)


def test_a_context_too_short_for_the_convolution_is_refused(model, market: Market) -> None:
    observe(model, market.features[:, :4])
    with pytest.raises(ValueError, match=r"^context must have shape .* T >= 4, got \(3, 3, 6\)"):
        observe(model, market.features[:, :3])


def test_a_context_without_batch_is_refused(model, market: Market) -> None:
    with pytest.raises(ValueError, match="^context must have shape"):
        observe(model, market.features[0])


def test_no_forecast_crosses_a_gap(model, market: Market) -> None:
    torn = replace(market, gap=np.arange(market.features.shape[1]) == 30)
    with pytest.raises(ValueError, match="context has a gap before 30"):
        observe(model, torn)
    with pytest.raises(ValueError, match="market has a gap before 30"):
        watch(model, torn, 5)
    observe(model, torn.pieces()[1])


def test_nan_in_a_context_is_located(model, market: Market) -> None:
    x = market.features.clone()
    x[1, 30, 2] = float("nan")
    with pytest.raises(ValueError, match=r"^context must be finite: 1 .*\(1, 30, 2\)"):
        dreams(model, x)


def test_a_wrong_number_of_features_is_refused(model, market: Market) -> None:
    with pytest.raises(ValueError, match="^context must end in 6 features"):
        dreams(model, market.features[..., :5])


@pytest.mark.parametrize("name", ["horizon", "n_dreams"])
@pytest.mark.parametrize("value", [0, -3])
def test_nothing_to_dream_is_refused(model, market: Market, name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be at least 1, got {value}"):
        dreams(model, market, **{name: value})


# --- halting and acting -------------------------------------------------------------------------


def test_a_halt_marks_and_does_not_cut(model, market: Market) -> None:
    calls = []

    def halt(x: torch.Tensor, law) -> torch.Tensor:
        calls.append(law.mean)
        stop = torch.zeros(len(x), dtype=torch.bool)
        stop[2] = len(calls) == 4  # once, before tick 3
        return stop

    plain, halted = dreams(model, market), dreams(model, market, halt=halt)
    assert len(calls) == 12
    assert halted.alive[2].tolist() == [True] * 3 + [False] * 9
    assert halted.alive.sum() == 15 * 12 - 9
    assert torch.equal(halted.features, plain.features)


def test_a_halt_sees_the_tick_before_and_the_law_of_the_next(model, market: Market) -> None:
    seen = []

    def halt(x: torch.Tensor, law) -> torch.Tensor:
        seen.append((x, law.stddev[:, VELOCITY] * model.velocity_unit))
        return torch.zeros(len(x), dtype=torch.bool)

    path = dreams(model, market, halt=halt)
    before = torch.cat([path.start[:, None], path.features[:, :-1]], dim=1)
    assert torch.equal(torch.stack([x for x, _ in seen], dim=1), before)
    torch.testing.assert_close(torch.stack([sd for _, sd in seen], dim=1), path.risk)


def test_actions_as_a_tensor_and_as_a_function_agree(actor, market: Market, monkeypatch) -> None:
    monkeypatch.setattr(rollout, "TILE", 4)
    plan = torch.randn(15, 12, 2, generator=torch.Generator().manual_seed(5))
    plan[:] = plan[:1]  # a function of the tick alone
    by_tensor = dreams(actor, market, actions=plan)
    by_function = dreams(actor, market, actions=lambda x, h: plan[0, h].expand(len(x), 2))
    assert torch.equal(by_tensor.features, by_function.features)
    idle = dreams(actor, market, actions=torch.zeros_like(plan))
    assert not torch.allclose(by_tensor.features, idle.features)


def test_each_dream_feels_its_own_actions_and_only_from_then_on(actor, market, monkeypatch) -> None:
    monkeypatch.setattr(rollout, "TILE", 4)
    idle = torch.zeros(15, 12, 2)
    acted = idle.clone()
    acted[7, 5] = 3.0
    a, b = (dreams(actor, market, actions=z) for z in (idle, acted))
    differs = (a.features != b.features).any(-1)
    assert differs[7].tolist() == [False] * 5 + [True] * 7
    assert differs.any(1).sum() == 1


def test_actions_that_the_model_does_not_take_are_refused(model, market: Market) -> None:
    with pytest.raises(ValueError, match="^actions must be given if and only if"):
        dreams(model, market, actions=torch.zeros(15, 12, 1))


def test_missing_actions_are_refused(actor, market: Market) -> None:
    with pytest.raises(ValueError, match="^actions must be given if and only if"):
        dreams(actor, market)


@pytest.mark.parametrize("shape", [(14, 12, 2), (15, 11, 2), (3, 12, 2)])
def test_actions_for_other_dreams_are_refused(actor, market: Market, shape) -> None:
    with pytest.raises(ValueError, match=r"^actions must begin \(15, 12\)"):
        dreams(actor, market, actions=torch.zeros(shape))


# --- the real market, as the model sees it ------------------------------------------------------


def test_watching_aligns_each_forecast_with_its_tick(model, market: Market) -> None:
    path = watch(model, market, warmup=40)
    law, reward, _ = model(market.features)
    assert path.horizon == 20
    assert torch.equal(path.start, market.features[:, 39])
    assert torch.equal(path.features, market.features[:, 40:])
    assert torch.allclose(path.reward, reward[:, 39:-1], atol=1e-5 * model.velocity_unit)
    sd = law[:, 39:-1].stddev[..., VELOCITY] * model.velocity_unit
    assert torch.allclose(path.risk, sd, rtol=1e-4)
    assert torch.equal(path.log_price, market.price[:, 40:].log())
    assert torch.equal(path.high, market.high[:, 40:])
    assert torch.equal(path.low, market.low[:, 40:])
    assert path.alive.all()


def test_a_watched_tick_and_a_dreamt_one_start_from_the_same_forecast(model, market) -> None:
    watched = watch(model, market, warmup=40)
    dreamt = dreams(model, market.window(0, 40), n_dreams=1)
    assert torch.allclose(watched.reward[:, 0], dreamt.reward[:, 0], atol=1e-8)
    assert torch.allclose(watched.risk[:, 0], dreamt.risk[:, 0], rtol=1e-4)
    assert torch.equal(watched.log_price[:, 0], dreamt.log_price[:, 0])


@pytest.mark.parametrize("warmup", [0, 60])
def test_a_warmup_outside_the_market_is_refused(model, market: Market, warmup: int) -> None:
    with pytest.raises(ValueError, match=f"^warmup must lie between 1 and 59 ticks, got {warmup}"):
        watch(model, market, warmup)
