"""Utility with the luck taken out: the same mean as it came, far less noise."""

import numpy as np
import pytest
import torch

from mambadream_lite.agent import BuyAndHold, Flat, MomentRule, replay
from mambadream_lite.dream import foreseen
from mambadream_lite.judge.utility import growth, true_mean, tune
from mambadream_lite.market import Account, AccountConfig, Edge, HestonParams, make_heston_market
from mambadream_lite.model.recipes import PARAMS, heston_market

WARMUP = 10


@pytest.fixture(scope="module")
def seen():
    market = heston_market(2000, WARMUP + 101, seed=71)
    mean = true_mean(market, PARAMS, WARMUP)
    nothing = torch.zeros(market.features.shape[:2], dtype=torch.float64)[:, 1:]
    reward = torch.cat([nothing[:, : WARMUP - 1], mean], dim=1)
    sd = (market.variance[:, 1:-1] * market.bar).sqrt()
    return foreseen(market, reward, sd, WARMUP), mean


def mean_and_error(x: torch.Tensor) -> tuple[float, float]:
    return x.mean().item(), (x.std() / len(x) ** 0.5).item()


def test_what_nobody_could_foresee_has_mean_zero_in_every_book(seen) -> None:
    """200,000 ticks of the simulator itself: overall, and where the book leans either way."""
    path, mean = seen
    surprise = path.log_price.diff(dim=1).exp() - 1 - mean
    for chosen in (mean > -1, mean > 0.5e-4, mean < -0.5e-4):
        values = surprise[chosen]
        average, error = mean_and_error(values)
        assert len(values) > 5000 and abs(average) < 4 * error
    assert mean.std() > 10 * abs(mean.mean())


def test_taking_luck_away_keeps_the_mean_and_drops_the_noise(seen) -> None:
    path, mean = seen
    rule = MomentRule(fraction=0.5, band=5.0, limit=20.0)
    came, fair = growth(replay(rule, path, Account()), path, mean)
    gap, error = mean_and_error(came - fair)
    assert abs(gap) < 4 * error
    assert fair.std() < 0.35 * came.std()


def test_growth_of_a_path_by_hand(seen) -> None:
    path, mean = seen
    free = Account(AccountConfig(half_spread=0.0, fee=0.0))
    came, fair = growth(replay(BuyAndHold(1.0), path, free), path, mean)
    total = (path.log_price[:, -1] - path.log_price[:, 0]) / path.horizon * 1e4
    torch.testing.assert_close(came, total)
    luck = (path.log_price.diff(dim=1).exp() - 1 - mean).sum(1) / path.horizon * 1e4
    torch.testing.assert_close(fair, total - luck, rtol=1e-3, atol=1e-3)


def test_without_an_edge_the_mean_is_the_drift() -> None:
    params = HestonParams(mu=0.3)
    market = make_heston_market(params, 3, 40, seed=1, edge=Edge(strength=0.0))
    mean = true_mean(market, params, WARMUP, Edge(strength=0.0))
    np.testing.assert_allclose(mean.numpy(), 0.3 * market.bar)


def test_tuning_chooses_by_the_models_own_expectation(seen) -> None:
    path, _ = seen
    right, wrong = MomentRule(fraction=0.3, band=10.0), MomentRule(fraction=-0.3, band=10.0)
    assert tune([Flat(), wrong, right], path, Account()) == right
    dear = Account(AccountConfig(half_spread=50.0))
    assert tune([Flat(), wrong, right], path, dear) == Flat()
