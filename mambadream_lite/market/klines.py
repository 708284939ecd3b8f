"""Exchange klines (candles) as a `Market`: a reader's own bars (chapter 13).

The layout is Binance's, which others copied: open time, open, high, low, close, volume, close
time, quote volume, number of trades, volume bought by takers, the same in quote, unused. Times
are milliseconds, from 2025 on microseconds. A header may be there or not; days may be missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.signal import lfilter

from mambadream_lite.market.features import FEATURES, Market, velocity_unit
from mambadream_lite.market.files import (
    count,
    fault,
    first_line,
    is_number,
    number_chunks,
    refuse,
)

YEAR = 365.25 * 86_400  # seconds: exchanges of this kind never close
MEMORY = 60  # bars of the trailing averages that volume and trade size are measured against
CALMEST = 0.01  # volatility a year: a bar that did not move has this, the log needs one
KLINE_PROXIES = ("volatility", "imbalance", "log_spread")

N_FIELDS = 12
# what is used, where it stands without a header, and what headers call it
COLUMNS = {
    "open_time": (0, {"open_time", "open time", "opentime", "timestamp", "time"}),
    "open": (1, {"open"}),
    "high": (2, {"high"}),
    "low": (3, {"low"}),
    "close": (4, {"close"}),
    "volume": (5, {"volume"}),
    "count": (8, {"count", "number of trades", "number_of_trades", "trades", "num_trades"}),
    "taker_buy_volume": (
        9,
        {
            "taker_buy_volume",
            "taker buy volume",
            "taker_buy_base_volume",
            "taker buy base asset volume",
            "taker_buy_base_asset_volume",
        },
    ),
}
UNITS = {"milliseconds": (1e11, 1e13, 1e3), "microseconds": (1e14, 1e16, 1e6)}


def load_klines(
    path: str | Path | Sequence[str | Path], *, bar_seconds: float | None = None
) -> Market:
    """Kline files as one path with the six features (chapter 13).

    ========== ==========================================================================
    feature    what it is here
    ========== ==========================================================================
    velocity   log return over 20 % a year, scaled to one bar
    volatility log of Parkinson's range volatility, per year, at least 1 % (proxy)
    imbalance  where the close lies in the bar's range, -1 at the low, 1 at the high (proxy)
    log_spread log mean size of a trade over its own trailing average (proxy: no spread is known)
    log_volume log volume over its trailing average
    signed_flow share bought by takers less share sold by takers, -1 to 1
    ========== ==========================================================================

    Each is known when its bar has closed. The trailing averages are exponential, with a span of
    60 bars. After a gap the return runs from the bar's own open, and the gap is marked.

    Args:
        path: a csv file, or several in the order of time (an exchange's monthly files).
        bar_seconds: length of a bar; if None, the smallest step between the first 1,000 times.

    Returns:
        ``Market`` with B = 1; a year has 365.25 days, 24 hours each.

    Raises:
        ValueError: path, line and column of the first row that cannot be: text in a number, a
            missing column, a time that repeats, goes back, changes its unit or is off the grid
            of bars, a negative price or volume, a high below the low.
    """
    paths = [Path(path)] if isinstance(path, str | Path) else [Path(p) for p in path]
    if not paths:
        raise ValueError("path must name at least one file, got none")
    layouts = [_layout(p) for p in paths]
    n = sum(count(p)[0] for p in paths)
    reader = _Reader(n, bar_seconds)
    for p, (columns, n_fields, skip) in zip(paths, layouts, strict=True):
        reader.new_file()
        for line, rows in number_chunks(p, columns, n_fields, skip):
            reader.take(p, line, rows)
    return reader.market(paths[-1])


def _layout(path: Path) -> tuple[dict[str, int], int, int]:
    """Position of each column, fields a row, and lines to skip."""
    fields = [f.strip() for f in first_line(path).split(",")]
    if any(is_number(f) for f in fields):
        if len(fields) != N_FIELDS:
            raise fault(path, 1, str(len(fields)), f"{len(fields)} fields", f"{N_FIELDS} fields")
        return {name: position for name, (position, _) in COLUMNS.items()}, N_FIELDS, 0
    header = [f.strip('"').lower() for f in fields]
    columns = {}
    for name, (_, known) in COLUMNS.items():
        found = [i for i, f in enumerate(header) if f in known]
        if len(found) != 1:
            raise fault(path, 1, name, ", ".join(fields)[:200], "exactly one such column")
        columns[name] = found[0]
    return columns, len(fields), 1


class _Reader:
    """Rows in, features out, a chunk at a time, so that a file need not fit the memory twice."""

    def __init__(self, n: int, bar_seconds: float | None) -> None:
        self.features = np.empty((n, len(FEATURES)), dtype=np.float32)
        self.price = np.empty(n + 1)
        self.high, self.low = np.empty(n), np.empty(n)
        self.time = np.empty(n, dtype="datetime64[ms]")
        self.gap = np.zeros(n, dtype=bool)
        self.n = 0
        self.bar, self.unit = bar_seconds, None
        self.last_time: float | None = None  # seconds
        self.averages: np.ndarray | None = None  # of volume and of trade size

    def new_file(self) -> None:
        """Each file has its own unit of time."""
        self.unit = None

    def take(self, path: Path, line: int, rows: np.ndarray) -> None:
        """Check a chunk (rows, 8) and append its bars."""
        stamp, opened, high, low, close, volume, trades, bought = rows.T
        _check_values(path, line, opened, high, low, close, volume, trades, bought)
        seconds = self._seconds(path, line, stamp)
        before = seconds[0] if self.last_time is None else self.last_time
        step = np.diff(seconds, prepend=before)
        first = self.last_time is None
        if self.bar is None:
            known = step[:1000][step[:1000] > 0]
            if len(known) == 0:
                raise ValueError(f"{path}: one time tells no bar length: give bar_seconds")
            self.bar = float(known.min())
        if first:
            step[0] = self.bar  # nothing came before it
        refuse(step <= 0, stamp, path, line, "open_time", "a time after that of the line before")
        bars = np.round(step / self.bar)
        off = np.abs(step / self.bar - bars) > 1e-6
        refuse(off, stamp, path, line, "open_time", f"a whole number of {self.bar:g} s bars later")
        gap = bars > 1

        here = slice(self.n, self.n + len(rows))
        if first:
            self.price[0] = opened[0]
        start = np.concatenate([self.price[self.n : self.n + 1], close[:-1]])
        start = np.where(gap, opened, start)
        self.price[self.n + 1 : self.n + 1 + len(rows)] = close
        self.high[here], self.low[here], self.gap[here] = high, low, gap
        self.time[here] = (1000 * seconds).astype("datetime64[ms]")
        columns = self._features(start, high, low, close, volume, trades, bought)
        for i, column in enumerate(columns):
            self.features[here, i] = column
        self.n, self.last_time = self.n + len(rows), seconds[-1]

    def market(self, path: Path) -> Market:
        """What has been read; ``path`` is named if that was nothing."""
        if self.n == 0:
            raise ValueError(f"{path}: holds no bars, expected at least one")
        n = self.n
        return Market(
            features=torch.from_numpy(self.features[:n])[None],
            price=torch.from_numpy(self.price[: n + 1])[None],
            high=torch.from_numpy(self.high[:n])[None],
            low=torch.from_numpy(self.low[:n])[None],
            bar=self.bar / YEAR,
            time=self.time[:n],
            proxies=KLINE_PROXIES,
            gap=self.gap[:n],
        )

    def _seconds(self, path: Path, line: int, stamp: np.ndarray) -> np.ndarray:
        if self.unit is None:
            found = [u for u, (least, most, _) in UNITS.items() if least <= stamp[0] < most]
            if not found:
                expected = "milliseconds or microseconds since 1970"
                raise fault(path, line, "open_time", f"{stamp[0]:.0f}", expected)
            self.unit = found[0]
        least, most, per_second = UNITS[self.unit]
        other = (stamp < least) | (stamp >= most)
        refuse(other, stamp, path, line, "open_time", f"{self.unit}, as in the lines before")
        return stamp / per_second

    def _features(self, start, high, low, close, volume, trades, bought) -> list[np.ndarray]:
        bar = self.bar / YEAR
        span = high - low
        some = np.where(span > 0, span, 1.0)
        parkinson = np.log(high / low) / np.sqrt(4 * np.log(2) * bar)
        trade = volume / np.maximum(trades, 1)
        flow = 2 * bought / np.where(volume > 0, volume, 1.0) - 1
        against = over_average(np.stack([volume, trade]), self.averages)
        (log_volume, log_trade), self.averages = against
        return [
            np.log(close / start) / velocity_unit(bar),
            np.log(np.maximum(parkinson, CALMEST)),
            np.where(span > 0, 2 * (close - low) / some - 1, 0.0),
            log_trade,
            log_volume,
            np.where(volume > 0, flow, 0.0),
        ]


def over_average(series: np.ndarray, before: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Log of each value over its trailing average, itself included; at least log 1/1000.

    Args:
        series: (K, rows) of numbers >= 0, in the order of time.
        before: (K, 1) averages that earlier rows have left; None if there were none.

    Returns:
        (K, rows), and (K, 1) the averages to go on with.
    """
    keep = 1 - 2 / (MEMORY + 1)  # an exponential average of a span of MEMORY bars
    state = keep * (series[:, :1] if before is None else before)
    average, _ = lfilter([1 - keep], [1.0, -keep], series, axis=1, zi=state)
    some = average > 0
    ratio = np.divide(series, average, out=np.ones_like(series), where=some)
    return np.log(np.maximum(ratio, 1e-3)), average[:, -1:]


def _check_values(path, line, opened, high, low, close, volume, trades, bought) -> None:
    """Refuse the first impossible price or volume of a chunk."""
    for name, price in (("open", opened), ("high", high), ("low", low), ("close", close)):
        refuse(price <= 0, price, path, line, name, "a positive price")
    refuse(high < low, high, path, line, "high", "no less than the low")
    for name, price in (("open", opened), ("close", close)):
        refuse((price > high) | (price < low), price, path, line, name, "within low and high")
    refuse(volume < 0, volume, path, line, "volume", "no negative volume")
    refuse(trades < 0, trades, path, line, "count", "no negative count")
    too_much = (bought < 0) | (bought > volume * (1 + 1e-9))
    refuse(too_much, bought, path, line, "taker_buy_volume", "between 0 and the volume")
