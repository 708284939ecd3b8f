"""The one loop in which policies trade, and its record (chapter 07).

The same ``replay`` runs a policy in a dream and in the market: a small trader's orders move
neither, so a path is generated once and traded many times.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mambadream_lite.agent.policies import Observation, Policy
from mambadream_lite.dream.quote import Quoted
from mambadream_lite.dream.rollout import Dream
from mambadream_lite.market.account import Account, AccountState, Flows

if TYPE_CHECKING:
    import pandas as pd


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


class PolicyError(RuntimeError):
    """A policy failed in mid-run; what was traded until then is not lost.

    Attributes:
        tick: before which it failed.
        episode: the ticks before that one; possibly none.
    """

    def __init__(self, message: str, tick: int, episode: Episode) -> None:
        super().__init__(message)
        self.tick, self.episode = tick, episode

    @classmethod
    def at(cls, tick: int, horizon: int, error: Exception, episode: Episode) -> PolicyError:
        """One that names the tick and what went wrong there."""
        what = f"{type(error).__name__}: {error}"
        return cls(f"the policy failed before tick {tick} of {horizon}: {what}", tick, episode)


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
    strike = path.strike[:, h] if isinstance(path, Quoted) else None
    seen = path.log_price[:, : h + 1]
    return Observation(features, path.reward[:, h], path.risk[:, h], seen, strike)


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
        path: from ``dream`` or ``watch``, and ``quote`` for a policy that trades the volatility
            contract, one whose actions are (N, 2).
        account: costs, margin and liquidation.
        generator: for policies that draw.
        leverage: held at the start.

    Raises:
        ValueError: a policy that trades the contract on a path without quotes, or one whose
            actions are not (N,) or (N, 2).
        PolicyError: the policy raised something itself, or the account refuses what it wants.
    """
    state = account.open(len(path), leverage)
    states, held, quoted = [state], [], isinstance(path, Quoted)
    for h in range(path.horizon):
        seen = observation_at(path, h)
        try:
            target = policy.act(seen, state, generator)
        except Exception as error:
            raise PolicyError.at(h, path.horizon, error, _episode(states, held)) from error
        target = target.double()
        if target.shape not in ((len(path),), (len(path), 2)):
            raise ValueError(
                f"policy must return ({len(path)},) or ({len(path)}, 2), got {tuple(target.shape)}"
            )
        target = target if target.ndim == 2 else torch.stack([target, torch.zeros_like(target)], 1)
        target = torch.where((path.alive[:, h] & ~state.ruined)[:, None], target, 0.0)
        asset, contracts = target.unbind(1)
        if contracts.any() and not quoted:
            raise ValueError("path must be from quote(): the policy trades the volatility contract")
        second = {"contracts": contracts, "payoff": path.payoff[:, h]} if quoted else {}
        try:
            state = account.step(state, asset, *bar_of(path, h), **second)
        except ValueError as error:
            raise PolicyError.at(h, path.horizon, error, _episode(states, held)) from error
        states.append(state)
        held.append(target)
    return _episode(states, held)


def _episode(states: list[AccountState], held: list[Tensor]) -> Episode:
    """The record of what H + 1 states and the H targets (N, 2) between them tell; H may be 0."""
    nothing = states[0].equity.new_zeros(len(states[0].equity), 2)
    asset, contracts = torch.stack([nothing, *held], dim=1)[:, 1:].unbind(-1)
    flows = (
        torch.stack([getattr(s.flows, f.name) for s in states], dim=1)[:, 1:] for f in fields(Flows)
    )
    return Episode(
        equity=torch.stack([s.equity for s in states], dim=1),
        leverage=asset,
        contracts=contracts,
        ruined=torch.stack([s.ruined for s in states], dim=1),
        flows=Flows(*flows),
    )
