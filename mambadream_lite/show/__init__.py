"""Drawing what the other parts return."""

from mambadream_lite.show.plots import equity_figure, fan, mean_and_error, reliability_figure
from mambadream_lite.show.style import AGENT, COLOURS, DREAM, LIMIT, MARKET, TEXT, use_style

__all__ = [
    "AGENT",
    "COLOURS",
    "DREAM",
    "LIMIT",
    "MARKET",
    "TEXT",
    "equity_figure",
    "fan",
    "mean_and_error",
    "reliability_figure",
    "use_style",
]
