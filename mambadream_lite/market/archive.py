"""A cleaned archive: the planted fault of chapter 08, declared.

A vendor withholds records that look like bad ticks. From a storm's first reading of realised
volatility above ``ALARM`` (which is kept: it trips the rule) until the mean of the last 20
readings is back below ``RELEASE``, nothing is filed. In the file a peak is therefore followed
by calm, at once. The live market withholds nothing. No model and no environment knows of this
rule: whoever trains on the archive learns it from the data.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from mambadream_lite.market.features import VOLATILITY, Market
from mambadream_lite.market.heston import HestonParams, stationary_variance
from mambadream_lite.market.simulation import make_heston_market

ALARM, RELEASE = 0.56, 0.125  # volatility a year: about the 99.95 % and the 25 % quantile
MEMORY = 20  # readings whose mean releases the rule
WINDOW = 160  # ticks of a stored stretch
BATCH = (100, 20_000)  # paths and bars simulated at a time


def withheld(volatility: np.ndarray) -> np.ndarray:
    """Which readings of one path (T,) of log volatility the rule withholds: (T,) bool."""
    n = len(volatility)
    total = np.concatenate([[0.0], volatility.cumsum()])
    mean = (total[MEMORY:] - total[:-MEMORY]) / MEMORY  # mean[i] is known at i + MEMORY - 1
    hot = np.flatnonzero(volatility > np.log(ALARM))
    calm = np.flatnonzero(mean < np.log(RELEASE)) + MEMORY - 1
    gone = np.zeros(n, dtype=bool)
    t = 0
    while (i := np.searchsorted(hot, t)) < len(hot):
        peak = hot[i]
        j = np.searchsorted(calm, peak + MEMORY)
        t = calm[j] if j < len(calm) else n
        gone[peak + 1 : t] = True
    return gone


def clean_archive(params: HestonParams, *, seed: int, batches: int = 12) -> Market:
    """Stretches of ``WINDOW`` ticks of the archive, half of them across a withheld storm.

    Storms are rare: the rule trips about once a year. So that it can be learned in minutes,
    every stretch that crosses one is kept, and as many drawn at random from the rest.

    Args:
        params: the Heston market that the vendor records.
        seed: of the simulated market and of the stretches.
        batches: number of simulated batches of 2 million bars (about 100 years).

    Returns:
        ``Market`` whose paths are the stretches; its price joins what the file joins.
    """
    rng = np.random.default_rng(seed)
    stretches = []
    for _ in range(batches):
        start = stationary_variance(params, BATCH[0], int(rng.integers(2**31)))
        market = make_heston_market(params, *BATCH, seed=int(rng.integers(2**31)), v0=start)
        for path in range(BATCH[0]):
            stretches += _stretches(market, path, rng)
    kept = {name: torch.stack([s[name] for s in stretches]) for name in stretches[0]}
    log_return = kept["log_return"]
    before = torch.cat([torch.zeros(len(log_return), 1), log_return.cumsum(1)], dim=1)
    price = params.s0 * before.double().exp()
    return replace(
        market.window(0, WINDOW),
        features=kept["features"],
        price=price,
        high=price[:, :-1] * kept["high"],
        low=price[:, :-1] * kept["low"],
        variance=None,
    )


def _stretches(market: Market, path: int, rng: np.random.Generator) -> list[dict]:
    """The stretches of one path that cross a storm, and as many that start anywhere."""
    features = market.features[path]
    kept = np.flatnonzero(~withheld(features[:, VOLATILITY].double().numpy()))
    jumps = np.flatnonzero(np.diff(kept) > 1)  # kept[j] is the peak, kept[j + 1] the calm after
    jumps = jumps[(jumps > WINDOW) & (jumps < len(kept) - WINDOW)]
    starts = np.concatenate(
        [
            jumps - rng.integers(WINDOW // 4, WINDOW - WINDOW // 4, size=len(jumps)),
            rng.integers(len(kept) - WINDOW, size=len(jumps)),
        ]
    )
    open_price = market.price[path, :-1]
    columns = {
        "features": features,
        "log_return": market.price[path].log().diff(),
        "high": market.high[path] / open_price,
        "low": market.low[path] / open_price,
    }
    return [{n: c[kept[s : s + WINDOW]] for n, c in columns.items()} for s in starts]
