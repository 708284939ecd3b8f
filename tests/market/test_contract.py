"""The volatility contract: fair in the truth, bounded, and blind to the future."""

from dataclasses import astuple

import numpy as np
import pytest
import torch
from scipy import stats

from mambadream_lite.market import Market, VolatilityContract
from mambadream_lite.market.contract import CAP, LOWEST, WARMUP
from mambadream_lite.model.recipes import CONTRACT, PARAMS, heston_market

STILL = VolatilityContract(gain=0, fear=0, jolt=0, pull=0.1, level=0.04)
MAX_ERRORS = 4


@pytest.fixture(scope="module")
def market() -> Market:
    return heston_market(835, 1400, seed=41)  # a million ticks after the warm-up


def fairness(payoff: torch.Tensor, chosen: torch.Tensor) -> tuple[float, float]:
    """Mean payoff over the chosen ticks (B, T), and its standard error over paths."""
    total, count = torch.where(chosen, payoff, 0.0).sum(1), chosen.sum(1)
    mean = total.sum() / count.sum()
    error = (total - mean * count).square().sum().sqrt() / count.sum()
    return mean.item(), error.item()


def test_the_contract_is_a_fair_game_in_the_truth_everywhere_and_at_peaks(market: Market) -> None:
    strike = CONTRACT.strikes(market.features.double())
    ahead = slice(WARMUP + 1, None)
    payoff = CONTRACT.payoff(market.features[:, ahead, 1].double(), strike[:, WARMUP + 1 : -1])
    reading, strike = market.features[:, WARMUP:-1, 1], strike[:, WARMUP + 1 : -1]
    peaks = {
        "all": torch.ones_like(reading, dtype=torch.bool),
        "reading": reading > np.quantile(reading, 0.98),
        "strike": strike > np.quantile(strike, 0.98),
    }
    assert payoff.numel() > 999_000
    for name, chosen in peaks.items():
        mean, error = fairness(payoff, chosen)
        assert abs(mean) < MAX_ERRORS * error, name
        assert abs(mean) < 0.01 * CONTRACT.size, name  # and in money next to nothing


def test_the_shipped_weights_are_what_the_fit_gives() -> None:
    refit = VolatilityContract.fit(heston_market(800, 700, seed=42), PARAMS)
    for ours, theirs in zip(astuple(CONTRACT), astuple(refit), strict=True):
        assert ours == pytest.approx(theirs, rel=0.1)


def test_the_payoff_is_the_realised_variance_over_the_strike_less_one() -> None:
    volatility = torch.tensor([0.2, 0.3, 0.1, 0.8]).double().log()
    payoff = CONTRACT.payoff(volatility, torch.full((4,), 0.04, dtype=torch.float64))
    assert (payoff / CONTRACT.size).tolist() == pytest.approx([0, 1.25, -0.75, CAP - 1], abs=1e-6)


def test_with_a_constant_variance_the_payoff_has_the_moments_of_a_chi_square() -> None:
    rng = np.random.default_rng(43)
    realised = 0.04 * rng.chisquare(12, 1_000_000) / 12
    volatility = torch.from_numpy(0.5 * np.log(realised))
    payoff = CONTRACT.payoff(volatility, torch.tensor(0.04)) / CONTRACT.size
    over = stats.chi2.sf(12 * CAP, 14) - CAP * stats.chi2.sf(12 * CAP, 12)  # what the cap cuts off
    assert payoff.mean().item() == pytest.approx(-over, abs=2e-3)
    assert payoff.std().item() == pytest.approx((2 / 12) ** 0.5, rel=5e-3)


def test_without_news_the_strike_returns_to_its_level() -> None:
    features = torch.zeros(2, 30, 6, dtype=torch.float64)
    features[..., 1] = np.log(0.3)
    strike = STILL.strikes(features)
    assert strike[0].numpy() == pytest.approx(0.04 + 0.05 * 0.9 ** np.arange(31))


@pytest.mark.parametrize(
    ("name", "column", "value", "sign"),
    [
        ("calm", 1, np.log(0.1), -1),
        ("storm", 1, np.log(0.4), 1),
        ("fall", 0, -1.5, 1),
        ("rise", 0, 1.5, -1),
    ],
)
def test_news_moves_the_strike_the_right_way(name, column: int, value: float, sign: int) -> None:
    features = torch.zeros(1, 1, 6, dtype=torch.float64)
    features[..., 1] = np.log(0.2)
    features[..., column] = value
    jolt_apart = VolatilityContract(CONTRACT.gain, CONTRACT.fear, 0.0, CONTRACT.pull, 0.04)
    start = torch.tensor([0.04], dtype=torch.float64)
    assert (jolt_apart.strikes(features, start)[0, 1] - 0.04) * sign > 1e-4


def test_a_strike_goes_on_where_it_ended(market: Market) -> None:
    features = market.features[:5, :60].double()
    whole = CONTRACT.strikes(features)
    first = CONTRACT.strikes(features[:, :25])
    rest = CONTRACT.strikes(features[:, 25:], first[:, -1])
    assert torch.equal(torch.cat([first[:, :-1], rest], dim=1), whole)


def test_a_strike_knows_nothing_of_its_own_bar(market: Market) -> None:
    features = market.features[:5, :60].double()
    before = CONTRACT.strikes(features)
    features[:, 30:] *= -1
    after = CONTRACT.strikes(features)
    assert torch.equal(before[:, :31], after[:, :31])  # strike 30 is in force for bar 30
    assert (before[:, 31] != after[:, 31]).all()


def test_no_dream_however_wild_breaks_the_strike() -> None:
    features = 10 * torch.randn(50, 200, 6, generator=torch.Generator().manual_seed(0))
    strike = CONTRACT.strikes(features.double())
    assert torch.isfinite(strike).all() and (strike[:, 1:] >= LOWEST).all()
    payoff = CONTRACT.payoff(features[..., 1].double(), strike[:, :-1])
    assert payoff.min() >= -CONTRACT.size and payoff.max() <= (CAP - 1) * CONTRACT.size


def test_what_cannot_be_a_feature_is_refused() -> None:
    with pytest.raises(ValueError, match="features must be finite"):
        CONTRACT.strikes(torch.full((1, 3, 6), torch.nan))
    with pytest.raises(ValueError, match="more than 400 ticks a path"):
        VolatilityContract.fit(heston_market(2, 400, seed=1), PARAMS)
