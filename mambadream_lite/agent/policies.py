"""Policies, and the one loop in which they trade (chapter 07).

A policy is anything with ``act(observation, state, generator) -> target leverage``. The same
``replay`` runs it in a dream and in the market: a small trader's orders move neither, so a
path is generated once and traded many times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mambadream_lite.dream.rollout import Dream
from mambadream_lite.market.account import Account, AccountState


@dataclass(frozen=True)
class Observation:
    """All that is known before tick h opens; N accounts side by side.

    Attributes:
        features: (N, F) the last closed tick, raw units.
        reward: (N,) the model's expected return of the coming tick.
        risk: (N,) the model's standard deviation of it.
        log_price: (N, h + 1) prices since the episode began, up to now.
    """

    features: Tensor
    reward: Tensor
    risk: Tensor
    log_price: Tensor


class Policy(Protocol):
    """What every trader here has in common."""

    def act(
        self, observation: Observation, state: AccountState, generator: torch.Generator | None
    ) -> Tensor:
        """Target leverage (N,) for the coming tick."""
        ...


@dataclass(frozen=True)
class Episode:
    """What became of N accounts over H ticks.

    Attributes:
        equity: (N, H + 1), 1 at the start, 0 once ruined.
        leverage: (N, H) held during each tick.
        ruined: (N, H + 1) bool.
    """

    equity: Tensor
    leverage: Tensor
    ruined: Tensor


def observation_at(path: Dream, h: int) -> Observation:
    """What a trader may know before tick ``h`` of a path."""
    features = path.start if h == 0 else path.features[:, h - 1]
    return Observation(features, path.reward[:, h], path.risk[:, h], path.log_price[:, : h + 1])


def bar_of(path: Dream, h: int) -> tuple[Tensor, Tensor, Tensor]:
    """Log return, high and low over the open (N,) of tick ``h``: what ``Account.step`` takes."""
    opened = path.log_price[:, h]
    price = opened.exp()
    return path.log_price[:, h + 1] - opened, path.high[:, h] / price, path.low[:, h] / price


def replay(
    policy: Policy,
    path: Dream,
    account: Account,
    *,
    generator: torch.Generator | None = None,
    leverage: float = 0.0,
) -> Episode:
    """Trade a policy along N dreamt or real paths; it goes flat where a dream was halted.

    Args:
        policy: decides before each tick.
        path: from ``dream`` or ``watch``.
        account: costs, margin and liquidation.
        generator: for policies that draw.
        leverage: held at the start.
    """
    state = account.open(len(path), leverage)
    states, held = [state], []
    for h in range(path.horizon):
        target = policy.act(observation_at(path, h), state, generator)
        target = torch.where(path.alive[:, h] & ~state.ruined, target.double(), 0.0)
        state = account.step(state, target, *bar_of(path, h))
        states.append(state)
        held.append(target)
    return Episode(
        equity=torch.stack([s.equity for s in states], dim=1),
        leverage=torch.stack(held, dim=1),
        ruined=torch.stack([s.ruined for s in states], dim=1),
    )


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
