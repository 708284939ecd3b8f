"""Figures that more than one chapter draws."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, PercentFormatter, StrMethodFormatter
from torch import Tensor

from mambadream_lite.show.style import COLOURS, DREAM, TEXT

if TYPE_CHECKING:
    from mambadream_lite.judge import Backtest, Reliability

BANDS = ((0.05, 0.95), (0.25, 0.75))  # inner and outer shares of a fan


def fan(
    ax: Axes,
    samples: Tensor | np.ndarray,
    x: np.ndarray | None = None,
    *,
    color: str = DREAM,
    label: str = "dream",
) -> None:
    """Draw futures (N, H) as a fan: their median, middle half and middle 90 %.

    NaN is a future that is over; where all are, nothing is drawn.
    """
    values = np.asarray(torch.as_tensor(samples))
    values = values[:, ~np.isnan(values).all(axis=0)]
    x = np.arange(values.shape[1]) if x is None else x[: values.shape[1]]
    for low, high in BANDS:
        ax.fill_between(
            x,
            np.nanquantile(values, low, axis=0),
            np.nanquantile(values, high, axis=0),
            color=color,
            alpha=0.22,
            linewidth=0,
        )
    ax.plot(x, np.nanmedian(values, axis=0), color=color, label=f"{label}: median, 50 %, 90 %")


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """Mean of independent values (N,) and its standard error."""
    values = torch.as_tensor(values).double()
    return values.mean().item(), (values.std() / len(values) ** 0.5).item()


def equity_figure(
    backtests: dict[str, Backtest], colours: tuple[str, ...] = COLOURS, title: str = ""
) -> Figure:
    """Equity on a log scale above, loss from the peak below; several paths as a fan (chapter 11).

    An account below a thousandth of its start is drawn there.

    Args:
        backtests: by the name that the legend gives them; one colour each.
        colours: in their order, at least as many.
        title: the figure's message.

    Raises:
        ValueError: no backtest, or more than there are colours.
    """
    _check_colours("backtests", backtests, colours)
    figure = Figure(figsize=(7.2, 5.0), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    for (name, test), colour in zip(backtests.items(), colours, strict=False):
        n_paths, n_values = test.equity.shape
        x = np.arange(n_values) if test.time is None else test.time
        wealth = torch.nn.functional.pad(test.log_growth.cumsum(1), (1, 0)).exp()
        for ax, values in ((above, wealth), (below, -test.underwater())):
            if n_paths == 1:
                ax.plot(x, values[0].numpy(), color=colour, label=name)
            else:
                fan(ax, values, x, color=colour, label=name)
    dated = np.issubdtype(x.dtype, np.datetime64)
    above.set(yscale="log", ylabel="equity (start = 1)", title=title)
    below.set(ylabel="loss from peak", xlabel="" if dated else "bar")
    plain = StrMethodFormatter("{x:g}")  # 0.6, not 6 x 10^-1
    low, high = above.get_ylim()
    above.yaxis.set_major_formatter(plain)
    above.yaxis.set_minor_formatter(plain if high < 10 * low else NullFormatter())
    below.yaxis.set_major_formatter(PercentFormatter(1.0))
    above.legend()
    return figure


def reliability_figure(
    results: dict[str, Reliability], colours: tuple[str, ...] = COLOURS, title: str = ""
) -> Figure:
    """How often what was stated came, with bands, and how often it was stated (chapter 11).

    Args:
        results: by the name that the legend gives them; one colour each.
        colours: in their order, at least as many.
        title: the figure's message.

    Raises:
        ValueError: no result, or more than there are colours.
    """
    _check_colours("results", results, colours)
    figure = Figure(figsize=(5.4, 6.0), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.plot([0, 1], [0, 1], color=TEXT, linestyle=":", label="calibrated")
    for (name, result), colour in zip(results.items(), colours, strict=False):
        seen = result.count > 0
        stated, came = result.stated[seen], result.frequency[seen]
        band = np.stack([came - result.low[seen], result.high[seen] - came])
        above.errorbar(stated, came, band, color=colour, fmt="o-", capsize=3, label=name)
        below.stairs(result.count, result.edges, color=colour)
    above.set(ylabel="frequency, 95 % band", title=title, xlim=(0, 1), ylim=(0, 1))
    below.set(xlabel="stated probability", ylabel="decisions")
    above.legend()
    return figure


def _check_colours(name: str, shown: dict, colours: tuple[str, ...]) -> None:
    if not 1 <= len(shown) <= len(colours):
        raise ValueError(f"{name} must be 1 to {len(colours)}, one a colour, got {len(shown)}")
