"""Drawing what the other parts return."""

from mambadream_lite.show.plots import fan, mean_and_error
from mambadream_lite.show.style import AGENT, COLOURS, DREAM, LIMIT, MARKET, TEXT, use_style

__all__ = [
    "AGENT",
    "COLOURS",
    "DREAM",
    "LIMIT",
    "MARKET",
    "TEXT",
    "fan",
    "mean_and_error",
    "use_style",
]
