"""When to stop believing a dream (chapter 05).

A halt is a function of the last tick (N, F) and the law of the next one that returns True (N,)
where a dream is over. ``dream`` marks these in ``alive``; whoever trades in it must not be paid
for an early end.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mambadream_lite.market.features import FEATURES, Market
from mambadream_lite.model.ensemble import Ensemble, EnsembleLaw
from mambadream_lite.model.heads import MixtureOfGaussians
from mambadream_lite.model.world_model import WorldModel

Halt = Callable[[Tensor, MixtureOfGaussians], Tensor]


def disagreement_halt(threshold: float) -> Halt:
    """Ends a dream where the members of an ensemble disagree by more than ``threshold``."""
    if not threshold > 0:
        raise ValueError(f"threshold must be positive, got {threshold}")

    def halt(features: Tensor, law: MixtureOfGaussians) -> Tensor:
        if not isinstance(law, EnsembleLaw):
            raise TypeError("disagreement_halt needs an Ensemble: one model cannot disagree")
        return law.disagreement > threshold

    return halt


@torch.no_grad()
def disagreement_threshold(
    ensemble: Ensemble, market: Market, share: float, *, warmup: int = 100
) -> float:
    """The disagreement that a share of real, held-out ticks exceeds: the rate of false alarms.

    Args:
        ensemble: the members.
        market: ticks that no member was trained on.
        share: of its ticks that may be above, in (0, 1).
        warmup: ticks left out at the start of each path, while the states are empty.

    Raises:
        ValueError: a share outside (0, 1), or paths no longer than the warm-up.
    """
    if not 0 < share < 1:
        raise ValueError(f"share must lie in (0, 1), got {share}")
    x = market.without_gaps("market").features
    if x.shape[1] <= warmup:
        raise ValueError(f"market has {x.shape[1]} ticks a path, warmup alone takes {warmup}")
    seen = [ensemble(part)[0].disagreement[:, warmup:] for part in x.split(16)]
    return torch.cat(seen).flatten().sort().values[_rank(share, seen)].item()


def _rank(share: float, seen: list[Tensor]) -> int:
    """Index of the value that ``share`` of all values exceed; torch.quantile refuses many."""
    n = sum(z.numel() for z in seen)
    return min(int((1 - share) * n), n - 1)


def range_halt(model: WorldModel | Ensemble, limit: float = 6.0) -> Halt:
    """Ends a dream whose last tick lies ``limit`` training sds from the mean in any feature."""
    if not limit > 0:
        raise ValueError(f"limit must be positive, got {limit}")
    mean, std = model.feature_mean, model.feature_std
    return lambda features, law: ((features - mean) / std).abs().amax(-1) > limit


def feature_halt(name: str, low: float = -torch.inf, high: float = torch.inf) -> Halt:
    """Ends a dream whose feature ``name`` (raw units) leaves [low, high]: a user's own rule."""
    if name not in FEATURES:
        raise ValueError(f"name must be one of {FEATURES}, got {name!r}")
    column = FEATURES.index(name)
    return lambda features, law: (features[:, column] < low) | (features[:, column] > high)


def any_halt(*halts: Halt) -> Halt:
    """Ends a dream where one of several halts does."""
    return lambda features, law: torch.stack([h(features, law) for h in halts]).any(0)
