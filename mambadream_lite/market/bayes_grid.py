"""The grid that carries the optimal forecaster's belief, and the compiled loop that moves it.

The points are evenly spaced in sqrt(v), where a step of Heston's variance has the same standard
deviation everywhere. ``bayes.py`` is the forecaster (chapter 02).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from scipy import stats

from mambadream_lite.market.heston import HestonParams, log_returns

TAIL = 1e-12  # stationary probability beyond either end of the grid
SPACING = 0.85  # of the grid, in standard deviations of a step: 200 points in the book's market
REACH = 8  # a step of the variance is followed to this many standard deviations
NEGLIGIBLE = 1e-16  # belief that is not worth moving
LOG_ROOT_TWO_PI = 0.5 * np.log(2 * np.pi)


def variance_grid(params: HestonParams, dt: float, n_grid: int | None = None) -> np.ndarray:
    """Variances (G,) whose roots are evenly spaced over all but ``TAIL`` of the stationary law.

    Args:
        params: of the market.
        dt: length of a bar in years.
        n_grid: number of points; if None, as many as put them ``SPACING`` steps apart.

    Raises:
        ValueError: fewer points than that needs by a third (sums over the grid would no longer
            be integrals), or a variance too rough for any grid (4 kappa theta < sigma^2).
    """
    shape = 2 * params.kappa * params.theta / params.sigma**2
    if shape < 0.5:
        raise ValueError(
            f"4 kappa theta = {4 * params.kappa * params.theta:.3g} is below sigma^2 = "
            f"{params.sigma**2:.3g}: the density of sqrt(v) is infinite at 0, a grid cannot hold it"
        )
    law = stats.gamma(shape, scale=params.theta / shape)
    low, high = np.sqrt(law.ppf(TAIL)), np.sqrt(law.isf(TAIL))
    enough = int(np.ceil((high - low) / (SPACING * 0.5 * params.sigma * np.sqrt(dt))))
    n = enough if n_grid is None else n_grid
    if 4 * n < 3 * enough:
        raise ValueError(f"n_grid must be at least {3 * enough // 4 + 1} here, got {n_grid}")
    return (low + (np.arange(n) + 0.5) * (high - low) / n) ** 2


@dataclass(frozen=True)
class Transitions:
    """Per pair (v_i at the open of a bar, v_j at its close), for the j that i can reach (G, W)."""

    first: np.ndarray  # (G,) the first j
    step: np.ndarray  # (G, W) probability of j given i
    mean: np.ndarray  # (G, W) of the log return, if its own shock is 0
    sd: np.ndarray  # (G, W) of the log return's own shock
    variance: np.ndarray  # (G, W) mean variance of the bar
    forecast: np.ndarray  # (G, 5) per i: v, E[mean], E[sd], E[mean^2 + sd^2], E[mean sd]
    ramp: float  # 1 / change of the standardised own shock from one j to the next

    @classmethod
    def of(cls, p: HestonParams, grid: np.ndarray, dt: float) -> Transitions:
        """Of bars of ``dt`` years; a step beyond ``REACH`` standard deviations is left out."""
        if abs(p.rho) == 1:
            raise ValueError("rho must lie in (-1, 1): at +-1 the price shows the variance itself")
        root = np.sqrt(grid)
        spacing, sd_root = root[1] - root[0], 0.5 * p.sigma * np.sqrt(dt)
        width = min(2 * int(np.ceil(REACH * sd_root / spacing)) + 3, len(grid))
        first = np.clip(np.arange(len(grid)) - width // 2, 0, len(grid) - width)
        reached = grid[first[:, None] + np.arange(width)]  # (G, W)
        opened = np.broadcast_to(grid[:, None], reached.shape)
        decay = np.exp(-p.kappa * dt)
        c = p.sigma**2 * (1 - decay) / (4 * p.kappa)
        law = stats.ncx2(4 * p.kappa * p.theta / p.sigma**2, opened * decay / c, scale=c)
        step = law.pdf(reached) * np.sqrt(reached)  # density of sqrt(v) but for a factor
        step /= step.sum(1, keepdims=True)
        ends = np.stack([opened.ravel(), reached.ravel()], axis=1)
        mean = log_returns(p, ends, dt, np.zeros((len(ends), 1))).reshape(reached.shape)
        variance = 0.5 * (opened + reached)
        sd = np.sqrt((1 - p.rho**2) * dt * variance)
        each = np.stack([mean, sd, mean**2 + sd**2, mean * sd], axis=-1)
        forecast = np.concatenate([grid[:, None], (step[..., None] * each).sum(1)], axis=1)
        ramp = sd_root * np.sqrt(1 - p.rho**2) / (max(abs(p.rho), 1e-6) * spacing)
        return cls(first, step, mean, sd, variance, forecast, ramp)

    def matrix(self) -> np.ndarray:
        """Probabilities (G, G) of each grid point, given the one before."""
        full = np.zeros((len(self.first), len(self.first)))
        columns = self.first[:, None] + np.arange(self.step.shape[1])
        np.put_along_axis(full, columns, self.step, axis=1)
        return full

    def arrays(self) -> tuple[np.ndarray, ...]:
        """What the compiled loop takes."""
        density = self.step / self.sd
        log_variance = np.log(self.variance)
        return self.first, density, self.mean, 1 / self.sd, log_variance, self.forecast, self.ramp


@njit(cache=True)
def filter_paths(
    r, log_realised, sign, half, belief, first, density, mean, inv_sd, log_var, forecast, ramp, kept
):
    """Bayes' rule, tick by tick: log densities of return and realised variance, and of the return
    alone (B, T), and the five moments of ``forecast`` (B, T, 5).

    Args:
        r, log_realised: (B, T) log return and log realised variance of each bar.
        sign: (B, T, 2) weights of a positive and of a negative own shock, 1 without an edge.
        half: shape of the Gamma law of a realised variance, whose constants are left out.
        belief: (B, G) before the first bar.
        first, density, mean, inv_sd, log_var, forecast, ramp: ``Transitions.arrays()``.
        kept: (B, T, G) to be filled with the belief after each bar, or empty.
    """
    n_paths, n_ticks = r.shape
    n_grid, width = density.shape
    joint, velocity = np.empty((n_paths, n_ticks)), np.empty((n_paths, n_ticks))
    moments = np.zeros((n_paths, n_ticks, forecast.shape[1]))
    for b in range(n_paths):
        p = belief[b].copy()
        for t in range(n_ticks):
            after, alone = np.zeros(n_grid), 0.0
            for i in range(n_grid):
                if p[i] < NEGLIGIBLE:
                    continue
                for k in range(width):
                    z = (r[b, t] - mean[i, k]) * inv_sd[i, k]
                    # z runs through a cell of the grid: the share of it that lies above zero
                    share = min(max(0.5 + z * ramp, 0.0), 1.0)
                    side = share * sign[b, t, 0] + (1 - share) * sign[b, t, 1]
                    of_return = p[i] * density[i, k] * side * np.exp(-0.5 * z * z)
                    log_ratio = log_realised[b, t] - log_var[i, k]
                    alone += of_return
                    after[first[i] + k] += of_return * np.exp(
                        half * (1 + log_ratio - np.exp(log_ratio))
                    )
            total = after.sum()
            joint[b, t] = np.log(total) - LOG_ROOT_TWO_PI
            velocity[b, t] = np.log(alone) - LOG_ROOT_TWO_PI
            p = after / total
            moments[b, t] = p @ forecast
            if len(kept):
                kept[b, t] = p
    return joint, velocity, moments
