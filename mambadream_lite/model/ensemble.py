"""Several world models as one: a joint forecast, and how far the members disagree (chapter 09).

Members see the same ticks, each with its own hidden state. Their joint law is the mixture of
their laws with equal weights: where they agree it is as sharp as one of them, where they do not
it is honest about it. Disagreement can also end a dream (Chua et al., 2018).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mambadream_lite.market.features import VELOCITY, VOLATILITY, Market
from mambadream_lite.model.checkpoint import load_world_model
from mambadream_lite.model.heads import MixtureOfGaussians
from mambadream_lite.model.training import fit
from mambadream_lite.model.world_model import Hidden, Step, WorldModel

JUDGED = [VELOCITY, VOLATILITY]  # features on which members are compared: what a trader acts on


class EnsembleLaw(MixtureOfGaussians):
    """Equal mixture of the members' laws of the next tick, in raw units.

    Attributes:
        members: the laws of the members, same shapes.
    """

    def __init__(self, members: Sequence[MixtureOfGaussians]) -> None:
        self.members = tuple(members)
        self.shift, self.scale = members[0].shift, members[0].scale

    # A dream needs none of the three below: it draws from a member. They are made when asked for.
    @functools.cached_property
    def log_weight(self) -> Tensor:
        """(..., M K), normalised."""
        log_weight = torch.cat([law.log_weight for law in self.members], dim=-1)
        return log_weight - torch.logsumexp(log_weight, dim=-1, keepdim=True)

    @functools.cached_property
    def component_mean(self) -> Tensor:
        """(..., M K, F) in the first member's scaled units."""
        raw = [law.component_mean * law.scale + law.shift for law in self.members]
        return (torch.cat(raw, dim=-2) - self.shift) / self.scale

    @functools.cached_property
    def precision_cholesky(self) -> Tensor:
        """(..., M K, F, F) in the first member's scaled units: columns act on the residual."""
        factors = [law.precision_cholesky * (self.scale / law.scale) for law in self.members]
        return torch.cat(factors, dim=-3)

    def __getitem__(self, index: object) -> EnsembleLaw:
        """Index the leading (batch and time) dimensions of every member."""
        return EnsembleLaw([law[index] for law in self.members])

    def draw(self, u: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """Draw from one member, chosen by the same u that then chooses its component."""
        place = u * len(self.members)
        member = place.long().clamp(max=len(self.members) - 1)
        within = (place - member).clamp(max=1.0)
        drawn = torch.stack([law.draw(within, noise, temperature) for law in self.members])
        index = member[None, ..., None].expand(1, *noise.shape)
        return drawn.gather(0, index).squeeze(0)

    def first_moments(self) -> tuple[Tensor, Tensor]:
        """As ``MixtureOfGaussians.first_moments``, from the members'."""
        moments = [law.first_moments() for law in self.members]
        means, sds = (torch.stack(m) for m in zip(*moments, strict=True))
        spread = sds.square().mean(0) + means.var(0, correction=0)
        return means.mean(0), spread.sqrt()

    @property
    def disagreement(self) -> Tensor:
        """How far the members' forecasts lie apart (...), >= 0; 0 where they are the same.

        Root mean square, over velocity and volatility, of two spreads between members: that of
        their means in units of their typical sd, and that of the logs of their sds. 0.1 is ten
        per cent of a standard deviation.
        """
        return self.disagreements()["both"]

    def disagreements(self) -> dict[str, Tensor]:
        """``disagreement``, and the two spreads that it is made of, each alone (...)."""
        mean = torch.stack([law.mean[..., JUDGED] for law in self.members])  # (M, ..., 2)
        log_sd = torch.stack([law.stddev[..., JUDGED] for law in self.members]).log()
        apart = mean.var(0, correction=0) / (2 * log_sd.mean(0)).exp()
        wide = log_sd.var(0, correction=0)
        squares = {"means": apart, "log sds": wide, "both": apart + wide}
        return {name: square.mean(-1).sqrt() for name, square in squares.items()}


class Ensemble(nn.Module):
    """World models that forecast together; it is called like one of them (chapter 09).

    Args:
        members: models with the same features, bar length and action, at least one.

    Raises:
        ValueError: no members, or members that do not see the same market.
    """

    def __init__(self, members: Sequence[WorldModel]) -> None:
        super().__init__()
        if not members:
            raise ValueError("members must hold at least one model, got none")
        for name in ("d_input", "d_action"):
            found = {m.config[name] for m in members}
            if len(found) > 1:
                raise ValueError(f"members must share {name}, got {sorted(found)}")
        bars = [float(m.bar) for m in members]
        if max(bars) / min(bars) > 1 + 1e-6:
            raise ValueError(f"members must share the length of a bar, got {bars} years")
        self.members = nn.ModuleList(members)

    @classmethod
    def load(cls, paths: Sequence[str | Path], *, device: str = "cpu") -> Ensemble:
        """Read members that ``save_world_model`` wrote; frozen, in evaluation mode."""
        return cls([load_world_model(path, device=device)[0] for path in paths]).eval()

    @property
    def config(self) -> dict[str, Any]:
        """Sizes of the first member; all share ``d_input`` and ``d_action``."""
        return self.members[0].config

    @property
    def bar(self) -> Tensor:
        """Length of a bar in years."""
        return self.members[0].bar

    @property
    def velocity_unit(self) -> float:
        """Log return of one unit of velocity."""
        return self.members[0].velocity_unit

    @property
    def feature_mean(self) -> Tensor:
        """The first member's; a joint law is kept in its scaled units."""
        return self.members[0].feature_mean

    @property
    def feature_std(self) -> Tensor:
        """The first member's."""
        return self.members[0].feature_std

    @property
    def blocks(self) -> nn.ModuleList:
        """The first member's blocks."""
        return self.members[0].blocks

    def forward(
        self, x: Tensor, hidden: Hidden | None = None, action: Tensor | None = None
    ) -> tuple[EnsembleLaw, Tensor, Hidden]:
        """As ``WorldModel.forward``; the hidden states of all members stand in one tuple.

        Returns:
            The joint law, the mean of the members' expected rewards, and the new states.
        """
        laws, rewards, states, first = [], [], [], 0
        for member in self.members:
            last = first + len(member.blocks)
            own = None if hidden is None else hidden[first:last]
            law, reward, state = member(x, own, action)
            laws.append(law)
            rewards.append(reward)
            states.extend(state)
            first = last
        return EnsembleLaw(laws), torch.stack(rewards).mean(0), tuple(states)

    def stepper(self, hidden: Hidden, horizon: int) -> EnsembleStep:
        """As ``WorldModel.stepper``, one for each member."""
        steps, first = [], 0
        for member in self.members:
            last = first + len(member.blocks)
            steps.append(member.stepper(hidden[first:last], horizon))
            first = last
        return EnsembleStep(steps, self.velocity_unit)


class EnsembleStep:
    """``Step`` of an ensemble: every member's own state advances on the tick that was chosen."""

    def __init__(self, steps: Sequence[Step], velocity_unit: float) -> None:
        self.steps, self.velocity_unit = tuple(steps), velocity_unit

    def __call__(
        self, x: Tensor, action: Tensor | None = None
    ) -> tuple[EnsembleLaw, Tensor, Tensor]:
        """One tick of every dream; the risk is that of the members' mixture."""
        laws, rewards, _ = zip(*(step(x, action) for step in self.steps), strict=True)
        law = EnsembleLaw(laws)
        return law, torch.stack(rewards).mean(0), law.first_moments()[1] * self.velocity_unit


def fit_ensemble(
    build: Callable[[], WorldModel],
    train: Market | Sequence[Market],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    **settings: Any,
) -> Ensemble:
    """Train one member a seed: its own weights, its own windows, and if you like its own data.

    Members of different seeds on the same data share the data's errors; windows of different
    years, or different feeds, do not.

    Args:
        build: makes an untrained model.
        train: one market for all members, or one for each.
        seeds: of the weights and of the windows that training draws.
        settings: passed to ``fit``.
    """
    markets = [train] * len(seeds) if isinstance(train, Market) else list(train)
    if len(markets) != len(seeds):
        raise ValueError(f"train must be one market or {len(seeds)}, got {len(markets)}")
    members = []
    for seed, market in zip(seeds, markets, strict=True):
        torch.manual_seed(seed)
        member = build()
        fit(member, market, seed=seed, **settings)
        members.append(member)
    return Ensemble(members).eval()
