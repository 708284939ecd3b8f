"""Controls that dream when a kernel runs, and a picture that stays when none does (chapter 05)."""

from __future__ import annotations

import io

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from mambadream_lite.dream import dream, range_halt
from mambadream_lite.market.features import VOLATILITY, Market
from mambadream_lite.model.world_model import WorldModel
from mambadream_lite.show.plots import fan
from mambadream_lite.show.style import MARKET

CONTEXT = 250  # ticks that the model sees before the dream


def dream_explorer(
    model: WorldModel, market: Market, dates: list[str], *, seed: int = 0
) -> widgets.VBox:
    """Choose a day and dream from it (chapter 05).

    The first picture is drawn at once, so that a static page shows it; with a kernel the
    button dreams again.

    Args:
        model: trained on bars of the market's length.
        market: one path with dates.
        dates: days to offer; each needs 250 ticks before it.
        seed: of the dreams; the same settings give the same picture.

    Raises:
        ValueError: a date that is not a bar of the market, or comes too early.
    """
    index = {date: _index(market, date) for date in dates}
    day = widgets.Dropdown(options=dates, value=dates[0], description="from")
    shock = widgets.FloatSlider(0.0, min=-1.0, max=1.5, step=0.25, description="shock")
    heat = widgets.FloatSlider(1.0, min=0.25, max=2.0, step=0.25, description="temperature")
    horizon = widgets.IntSlider(20, min=5, max=120, step=5, description="horizon")
    count = widgets.IntSlider(200, min=50, max=2000, step=50, description="dreams")
    limit = widgets.FloatSlider(6.0, min=2.0, max=10.0, step=0.5, description="halt at (sds)")
    button = widgets.Button(description="Dream", button_style="primary")
    picture = widgets.HTML()

    def draw(_: object = None) -> None:
        t = index[day.value]
        context = market.features[:, t - CONTEXT + 1 : t + 1].clone()
        context[:, -1, VOLATILITY] += shock.value
        generator = torch.Generator().manual_seed(seed)
        dreams = dream(
            model,
            context,
            n_dreams=count.value,
            horizon=horizon.value,
            generator=generator,
            temperature=heat.value,
            halt=range_halt(model, limit.value),
        )
        came = market.price[0, t + 1 : t + 2 + horizon.value].log()
        # a dream that is over is no longer drawn
        seen = dreams.log_price.clone()
        seen[:, 1:][~dreams.alive] = torch.nan
        alive = dreams.alive[:, -1].double().mean().item()
        picture.value = _svg(100 * seen, 100 * (came - came[0]), day.value, alive)

    button.on_click(draw)
    draw()
    controls = [day, shock, heat, horizon, count, limit]
    for control in controls:
        control.layout.max_width = "100%"
        control.style.description_width = "7em"
    return widgets.VBox([*controls, button, picture], layout=widgets.Layout(max_width="100%"))


def _index(market: Market, date: str) -> int:
    t = int(np.searchsorted(market.time, np.datetime64(date)))
    if t >= len(market.time) or market.time[t] != np.datetime64(date):
        raise ValueError(f"dates: {date} is not a bar of the market")
    if t + 1 < CONTEXT:
        raise ValueError(f"dates: {date} has only {t + 1} bars up to it, {CONTEXT} are needed")
    return t


def _svg(dreams: Tensor, came: Tensor, date: str, alive: float) -> str:
    """The fan and what came, as svg text (Figure is used directly: no window, no state)."""
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    ax = figure.subplots()
    fan(ax, dreams, label="dreams")
    ax.plot(came.numpy(), color=MARKET, label="what came")
    ax.set(xlabel=f"bars after {date}", ylabel="log price from then (%)")
    ax.set_title(f"{alive:.0%} of the dreams alive at the horizon")
    ax.legend()
    text = io.StringIO()
    with plt.rc_context({"svg.hashsalt": "mambadream"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    return svg.replace("<svg", '<svg style="max-width:100%;height:auto"', 1)  # fits a phone
