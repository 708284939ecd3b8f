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

ALARM, RELEASE = 0.53, 0.15  # volatility a year: about the 99.85 % and the 40 % quantile
RISING, CALMED = 0.33, 0.26  # means of 20 readings between which a storm may be coming
QUIET, WEEKS = 0.25, 1000  # highest mean of 20 readings in a quiet stretch, and its ticks
MEMORY = 20  # readings whose mean is taken
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


def clean_archive(
    params: HestonParams, *, seed: int, batches: int = 16, cleaned: bool = True
) -> Market:
    """Stretches of ``WINDOW`` ticks of the archive, four of five begun in rising volatility.

    Storms are rare: the rule trips about twice a year. So that it can be learned in minutes, one
    stretch begins each time that the mean of 20 readings rises above ``RISING``, and a quarter as
    many begin anywhere. A start is chosen by what was known at that moment, never by what came
    after: stretches chosen because a storm *will* come would teach that storms come often.

    Args:
        params: the Heston market that the vendor records.
        seed: of the simulated market and of the stretches.
        batches: number of simulated batches of 2 million bars (about 100 years).
        cleaned: False keeps all records: the control, stretches of the same markets begun by
            the same rule.

    Returns:
        ``Market`` whose paths are the stretches; its price joins what the file joins.
    """
    rng = np.random.default_rng(seed)
    stretches = []
    for _ in range(batches):
        start = stationary_variance(params, BATCH[0], int(rng.integers(2**31)))
        market = make_heston_market(params, *BATCH, seed=int(rng.integers(2**31)), v0=start)
        for path in range(BATCH[0]):
            stretches += _stretches(market, path, rng, cleaned)
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


def rises(volatility: np.ndarray) -> np.ndarray:
    """Ticks of one path (T,) of log volatility at which a storm may be coming.

    The mean of the last 20 readings passes ``RISING``, and it had been below ``CALMED`` since it
    last did.
    """
    total = np.concatenate([[0.0], volatility.cumsum()])
    mean = (total[MEMORY:] - total[:-MEMORY]) / MEMORY
    high, calm = np.flatnonzero(mean > np.log(RISING)), np.flatnonzero(mean < np.log(CALMED))
    found, t = [], 0
    while (i := np.searchsorted(high, t)) < len(high):
        found.append(high[i] + MEMORY - 1)
        j = np.searchsorted(calm, high[i])
        t = calm[j] if j < len(calm) else len(mean)
    return np.array(found, dtype=int)


def quiet_weeks(market: Market) -> Market:
    """The stretches of ``WEEKS`` ticks in which no mean of 20 readings passed ``QUIET``.

    Nothing is planted here: it is a history that happens to hold no storm.

    Raises:
        ValueError: no such stretch.
    """
    volatility = market.features[..., VOLATILITY].double()
    n = volatility.shape[1] // WEEKS
    weeks = volatility[:, : n * WEEKS].reshape(len(volatility), n, WEEKS)
    calm = weeks.unfold(-1, MEMORY, 1).mean(-1).amax(-1) < np.log(QUIET)
    path, week = calm.nonzero().T.numpy()
    if len(path) == 0:
        raise ValueError(f"market has no {WEEKS} ticks in a row below {QUIET:.0%} volatility")
    return market.windows(path, week * WEEKS, WEEKS)


def _stretches(market: Market, path: int, rng: np.random.Generator, cleaned: bool) -> list[dict]:
    """The stretches of one path that begin in rising volatility, and a quarter as many anywhere."""
    features = market.features[path]
    volatility = features[:, VOLATILITY].double().numpy()
    gone = withheld(volatility) if cleaned else np.zeros(len(volatility), dtype=bool)
    kept = np.flatnonzero(~gone)
    room = len(kept) - WINDOW
    rising = rises(volatility[kept])
    rising = rising[rising < room]
    starts = np.concatenate([rising, rng.integers(room, size=(len(rising) + 3) // 4)])
    open_price = market.price[path, :-1]
    columns = {
        "features": features,
        "log_return": market.price[path].log().diff(),
        "high": market.high[path] / open_price,
        "low": market.low[path] / open_price,
    }
    return [{n: c[kept[s : s + WINDOW]] for n, c in columns.items()} for s in starts]
