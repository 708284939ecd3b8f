"""Real history with the 2008 crash in it (chapters 01 and 10).

The data are daily bars of two indices, 1999 to 2018, that ship with the ``arch`` package
(Sheppard, 2024); nothing is downloaded. Daily bars have no order book. Four of the six
features are therefore proxies, and the returned ``Market`` names them.
"""

from __future__ import annotations

import numpy as np
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
    features = daily_features(
        *(spx[name].to_numpy(dtype=np.float64) for name in ("Close", "High", "Low", "Volume")),
        *(ndq[name].to_numpy(dtype=np.float64) for name in ("Close", "High", "Low")),
    )
    bars = spx.iloc[VOLUME_WINDOW:]
    close = spx["Close"].iloc[VOLUME_WINDOW - 1 :]
    return Market(
        features=torch.tensor(features, dtype=torch.float32)[None],
        price=torch.tensor(close.to_numpy())[None],
        high=torch.tensor(bars["High"].to_numpy())[None],
        low=torch.tensor(bars["Low"].to_numpy())[None],
        bar=DAY,
        time=bars.index.to_numpy().astype("datetime64[D]"),
        proxies=SP500_PROXIES,
    )


def daily_features(
    close: np.ndarray,
    high: np.ndarray,
    low: np.ndarray,
    volume: np.ndarray,
    other_close: np.ndarray,
    other_high: np.ndarray,
    other_low: np.ndarray,
) -> np.ndarray:
    """The six features of ``load_sp500`` from daily bars of two assets.

    Args:
        close, high, low, volume: (..., T) of the asset.
        other_close, other_high, other_low: (..., T) of the second one.

    Returns:
        (..., T - 60, 6), from the first day on that has a 60-day mean of volume behind it.
    """
    unit = velocity_unit(DAY)
    returns = np.diff(np.log(close), axis=-1)
    other_returns = np.diff(np.log(other_close), axis=-1)
    usual = np.lib.stride_tricks.sliding_window_view(volume, VOLUME_WINDOW, axis=-1).mean(-1)
    recent = slice(VOLUME_WINDOW, None)
    columns = (
        returns[..., VOLUME_WINDOW - 1 :] / unit,
        np.log(_range_volatility(high, low))[..., recent],
        (2 * (close - low) / (high - low) - 1)[..., recent],
        np.log(_range_volatility(other_high, other_low))[..., recent],
        np.log(volume[..., recent] / usual[..., 1:]),
        (other_returns - returns)[..., VOLUME_WINDOW - 1 :] / unit,
    )
    return np.stack(columns, axis=-1)


def _range_volatility(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Parkinson (1980): sd per year from the day's high-low range."""
    return np.log(high / low) / np.sqrt(4 * np.log(2) * DAY)
