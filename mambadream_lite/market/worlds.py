"""Many Heston worlds of daily bars, each with parameters of its own (chapter 04).

Twenty years of real days are few, and most of them are calm. A model that has lived in a
thousand simulated worlds has learnt to read from the context which one it is in; what is left
to learn from the real market is little. Each world is a Heston market seen as ``load_sp500``
sees the real one: two assets, daily ranges, a volume. The ranges below are wide guesses made
before any score was seen; no real data enter.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.signal import lfilter
from tqdm.auto import tqdm

from mambadream_lite.market.features import Market, bar_extremes
from mambadream_lite.market.heston import HestonParams, simulate_heston
from mambadream_lite.market.history import DAY, SP500_PROXIES, VOLUME_WINDOW, daily_features

STEPS_A_DAY = 8
PATHS_A_WORLD = 4
# log of typical value, sd of its log
LEVEL, SPEED, WILDNESS = (np.log(0.17), 0.3), (np.log(6.0), 0.7), (np.log(0.7), 0.4)
RHO = (-0.9, -0.3)
DRIFT = (-0.02, 0.12)  # of the price, per year
OTHER = {"beta": (0.7, 1.5), "own": (0.3, 1.2)}  # the second asset: share of the first, own noise
VOLUME = {"memory": (0.4, 0.8), "gain": (0.1, 0.5), "noise": (0.1, 0.2)}


def draw_params(rng: np.random.Generator) -> HestonParams:
    """A world's parameters: volatility about 17 %, half-lives from weeks to half a year."""
    theta = float(np.exp(2 * rng.normal(*LEVEL)))
    kappa = float(np.exp(rng.normal(*SPEED)))
    wildness = float(np.exp(rng.normal(*WILDNESS)))  # sd of the stationary variance over its mean
    return HestonParams(
        v0=theta,
        theta=theta,
        kappa=kappa,
        sigma=wildness * float(np.sqrt(2 * kappa * theta)),
        rho=rng.uniform(*RHO),
        mu=rng.uniform(*DRIFT),
    )


def make_daily_worlds(n_worlds: int, n_days: int, *, seed: int, progress: bool = False) -> Market:
    """Daily markets of ``n_worlds`` random Heston worlds, four paths each (chapter 04).

    Args:
        n_worlds: number of parameter sets.
        n_days: days of each path that have features.
        seed: the same seed gives the same worlds.
        progress: show a progress bar.

    Returns:
        ``Market`` with B = 4 * n_worlds; features as in ``load_sp500``.

    Raises:
        ValueError: a count below 1.
    """
    if n_worlds < 1 or n_days < 1:
        raise ValueError(f"n_worlds and n_days must be at least 1, got {n_worlds} and {n_days}")
    worlds = [
        _world(n_days + VOLUME_WINDOW, np.random.default_rng([seed, i]))
        for i in tqdm(range(n_worlds), desc="worlds", disable=None if progress else True)
    ]
    features, close, high, low = (np.concatenate(part) for part in zip(*worlds, strict=True))
    return Market(
        features=torch.from_numpy(features.astype(np.float32)),
        price=torch.from_numpy(close[:, VOLUME_WINDOW - 1 :]),
        high=torch.from_numpy(high[:, VOLUME_WINDOW:]),
        low=torch.from_numpy(low[:, VOLUME_WINDOW:]),
        bar=DAY,
        time=np.arange(n_days),
        proxies=SP500_PROXIES,
    )


def _world(n_days: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Features, close, high and low of the paths of one world."""
    params = draw_params(rng)
    shape = 2 * params.kappa * params.theta / params.sigma**2
    v0 = rng.gamma(shape, params.theta / shape, PATHS_A_WORLD)
    n_steps = n_days * STEPS_A_DAY
    paths = simulate_heston(
        params, PATHS_A_WORLD, n_steps, DAY / STEPS_A_DAY, seed=rng.integers(2**32), v0=v0
    )
    # a floor of 1 % a year: a day without any range has no logarithm
    step_variance = np.maximum(paths.variance[:, :-1], 1e-4) * DAY / STEPS_A_DAY
    returns = np.diff(np.log(paths.price), axis=1)
    close, high, low = _daily_bars(returns, step_variance, rng)
    beta, own = rng.uniform(*OTHER["beta"]), rng.uniform(*OTHER["own"])
    apart = own * np.sqrt(step_variance) * rng.standard_normal(returns.shape)
    other = _daily_bars(beta * returns + apart, step_variance * (beta**2 + own**2), rng)

    mean_variance = paths.variance[:, 1:].reshape(PATHS_A_WORLD, n_days, -1).mean(-1)
    excitement = 0.5 * np.log(np.maximum(mean_variance, 1e-4) / params.theta)
    drive = rng.uniform(*VOLUME["gain"]) * excitement
    drive += rng.uniform(*VOLUME["noise"]) * rng.standard_normal(drive.shape)
    volume = np.exp(lfilter([1.0], [1.0, -rng.uniform(*VOLUME["memory"])], drive, axis=1))
    return daily_features(close, high, low, volume, *other), close, high, low


def _daily_bars(
    returns: np.ndarray, variance: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Close, high and low (B, n_days) from log returns and variances of steps (B, n_steps)."""
    up, down = bar_extremes(
        torch.from_numpy(returns),
        torch.from_numpy(variance),
        *torch.from_numpy(1 - rng.random((2, *returns.shape))),
    )
    end = np.log(100.0) + returns.cumsum(axis=1)
    start = end - returns
    by_day = (len(returns), -1, STEPS_A_DAY)
    high = (start + up.numpy()).reshape(by_day).max(-1)
    low = (start + down.numpy()).reshape(by_day).min(-1)
    close = end.reshape(by_day)[..., -1]
    # the highest step may round a hair above the bar's own high
    return np.exp(close), np.exp(np.maximum(high, close)), np.exp(np.minimum(low, close))
