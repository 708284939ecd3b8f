"""Dreams that leave the finite numbers are over (chapter 05).

A model far from all data can feed a volatility back to itself that grows until a price overflows.
Nobody can trade there: such a dream ends before its first infinite tick and stands still from then
on, so that accounts beside it go on.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from mambadream_lite.dream.rollout import Dream


def end_explosions(path: Dream) -> Dream:
    """The same dreams, ended where a price, an extreme or a feature is not finite.

    From there on ``alive`` is False, prices and features keep their last values, ``reward`` is 0
    and ``risk`` the last one. Says how many dreams it ended that had not been halted before.
    """
    ticks = torch.stack([path.log_price[:, 1:].exp(), path.high, path.low]).isfinite().all(0)
    ticks = ticks & path.features.isfinite().all(-1) & path.reward.isfinite() & path.risk.isfinite()
    fine = ticks.cumprod(1).bool()
    if fine.all():
        return path
    cut = int((path.alive & ~fine).any(1).sum())
    if cut:
        warnings.warn(
            f"{cut:,} of {len(path):,} dreams left the finite numbers and were ended there: the "
            "model is far from what it was trained on",
            stacklevel=3,
        )
    log_price = _held(path.log_price, torch.nn.functional.pad(fine, (1, 0), value=True))
    still = log_price[:, 1:].exp()
    features = torch.cat([path.start.unsqueeze(1), path.features], dim=1)
    return replace(
        path,
        features=_held(features, torch.nn.functional.pad(fine, (1, 0), value=True))[:, 1:],
        reward=torch.where(fine, path.reward, 0.0),
        risk=_held(path.risk, torch.cat([torch.ones_like(fine[:, :1]), fine[:, 1:]], dim=1)),
        alive=path.alive & fine,
        log_price=log_price,
        high=torch.where(fine, path.high, still),
        low=torch.where(fine, path.low, still),
    )


def _held(values: Tensor, fine: Tensor) -> Tensor:
    """Values (N, H) or (N, H, F), each not fine one (N, H) replaced by the last fine one."""
    last = (fine.sum(1, keepdim=True) - 1).expand_as(fine)
    rows = torch.arange(len(values), device=values.device).unsqueeze(1)
    ticks = torch.arange(fine.shape[1], device=values.device).expand_as(fine)
    return values[rows, torch.minimum(ticks, last)]
