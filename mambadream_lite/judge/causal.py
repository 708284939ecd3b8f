"""Look-ahead, caught in the act: another future must not change a decision (chapter 11).

What a policy does before a bar opens may depend on the bars that have closed, and on nothing
else. So the future is replaced by another one, and every decision up to there has to stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from mambadream_lite.judge.backtest import Backtest, Builder, backtest
from mambadream_lite.market.features import Market

SHARE = 0.25  # of all bars, the lowest or highest returns: what a fall or a rise is drawn from


def check_causal(
    build: Builder,
    market: Market,
    *,
    ticks: Sequence[int],
    warmup: int,
    seed: int,
    tolerance: float = 1e-6,
    generator: torch.Generator | None = None,
    **terms,
) -> Backtest:
    """Backtest a policy in markets with other futures; its decisions before them must not change.

    Each tick is tried with three futures, all made of the market's own bars: the true one
    backwards, a fall and a rise. The first keeps every mean of the whole sample, the other two
    move them. Passing is evidence, not proof: a policy may still look ahead where nobody looked.

    Args:
        build: makes the policy from the market that it is to trade.
        market: B paths of T bars.
        ticks: bars from which on the future is replaced, each in [``warmup``, T).
        warmup: as in ``backtest``.
        seed: of the bars that a fall and a rise are drawn from.
        tolerance: units of leverage by which a decision may change, for rounding.
        generator: for policies that draw; every run starts from its present state.
        terms: more for ``backtest``: ``model``, ``account``, ``contract``, and ``every``, with
            which the builder is handed the past only.

    Returns:
        The backtest on the market as it is.

    Raises:
        ValueError: a decision that changed, with its bar; no ticks, or one outside the market.
    """
    n_ticks = market.features.shape[1]
    wrong = [t for t in ticks if not warmup <= t < n_ticks]
    if wrong or len(ticks) == 0:
        raise ValueError(
            f"ticks must hold bars from {warmup} to {n_ticks - 1}, got {wrong or 'none'}"
        )

    def run(world: Market) -> Backtest:
        policy = build if terms.get("every") else build(world)
        draws = None if generator is None else generator.clone_state()
        return backtest(policy, world, warmup=warmup, generator=draws, **terms)

    rng = np.random.default_rng(seed)
    actual = run(market)
    for tick in ticks:
        for name, bars in _futures(market, tick, rng):
            other = run(_with_future(market, tick, bars))
            known = slice(0, tick - warmup + 1)  # the last of these is for the replaced bar itself
            gap = (
                torch.stack([actual.leverage - other.leverage, actual.contracts - other.contracts])
                .abs()
                .amax((0, 1))[known]
            )
            if (gap > tolerance).any():
                first = warmup + int((gap > tolerance).int().argmax())
                raise ValueError(
                    f"build looks ahead: the decision for bar {first} ({market.time[first]}) "
                    f"changes by {gap[first - warmup]:.3g} when the bars from {tick} on are "
                    f"replaced by {name}"
                )
    return actual


def _futures(
    market: Market, tick: int, rng: np.random.Generator
) -> Iterator[tuple[str, np.ndarray]]:
    """Other bars (T - tick,) for those from ``tick`` on, each with its name."""
    n_ticks = market.features.shape[1]
    order = market.log_return.mean(0).argsort().numpy()
    few = max(int(SHARE * n_ticks), 1)
    yield "the same ones backwards", np.arange(tick, n_ticks)[::-1].copy()
    for name, pool in (("a fall", order[:few]), ("a rise", order[::-1][:few])):
        bars = rng.choice(pool, n_ticks - tick)
        bars[0] = pool[0]  # whoever peeks one bar ahead sees the largest move there is
        yield name, bars


def _with_future(market: Market, tick: int, bars: np.ndarray) -> Market:
    """The market whose bars from ``tick`` on are the given ones; what came before is untouched."""
    index = torch.from_numpy(bars)
    opened = market.price[:, index]
    close = market.price[:, [tick]] * market.log_return[:, index].cumsum(1).exp()
    price = torch.cat([market.price[:, : tick + 1], close], dim=1)
    scale = price[:, tick:-1] / opened
    variance = market.variance
    if variance is not None:
        variance = torch.cat([variance[:, : tick + 1], variance[:, index + 1]], dim=1)
    return replace(
        market,
        features=torch.cat([market.features[:, :tick], market.features[:, index]], dim=1),
        price=price,
        high=torch.cat([market.high[:, :tick], market.high[:, index] * scale], dim=1),
        low=torch.cat([market.low[:, :tick], market.low[:, index] * scale], dim=1),
        variance=variance,
    )
