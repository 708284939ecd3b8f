"""What a policy is, and the old rules that an agent has to beat (chapter 07).

A policy is anything with ``act(observation, state, generator) -> target leverage``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mambadream_lite.market.account import AccountState


@dataclass(frozen=True)
class Observation:
    """All that is known before tick h opens; N accounts side by side.

    Attributes:
        features: (N, F) the last closed tick, raw units.
        reward: (N,) the model's expected return of the coming tick.
        risk: (N,) the model's standard deviation of it.
        log_price: (N, h + 1) prices since the episode began, up to now.
        strike: (N,) of the volatility contract for the coming tick, if it is quoted.
    """

    features: Tensor
    reward: Tensor
    risk: Tensor
    log_price: Tensor
    strike: Tensor | None = None


class Policy(Protocol):
    """What every trader here has in common."""

    def act(
        self, observation: Observation, state: AccountState, generator: torch.Generator | None
    ) -> Tensor:
        """Target leverage for the coming tick: (N,) of the asset, or (N, 2) with contracts."""
        ...


@dataclass(frozen=True)
class Flat:
    """Does nothing, and earns nothing."""

    def act(
        self, observation: Observation, state: AccountState, generator: torch.Generator | None
    ) -> Tensor:
        """Zero."""
        return torch.zeros_like(state.leverage)


@dataclass(frozen=True)
class BuyAndHold:
    """Buy once at ``leverage`` and let it drift with the price."""

    leverage: float = 1.0

    def act(
        self, observation: Observation, state: AccountState, generator: torch.Generator | None
    ) -> Tensor:
        """``leverage`` at the first tick, then whatever is held."""
        first = observation.log_price.shape[1] == 1
        return torch.full_like(state.leverage, self.leverage) if first else state.leverage


@dataclass(frozen=True)
class MovingAverageRule:
    """The old way: long above the average of the last ``window`` prices, short below.

    Raises:
        ValueError: a window below 2 ticks.
    """

    window: int = 50
    leverage: float = 1.0

    def __post_init__(self) -> None:
        if self.window < 2:
            raise ValueError(f"window must be at least 2 ticks, got {self.window}")

    def act(
        self, observation: Observation, state: AccountState, generator: torch.Generator | None
    ) -> Tensor:
        """Flat until a whole window of prices has been seen."""
        price = observation.log_price
        if price.shape[1] < self.window:
            return torch.zeros_like(state.leverage)
        return self.leverage * (price[:, -1] - price[:, -self.window :].mean(1)).sign()


@dataclass(frozen=True)
class MomentRule:
    """Bets a fraction of mean over variance, and moves only when it is further off than a band.

    Mean over variance is the leverage that grows fastest over one tick (Kelly, 1956); the band is
    what trading costs make of it.

    Raises:
        ValueError: a negative band, or a limit that is not positive.
    """

    fraction: float = 1.0
    band: float = 0.0
    limit: float = 100.0

    def __post_init__(self) -> None:
        if not (self.band >= 0 and self.limit > 0):
            raise ValueError(
                f"band must not be negative and limit positive, got {self.band} and {self.limit}"
            )

    def act(
        self, observation: Observation, state: AccountState, generator: torch.Generator | None
    ) -> Tensor:
        """The bet on the model's own moments, or what is held if that is near enough."""
        mean, risk = observation.reward.double(), observation.risk.double()
        ideal = (self.fraction * mean / risk.square()).clamp(-self.limit, self.limit)
        held = state.leverage.clamp(-self.limit, self.limit)
        return torch.where((ideal - held).abs() > self.band, ideal, held)


@dataclass(frozen=True)
class LetDrift:
    """Another policy, without its trades back to a level that is held already.

    Leverage drifts with the price. Trading 30x back to 30x after each tick costs a good part of
    what the edge earns, so a level that the position is still nearest to is left alone.

    Attributes:
        policy: returns one of ``levels``, (N,).
        levels: ascending.
    """

    policy: Policy
    levels: tuple[float, ...]

    def act(
        self, observation: Observation, state: AccountState, generator: torch.Generator | None
    ) -> Tensor:
        """What the policy wants, or what is held where that is nearest to it."""
        target = self.policy.act(observation, state, generator)
        levels = torch.tensor(self.levels, dtype=torch.float64)
        middle = 0.5 * (levels[1:] + levels[:-1])
        nearest = levels[torch.searchsorted(middle, state.leverage)]
        held = state.leverage.clamp(levels[0], levels[-1])
        return torch.where(nearest == target, held, target)
