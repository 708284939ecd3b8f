"""LOBSTER message and order-book files as a `Market`: a real book, event by event (chapter 13).

LOBSTER (Huang and Polak, 2011) rebuilds the limit order book of a NASDAQ stock. The message file
holds one event a row: time in seconds after midnight, type, order id, size, price times 10,000,
direction. The order-book file holds the book after each of these events: ask price, ask size, bid
price, bid size, level after level. Neither has a header. A side of the book that is empty has
the price 9999999999 or -9999999999.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch

from mambadream_lite.market.features import Market, velocity_unit
from mambadream_lite.market.files import fault, first_line, number_chunks, refuse
from mambadream_lite.market.klines import CALMEST, over_average

SESSION = 252 * 6.5 * 3600  # seconds of trading a year
PRICE_UNIT = 1e-4
EMPTY = 9_999_999_999  # price of a level that is not there
SAMPLES = 12  # returns inside a bar that its realised volatility is measured from
EXECUTIONS, HALT = (4, 5), 7  # event types: visible and hidden executions, a trading halt
MESSAGE = {"time": 0, "type": 1, "size": 3, "price": 4, "direction": 5}
BOOK = {"ask price 1": 0, "ask size 1": 1, "bid price 1": 2, "bid size 1": 3}


def load_lobster(
    message_path: str | Path,
    orderbook_path: str | Path,
    *,
    bar_seconds: float = 300.0,
    date: str | None = None,
) -> Market:
    """A LOBSTER pair, one day of one stock, as one path with the six features (chapter 13).

    ========== ==========================================================================
    feature    what it is here
    ========== ==========================================================================
    velocity   log return of the mid price over 20 % a year, scaled to one bar
    volatility log of the realised volatility from 12 returns inside the bar, at least 1 %
    imbalance  log of bid size over ask size at the best prices, at the close of the bar
    log_spread log of the spread over the mid price, in basis points, at the close
    log_volume log of the shares executed over their trailing average
    signed_flow share bought by takers less share sold by takers, -1 to 1
    ========== ==========================================================================

    None is a proxy, and each is known when its bar has closed. Bars stand on the clock. A bar
    without an event, or touched by a trading halt, is left out; the next one is marked as a gap
    and starts from its own first price. So is a bar that closes on a one-sided book.

    Args:
        message_path, orderbook_path: the two files, row by row of the same events.
        bar_seconds: length of a bar.
        date: day as "2012-06-21"; if None it is taken from the name of the message file.

    Returns:
        ``Market`` with B = 1; a year has 252 days of 6.5 hours.

    Raises:
        ValueError: path, line and column of the first row that cannot be: text in a number, a
            time that goes back, an unknown event, a crossed book; files of unequal length; a
            day without one whole bar.
    """
    message_path, orderbook_path = Path(message_path), Path(orderbook_path)
    if not bar_seconds > 0:
        raise ValueError(f"bar_seconds must be positive, got {bar_seconds}")
    midnight = _midnight(message_path, date)
    message = _read(message_path, MESSAGE)
    book = _read(orderbook_path, BOOK)
    if len(message) != len(book):
        raise ValueError(
            f"{orderbook_path} has {len(book)} rows, {message_path} has {len(message)}: "
            "expected the book after each message"
        )
    _check_messages(message_path, message)
    _check_book(orderbook_path, book)
    return _bars(message_path, message, book, bar_seconds, midnight)


def _midnight(path: Path, date: str | None) -> np.datetime64:
    if date is None:
        found = re.search(r"\d{4}-\d{2}-\d{2}", path.name)
        if not found:
            raise ValueError(f"date must be given: the name {path.name} holds none")
        date = found[0]
    try:
        return np.datetime64(date, "ms")
    except ValueError as error:
        raise ValueError(f"date must be a day like 2012-06-21, got {date!r}") from error


def _read(path: Path, columns: dict[str, int]) -> np.ndarray:
    """All rows of some columns, (n, len(columns)) float64."""
    n_fields = len(first_line(path).split(","))
    if n_fields <= max(columns.values()):
        raise fault(path, 1, str(n_fields), f"{n_fields} fields", f"{max(columns.values()) + 1}")
    return np.concatenate([rows for _, rows in number_chunks(path, columns, n_fields)])


def _check_messages(path: Path, message: np.ndarray) -> None:
    time, kind, size, _, direction = message.T
    back = np.diff(time, prepend=time[0]) < 0
    refuse(back, time, path, 1, "time", "no time before that of the line before")
    refuse((time < 0) | (time >= 86_400), time, path, 1, "time", "seconds after midnight")
    refuse(~np.isin(kind, range(1, 8)), kind, path, 1, "type", "an event type from 1 to 7")
    refuse(size < 0, size, path, 1, "size", "no negative size")
    refuse(~np.isin(direction, (-1, 1)), direction, path, 1, "direction", "-1 or 1")


def _check_book(path: Path, book: np.ndarray) -> None:
    ask, ask_size, bid, bid_size = book.T
    there = (np.abs(ask) != EMPTY) & (np.abs(bid) != EMPTY)
    for name, price in (("ask price 1", ask), ("bid price 1", bid)):
        bad = (np.abs(price) != EMPTY) & (price <= 0)
        refuse(bad, price, path, 1, name, "a positive price or +-9999999999")
    for name, size in (("ask size 1", ask_size), ("bid size 1", bid_size)):
        refuse(there & (size <= 0), size, path, 1, name, "a positive size")
    refuse(there & (bid >= ask), bid, path, 1, "bid price 1", "a bid below the ask")


def _bars(
    path: Path, message: np.ndarray, book: np.ndarray, seconds: float, midnight: np.datetime64
) -> Market:
    time, kind, size, price, direction = message.T
    ask, ask_size, bid, bid_size = book.T
    quoted = (np.abs(ask) != EMPTY) & (np.abs(bid) != EMPTY)
    mid = 0.5 * (ask + bid) * PRICE_UNIT
    taken = np.where(np.isin(kind, EXECUTIONS), size, 0.0)
    first = np.floor(time[0] / seconds)
    edges = (first + np.arange(np.floor(time[-1] / seconds) - first + 2)) * seconds
    begin = np.searchsorted(time, edges)  # events of bar i are begin[i] to begin[i + 1]
    whole = (np.diff(begin) > 0) & ~_halted(time, kind, price, edges)
    whole[whole] = quoted[begin[1:][whole] - 1]
    kept = np.flatnonzero(whole)
    if len(kept) == 0:
        raise ValueError(f"{path}: holds no bar of {seconds:g} s that closes on a two-sided book")

    gap = np.diff(kept, prepend=kept[0] - 1) > 1
    prices, rows = [], []
    for i, jumped in zip(kept, gap, strict=True):
        events = np.arange(begin[i], begin[i + 1])[quoted[begin[i] : begin[i + 1]]]
        opened = mid[events[0]] if jumped or not prices else prices[-1]
        if not prices:
            prices.append(opened)
        last = events[-1]
        samples = np.linspace(edges[i], edges[i + 1], SAMPLES + 1)[1:]
        seen = np.concatenate([[opened], mid[events]])
        steps = seen[np.searchsorted(time[events], samples, side="left")]
        inside = slice(begin[i], begin[i + 1])
        volume = taken[inside].sum()
        prices.append(mid[last])
        rows.append(
            {
                "move": np.log(mid[last] / opened),
                "realised": np.square(np.diff(np.log(steps), prepend=np.log(opened))).sum(),
                "high": seen.max(),
                "low": seen.min(),
                "imbalance": np.log(bid_size[last] / ask_size[last]),
                "log_spread": np.log(1e4 * (ask[last] - bid[last]) * PRICE_UNIT / mid[last]),
                "volume": volume,
                # an execution names the side of the order that stood: a seller's was bought
                "flow": -(taken[inside] @ direction[inside]) / volume if volume > 0 else 0.0,
            }
        )
    return _market(rows, prices, gap, edges[kept], seconds, midnight)


def _market(
    rows: list[dict],
    prices: list[float],
    gap: np.ndarray,
    start: np.ndarray,
    seconds: float,
    midnight: np.datetime64,
) -> Market:
    """The bars as a `Market`; ``start`` (T,) in seconds after midnight."""
    bar = seconds / SESSION
    column = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    (log_volume,), _ = over_average(column["volume"][None], None)
    features = [
        column["move"] / velocity_unit(bar),
        0.5 * np.log(np.maximum(column["realised"] / bar, CALMEST**2)),
        column["imbalance"],
        column["log_spread"],
        log_volume,
        column["flow"],
    ]
    return Market(
        features=torch.from_numpy(np.stack(features, axis=-1).astype(np.float32))[None],
        price=torch.tensor(prices, dtype=torch.float64)[None],
        high=torch.from_numpy(column["high"])[None],
        low=torch.from_numpy(column["low"])[None],
        bar=bar,
        time=midnight + (1000 * start).astype("timedelta64[ms]"),
        gap=gap,
    )


def _halted(time: np.ndarray, kind: np.ndarray, price: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Which bars (len(edges) - 1,) a trading halt touches: from price -1 to price 1 of type 7."""
    touched = np.zeros(len(edges) - 1, dtype=bool)
    since = None
    for when, what in zip(time[kind == HALT], price[kind == HALT], strict=True):
        if what < 0 and since is None:
            since = when
        elif what > 0 and since is not None:
            touched |= (edges[1:] > since) & (edges[:-1] <= when)
            since = None
    if since is not None:
        touched |= edges[1:] > since
    return touched
