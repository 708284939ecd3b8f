"""Policies, and the one loop in which they trade (chapter 07).

A policy is anything with ``act(observation, state, generator) -> target leverage``. The same
``replay`` runs it in a dream and in the market: a small trader's orders move neither, so a
path is generated once and traded many times.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from mambadream_lite.dream.rollout import Dream
from mambadream_lite.market.account import Account, AccountState, Flows

if TYPE_CHECKING:
    import pandas as pd


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
        """Target leverage for the coming tick: (N,) of the asset, or (N, 2) with contracts."""
        ...


@dataclass(frozen=True)
class Episode:
    """What became of N accounts over H ticks.

    Attributes:
        equity: (N, H + 1), 1 at the start, 0 once ruined.
        leverage: (N, H) of the asset, held during each tick.
        contracts: (N, H) of the volatility contract, likewise.
        ruined: (N, H + 1) bool.
        flows: money that moved in each tick, (N, H) each.
    """

    equity: Tensor
    leverage: Tensor
    contracts: Tensor
    ruined: Tensor
    flows: Flows


def trade_log(episode: Episode, path: Dream, account: int = 0) -> pd.DataFrame:
    """Every fill, settlement and liquidation of one account, in the order of events (chapter 07).

    Args:
        episode: from ``replay``.
        path: what was traded in it.
        account: its row.

    Returns:
        One row an event: ``tick``; ``event`` (buy, sell, contract, liquidation); ``price`` of the
        asset at it (the open of the tick, costs apart); ``notional``, negative if sold; ``cost``;
        ``pnl``, of a contract at its settlement, of a liquidation what it forfeits; ``equity``
        after the tick. Money is in multiples of the starting equity.
    """
    import pandas as pd  # the dreaming path runs without it

    money = {f.name: getattr(episode.flows, f.name)[account].tolist() for f in fields(Flows)}
    flows = [Flows(*tick) for tick in zip(*money.values(), strict=True)]
    opened = path.log_price[account, :-1].exp().tolist()
    equity = episode.equity[account, 1:].tolist()
    ruined = episode.ruined[account].tolist()
    rows = []
    for tick, flow in enumerate(flows):
        events = []
        if flow.traded != 0:
            side = "buy" if flow.traded > 0 else "sell"
            events.append((side, flow.traded, flow.spread + flow.fee, 0.0))
        if flow.opened != 0:
            events.append(("contract", flow.opened, flow.contract_cost, flow.contract_pnl))
        if ruined[tick + 1] and not ruined[tick]:
            events.append(("liquidation", 0.0, 0.0, -flow.forfeited))
        rows += [(tick, e, opened[tick], *numbers, equity[tick]) for e, *numbers in events]
    columns = ["tick", "event", "price", "notional", "cost", "pnl", "equity"]
    return pd.DataFrame(rows, columns=columns)


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
    payoff: Tensor | None = None,
) -> Episode:
    """Trade a policy along N dreamt or real paths; it goes flat where a dream was halted.

    Args:
        policy: decides before each tick.
        path: from ``dream`` or ``watch``.
        account: costs, margin and liquidation.
        generator: for policies that draw.
        leverage: held at the start.
        payoff: (N, H) of one unit of the volatility contract in each tick, for a policy that
            trades it: one whose actions are (N, 2).

    Raises:
        ValueError: a policy that trades the contract without a ``payoff``.
    """
    state = account.open(len(path), leverage)
    states, held = [state], []
    for h in range(path.horizon):
        target = policy.act(observation_at(path, h), state, generator).double()
        target = target if target.ndim == 2 else torch.stack([target, 0 * target], dim=1)
        target = torch.where((path.alive[:, h] & ~state.ruined)[:, None], target, 0.0)
        asset, contracts = target.unbind(1)
        if payoff is None and contracts.any():
            raise ValueError("payoff must be given: the policy trades the volatility contract")
        second = {} if payoff is None else {"contracts": contracts, "payoff": payoff[:, h]}
        state = account.step(state, asset, *bar_of(path, h), **second)
        states.append(state)
        held.append(target)
    asset, contracts = torch.stack(held, dim=1).unbind(-1)
    flows = (
        torch.stack([getattr(s.flows, f.name) for s in states[1:]], dim=1) for f in fields(Flows)
    )
    return Episode(
        equity=torch.stack([s.equity for s in states], dim=1),
        leverage=asset,
        contracts=contracts,
        ruined=torch.stack([s.ruined for s in states], dim=1),
        flows=Flows(*flows),
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
