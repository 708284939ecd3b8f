"""Whether dreams look like the market in more than one number (chapter 05).

Dreams and truths start from the same latent states. A statistic of all dreams together is held
against the same statistic of each truth: what lies inside the range of the truths could be one
of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import ks_2samp

from mambadream_lite.judge.stylised import excess_kurtosis
from mambadream_lite.market.features import FEATURES, VELOCITY, VOLATILITY

Statistic = Callable[[np.ndarray], float]


@dataclass(frozen=True)
class Likeness:
    """One statistic of dreams beside that of truths.

    Attributes:
        name: what it is.
        dream: its value over all dreams.
        low, high: least and largest value over the truths.
    """

    name: str
    dream: float
    low: float
    high: float

    @property
    def inside(self) -> bool:
        """Whether the dreams could be one of the truths."""
        return self.low <= self.dream <= self.high


def lagged(x: np.ndarray, y: np.ndarray, lag: int) -> float:
    """Correlation of x_t and y_{t + lag} over all paths (N, H); no pair crosses two paths."""
    return float(np.corrcoef(x[:, :-lag].ravel(), y[:, lag:].ravel())[0, 1])


def statistics(horizon: int) -> dict[str, Statistic]:
    """Statistics of features (N, H, 6) that can be measured within ``horizon`` ticks."""
    found: dict[str, Statistic] = {
        "kurtosis of returns": lambda x: excess_kurtosis(x[..., VELOCITY].ravel()),
        "leverage effect": lambda x: lagged(x[..., VELOCITY], x[..., VOLATILITY], 1),
    }
    for lag in (1, 10, 50):
        if lag < horizon // 2:
            found[f"ACF of |return|, lag {lag}"] = lambda x, lag=lag: lagged(
                np.abs(x[..., VELOCITY]), np.abs(x[..., VELOCITY]), lag
            )
    return found


def realism(dreams: np.ndarray, truths: np.ndarray, horizon: int) -> list[Likeness]:
    """Compare dreams with truths over their first ``horizon`` ticks (chapter 05).

    Args:
        dreams: (N, H, 6) features.
        truths: (R, N, H, 6) features of R >= 3 truths from the same states.
        horizon: ticks that count, 5 <= horizon <= H.

    Returns:
        The statistics of ``statistics``; the Kolmogorov-Smirnov distance of volatility, and the
        largest difference of a correlation between two features, from all (other) truths.

    Raises:
        ValueError: shapes that do not agree, fewer than 3 truths, or a horizon out of range.
    """
    if truths.ndim != 4 or truths.shape[1:] != dreams.shape or len(truths) < 3:
        raise ValueError(
            f"truths must have shape (R, *{dreams.shape}) with R >= 3, got {truths.shape}"
        )
    if not 5 <= horizon <= dreams.shape[1]:
        raise ValueError(f"horizon must lie in 5 to {dreams.shape[1]}, got {horizon}")
    told, real = dreams[:, :horizon], truths[:, :, :horizon]
    rows = []
    for name, statistic in statistics(horizon).items():
        values = [statistic(x) for x in real]
        rows.append(Likeness(name, statistic(told), min(values), max(values)))

    last = real[:, :, -3:, VOLATILITY].reshape(len(real), -1)
    rows.append(_distance("KS of volatility", _ks, told[:, -3:, VOLATILITY].ravel(), last))
    correlations = np.stack([_correlations(x) for x in real])
    rows.append(_distance("correlations", _apart, _correlations(told), correlations))
    return rows


def _distance(
    name: str,
    distance: Callable[[np.ndarray, np.ndarray], float],
    told: np.ndarray,
    real: np.ndarray,
) -> Likeness:
    """Distance of the dreams from all truths, and of each truth from the others; 0 is least."""
    each = [distance(real[i], np.delete(real, i, axis=0)) for i in range(len(real))]
    return Likeness(name, distance(told, real), 0.0, max(each))


def _ks(one: np.ndarray, others: np.ndarray) -> float:
    return float(ks_2samp(one, others.ravel()).statistic)


def _apart(one: np.ndarray, others: np.ndarray) -> float:
    return float(np.abs(one - others.mean(0)).max())


def _correlations(x: np.ndarray) -> np.ndarray:
    """The 15 correlations between two of the six features."""
    pairs = np.triu_indices(len(FEATURES), 1)
    return np.corrcoef(x.reshape(-1, len(FEATURES)).T)[pairs]
