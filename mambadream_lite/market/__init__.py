"""Worlds that data comes from, and the account that money lives in."""

from mambadream_lite.market.account import Account, AccountConfig, AccountState, Flows
from mambadream_lite.market.baselines import Garch, HarVar, Persistence
from mambadream_lite.market.bayes import (
    Filtered,
    bayes_filter,
    bayes_log_score,
    particle_log_score,
)
from mambadream_lite.market.contract import VolatilityContract
from mambadream_lite.market.features import (
    FEATURES,
    Market,
    Scaler,
    bar_extremes,
)
from mambadream_lite.market.heston import (
    BARS_PER_YEAR,
    HestonParams,
    HestonPaths,
    simulate_heston,
    stationary_variance,
)
from mambadream_lite.market.history import load_sp500
from mambadream_lite.market.klines import load_klines
from mambadream_lite.market.lobster import load_lobster
from mambadream_lite.market.order_book import Edge
from mambadream_lite.market.simulation import make_heston_market

__all__ = [
    "BARS_PER_YEAR",
    "FEATURES",
    "Account",
    "AccountConfig",
    "AccountState",
    "Edge",
    "Filtered",
    "Flows",
    "Garch",
    "HarVar",
    "HestonParams",
    "HestonPaths",
    "Market",
    "Persistence",
    "Scaler",
    "VolatilityContract",
    "bar_extremes",
    "bayes_filter",
    "bayes_log_score",
    "load_klines",
    "load_lobster",
    "load_sp500",
    "make_heston_market",
    "particle_log_score",
    "simulate_heston",
    "stationary_variance",
]
