"""The S&P 500: dated, with its crash, and no day that knows the next."""

import arch.data.nasdaq
import arch.data.sp500
import numpy as np
import pandas as pd
import pytest
import torch

from mambadream_lite.market import FEATURES, Market, load_sp500


@pytest.fixture(scope="module")
def market() -> Market:
    return load_sp500()


def on(market: Market, day: str) -> int:
    (where,) = np.flatnonzero(market.time == np.datetime64(day))
    return int(where)


def test_market_covers_its_years_in_order(market: Market) -> None:
    assert market.time[0] < np.datetime64("1999-05-01")
    assert market.time[-1] == np.datetime64("2018-12-31")
    assert (np.diff(market.time) > np.timedelta64(0)).all()
    assert market.features.shape == (1, len(market.time), 6)
    assert market.bar == 1 / 252


@pytest.mark.parametrize(
    ("day", "percent"), [("2008-10-13", 11.58), ("2008-10-15", -9.03), ("2018-02-05", -4.10)]
)
def test_famous_days_are_where_they_were(market: Market, day: str, percent: float) -> None:
    t = on(market, day)
    change = 100 * (market.price[0, t + 1] / market.price[0, t] - 1)
    assert change.item() == pytest.approx(percent, abs=0.01)
    velocity = market.features[0, t, FEATURES.index("velocity")].item()
    assert velocity * 0.2 / 252**0.5 == pytest.approx(np.log1p(percent / 100), abs=2e-4)


def test_closing_prices_lie_in_the_days_range(market: Market) -> None:
    close = market.price[:, 1:]
    assert (market.low <= close).all()
    assert (close <= market.high).all()


def test_imbalance_is_where_the_close_lies_in_the_range(market: Market) -> None:
    close, imbalance = market.price[:, 1:], market.features[..., FEATURES.index("imbalance")]
    back = market.low + 0.5 * (imbalance.double() + 1) * (market.high - market.low)
    assert torch.allclose(back, close, rtol=1e-6)


def test_stand_ins_are_labelled(market: Market) -> None:
    assert set(market.proxies) == {"volatility", "imbalance", "log_spread", "signed_flow"}
    assert set(market.proxies) < set(market.names)


def test_no_day_knows_the_next(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    """All columns of both indices are altered from a day on: nothing before it may move."""
    day = "2008-09-15"
    for source, factor in ((arch.data.sp500, 3.0), (arch.data.nasdaq, 4.0)):
        table = source.load().astype(float)
        table.loc[day:] *= np.linspace(0.5 * factor, factor, len(table.loc[day:]))[:, None]
        table.loc[day:, "High"] *= 1.5
        table.loc[day:, "Close"] *= 1.02 * factor / 3
        monkeypatch.setattr(source, "load", lambda table=table: table)
    altered, t = load_sp500(), on(market, day)
    assert torch.equal(altered.features[:, :t], market.features[:, :t])
    assert torch.equal(altered.price[:, : t + 1], market.price[:, : t + 1])
    assert (altered.features[:, t] != market.features[:, t]).all()


def test_indices_of_other_days_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    short: pd.DataFrame = arch.data.nasdaq.load().iloc[:-1]
    monkeypatch.setattr(arch.data.nasdaq, "load", lambda: short)
    with pytest.raises(ValueError, match="same days"):
        load_sp500()


def test_between_cuts_at_dates(market: Market) -> None:
    crash = market.between("2008-09-01", "2009-04-01")
    assert crash.time[0] == np.datetime64("2008-09-02")  # the 1st was Labor Day
    assert crash.time[-1] == np.datetime64("2009-03-31")
    assert crash.log_return.abs().max() > 0.1
