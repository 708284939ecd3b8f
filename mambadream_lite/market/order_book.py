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
from numpy.polynomial.hermite_e import hermegauss
from scipy.integrate import quad
from scipy.signal import lfilter
from scipy.special import expit, ndtr

# log_spread and log_volume: AR(1) with (persistence, gain on excitement, sd of the noise)
SPREAD = (0.8, 0.1, 0.10)
VOLUME = (0.7, 0.3, 0.25)
# signed_flow: weights of the standardised velocity and of the imbalance before it, noise sd
FLOW = (0.6, 0.3, 0.7)

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
    def noise(self) -> float:
        """Standard deviation of the AR(1)'s shocks, at which the imbalance has unit variance."""
        return float(np.sqrt(1 - self.persistence**2))

    @property
    def hit_rate(self) -> float:
        """How often the sign of I is the sign of the next price shock: E[sigmoid(a |I|)]."""
        # |I| is half-normal; over the whole line the kink at 0 would cost a quadrature its accuracy
        total, _ = quad(lambda x: expit(self.strength * x) * np.exp(-0.5 * x * x), 0, np.inf)
        return float(np.sqrt(2 / np.pi) * total)

    def r_squared(self, rho: float) -> float:
        """Share of the variance of the next return, in units of its own sd, that I explains."""
        return self._lagged(rho, 0)

    def acf1(self, rho: float) -> float:
        """Correlation of a return with the next one, in units of their sds: I lives on."""
        return self._lagged(rho, 1)

    def _lagged(self, rho: float, lag: int) -> float:
        """(1 - rho^2) E[m(I_t) m(I_{t + lag})] with m = ``shock_mean``, by quadrature."""
        nodes, weights = hermegauss(80)
        weights = weights / weights.sum()
        kept = self.persistence**lag
        later = kept * nodes[:, None] + np.sqrt(1 - kept**2) * nodes  # (I_t, noise): I_{t + lag}
        product = self.shock_mean(nodes) * (self.shock_mean(later) @ weights)
        same = self.shock_mean(nodes) ** 2
        return float((1 - rho**2) * weights @ (product if lag else same))

    def value(self, rho: float) -> float:
        """What knowing I is worth to a forecast of the next return: nats a tick (chapter 02).

        The return is rho W + sqrt(1 - rho^2) Z in units of its sd, and only Z is tilted. So
        P(Z > 0 | return x) = Phi(x sqrt(1 - rho^2) / |rho|), the density of x given I is
        phi(x) (1 + tanh(a I / 2) (2 Phi(.) - 1)), and the value is the mean of its log ratio to
        phi(x). To leading order a^2 / (4 pi) * arcsin(1 - rho^2).

        Raises:
            ValueError: ``rho`` outside (-1, 1).
        """
        if not abs(rho) < 1:
            raise ValueError(f"rho must lie in (-1, 1), got {rho}")
        step = 0.005
        x = np.arange(0.5 * step, 9, step)  # x < 0 with -I is the same as x > 0 with I
        imbalance = np.concatenate([-x[::-10], x[::10]])[:, None]
        own = ndtr(x * np.sqrt(1 - rho**2) / max(abs(rho), 1e-12))
        tilt = np.tanh(0.5 * self.strength * imbalance) * (2 * own - 1)
        weight = np.exp(-0.5 * (x**2 + imbalance**2))
        mean = (weight * (1 + tilt) * np.log1p(tilt)).sum() / weight.sum()
        return float(mean)

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
    shocks = edge.noise * rng.standard_normal((n_paths, n_steps))
    return np.concatenate([start[:, None], ar1(shocks, edge.persistence, start)], axis=1)


def book_path(
    velocity: np.ndarray, excitement: np.ndarray, imbalance: np.ndarray, rng: np.random.Generator
) -> list[np.ndarray]:
    """log_spread, log_volume and signed_flow of each bar, (B, T) each.

    Each leans on observed features only, so that its exact density given the past is a plain
    Gaussian: ``book_means`` is this function read backwards.

    Args:
        velocity: (B, T).
        excitement: (B, T) volatility feature less its usual value.
        imbalance: (B, T + 1), the one before the first bar included.
        rng: of the noise.
    """
    start = np.zeros(len(velocity))
    noise = rng.standard_normal((3, *velocity.shape))
    log_spread, log_volume = (
        ar1(gain * excitement + sd * z, persistence, start)
        for (persistence, gain, sd), z in zip((SPREAD, VOLUME), noise[:2], strict=True)
    )
    weight, lean, sd = FLOW
    signed_flow = weight * velocity / np.exp(excitement) + lean * imbalance[:, :-1] + sd * noise[2]
    return [log_spread, log_volume, signed_flow]
