"""Judging: proper scores, stylised facts, backtests, intervals."""

from mambadream_lite.judge.backtest import Backtest, BacktestError, WalkForward, backtest
from mambadream_lite.judge.causal import check_causal
from mambadream_lite.judge.evidence import compare, deflated_sharpe, summary
from mambadream_lite.judge.reliability import Reliability, reliability
from mambadream_lite.judge.scores import block_mean, crps, energy_score, log_score, pit
from mambadream_lite.judge.stylised import Fact, stylised_facts

__all__ = [
    "Backtest",
    "BacktestError",
    "Fact",
    "Reliability",
    "WalkForward",
    "backtest",
    "block_mean",
    "check_causal",
    "compare",
    "crps",
    "deflated_sharpe",
    "energy_score",
    "log_score",
    "pit",
    "reliability",
    "stylised_facts",
    "summary",
]
