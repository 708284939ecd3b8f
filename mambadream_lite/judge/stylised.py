"""Stylised facts of returns, each with a bootstrap interval (chapter 01).

Cont (2001) lists what almost every market shows. A simulated market is judged by the same
numbers; the stationary bootstrap keeps the dependence inside its random blocks. (Sums of
returns across the seam of two blocks mix them; with blocks of 250 ticks that is one sum of 20
in about 13.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from arch.bootstrap import StationaryBootstrap

TAIL = 0.05  # share of the largest |returns| that the Hill index is fitted to


@dataclass(frozen=True)
class Fact:
    """A statistic with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def autocorrelation(x: np.ndarray, lag: int) -> float:
    """Correlation of x_t and x_{t+lag}."""
    return float(np.corrcoef(x[:-lag], x[lag:])[0, 1])


def excess_kurtosis(r: np.ndarray) -> float:
    """Fourth standardised moment less 3; 0 for a Gaussian."""
    z = (r - r.mean()) / r.std()
    return float((z**4).mean() - 3)


def leverage_effect(r: np.ndarray, lag: int = 1) -> float:
    """Correlation of a return with the next |return|; below zero in stock markets."""
    return float(np.corrcoef(r[:-lag], np.abs(r[lag:]))[0, 1])


def hill_index(r: np.ndarray) -> float:
    """Tail exponent of |r| (Hill, 1975) from the largest 5 %."""
    tail = np.sort(np.abs(r))[-max(int(TAIL * len(r)), 2) :]
    return float(1 / np.log(tail[1:] / tail[0]).mean())


def aggregational_gaussianity(r: np.ndarray, n: int) -> float:
    """Excess kurtosis of sums of ``n`` consecutive returns; falls towards 0 as n grows.

    Every starting point counts, so the sums overlap: no part of a short history is thrown away.
    """
    total = np.concatenate([[0.0], r.cumsum()])
    return excess_kurtosis(total[n:] - total[:-n])


FACTS: dict[str, Callable[[np.ndarray], float]] = {
    "excess kurtosis": excess_kurtosis,
    "kurtosis, 5-sum": lambda r: aggregational_gaussianity(r, 5),
    "kurtosis, 20-sum": lambda r: aggregational_gaussianity(r, 20),
    "ACF r, lag 1": lambda r: autocorrelation(r, 1),
    "ACF |r|, lag 1": lambda r: autocorrelation(np.abs(r), 1),
    "ACF |r|, lag 10": lambda r: autocorrelation(np.abs(r), 10),
    "ACF |r|, lag 50": lambda r: autocorrelation(np.abs(r), 50),
    "ACF |r|, lag 100": lambda r: autocorrelation(np.abs(r), 100),
    "leverage effect": leverage_effect,
    "Hill index": hill_index,
}


def stylised_facts(
    log_return: np.ndarray, *, seed: int, block: int = 250, n_boot: int = 200
) -> dict[str, Fact]:
    """All facts of one series of returns (T,), with stationary-bootstrap intervals.

    Args:
        log_return: (T,), at least four blocks long.
        seed: of the bootstrap.
        block: mean length of a block, in ticks; longer than the longest lag (100).
        n_boot: resamples.

    Raises:
        ValueError: not one-dimensional, not finite, or too short.
    """
    r = np.asarray(log_return, dtype=np.float64)
    if r.ndim != 1 or len(r) < 4 * block or not np.isfinite(r).all():
        raise ValueError(f"log_return must be finite with shape (T,), T >= {4 * block}: {r.shape}")
    bootstrap = StationaryBootstrap(block, r, seed=seed)
    draws = bootstrap.apply(lambda x: np.array([f(x) for f in FACTS.values()]), n_boot)
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    return {
        name: Fact(f(r), float(a), float(b))
        for (name, f), a, b in zip(FACTS.items(), low, high, strict=True)
    }
