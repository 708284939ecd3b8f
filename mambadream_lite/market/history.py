"""Real history with the 2008 crash in it (chapters 01 and 10).

The data are daily bars of two indices, 1999 to 2018, that ship with the ``arch`` package
(Sheppard, 2024); nothing is downloaded. Daily bars have no order book. Four of the six
features are therefore proxies, and the returned ``Market`` names them.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from mambadream_lite.market.features import Market, velocity_unit

DAY = 1 / 252
VOLUME_WINDOW = 60  # days of the trailing mean that volume is measured against
SP500_PROXIES = ("volatility", "imbalance", "log_spread", "signed_flow")


def load_sp500() -> Market:
    """Daily S&P 500, April 1999 to December 2018, as one path with the six features.

    ========== ==========================================================================
    feature    what it is here
    ========== ==========================================================================
    velocity   log return over 20 % a year, scaled to one day
    volatility log of Parkinson's range volatility, per year (proxy)
    imbalance  where the close lies in the day's range, -1 at the low, 1 at the high (proxy)
    log_spread log range volatility of the NASDAQ, per year (proxy: no spread is known)
    log_volume log volume over its trailing 60-day mean
    signed_flow NASDAQ's return less the S&P's, in units of velocity (proxy)
    ========== ==========================================================================

    Every feature of a day is known at that day's close.

    Returns:
        ``Market`` with B = 1; ``time`` holds the dates, ``proxies`` the stand-ins.
    """
    from arch.data import nasdaq, sp500  # bundled csv files: read here, not at import

    spx, ndq = sp500.load(), nasdaq.load()
    if not spx.index.equals(ndq.index):
        raise ValueError("arch.data.sp500 and arch.data.nasdaq no longer cover the same days")
    unit = velocity_unit(DAY)
    returns = np.log(spx["Close"]).diff()
    span = spx["High"] - spx["Low"]
    columns = {
        "velocity": returns / unit,
        "volatility": np.log(_range_volatility(spx)),
        "imbalance": 2 * (spx["Close"] - spx["Low"]) / span - 1,
        "log_spread": np.log(_range_volatility(ndq)),
        "log_volume": np.log(spx["Volume"] / spx["Volume"].rolling(VOLUME_WINDOW).mean()),
        "signed_flow": (np.log(ndq["Close"]).diff() - returns) / unit,
    }
    table = pd.DataFrame(columns).iloc[VOLUME_WINDOW:]
    bars = spx.loc[table.index]
    close = spx["Close"].iloc[VOLUME_WINDOW - 1 :]
    return Market(
        features=torch.tensor(table.to_numpy(), dtype=torch.float32)[None],
        price=torch.tensor(close.to_numpy())[None],
        high=torch.tensor(bars["High"].to_numpy())[None],
        low=torch.tensor(bars["Low"].to_numpy())[None],
        bar=DAY,
        time=table.index.to_numpy().astype("datetime64[D]"),
        proxies=SP500_PROXIES,
    )


def _range_volatility(bars: pd.DataFrame) -> pd.Series:
    """Parkinson (1980): sd per year from the day's high-low range."""
    return np.log(bars["High"] / bars["Low"]) / np.sqrt(4 * np.log(2) * DAY)
