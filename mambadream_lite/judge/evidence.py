"""How much a backtest can prove: intervals, paired differences, many trials (chapter 11).

One history is one draw. The stationary bootstrap (Politis and Romano, 1994) draws others like it,
from blocks of random length that keep what neighbouring bars share. Independent paths are
simpler: whole paths are drawn.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from arch.bootstrap import StationaryBootstrap, optimal_block_length
from scipy.stats import norm

from mambadream_lite.judge.backtest import Backtest
from mambadream_lite.judge.stylised import Fact

STATISTICS = ("growth", "growth_bp", "volatility", "sharpe", "drawdown", "turnover")
FEWEST_PATHS = 8
FEWEST_BARS = 50


def summary(
    backtest: Backtest, *, seed: int, block: float | None = None, n_boot: int = 1000
) -> dict[str, Fact]:
    """Each statistic of a backtest, with its 95 % bootstrap interval (chapter 11).

    Of several paths it is their mean. The interval of the worst drawdown of one path says what
    other histories of the same bars would have shown, not where a true value lies.

    Args:
        backtest: one path of at least 50 bars, or at least 8 independent paths.
        seed: of the bootstrap.
        block: mean length of a block in bars, for one path; None takes the longest of the optimal
            ones (Politis and White, 2004) of returns, their squares and what was traded.
        n_boot: resamples.

    Raises:
        ValueError: too few paths or bars, or a block that is not between 1 and a quarter of them.
    """
    draws = _resampled([backtest], STATISTICS, seed, block, n_boot)[:, 0]
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    return {
        name: Fact(_mean(backtest, name), float(a), float(b))
        for name, a, b in zip(STATISTICS, low, high, strict=True)
    }


def compare(
    one: Backtest,
    other: Backtest,
    statistic: str,
    *,
    seed: int,
    block: float | None = None,
    n_boot: int = 1000,
) -> Fact:
    """A statistic of ``one`` less that of ``other``, with the 95 % interval of the difference.

    Both lived through the same bars, and each resample takes the same bars from both: what they
    share cancels.

    Args:
        one, other: backtests on the same bars of the same paths.
        statistic: one of ``STATISTICS``.
        seed, block, n_boot: as in ``summary``; the block is the longer of theirs.

    Raises:
        ValueError: other bars, an unknown statistic, and what ``summary`` refuses.
    """
    if statistic not in STATISTICS:
        raise ValueError(f"statistic must be one of {STATISTICS}, got {statistic!r}")
    if one.leverage.shape != other.leverage.shape:
        raise ValueError(
            f"other must have the paths and bars of one, {tuple(one.leverage.shape)}, got "
            f"{tuple(other.leverage.shape)}"
        )
    if one.bar != other.bar or not np.array_equal(one.time, other.time):
        raise ValueError("other must have the same bars as one; its times or bar length differ")
    draws = _resampled([one, other], (statistic,), seed, block, n_boot)[..., 0]
    low, high = np.quantile(draws[:, 0] - draws[:, 1], [0.025, 0.975])
    return Fact(_mean(one, statistic) - _mean(other, statistic), float(low), float(high))


def deflated_sharpe(
    sharpe: float,
    *,
    skew: float,
    kurtosis: float,
    n_bars: int,
    n_trials: int,
    variance: float,
) -> float:
    """Probability that the best of many trials is better than luck: the deflated Sharpe ratio.

    Bailey and López de Prado (2014), Eqs. 1 and 2: the largest of ``n_trials`` Sharpe ratios
    without any skill is about

        sqrt(variance) * ((1 - g) z(1 - 1 / n_trials) + g z(1 - 1 / (n_trials e))),

    with Euler's g and normal quantiles z. The best one found is held against that number,
    rather than against 0. With one trial it is held against 0: the probabilistic Sharpe ratio.

    Args:
        sharpe: of the trial that was chosen, per bar: not annualised.
        skew, kurtosis: of its simple returns per bar; a Gaussian's kurtosis is 3.
        n_bars: that it was measured on.
        n_trials: independent ones that it was chosen from, itself among them.
        variance: of the trials' Sharpe ratios per bar.

    Returns:
        A probability; below 0.95 the choice is no news.

    Raises:
        ValueError: fewer than 2 bars or 1 trial, a negative variance, moments no law has.
    """
    if n_bars < 2 or n_trials < 1:
        raise ValueError(
            f"n_bars must be at least 2 and n_trials at least 1, got {n_bars} and {n_trials}"
        )
    if not variance >= 0:
        raise ValueError(f"variance must not be negative, got {variance}")
    if not kurtosis >= 1 + skew**2 - 1e-9:  # equal for a law of two values, but for rounding
        raise ValueError(
            f"kurtosis must be at least 1 + skew^2 = {1 + skew**2:.4g}, got {kurtosis}"
        )
    best = 0.0
    if n_trials > 1:
        first, second = norm.ppf([1 - 1 / n_trials, 1 - 1 / (n_trials * math.e)])
        best = variance**0.5 * ((1 - np.euler_gamma) * first + np.euler_gamma * second)
    spread = 1 - skew * sharpe + (kurtosis - 1) / 4 * sharpe**2
    return float(norm.cdf((sharpe - best) * (n_bars - 1) ** 0.5 / spread**0.5))


def _mean(backtest: Backtest, statistic: str) -> float:
    return getattr(backtest, statistic)().mean().item()


def _resampled(
    tests: list[Backtest],
    statistics: tuple[str, ...],
    seed: int,
    block: float | None,
    n_boot: int,
) -> np.ndarray:
    """Draws (n_boot, backtests, statistics); each takes the same bars or paths from all."""
    n_paths, n_bars = tests[0].leverage.shape
    if n_paths > 1:
        if block is not None:
            raise ValueError(f"block is for one path; of {n_paths} whole paths are drawn")
        if n_paths < FEWEST_PATHS:
            raise ValueError(
                f"backtest must have one path or at least {FEWEST_PATHS} for an interval, got "
                f"{n_paths}"
            )
        values = np.stack(
            [[getattr(test, name)().numpy() for name in statistics] for test in tests]
        )
        paths = np.random.default_rng(seed).integers(n_paths, size=(n_boot, n_paths))
        return np.stack([values[..., drawn].mean(-1) for drawn in paths])
    if n_bars < FEWEST_BARS:
        raise ValueError(f"backtest must have at least {FEWEST_BARS} bars, got {n_bars}")
    block = _block_length(tests) if block is None else block
    if not 1 <= block <= n_bars / 4:
        raise ValueError(f"block must lie between 1 and {n_bars // 4} bars, got {block}")

    def values_of(bars: np.ndarray) -> np.ndarray:
        chosen = torch.from_numpy(bars)
        return np.array([getattr(test, s)(chosen).item() for test in tests for s in statistics])

    draws = StationaryBootstrap(block, np.arange(n_bars), seed=seed).apply(values_of, n_boot)
    return draws.reshape(n_boot, len(tests), len(statistics))


def _block_length(tests: list[Backtest]) -> float:
    """The longest optimal block of returns, squares and turnover, at most a quarter of the bars."""
    columns = []
    for test in tests:
        r = test.log_growth[0].expm1()
        columns += [r, r.square(), test.traded[0]]
    # what never changes, but for rounding, has no memory
    moving = [c.numpy() for c in columns if c.std() > 1e-9 * c.abs().max()]
    if not moving:
        return 1.0
    longest = optimal_block_length(np.stack(moving, axis=1))["stationary"].max()
    return float(np.clip(longest, 1.0, len(columns[0]) / 4))
