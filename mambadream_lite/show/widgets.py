"""Controls that move when a kernel runs, and a picture that stays when none does.

A dream from any day (chapter 05), and a halt that may come too late (chapter 09).
"""

from __future__ import annotations

import io
from dataclasses import fields

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from mambadream_lite.agent import Episode, Policy, replay
from mambadream_lite.dream import Dream, dream, range_halt
from mambadream_lite.market import Account
from mambadream_lite.market.features import VOLATILITY, Market
from mambadream_lite.model.world_model import WorldModel
from mambadream_lite.show.plots import fan
from mambadream_lite.show.style import LIMIT, MARKET

CONTEXT = 250  # ticks that the model sees before the dream
WHOLE = ("start", "log_price", "strike")  # what a path has other than one entry a tick


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


def halt_explorer(
    trader: Policy,
    path: Dream,
    disagreement: Tensor,
    account: Account,
    *,
    start: float,
    horizon: int = 64,
) -> widgets.VBox:
    """Set the threshold of a halt and see the loss shrink (chapter 09).

    Args:
        trader: whose accounts are drawn.
        path: N real paths, from ``watch``.
        disagreement: (N, H) of an ensemble before each tick of ``path``.
        account: costs and margin.
        start: the threshold drawn at first.
        horizon: bars drawn at first.

    Raises:
        ValueError: a disagreement of another shape than the path's ticks.
    """
    if disagreement.shape != path.reward.shape:
        raise ValueError(
            f"disagreement must be {tuple(path.reward.shape)}, got {tuple(disagreement.shape)}"
        )
    low, high = np.log10([min(disagreement.min().item(), start), disagreement.max().item()])
    limit = widgets.FloatLogSlider(
        start, min=low, max=high + 0.05, step=0.05, description="halt above", readout_format=".3f"
    )
    ticks = widgets.IntSlider(
        horizon, min=8, max=path.horizon, step=8, description="bars", continuous_update=False
    )
    limit.continuous_update = False
    picture = widgets.HTML()

    def draw(_: object = None) -> None:
        n = ticks.value
        cut = {f.name: getattr(path, f.name) for f in fields(path)}
        cut |= {name: cut[name][:, : n + 1] for name in cut if name in ("log_price", "strike")}
        cut |= {name: z[:, :n] for name, z in cut.items() if name not in WHOLE}
        cut["alive"] = disagreement[:, :n] <= limit.value
        picture.value = _lives(replay(trader, type(path)(**cut), account), cut["alive"])

    for control in (limit, ticks):
        control.observe(draw, names="value")
        control.layout.max_width = "100%"
        control.style.description_width = "7em"
    draw()
    return widgets.VBox([limit, ticks, picture], layout=widgets.Layout(max_width="100%"))


def _lives(episode: Episode, alive: Tensor) -> str:
    """Equity of all accounts, as svg text."""
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    ax = figure.subplots()
    log_equity = episode.equity.clamp(min=1e-3).log10()
    ax.plot(log_equity.T.numpy(), color=MARKET, alpha=0.25, linewidth=0.8)
    ax.plot(log_equity.mean(0).numpy(), color=LIMIT, label="mean")
    ax.set(xlabel="bars after a live peak", ylabel="log10 equity", ylim=(-3.1, 1))
    ruined = episode.ruined[:, -1].double().mean().item()
    ax.set_title(f"{ruined:.0%} liquidated; {1 - alive.double().mean():.0%} of the ticks forbidden")
    ax.legend(loc="lower left")
    return _text(figure)


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
    return _text(figure)


def _text(figure: Figure) -> str:
    text = io.StringIO()
    with plt.rc_context({"svg.hashsalt": "mambadream"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    return svg.replace("<svg", '<svg style="max-width:100%;height:auto"', 1)  # fits a phone
