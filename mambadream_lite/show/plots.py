"""Figures that more than one chapter draws."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from mambadream_lite.show.style import DREAM

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
