"""LOBSTER pairs: bars by hand, halts and empty bars marked, the future unseen, faults located."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mambadream_lite.market import Market, load_lobster

OPEN = 34_200  # seconds after midnight
ANY_FILE = settings(
    max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


class Pair:
    """The two files of one stock and day."""

    def __init__(self, folder: Path) -> None:
        self.message = folder / "TEST_2012-06-21_34200000_57600000_message_1.csv"
        self.book = folder / "TEST_2012-06-21_34200000_57600000_orderbook_1.csv"

    def write(self, message: list[str], book: list[str]) -> "Pair":
        self.message.write_text("\n".join(message) + "\n")
        self.book.write_text("\n".join(book) + "\n")
        return self

    def load(self, **kwargs) -> Market:
        return load_lobster(self.message, self.book, **{"bar_seconds": 60, **kwargs})


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def event(time: float, kind: int = 1, size: int = 10, price: int = 100_0000, side: int = 1) -> str:
    return f"{time},{kind},1,{size},{price},{side}"


def quotes(ask: int, bid: int, ask_size: int = 100, bid_size: int = 100) -> str:
    return f"{ask},{ask_size},{bid},{bid_size}"


def day(n: int = 600, seed: int = 0) -> tuple[list[str], list[str]]:
    """``n`` events, one a second, of a book that wanders."""
    rng = np.random.default_rng(seed)
    mid = 1_000_000 + 100 * np.cumsum(rng.integers(-2, 3, n))
    half, sizes = 100 * rng.integers(1, 4, n), rng.integers(1, 500, (n, 2))
    kinds, shares = rng.integers(1, 6, n), rng.integers(1, 200, n)
    sides = rng.choice([-1, 1], n)
    message = [event(OPEN + i, kinds[i], shares[i], mid[i], sides[i]) for i in range(n)]
    book = [quotes(mid[i] + half[i], mid[i] - half[i], *sizes[i]) for i in range(n)]
    return message, book


def test_bars_by_hand(pair: Pair) -> None:
    message = [
        event(OPEN + 0.5),
        event(OPEN + 10, kind=4, size=30, side=-1),  # a seller's order was hit: bought
        event(OPEN + 29.9, kind=5, size=10, side=1),  # a hidden buyer's: sold
        event(OPEN + 59.0, kind=3, size=500),  # a cancellation is no trade
        event(OPEN + 60.0, kind=1),
        event(OPEN + 110, kind=4, size=20, side=1),
    ]
    book = [
        quotes(1_000_200, 999_800),
        quotes(1_010_200, 1_009_800),
        quotes(990_100, 989_900),
        quotes(1_000_300, 999_700, ask_size=50, bid_size=200),
        quotes(1_020_100, 1_019_900, ask_size=80, bid_size=40),
        quotes(1_020_200, 1_019_800, ask_size=80, bid_size=20),
    ]
    market = pair.write(message, book).load()
    bar = 60 / (252 * 6.5 * 3600)
    unit = 0.2 * bar**0.5
    # 5-second samples: 100, 100, 101 three times, 99 six times, then 100
    first = np.log(1.01) ** 2 + np.log(99 / 101) ** 2 + np.log(100 / 99) ** 2
    volume = 59 / 61 * 40 + 2 / 61 * 20
    expected = [
        [0.0, 0.5 * np.log(first / bar), np.log(4), np.log(6.0), 0.0, 0.5],
        [
            *(np.log(1.02) / unit, 0.5 * np.log(np.log(1.02) ** 2 / bar), np.log(0.25)),
            *(np.log(400 / 102), np.log(20 / volume), -1.0),
        ],
    ]
    assert market.features[0].numpy() == pytest.approx(np.array(expected), rel=1e-5, abs=1e-6)
    assert market.price[0].tolist() == pytest.approx([100, 100, 102])
    assert market.high[0].tolist() == pytest.approx([101, 102])
    assert market.low[0].tolist() == pytest.approx([99, 100])
    assert market.bar == pytest.approx(bar) and market.proxies == ()
    assert str(market.time[1]) == "2012-06-21T09:31:00.000"
    assert not market.gap.any()


def test_deeper_levels_change_nothing(pair: Pair) -> None:
    message, book = day()
    plain = pair.write(message, book).load()
    deep = pair.write(message, [row + ",9999999999,0,-9999999999,0" for row in book]).load()
    assert torch.equal(plain.features, deep.features)


def test_a_bar_without_events_is_a_gap(pair: Pair) -> None:
    message, book = day()
    market = pair.write(message[:70] + message[200:], book[:70] + book[200:]).load()
    assert [str(t)[11:16] for t in market.time] == [f"09:{m}" for m in (30, 31, *range(33, 40))]
    assert np.flatnonzero(market.gap).tolist() == [2]
    assert [len(p.time) for p in market.pieces()] == [2, 7]


def test_a_halt_takes_its_bars_out_and_the_return_starts_afresh(pair: Pair) -> None:
    message, book = day()
    message[130] = event(OPEN + 130, kind=7, size=0, price=-1, side=-1)
    message[250] = event(OPEN + 250, kind=7, size=0, price=0, side=-1)
    message[290] = event(OPEN + 290, kind=7, size=0, price=1, side=-1)
    market = pair.write(message, book).load()
    whole = pair.write(*day()).load()
    kept = [0, 1, 5, 6, 7, 8, 9]  # the bars from 120 s to 300 s were touched
    assert (market.time == whole.time[kept]).all()
    assert np.flatnonzero(market.gap).tolist() == [2]
    first_mid, last_mid = (np.mean([float(x) for x in book[i].split(",")[::2]]) for i in (300, 359))
    move = np.log(last_mid / first_mid) / market.velocity_unit
    assert market.features[0, 2, 0].item() == pytest.approx(move, rel=1e-4, abs=1e-5)
    assert torch.equal(market.features[0, 3:, 1:4], whole.features[0, 6:, 1:4])


def test_a_bar_that_closes_on_an_empty_side_is_left_out(pair: Pair) -> None:
    message, book = day()
    book[119] = "9999999999,0,999800,5"
    book[30] = "1000200,5,-9999999999,0"  # inside a bar: that quote is passed over
    market = pair.write(message, book).load()
    assert np.flatnonzero(market.gap).tolist() == [1]
    assert len(market.time) == 9


@pytest.mark.parametrize("now", [0, 4, 8])
@pytest.mark.parametrize("what", ["book", "size", "side"])
def test_no_bar_knows_the_next(pair: Pair, now: int, what: str) -> None:
    message, book = day()
    before = pair.write(message, book).load().features[0]
    other_message, other_book = day(seed=1)
    cut = 60 * (now + 1)
    if what == "book":
        book = book[:cut] + other_book[cut:]
    else:
        column = {"size": 3, "side": 5}[what]
        for i in range(cut, len(message)):
            fields = message[i].split(",")
            fields[column] = other_message[i].split(",")[column]
            message[i] = ",".join(fields)
    after = pair.write(message, book).load().features[0]
    assert torch.equal(before[: now + 1], after[: now + 1])
    assert not torch.equal(before[now + 1], after[now + 1])


@pytest.mark.parametrize(
    ("file", "line", "column", "value", "message"),
    [
        ("message", 9, 0, "x", "line 9, column time: expected a number, found 'x'"),
        ("message", 9, 0, f"{OPEN}", "line 9, column time: expected no time before"),
        ("message", 600, 0, "99999", "line 600, column time: expected seconds after midnight"),
        ("message", 9, 1, "8", "line 9, column type: expected an event type from 1 to 7, found 8"),
        ("message", 9, 1, "1.5", "line 9, column type"),
        ("message", 9, 3, "-4", "line 9, column size: expected no negative size"),
        ("message", 9, 5, "0", "line 9, column direction: expected -1 or 1, found 0"),
        ("message", 9, 5, "1,7", "line 9, column 6: expected 6 fields, found 7 fields"),
        ("book", 9, 0, "", "line 9, column ask price 1: expected a number, found ''"),
        ("book", 9, 2, "-5", "line 9, column bid price 1: expected a positive price"),
        ("book", 9, 2, "5000000", "line 9, column bid price 1: expected a bid below the ask"),
        ("book", 9, 1, "0", "line 9, column ask size 1: expected a positive size, found 0"),
    ],
)
def test_a_fault_is_located(pair, file: str, line: int, column: int, value: str, message) -> None:
    files = dict(zip(("message", "book"), day(), strict=True))
    fields = files[file][line - 1].split(",")
    fields[column] = value
    files[file][line - 1] = ",".join(fields)
    pair.write(**files)
    with pytest.raises(ValueError) as error:
        pair.load()
    assert str(error.value).startswith(str(getattr(pair, file))) and message in str(error.value)


def test_a_locked_book_is_crossed(pair: Pair) -> None:
    message, book = day(10)
    book[4] = quotes(1_000_000, 1_000_000)
    with pytest.raises(ValueError, match="line 5, column bid price 1: expected a bid below"):
        pair.write(message, book).load()


def test_what_does_not_belong_together_is_refused(pair: Pair, tmp_path: Path) -> None:
    message, book = day(10)
    with pytest.raises(ValueError, match="has 9 rows, .* has 10"):
        pair.write(message, book[:-1]).load()
    with pytest.raises(ValueError, match="bar_seconds must be positive"):
        pair.write(message, book).load(bar_seconds=0)
    with pytest.raises(ValueError, match="date must be a day"):
        pair.load(date="yesterday")
    nameless = tmp_path / "messages.csv"
    nameless.write_text(pair.message.read_text())
    with pytest.raises(ValueError, match="date must be given"):
        load_lobster(nameless, pair.book)
    assert len(load_lobster(nameless, pair.book, date="2012-06-21").time) == 1
    with pytest.raises(ValueError, match="holds no bar of 60 s"):
        pair.write(message, ["9999999999,0,-9999999999,0"] * 10).load()
    with pytest.raises(ValueError, match="is empty"):
        pair.write([], book).load()


def check_garbage(pair: Pair) -> None:
    try:
        market = pair.load()
    except ValueError as error:
        assert str(pair.message) in str(error) or str(pair.book) in str(error)
    else:
        assert isinstance(market, Market)


@ANY_FILE
@given(st.binary(max_size=200), st.binary(max_size=200))
def test_random_bytes_are_refused_clearly(pair: Pair, message: bytes, book: bytes) -> None:
    pair.message.write_bytes(message)
    pair.book.write_bytes(book)
    check_garbage(pair)


@ANY_FILE
@given(
    in_book=st.booleans(),
    line=st.integers(0, 9),
    column=st.integers(0, 5),
    value=st.one_of(
        st.floats().map(str),
        st.integers(-(10**12), 10**12).map(str),
        st.text(max_size=8).filter(lambda t: "\n" not in t and "\r" not in t),
    ),
)
def test_one_odd_field_is_refused_clearly_or_fits(pair, in_book, line, column, value) -> None:
    files = day(10)
    fields = files[in_book][line].split(",")
    fields[column % len(fields)] = value
    files[in_book][line] = ",".join(fields)
    pair.message.write_text("\n".join(files[0]), encoding="utf-8")
    pair.book.write_text("\n".join(files[1]), encoding="utf-8")
    check_garbage(pair)
