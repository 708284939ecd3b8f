"""When to stop believing a dream (chapter 05).

A halt is a function of the last tick (N, F) and the law of the next one that returns True (N,)
where a dream is over. ``dream`` marks these in ``alive``; whoever trades in it must not be paid
for an early end.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as nnf
from torch import Tensor

from mambadream_lite.market.features import FEATURES, Market
from mambadream_lite.model.ensemble import Ensemble, EnsembleLaw
from mambadream_lite.model.heads import MixtureOfGaussians
from mambadream_lite.model.world_model import WorldModel

PATHS = 16  # of a market, judged at a time

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
    _check_share(share, market, warmup)
    seen = [ensemble(part)[0].disagreement[:, warmup:] for part in _parts(market)]
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


@torch.no_grad()
def surprise_threshold(
    model: WorldModel | Ensemble, market: Market, share: float, *, warmup: int = 100
) -> float:
    """The log score that a share of held-out ticks falls below: the rate of false alarms.

    Args:
        model: scores each tick by what it said before.
        market: ticks that it was not trained on.
        share: of its ticks that may be below, in (0, 1).
        warmup: ticks left out at the start of each path, while the state is empty.

    Raises:
        ValueError: a share outside (0, 1), or paths no longer than the warm-up.
    """
    _check_share(share, market, warmup)
    scores = [_log_scores(model, part)[:, warmup - 1 :] for part in _parts(market)]
    ordered = torch.cat(scores).flatten().sort(descending=True).values
    return ordered[_rank(share, scores)].item()


@torch.no_grad()
def surprised(
    model: WorldModel | Ensemble, market: Market, threshold: float, warmup: int
) -> Tensor:
    """Ticks (B, H) of a watched market before which the model has been surprised (chapter 09).

    True from the tick that follows the first one, after the warm-up, whose log score lay below
    ``threshold``: one tick late, and no later. H = T - warmup, as in ``watch``.
    """
    alarm = torch.cat([_log_scores(model, part)[:, warmup - 1 :] for part in _parts(market)])
    rung = (alarm < threshold).cummax(1).values
    return torch.cat([torch.zeros_like(rung[:, :1]), rung[:, :-1]], dim=1)


def pause(alive: Tensor, ticks: int) -> Tensor:
    """``alive`` (N, H) of a watched market, and False in the ``ticks`` that follow each halt too.

    Raises:
        ValueError: fewer than 0 ticks.
    """
    if ticks < 0:
        raise ValueError(f"ticks must not be negative, got {ticks}")
    halted = nnf.pad((~alive).float(), (ticks, 0)).unsqueeze(1)
    return nnf.max_pool1d(halted, ticks + 1, stride=1).squeeze(1) == 0


def _log_scores(model: WorldModel | Ensemble, x: Tensor) -> Tensor:
    """(B, T - 1) log score of each tick but the first."""
    return model(x[:, :-1])[0].log_prob(x[:, 1:])


def _parts(market: Market) -> tuple[Tensor, ...]:
    return market.without_gaps("market").features.split(PATHS)


def _check_share(share: float, market: Market, warmup: int) -> None:
    if not 0 < share < 1:
        raise ValueError(f"share must lie in (0, 1), got {share}")
    if market.features.shape[1] <= warmup:
        n_ticks = market.features.shape[1]
        raise ValueError(f"market has {n_ticks} ticks a path, warmup alone takes {warmup}")


def feature_halt(name: str, low: float = -torch.inf, high: float = torch.inf) -> Halt:
    """Ends a dream whose feature ``name`` (raw units) leaves [low, high]: a user's own rule."""
    if name not in FEATURES:
        raise ValueError(f"name must be one of {FEATURES}, got {name!r}")
    column = FEATURES.index(name)
    return lambda features, law: (features[..., column] < low) | (features[..., column] > high)


def any_halt(*halts: Halt) -> Halt:
    """Ends a dream where one of several halts does."""
    return lambda features, law: torch.stack([h(features, law) for h in halts]).any(0)
