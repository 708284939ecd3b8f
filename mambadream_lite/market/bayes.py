"""The limit: how well anybody can forecast the Heston market (chapter 02).

Only the variance is hidden. Given it at both ends of a bar, every feature of the bar has a
known density; the optimal forecaster therefore carries a belief about the variance, and
Bayes' rule moves it. Two ways to carry it: weights on a grid of sqrt(v), exact but for the
grid, and a cloud of particles, which shares no code with it and is there to check it.

No forecaster has a higher mean log score than this one. One that does has seen the future.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.polynomial.hermite_e import hermegauss
from scipy import stats
from scipy.special import gammaln, logsumexp
from torch import Tensor

from mambadream_lite.market.features import FEATURES, REFERENCE_VOLATILITY, Market
from mambadream_lite.market.heston import HestonParams, log_returns, simulate_variance
from mambadream_lite.market.order_book import FLOW, SPREAD, VOLUME, Edge
from mambadream_lite.market.simulation import TRADES_PER_BAR

HALF = 0.5 * TRADES_PER_BAR  # shape of the Gamma law of a realised variance


@dataclass(frozen=True)
class Filtered:
    """What the optimal forecaster said at each tick of a market; tensors float64.

    Attributes:
        log_score: (B, T) log density of the six features of bar t given all bars before, nats.
        velocity_score: (B, T) the same of velocity alone.
        variance: (B, T) E[v] at the close of bar t, given bars up to t; per year.
        return_mean, return_sd: (B, T) forecast of the log return of bar t + 1.
        grid: (G,) variances that the belief is carried on.
        belief: (B, T, G) probabilities of ``grid`` after bar t, if asked for.
    """

    log_score: Tensor
    velocity_score: Tensor
    variance: Tensor
    return_mean: Tensor
    return_sd: Tensor
    grid: Tensor
    belief: Tensor | None


def bayes_log_score(
    market: Market,
    params: HestonParams,
    *,
    edge: Edge | None = None,
    v0: np.ndarray | None = None,
    n_grid: int | None = None,
) -> Tensor:
    """Log score (B, T) of the optimal forecaster, nats a tick; arguments as ``bayes_filter``.

    It scores what a world model scores: the density of all six features, in raw units.
    """
    return bayes_filter(market, params, edge=edge, v0=v0, n_grid=n_grid).log_score


def bayes_filter(
    market: Market,
    params: HestonParams,
    *,
    edge: Edge | None = None,
    v0: np.ndarray | None = None,
    n_grid: int | None = None,
    keep_belief: bool = False,
) -> Filtered:
    """Run the optimal forecaster over a simulated market (chapter 02).

    It knows the parameters and the edge, and sees what a trader sees. The first tick is
    taken as the first of a fresh market, whose imbalance before it is unknown: on a market
    that was cut out of a longer one leave out some 100 ticks before you average.

    Args:
        market: from ``make_heston_market`` (exact variance).
        params: its parameters, per year.
        edge: its edge, ``Edge()`` if None; another one gives the score of who believes in that.
        v0: known starting variances (B,); if None the stationary law is believed.
        n_grid: points of the grid; by default enough for 1e-5 nats (200 in the book's market).
        keep_belief: also return the belief after every tick.

    Raises:
        ValueError: a market with proxies (real history), parameters that a grid cannot hold
            (see ``variance_grid``), or data that the parameters cannot have made.
    """
    from mambadream_lite.market.bayes_grid import Transitions, filter_paths, variance_grid

    edge = Edge() if edge is None else edge
    x = _simulated(market)
    grid = variance_grid(params, market.bar, n_grid)
    steps = Transitions.of(params, grid, market.bar)
    log_book, log_sign = _book_log_density(x, edge)
    belief = np.ascontiguousarray(_start(params, grid, len(x), v0))
    kept = np.empty((*x.shape[:2], len(grid)) if keep_belief else (0, 0, len(grid)))
    log_return = x[..., 0] * market.velocity_unit
    joint, velocity, moments = filter_paths(
        log_return, 2 * x[..., 1], np.exp(log_sign), HALF, belief, *steps.arrays(), kept
    )
    if not np.isfinite(joint).all():
        path, tick = np.argwhere(~np.isfinite(joint))[0]
        raise ValueError(f"params cannot have made bar {tick} of path {path}: {x[path, tick]}")
    unit = np.log(market.velocity_unit)
    log_gamma = np.log(2) + HALF * (np.log(HALF) - 1) - gammaln(HALF)  # left out by the loop
    variance, a, s, square, cross = np.moveaxis(moments, -1, 0)
    tilt = edge.shock_mean(x[..., 2])
    mean = a + tilt * s
    return Filtered(
        log_score=torch.from_numpy(joint + log_book + log_gamma + unit),
        velocity_score=torch.from_numpy(velocity + unit),
        variance=torch.from_numpy(np.ascontiguousarray(variance)),
        return_mean=torch.from_numpy(mean),
        return_sd=torch.from_numpy(np.sqrt(square + 2 * tilt * cross - mean**2)),
        grid=torch.from_numpy(grid),
        belief=torch.from_numpy(kept) if keep_belief else None,
    )


def particle_log_score(
    market: Market,
    params: HestonParams,
    *,
    edge: Edge | None = None,
    v0: np.ndarray | None = None,
    n_particles: int = 10_000,
    seed: int,
) -> Tensor:
    """``bayes_log_score`` by a bootstrap particle filter (Gordon, Salmond and Smith, 1993).

    Slower, and low by about 1 / ``n_particles``: a cross-check that draws the variance from
    the simulator and never meets a transition density or a grid.
    """
    edge = Edge() if edge is None else edge
    x = _simulated(market)
    n_paths, n_ticks, _ = x.shape
    rng = np.random.default_rng(seed)
    shape = 2 * params.kappa * params.theta / params.sigma**2
    size = (n_paths, n_particles)
    if v0 is None:
        v = rng.gamma(shape, params.theta / shape, size)
    else:
        v = np.repeat(np.asarray(v0)[:, None], n_particles, axis=1)
    log_book, log_sign = _book_log_density(x, edge)
    score = np.empty((n_paths, n_ticks))
    for t in range(n_ticks):
        path = simulate_variance(params, v.size, 1, market.bar, rng=rng, v0=v.ravel())
        centre = log_returns(params, path, market.bar, np.zeros((v.size, 1))).reshape(size)
        v = path[:, 1].reshape(size)
        middle = path.mean(1).reshape(size)
        sd = np.sqrt((1 - params.rho**2) * market.bar * middle)
        z = (x[:, t, :1] * market.velocity_unit - centre) / sd
        side = np.where(z > 0, log_sign[:, t, :1], log_sign[:, t, 1:])
        weight = side + stats.norm.logpdf(z) + np.log(market.velocity_unit / sd)
        realised = np.exp(2 * x[:, t, 1:2])
        gamma = stats.gamma(HALF, scale=middle / HALF)
        weight += gamma.logpdf(realised) + np.log(2 * realised)
        total = logsumexp(weight, axis=1, keepdims=True)
        score[:, t] = total[:, 0] - np.log(n_particles) + log_book[:, t]
        v = _resample(v, np.exp(weight - total), rng)
    return torch.from_numpy(score)


def _simulated(market: Market) -> np.ndarray:
    """The features of a market that can have an exact forecaster, as float64 (B, T, 6)."""
    if market.names != FEATURES or market.proxies:
        raise ValueError(
            f"market must be simulated by make_heston_market, got proxies {market.proxies}: "
            "nobody knows the limit of a real market"
        )
    return market.features.double().numpy()


def _start(p: HestonParams, grid: np.ndarray, n_paths: int, v0: np.ndarray | None) -> np.ndarray:
    """Belief (B, G) before the first bar."""
    if v0 is None:
        shape = 2 * p.kappa * p.theta / p.sigma**2
        law = stats.gamma.pdf(grid, shape, scale=p.theta / shape) * np.sqrt(grid)
        return np.tile(law / law.sum(), (n_paths, 1))
    v0, root = np.asarray(v0, dtype=np.float64), np.sqrt(grid)
    lowest = max(2 * root[0] - root[1], 0) ** 2  # one spacing below the first point
    if v0.shape != (n_paths,) or not ((v0 >= lowest) & (v0 <= grid[-1])).all():
        raise ValueError(
            f"v0 must hold {n_paths} variances within [{lowest:.3g}, {grid[-1]:.3g}], all but "
            f"1e-12 of their stationary law, got {v0}"
        )
    # shared between its two neighbours, so that its root is kept on average
    place = np.minimum(np.interp(np.sqrt(v0), root, np.arange(len(grid))), len(grid) - 2)
    belief, rows, left = np.zeros((n_paths, len(grid))), np.arange(n_paths), place.astype(int)
    belief[rows, left] = 1 - (place - left)
    belief[rows, left + 1] = place - left
    return belief


def _book_log_density(x: np.ndarray, edge: Edge) -> tuple[np.ndarray, np.ndarray]:
    """Of imbalance, spread, volume and flow (B, T); and log 2 P(sign of Z) for +, - (B, T, 2)."""
    velocity, volatility, imbalance, spread, volume, flow = np.moveaxis(x, -1, 0)
    excitement = volatility - np.log(REFERENCE_VOLATILITY)
    weight, lean, flow_sd = FLOW
    flow = flow - weight * velocity / np.exp(excitement)

    def given(before, imbalance, flow):
        """Log density of imbalance and flow, and log weights of the sign, given I before."""
        law = stats.norm.logpdf(imbalance, edge.persistence * before, edge.noise)
        law = law + stats.norm.logpdf(flow, lean * before, flow_sd)
        signs = np.stack([edge.strength * before, -edge.strength * before], axis=-1)
        return law, np.log(2) - np.logaddexp(0, -signs)

    log_book, log_sign = np.empty(x.shape[:2]), np.empty((*x.shape[:2], 2))
    log_book[:, 1:], log_sign[:, 1:] = given(imbalance[:, :-1], imbalance[:, 1:], flow[:, 1:])
    # before the first tick the imbalance is unknown: a standard normal, integrated out
    nodes, weights = hermegauss(64)
    law, signs = given(nodes, imbalance[:, :1], flow[:, :1])  # (B, 64), (64, 2)
    law = law + np.log(weights / weights.sum())
    log_book[:, 0] = logsumexp(law, axis=1)
    log_sign[:, 0] = logsumexp(law[..., None] + signs, axis=1) - log_book[:, :1]
    for path, (persistence, gain, sd) in ((spread, SPREAD), (volume, VOLUME)):
        before = np.concatenate([np.zeros((len(x), 1)), path[:, :-1]], axis=1)
        log_book += stats.norm.logpdf(path, persistence * before + gain * excitement, sd)
    return log_book, log_sign


def _resample(v: np.ndarray, weight: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Systematic resampling of particles (B, M) by weights that sum to one in each row."""
    n_paths, n = v.shape
    ladder = (np.arange(n) + rng.random((n_paths, 1))) / n
    steps = weight.cumsum(1)
    steps[:, -1] = 1.0  # rounding must not leave the last rung without a particle
    chosen = np.stack([np.searchsorted(s, u) for s, u in zip(steps, ladder, strict=True)])
    return np.take_along_axis(v, chosen, axis=1)
