"""The order book and its edge, planted and declared (chapter 01).

Nothing in a Heston price can be forecast but its variance. To give an agent something to
find, we plant one edge and say so: the order-book imbalance I, an AR(1) with unit variance,
tilts the *sign* of the next price shock Z,

    P(Z > 0 | I) = sigmoid(strength * I),      |Z| as before.

I is symmetric and independent of the past of Z, so every one-step marginal of the return,
the variance path and the leverage effect stay what they were.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.integrate import quad
from scipy.signal import lfilter
from scipy.special import expit

MEAN_ABS_NORMAL = float(np.sqrt(2 / np.pi))  # E|Z| of a standard normal Z


@dataclass(frozen=True)
class Edge:
    """The planted edge of the simulated order book (chapter 01).

    Attributes:
        strength: tilt of the sign of the next shock per unit of imbalance, >= 0; 0 is no edge.
        persistence: AR(1) coefficient of the imbalance from one tick to the next, in [0, 1).

    Raises:
        ValueError: a value outside its range.
    """

    strength: float = 0.12
    persistence: float = 0.9

    def __post_init__(self) -> None:
        if not (np.isfinite(self.strength) and self.strength >= 0):
            raise ValueError(f"strength must be a number >= 0, got {self.strength}")
        if not 0 <= self.persistence < 1:
            raise ValueError(f"persistence must lie in [0, 1), got {self.persistence}")

    @property
    def hit_rate(self) -> float:
        """How often the sign of I is the sign of the next price shock: E[sigmoid(a |I|)]."""
        # |I| is half-normal; over the whole line the kink at 0 would cost a quadrature its accuracy
        total, _ = quad(lambda x: expit(self.strength * x) * np.exp(-0.5 * x * x), 0, np.inf)
        return float(np.sqrt(2 / np.pi) * total)

    def shock_mean(self, imbalance: np.ndarray) -> np.ndarray:
        """E[Z | I] = sqrt(2 / pi) (2 sigmoid(strength I) - 1)."""
        return MEAN_ABS_NORMAL * np.tanh(0.5 * self.strength * imbalance)

    def tilt(self, shocks: np.ndarray, imbalance: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """Give standard normal ``shocks`` the sign that ``imbalance``, known before, makes likely.

        All three arrays have one shape; ``uniform`` holds draws from [0, 1).
        """
        sign = np.where(uniform < expit(self.strength * imbalance), 1.0, -1.0)
        return sign * np.abs(shocks)


def ar1(shocks: np.ndarray, persistence: float, start: np.ndarray) -> np.ndarray:
    """x_t = persistence * x_{t-1} + shocks_t along the last axis, from x_{-1} = ``start`` (B,)."""
    initial = persistence * start[:, None]
    return lfilter([1.0], [1.0, -persistence], shocks, axis=-1, zi=initial)[0]


def imbalance_path(edge: Edge, n_paths: int, n_steps: int, rng: np.random.Generator) -> np.ndarray:
    """Stationary imbalance I_{-1}, I_0 ... I_{n_steps - 1} as (n_paths, n_steps + 1).

    The feature is the log ratio of bid depth to ask depth, with unit variance.
    """
    start = rng.standard_normal(n_paths)
    shocks = np.sqrt(1 - edge.persistence**2) * rng.standard_normal((n_paths, n_steps))
    return np.concatenate([start[:, None], ar1(shocks, edge.persistence, start)], axis=1)
