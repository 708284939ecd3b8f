"""The house style of all figures: readable in light and dark, the same colours everywhere.

Colours are Okabe and Ito's, told apart by colour-blind readers too. Backgrounds are
transparent and text is mid-grey, so that one picture serves both themes.
"""

from __future__ import annotations

import matplotlib as mpl
import plotly.graph_objects as go
import plotly.io as pio
from cycler import cycler

MARKET, DREAM, AGENT, LIMIT = "#0072B2", "#E69F00", "#009E73", "#D55E00"
EXTRA = ("#CC79A7", "#56B4E9", "#999999")
COLOURS = (MARKET, DREAM, AGENT, LIMIT, *EXTRA)
TEXT = "#808890"  # 4.5:1 or near it against white and against the dark page
GRID = "#80889040"


def use_style() -> None:
    """Set the style of matplotlib and plotly for the rest of the notebook."""
    import matplotlib_inline.backend_inline as inline  # only there inside a notebook

    inline.set_matplotlib_formats("svg")
    mpl.rcParams.update(
        {
            "figure.figsize": (7.2, 3.6),
            "figure.facecolor": "none",
            "axes.facecolor": "none",
            "savefig.facecolor": "none",
            "savefig.transparent": True,
            "svg.hashsalt": "mambadream",
            "svg.fonttype": "none",
            "font.family": "sans-serif",
            "font.size": 10.5,
            "axes.titlesize": 11.5,
            "axes.titlelocation": "left",
            "axes.titleweight": "bold",
            "text.color": TEXT,
            "axes.labelcolor": TEXT,
            "axes.titlecolor": TEXT,
            "axes.edgecolor": TEXT,
            "xtick.color": TEXT,
            "ytick.color": TEXT,
            "axes.grid": True,
            "grid.color": GRID,
            "grid.linewidth": 0.8,
            "axes.axisbelow": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.prop_cycle": cycler(color=COLOURS),
            "lines.linewidth": 1.5,
            "legend.frameon": False,
            "legend.labelcolor": TEXT,
            "figure.constrained_layout.use": True,
        }
    )
    axis = {"gridcolor": GRID, "zerolinecolor": GRID, "linecolor": TEXT, "automargin": True}
    pio.templates["mambadream"] = go.layout.Template(
        layout={
            "colorway": COLOURS,
            "font": {"color": TEXT, "size": 13},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "xaxis": axis,
            "yaxis": axis,
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom"},
            "margin": {"l": 50, "r": 20, "t": 70, "b": 45},
            "height": 420,
            "title": {"x": 0.0, "xanchor": "left"},
        }
    )
    pio.templates.default = "mambadream"
