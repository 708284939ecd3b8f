"""Random daily worlds: Heston's own laws, the real market's columns, no day that knows the next."""

import numpy as np
import pytest
import torch

from mambadream_lite.market import worlds
from mambadream_lite.market.features import FEATURES
from mambadream_lite.market.worlds import draw_params, make_daily_worlds


@pytest.fixture(scope="module")
def market():
    return make_daily_worlds(6, 300, seed=5)


def test_the_market_is_shaped_like_the_real_one(market) -> None:
    assert market.features.shape == (24, 300, 6) and market.price.shape == (24, 301)
    assert market.bar == 1 / 252 and set(market.proxies) == set(worlds.SP500_PROXIES)
    close = market.price[:, 1:]
    assert (market.low <= close).all() and (close <= market.high).all()
    velocity = market.features[..., FEATURES.index("velocity")].double()
    torch.testing.assert_close(
        velocity * market.velocity_unit, market.log_return, rtol=1e-5, atol=1e-7
    )


def test_the_same_seed_gives_the_same_worlds_and_more_worlds_change_none(market) -> None:
    again = make_daily_worlds(3, 300, seed=5)
    assert torch.equal(again.features, market.features[:12])
    assert not torch.equal(make_daily_worlds(3, 300, seed=6).features, again.features)


def test_daily_variance_is_the_worlds_own(monkeypatch) -> None:
    """With parameters held fixed, the mean squared return of a day is theta / 252."""
    params = draw_params(np.random.default_rng(1))
    monkeypatch.setattr(worlds, "draw_params", lambda rng: params)
    returns = make_daily_worlds(30, 1500, seed=7).log_return
    by_path = returns.square().mean(1) * 252
    error = by_path.std().item() / len(by_path) ** 0.5
    assert by_path.mean().item() == pytest.approx(params.theta, abs=4 * error)
    assert error < 0.15 * params.theta


def test_range_volatility_sees_the_days_volatility(monkeypatch) -> None:
    """Parkinson's estimator is unbiased for a Brownian day: its mean square is theta."""
    params = draw_params(np.random.default_rng(1))
    monkeypatch.setattr(worlds, "draw_params", lambda rng: params)
    market = make_daily_worlds(30, 1500, seed=7)
    seen = (2 * market.features[..., FEATURES.index("volatility")].double()).exp().mean()
    realised = market.log_return.square().mean() * 252
    assert (seen / realised).item() == pytest.approx(1, abs=0.03)


def test_parameters_differ_and_stay_legal() -> None:
    rng = np.random.default_rng(3)
    many = [draw_params(rng) for _ in range(500)]  # HestonParams refuses what is not legal
    assert np.std([np.log(p.theta) for p in many]) > 0.4
    assert 2 < np.quantile([p.kappa for p in many], 0.1) < 4
    assert 12 < np.quantile([p.kappa for p in many], 0.9) < 18


def test_sizes_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        make_daily_worlds(0, 10, seed=1)
