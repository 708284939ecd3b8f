"""Intervals that hold the truth as often as they say, and luck that is taken for luck."""

from math import e

import numpy as np
import pytest
import torch
from scipy import stats

from mambadream_lite.judge import Backtest, compare, deflated_sharpe, summary
from mambadream_lite.judge.evidence import STATISTICS

BAR = 1 / 252


def of_returns(r: np.ndarray, traded: float = 0.1) -> Backtest:
    """A backtest with the given log growth (B, H) of its bars."""
    growth = torch.as_tensor(np.atleast_2d(r))
    equity = torch.nn.functional.pad(growth.cumsum(1), (1, 0)).exp()
    nothing = torch.zeros_like(growth)
    return Backtest(BAR, equity, nothing, nothing, nothing + traded, equity == 0)


def autoregressive(rng: np.random.Generator, n: int, memory: float) -> np.ndarray:
    x = np.zeros(n)
    for t, shock in enumerate(rng.normal(size=n)):
        x[t] = memory * x[t - 1] + shock
    return 0.01 * x


def test_the_interval_of_independent_bars_is_the_textbooks() -> None:
    r = np.random.default_rng(1).normal(1e-3, 0.01, 1000)
    found = summary(of_returns(r), seed=0, block=1)
    error = 1.96 * r.std() / 1000**0.5
    assert tuple(found) == STATISTICS
    assert found["growth"].value == pytest.approx(r.mean() * 252)
    assert found["growth_bp"].value == pytest.approx(r.mean() * 1e4)
    assert found["growth"].high - found["growth"].low == pytest.approx(2 * error * 252, rel=0.1)
    # Lo (2002): the standard error of a Sharpe ratio per bar is near 1 / sqrt(H)
    width = found["sharpe"].high - found["sharpe"].low
    assert width == pytest.approx(2 * 1.96 / 1000**0.5 * 252**0.5, rel=0.1)
    assert (found["turnover"].low, found["turnover"].high) == pytest.approx((25.2, 25.2))
    assert found["volatility"].low < 0.01 * 252**0.5 < found["volatility"].high


def test_blocks_widen_what_a_memory_blurs() -> None:
    """At memory 0.6 the mean of an AR(1) has (1 + 0.6) / (1 - 0.6) = 4 times the variance."""
    r = autoregressive(np.random.default_rng(2), 4000, 0.6)
    naive, honest = (summary(of_returns(r), seed=0, block=b)["growth"] for b in (1, None))
    ratio = (honest.high - honest.low) / (naive.high - naive.low)
    assert ratio == pytest.approx(2.0, rel=0.2)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """60 histories with a memory; 95 % intervals of a bootstrap err a little too often."""
    rng, truth, inside = np.random.default_rng(3), 0.0, 0
    for seed in range(60):
        r = autoregressive(rng, 800, 0.3)
        fact = summary(of_returns(r), seed=seed, n_boot=200)["growth"]
        inside += fact.low < truth < fact.high
    assert stats.binomtest(inside, 60, 0.92).pvalue > 0.01


def test_of_several_paths_whole_ones_are_drawn() -> None:
    """Paths with a level each: their bars know nothing of how far the paths differ."""
    rng = np.random.default_rng(4)
    level = rng.normal(0, 1e-3, (100, 1))
    r = level + rng.normal(0, 1e-3, (100, 250))
    found = summary(of_returns(r), seed=0)["growth"]
    error = r.mean(1).std(ddof=1) / 10 * 252
    assert found.value == pytest.approx(r.mean() * 252)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_a_seed_fixes_the_interval() -> None:
    test = of_returns(np.random.default_rng(5).normal(0, 0.01, 300))
    assert summary(test, seed=1, n_boot=50) == summary(test, seed=1, n_boot=50)
    assert summary(test, seed=1, n_boot=50) != summary(test, seed=2, n_boot=50)


@pytest.mark.parametrize("shape", [(1, 400), (40, 60)])
def test_what_both_lived_through_cancels(shape: tuple[int, int]) -> None:
    """The same market plus 1 bp a bar: each alone is lost in noise, the difference is exact."""
    r = np.random.default_rng(6).normal(0, 0.01, shape)
    better, worse = of_returns(r + 1e-4), of_returns(r)
    alone = summary(better, seed=0)["growth_bp"]
    apart = compare(better, worse, "growth_bp", seed=0)
    assert (apart.value, apart.low, apart.high) == pytest.approx((1.0, 1.0, 1.0), abs=1e-6)
    assert alone.high - alone.low > 3


def test_equals_differ_by_nothing() -> None:
    rng = np.random.default_rng(7)
    shared = rng.normal(0, 0.01, 2000)
    one, other = (of_returns(shared + rng.normal(0, 0.002, 2000)) for _ in range(2))
    found = compare(one, other, "sharpe", seed=0)
    assert found.low < 0 < found.high
    assert found.value == pytest.approx((one.sharpe() - other.sharpe()).item())


def test_only_the_same_bars_are_compared() -> None:
    r = np.random.default_rng(8).normal(0, 0.01, 100)
    with pytest.raises(ValueError, match=r"^other must have the paths and bars of one, \(1, 100\)"):
        compare(of_returns(r), of_returns(r[1:]), "growth", seed=0)
    moved = Backtest(**{**vars(of_returns(r)), "time": np.arange(101)})
    with pytest.raises(ValueError, match="^other must have the same bars as one"):
        compare(of_returns(r), moved, "growth", seed=0)
    with pytest.raises(ValueError, match="^statistic must be one of .*'growht'"):
        compare(of_returns(r), of_returns(r), "growht", seed=0)


@pytest.mark.parametrize(
    ("shape", "block", "why"),
    [
        ((1, 49), None, "^backtest must have at least 50 bars, got 49"),
        ((7, 100), None, "^backtest must have one path or at least 8"),
        ((8, 100), 5, "^block is for one path"),
        ((1, 100), 26, "^block must lie between 1 and 25 bars, got 26"),
        ((1, 100), 0.5, "^block must lie between 1 and 25 bars"),
    ],
)
def test_too_little_for_an_interval_is_refused(shape, block, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        summary(of_returns(np.zeros(shape)), seed=0, block=block)


def test_the_papers_example() -> None:
    """Bailey and López de Prado (2014): a yearly 2.5 over 5 years, the best of 100, is 0.9004."""
    terms = {"skew": -3.0, "kurtosis": 10.0, "n_bars": 1250}
    sharpe, variance = 2.5 / 250**0.5, 0.5 / 250
    found = deflated_sharpe(sharpe, **terms, n_trials=100, variance=variance)
    assert found == pytest.approx(0.9004, abs=1e-4)
    luck = 0.42278434 * 2.32634787 + 0.57721566 * stats.norm.isf(0.01 / e)
    assert variance**0.5 * luck == pytest.approx(0.1132, abs=1e-4)  # theirs, too


def test_one_trial_is_the_probabilistic_sharpe_ratio() -> None:
    """Gaussian returns: Phi(S sqrt(T - 1) / sqrt(1 + S^2 / 2)), whatever the variance is."""
    found = deflated_sharpe(0.1, skew=0.0, kurtosis=3.0, n_bars=401, n_trials=1, variance=9.0)
    assert found == pytest.approx(stats.norm.cdf(0.1 * 20 / (1 + 0.005) ** 0.5))
    nobody = deflated_sharpe(0.0, skew=0.0, kurtosis=3.0, n_bars=9, n_trials=1, variance=1.0)
    assert nobody == 0.5


def test_the_best_of_many_without_skill_is_seldom_news() -> None:
    """1,000 times the best of 20 coin tossers: nearly always significant alone, hardly deflated."""
    rng = np.random.default_rng(9)
    alone, deflated, best = [], [], []
    for _ in range(1000):
        r = rng.normal(0, 0.01, (20, 250))
        sharpes = r.mean(1) / r.std(1, ddof=1)
        i = sharpes.argmax()
        terms = {
            "skew": stats.skew(r[i]),
            "kurtosis": stats.kurtosis(r[i], fisher=False),
            "n_bars": 250,
            "variance": sharpes.var(ddof=1),
        }
        best.append(sharpes[i])
        alone.append(deflated_sharpe(sharpes[i], n_trials=1, **terms) > 0.95)
        deflated.append(deflated_sharpe(sharpes[i], n_trials=20, **terms) > 0.95)
    assert np.mean(alone) == pytest.approx(1 - 0.95**20, abs=0.05)  # 64 %
    assert np.mean(deflated) <= 0.05
    # what it deflates by is the mean of the best, in units of a Sharpe ratio's sd, sqrt(1 / T)
    luck = (1 - np.euler_gamma) * stats.norm.isf(1 / 20) + np.euler_gamma * stats.norm.isf(
        1 / (20 * e)
    )
    assert np.mean(best) == pytest.approx(luck / 250**0.5, rel=0.03)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"n_trials": 0}, "^n_bars must be at least 2 and n_trials at least 1, got 100 and 0"),
        ({"n_bars": 1}, "^n_bars must be at least 2"),
        ({"variance": -1.0}, "^variance must not be negative"),
        ({"kurtosis": 1.2, "skew": 1.0}, r"^kurtosis must be at least 1 \+ skew\^2 = 2"),
    ],
)
def test_moments_that_no_law_has_are_refused(change: dict, why: str) -> None:
    terms = {"skew": 0.0, "kurtosis": 3.0, "n_bars": 100, "n_trials": 5, "variance": 0.01}
    with pytest.raises(ValueError, match=why):
        deflated_sharpe(0.1, **{**terms, **change})
