"""Kline files: features by hand, gaps marked, the future unseen, and every fault located."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mambadream_lite.market import FEATURES, Market, load_klines

HEADER = (
    "open_time,open,high,low,close,volume,close_time,quote_volume,count,"
    "taker_buy_volume,taker_buy_quote_volume,ignore"
)
START = 1_609_459_200_000  # 1 January 2021, milliseconds
MINUTE = 60_000
ANY_FILE = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


def rows(n: int, seed: int = 0, start: int = START, step: int = MINUTE) -> list[str]:
    """``n`` bars that follow on each other."""
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(1e-3 * rng.standard_normal(n)))
    opened = np.concatenate([[100.0], close[:-1]])
    high, low = np.maximum(opened, close) + 0.03, np.minimum(opened, close) - 0.02
    volume = rng.gamma(2, 5, n)
    bought, trades = volume * rng.random(n), rng.integers(1, 99, n)
    return [
        f"{start + i * step},{opened[i]:.8f},{high[i]:.8f},{low[i]:.8f},{close[i]:.8f},"
        f"{volume[i]:.8f},{start + (i + 1) * step - 1},1.0,{trades[i]},{bought[i]:.8f},1.0,0"
        for i in range(n)
    ]


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def changed(lines: list[str], line: int, column: int, value: str) -> list[str]:
    """The same lines with one field (line from 1, column from 0) replaced."""
    fields = lines[line - 1].split(",")
    fields[column] = value
    return [*lines[: line - 1], ",".join(fields), *lines[line:]]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "bars.csv"


def test_features_by_hand(file: Path) -> None:
    write(
        file,
        [
            f"{START},100,110,90,105,10,0,0,5,7,0,0",
            f"{START + MINUTE},105,105,95,95,30,0,0,10,0,0,0",
            f"{START + 2 * MINUTE},95,95,95,95,0,0,0,0,0,0,0",
        ],
    )
    market = load_klines(file)
    bar = 60 / (365.25 * 86_400)
    unit = 0.2 * bar**0.5
    keep = 59 / 61
    volume = [10.0, keep * 10 + (1 - keep) * 30]
    trade = [2.0, keep * 2 + (1 - keep) * 3]

    def parkinson(high: float, low: float) -> float:
        return np.log(np.log(high / low) / np.sqrt(4 * np.log(2) * bar))

    expected = [
        [np.log(1.05) / unit, parkinson(110, 90), 0.5, 0.0, 0.0, 0.4],
        [
            *(np.log(95 / 105) / unit, parkinson(105, 95), -1.0),
            *(np.log(3 / trade[1]), np.log(30 / volume[1]), -1.0),
        ],
        [0.0, np.log(0.01), 0.0, np.log(1e-3), np.log(1e-3), 0.0],
    ]
    assert market.features[0].numpy() == pytest.approx(np.array(expected), rel=1e-5, abs=1e-6)
    assert market.price[0].tolist() == [100, 105, 95, 95]
    assert market.high[0].tolist() == [110, 105, 95]
    assert market.bar == pytest.approx(bar)
    assert market.proxies == ("volatility", "imbalance", "log_spread")
    assert str(market.time[1]) == "2021-01-01T00:01:00.000"


def test_a_header_or_none_and_any_order_of_columns_give_the_same(file: Path) -> None:
    lines = rows(30)
    plain = load_klines(write(file, lines))
    named = load_klines(write(file, [HEADER, *lines]))
    backwards = [",".join(reversed(line.split(","))) for line in [HEADER, *lines]]
    shuffled = load_klines(write(file, backwards))
    assert torch.equal(plain.features, named.features)
    assert torch.equal(plain.features, shuffled.features)


def test_microseconds_are_the_same_bars(file: Path) -> None:
    milli = load_klines(write(file, rows(30)))
    micro = load_klines(write(file, rows(30, start=START * 1000, step=MINUTE * 1000)))
    assert torch.equal(milli.features, micro.features)
    assert (milli.time == micro.time).all() and milli.bar == micro.bar


def test_files_follow_on_each_other_whatever_their_units(tmp_path: Path) -> None:
    whole = load_klines(write(tmp_path / "whole.csv", rows(40)))
    head, tail = rows(40)[:25], rows(40, start=START * 1000, step=MINUTE * 1000)[25:]
    parts = [write(tmp_path / "a.csv", head), write(tmp_path / "b.csv", [HEADER, *tail])]
    both = load_klines(parts)
    assert torch.equal(whole.features, both.features) and torch.equal(whole.price, both.price)
    with pytest.raises(ValueError, match=r"a\.csv, line 1, column open_time"):
        load_klines(parts[::-1])


def test_chunks_change_nothing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = rows(100)
    del lines[40:43]
    whole = load_klines(write(file, lines))
    monkeypatch.setattr("mambadream_lite.market.files.CHUNK", 7)
    parts = load_klines(file)
    assert torch.allclose(whole.features, parts.features, atol=1e-6)
    assert torch.equal(whole.price, parts.price) and (whole.gap == parts.gap).all()


def test_missing_bars_are_marked_and_no_return_runs_across_them(file: Path) -> None:
    lines = rows(60)
    del lines[20:30]
    market = load_klines(write(file, lines), bar_seconds=60)
    assert np.flatnonzero(market.gap).tolist() == [20]
    opened, close = (float(lines[20].split(",")[i]) for i in (1, 4))
    unit = market.velocity_unit
    assert market.features[0, 20, 0].item() == pytest.approx(np.log(close / opened) / unit, 1e-5)
    assert [len(piece.time) for piece in market.pieces()] == [20, 30]
    assert market.log_return[0, 20].item() == pytest.approx(
        np.log(close / float(lines[19].split(",")[4])), rel=1e-9
    )


@pytest.mark.parametrize("now", [0, 3, 25])
@pytest.mark.parametrize("column", [1, 2, 3, 4, 5, 8, 9])
def test_no_bar_knows_the_next(file: Path, now: int, column: int) -> None:
    lines = rows(40)
    before = load_klines(write(file, lines)).features[0]
    for line in range(now + 2, 41):  # the bars after ``now``, whatever they were
        fields = np.array(lines[line - 1].split(",")[1:10], dtype=float)
        fields[:4] *= 1.3
        fields[[4, 7, 8]] *= 0.5
        moved = {1: 0, 2: 1, 3: 2, 4: 3, 5: 4, 8: 7, 9: 8}[column]
        if column in (1, 2, 3, 4):  # the whole bar moves, or it would be impossible
            for c, i in ((1, 0), (2, 1), (3, 2), (4, 3)):
                lines = changed(lines, line, c, f"{fields[i]:.8f}")
        elif column == 5:
            lines = changed(changed(lines, line, 5, f"{9 + line}"), line, 9, "1.0")
        else:
            lines = changed(lines, line, column, f"{fields[moved]:.0f}")
    after = load_klines(write(file, lines)).features[0]
    assert torch.equal(before[: now + 1], after[: now + 1])
    assert not torch.equal(before[now + 1], after[now + 1])


# --- faults -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "column", "value", "message"),
    [
        (7, 1, "abc", "line 7, column open: expected a number, found 'abc'"),
        (7, 4, "", "line 7, column close: expected a number, found ''"),
        (7, 2, "nan", "line 7, column high: expected a number, found 'nan'"),
        (7, 5, "inf", "line 7, column volume: expected a number, found 'inf'"),
        (7, 5, "1_0", "line 7, column volume: expected a number"),
        (7, 11, "", "line 7, column 12: expected a value, found nothing"),
        (7, 11, "0,0", "line 7, column 12: expected 12 fields, found 13 fields"),
        (7, 0, f"{START + 5 * MINUTE}000", "line 7, column open_time: expected milliseconds"),
        (7, 0, f"{START + 5 * MINUTE}", "line 7, column open_time: expected a time after"),
        (7, 0, f"{START}", "line 7, column open_time: expected a time after"),
        (7, 0, f"{START + 6 * MINUTE + 1}", "column open_time: expected a whole number of 60 s"),
        (1, 0, "12", "line 1, column open_time: expected milliseconds or microseconds"),
        (7, 1, "-5", "line 7, column open: expected a positive price, found -5"),
        (7, 2, "1", "line 7, column high: expected no less than the low, found 1"),
        (7, 4, "999", "line 7, column close: expected within low and high, found 999"),
        (7, 5, "-1", "line 7, column volume: expected no negative volume"),
        (7, 8, "-1", "line 7, column count: expected no negative count"),
        (7, 9, "1e6", "line 7, column taker_buy_volume: expected between 0 and the volume"),
        (7, 9, "-1", "line 7, column taker_buy_volume: expected between 0 and the volume"),
    ],
)
def test_a_fault_is_located(file: Path, line: int, column: int, value: str, message: str) -> None:
    write(file, changed(rows(20), line, column, value))
    with pytest.raises(ValueError) as error:
        load_klines(file, bar_seconds=60)
    assert str(error.value).startswith(str(file)) and message in str(error.value)


def test_a_fault_beyond_the_first_chunk_is_located(file: Path, monkeypatch) -> None:
    monkeypatch.setattr("mambadream_lite.market.files.CHUNK", 8)
    write(file, [HEADER, *changed(rows(30), 20, 4, "999")])
    with pytest.raises(ValueError, match="line 21, column close"):
        load_klines(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        (HEADER, "holds no bars"),
        (rows(1)[0], "give bar_seconds"),
        (HEADER.replace("taker_buy_volume,", "") + "\n1", "line 1, column taker_buy_volume"),
        ("open,high\n1,2", "line 1, column open_time: expected exactly one such column"),
        ("1,2,3", "line 1, column 3: expected 12 fields, found 3 fields"),
        (rows(1)[0] + "\n\n" + rows(2)[1], "line 2, column 1: expected 12 fields"),
    ],
)
def test_a_file_that_is_none_says_why(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(ValueError) as error:
        load_klines(file)
    assert str(error.value).startswith(str(file)) and message in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.csv: cannot be read: No such file"):
        load_klines(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="at least one file"):
        load_klines([])


def check_garbage(file: Path) -> None:
    """A valid market, or a ``ValueError`` that names the file; nothing else."""
    try:
        market = load_klines(file)
    except ValueError as error:
        assert str(file) in str(error)
    else:
        assert isinstance(market, Market) and market.features.shape[2] == len(FEATURES)


@ANY_FILE
@given(st.binary(max_size=300))
def test_random_bytes_are_refused_clearly(file: Path, garbage: bytes) -> None:
    file.write_bytes(garbage)
    check_garbage(file)


@ANY_FILE
@given(
    line=st.integers(1, 8),
    column=st.integers(0, 11),
    value=st.one_of(
        st.floats().map(str),
        st.integers(-(10**20), 10**20).map(str),
        st.text(max_size=8).filter(lambda t: "\n" not in t and "\r" not in t),
    ),
)
def test_one_odd_field_is_refused_clearly_or_fits(file, line: int, column: int, value: str) -> None:
    file.write_text("\n".join(changed(rows(8), line, column, value)), encoding="utf-8")
    check_garbage(file)


@ANY_FILE
@given(st.lists(st.sampled_from(range(12)), max_size=12), st.booleans())
def test_any_order_of_bars_is_refused_clearly_or_fits(file, order: list[int], named: bool) -> None:
    lines = rows(12)
    write(file, [HEADER] * named + [lines[i] for i in order])
    check_garbage(file)


def test_memory_does_not_grow_with_copies_of_the_file(tmp_path: Path) -> None:
    """40 MB of klines: what is held at the peak, beyond what was there before."""
    lines = rows(20_000)
    path = tmp_path / "big.csv"
    with path.open("w") as out:
        for part in range(15):
            shift = part * 20_000 * MINUTE
            for line in lines:
                stamp, rest = line.split(",", 1)
                out.write(f"{int(stamp) + shift},{rest}\n")
    script = (
        "import resource, sys\n"
        "from mambadream_lite.market import load_klines\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "load_klines(sys.argv[1], bar_seconds=60).features  # the reader's own imports\n"
        "before = peak()\n"
        "market = load_klines(sys.argv[2], bar_seconds=60)\n"
        "print(market.features.shape[1], peak() - before)\n"
    )
    small = write(tmp_path / "small.csv", rows(10))
    command = [sys.executable, "-c", script, str(small), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    n, grown = done.stdout.split()
    assert int(n) == 300_000
    assert float(grown) < 150  # MB: 17 MB of market, and a chunk
