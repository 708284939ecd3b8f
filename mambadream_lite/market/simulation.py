"""The book's market: Heston prices with an order book, as a trader sees them (chapter 01)."""

from __future__ import annotations

import numpy as np
import torch

from mambadream_lite.market.features import (
    REFERENCE_VOLATILITY,
    Market,
    bar_extremes,
    velocity_unit,
)
from mambadream_lite.market.heston import (
    BARS_PER_YEAR,
    HestonParams,
    log_returns,
    simulate_variance,
)
from mambadream_lite.market.order_book import Edge, book_path, imbalance_path

TRADES_PER_BAR = 12  # returns inside a bar that its realised volatility is measured from


def make_heston_market(
    params: HestonParams,
    n_paths: int,
    n_steps: int,
    *,
    seed: int,
    edge: Edge | None = None,
    bar: float = 1 / BARS_PER_YEAR,
    v0: np.ndarray | None = None,
) -> Market:
    """Simulate a Heston market with an order book and its six features (chapter 01).

    Realised volatility, spread, volume and flow are noisy functions of the hidden variance
    and of what was seen before: no feature follows from the others, and none shows the
    variance itself.

    Args:
        params: the Heston parameters, per year.
        n_paths, n_steps: number of paths and of bars.
        seed: the same seed gives the same market.
        edge: the planted edge, ``Edge()`` if None; ``Edge(strength=0)`` plants nothing.
        bar: length of a bar in years, 5 minutes by default.
        v0: starting variance of each path (n_paths,); ``params.v0`` if None.
    """
    edge = Edge() if edge is None else edge
    rng = np.random.default_rng(seed)
    size = (n_paths, n_steps)
    variance = simulate_variance(params, n_paths, n_steps, bar, rng=rng, v0=v0)
    imbalance = imbalance_path(edge, n_paths, n_steps, rng)
    shocks = edge.tilt(rng.standard_normal(size), imbalance[:, :-1], rng.random(size))
    returns = log_returns(params, variance, bar, shocks)

    mean_variance = 0.5 * (variance[:, :-1] + variance[:, 1:])
    realised = mean_variance * rng.chisquare(TRADES_PER_BAR, size) / TRADES_PER_BAR
    realised = np.maximum(realised, 1e-8)  # 0.01 % a year: the log stays finite where v is 0
    features = _six_features(returns, 0.5 * np.log(realised), imbalance, bar, rng)

    up, down = bar_extremes(
        torch.from_numpy(returns),
        torch.from_numpy(realised * bar),
        *torch.from_numpy(1 - rng.random((2, *size))),
    )
    log_price = np.log(params.s0) + np.concatenate(
        [np.zeros((n_paths, 1)), returns.cumsum(axis=1)], axis=1
    )
    price = torch.from_numpy(np.exp(log_price))
    return Market(
        features=torch.from_numpy(features.astype(np.float32)),
        price=price,
        high=price[:, :-1] * up.exp(),
        low=price[:, :-1] * down.exp(),
        bar=bar,
        time=np.arange(n_steps),
        variance=torch.from_numpy(variance),
    )


def _six_features(
    returns: np.ndarray,
    volatility: np.ndarray,
    imbalance: np.ndarray,
    bar: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """(B, T, 6) from what drives them: returns, log realised volatility, imbalance (B, T + 1)."""
    velocity = returns / velocity_unit(bar)
    excitement = volatility - np.log(REFERENCE_VOLATILITY)
    book = book_path(velocity, excitement, imbalance, rng)
    return np.stack([velocity, volatility, imbalance[:, 1:], *book], axis=-1)
