"""Halts end dreams where they say, and as often as they say."""

import warnings

import pytest
import torch

from mambadream_lite.dream import (
    any_halt,
    disagreement_halt,
    disagreement_threshold,
    dream,
    feature_halt,
    pause,
    range_halt,
    surprise_threshold,
    surprised,
    watch,
)
from mambadream_lite.market import HestonParams, Market, make_heston_market
from mambadream_lite.market.features import VOLATILITY
from mambadream_lite.model import Ensemble, MambaWorldModel


@pytest.fixture(scope="module")
def ensemble(market: Market) -> Ensemble:
    members = []
    for seed in (0, 1, 2):
        torch.manual_seed(seed)
        member = MambaWorldModel(d_model=8, d_state=2, n_components=2)
        torch.nn.init.normal_(member.head.skip.weight, std=0.1)
        member.fit_scaler(market)
        members.append(member)
    return Ensemble(members).eval()


def go(model, context, halt, **changes):
    settings = {"n_dreams": 40, "horizon": 10, "generator": torch.Generator().manual_seed(1)}
    return dream(model, context, halt=halt, **(settings | changes))


@pytest.mark.parametrize("share", [0.01, 0.2])
def test_false_alarms_come_as_often_as_was_asked_for(ensemble, share: float) -> None:
    held_out = make_heston_market(HestonParams(), 4, 1600, seed=9)
    threshold = disagreement_threshold(ensemble, held_out, share)
    with torch.no_grad():
        seen = ensemble(held_out.features)[0].disagreement[:, 100:]
    assert (seen > threshold).double().mean().item() == pytest.approx(share, abs=2 / seen.numel())
    fresh = make_heston_market(HestonParams(), 8, 1600, seed=10)
    with torch.no_grad():
        again = ensemble(fresh.features)[0].disagreement[:, 100:]
    assert (again > threshold).double().mean().item() == pytest.approx(share, rel=0.5)


def test_a_dream_ends_where_a_feature_leaves_the_training_range(model, market: Market) -> None:
    context = market.features[:, :30].clone()
    context[1, -1, VOLATILITY] = model.feature_mean[VOLATILITY] + 7 * model.feature_std[VOLATILITY]
    path = go(model, context, range_halt(model, 6.0))
    alive = path.alive.view(3, 40, 10)
    assert not alive[1].any() and alive[0, :, 0].all() and alive[2, :, 0].all()
    z = ((path.features - model.feature_mean) / model.feature_std).abs().amax(-1)
    out = (z > 6).cumsum(1) > 0  # a tick out of range ends the dream from the next one on
    assert torch.equal(alive[0, :, 1:], ~out.view(3, 40, 10)[0, :, :-1])


def test_a_users_rule_ends_a_dream_and_rules_can_be_joined(model, market: Market) -> None:
    calm = feature_halt("volatility", high=-1.6)
    path = go(model, market, calm, horizon=40)
    over = (path.features[:, :-1, VOLATILITY] > -1.6).cumsum(1) > 0
    begun = path.start[:, VOLATILITY] <= -1.6
    assert torch.equal(path.alive[begun, 1:], ~over[begun])
    assert not path.alive[~begun].any()
    both = go(model, market, any_halt(calm, range_halt(model, 2.0)), horizon=40)
    alone = go(model, market, range_halt(model, 2.0), horizon=40)
    assert torch.equal(both.alive, path.alive & alone.alive)


def test_a_halt_that_leaves_nothing_says_so_once(model, market: Market) -> None:
    with pytest.warns(UserWarning, match="all 120 dreams ended before their first tick"):
        path = go(model, market, range_halt(model, 1e-6))
    assert not path.alive.any() and torch.isfinite(path.features).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        go(model, market, range_halt(model, 100.0))


def test_impossible_halts_are_named(model, ensemble, market: Market) -> None:
    with pytest.raises(TypeError, match="needs an Ensemble"):
        go(model, market, disagreement_halt(0.1))
    with pytest.raises(ValueError, match="limit must be positive"):
        range_halt(model, 0.0)
    with pytest.raises(ValueError, match="name must be one of"):
        feature_halt("vola")
    with pytest.raises(ValueError, match=r"share must lie in \(0, 1\), got 1"):
        disagreement_threshold(ensemble, market, 1)
    with pytest.raises(ValueError, match="60 ticks a path, warmup alone takes 100"):
        disagreement_threshold(ensemble, market, 0.1)


# --- in a market, which goes on -----------------------------------------------------------------


def test_a_watched_market_is_halted_in_the_ticks_before_which_the_rule_says_so(
    ensemble, market: Market
) -> None:
    halt = feature_halt("volatility", high=-1.7)
    path = watch(ensemble, market, 20, halt=halt)
    before = market.features[:, 19:-1, VOLATILITY]  # the last tick that had closed
    assert torch.equal(path.alive, before <= -1.7)
    assert 0 < path.alive.double().mean() < 1
    goes_on = path.alive[:, 1:] & ~path.alive[:, :-1]
    assert goes_on.any()  # trading begins again


def test_members_that_disagree_halt_a_market_too(ensemble, market: Market) -> None:
    with torch.no_grad():
        apart = ensemble(market.features[:, :-1])[0].disagreement[:, 19:]
    limit = apart.median().item()
    path = watch(ensemble, market, 20, halt=disagreement_halt(limit))
    assert torch.equal(path.alive, apart <= limit)


def log_scores_by_hand(model, market: Market) -> torch.Tensor:
    """One tick after the other, (B, T), nan where nothing was said before."""
    said = torch.full(market.features.shape[:2], float("nan"))
    with torch.no_grad():
        for t in range(1, market.features.shape[1]):
            law, _, _ = model(market.features[:, :t])
            said[:, t] = law[:, -1].log_prob(market.features[:, t])
    return said


def test_a_surprise_stops_trading_one_tick_late_and_for_good(model, market: Market) -> None:
    warmup = 20
    said = log_scores_by_hand(model, market)[:, warmup:]
    limit = said.quantile(0.03).item()
    expected = torch.zeros_like(said, dtype=torch.bool)
    for path in range(len(said)):
        first = (said[path] < limit).nonzero()
        if len(first):
            expected[path, first[0, 0] + 1 :] = True
    assert 0 < expected.double().mean() < 1
    assert torch.equal(surprised(model, market, limit, warmup), expected)


@pytest.mark.parametrize("share", [0.01, 0.2])
def test_surprises_come_as_often_as_was_asked_for(model, share: float) -> None:
    held_out = make_heston_market(HestonParams(), 4, 1600, seed=9)
    limit = surprise_threshold(model, held_out, share)
    with torch.no_grad():
        law = model(held_out.features[:, :-1])[0]
    scores = law.log_prob(held_out.features[:, 1:])[:, 99:]
    assert (scores < limit).double().mean().item() == pytest.approx(share, abs=2 / scores.numel())
    with pytest.raises(ValueError, match=r"^share must lie in \(0, 1\), got 1"):
        surprise_threshold(model, held_out, 1)
    with pytest.raises(ValueError, match="^market has 60 ticks a path, warmup alone takes 100"):
        surprise_threshold(model, held_out.window(0, 60), share)


def test_a_pause_lasts_as_long_as_it_says() -> None:
    alive = torch.tensor([[True, False, True, True, True, True, False, True]])
    assert pause(alive, 0).tolist() == alive.tolist()
    assert pause(alive, 2).tolist() == [[True, False, False, False, True, True, False, False]]
    with pytest.raises(ValueError, match="^ticks must not be negative, got -1"):
        pause(alive, -1)
