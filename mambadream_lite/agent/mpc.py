"""Model predictive control: a thousand futures, one step, then think again (chapter 10)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mambadream_lite.dream.rollout import Belief, Dream, dream, observe
from mambadream_lite.market.account import Account, AccountConfig
from mambadream_lite.market.features import Market
from mambadream_lite.model.world_model import WorldModel

DIRECTIONS = (-1.0, -0.5, 0.0, 0.5, 1.0)
LEVERAGES = (1.0, 2.0, 3.0, 5.0)
ACTIONS = tuple(sorted({d * lev for d in DIRECTIONS for lev in LEVERAGES}))


@dataclass(frozen=True)
class Decision:
    """What the planner chose, and why.

    Attributes:
        action: leverage to hold over the next tick.
        actions: (A,) all leverages that were scored, on the same futures.
        value: (A,) mean log growth of equity over the horizon, net of costs.
        standard_error: (A,) of ``value``: Monte Carlo error only, not the model's.
        prob_profit: (A,) share of futures in which the action ends above where it began, net.
        prob_profit_error: (A,) standard error of ``prob_profit``, Monte Carlo error only.
        n_futures, horizon: how many, and how many ticks each.
    """

    action: float
    actions: Tensor
    value: Tensor
    standard_error: Tensor
    prob_profit: Tensor
    prob_profit_error: Tensor
    n_futures: int
    horizon: int

    def of(self, action: float) -> int:
        """Index of a scored leverage.

        Raises:
            ValueError: it was not scored.
        """
        index = (self.actions - action).abs().argmin().item()
        if abs(self.actions[index].item() - action) > 1e-9:
            raise ValueError(f"action {action} was not scored; there are {self.actions.tolist()}")
        return index

    def __str__(self) -> str:
        rows = [f"{self.n_futures:,} futures of {self.horizon} ticks; chosen: {self.action:+g}x"]
        rows.append("leverage   growth (bp)   standard error   P(profit)")
        for i, action in enumerate(self.actions.tolist()):
            mark = "*" if action == self.action else " "
            growth = f"{1e4 * self.value[i]:11.2f}  {1e4 * self.standard_error[i]:15.2f}"
            if not self.value[i].isfinite():
                growth = f"{'-inf':>11}  {'some are ruined':>15}"
            rows.append(f"{action:+7.1f}x{mark}  {growth}  {self.prob_profit[i]:10.1%}")
        return "\n".join(rows)


class MPC:
    """Plan by dreaming: score every action on the same futures, take the best (chapter 10).

    Args:
        model: the world model.
        n_futures: futures a decision.
        horizon: ticks a future.
        actions: leverages to choose from; 0 must be among them.
        account: costs and margin.

    Raises:
        ValueError: no futures or no horizon, no flat action, or one beyond the account's limit.
    """

    def __init__(
        self,
        model: WorldModel,
        *,
        n_futures: int = 1000,
        horizon: int = 20,
        actions: tuple[float, ...] = ACTIONS,
        account: AccountConfig | None = None,
    ) -> None:
        for name, value in (("n_futures", n_futures), ("horizon", horizon)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.model, self.n_futures, self.horizon = model, n_futures, horizon
        self.account = Account(account)
        self.actions = torch.tensor(sorted(actions), dtype=torch.float64)
        if 0.0 not in actions:
            raise ValueError(f"actions must hold 0 (stay out), got {actions}")
        if max(abs(a) for a in actions) > self.account.config.max_leverage:
            raise ValueError(
                f"actions {actions} go beyond max_leverage {self.account.config.max_leverage}"
            )

    def decide(
        self,
        hidden_or_context: Belief | Market | Tensor,
        position: float = 0.0,
        *,
        generator: torch.Generator,
    ) -> Decision:
        """Choose the leverage for the next tick.

        Args:
            hidden_or_context: a ``Belief`` or context (as in ``dream``) of one market, B = 1.
            position: leverage held now; turning over from it costs.
            generator: source of the futures.
        """
        belief = hidden_or_context
        if not isinstance(belief, Belief):
            belief = observe(self.model, belief)
        if len(belief.features) != 1:
            raise ValueError(f"decide plans for one market, got {len(belief.features)} contexts")
        futures = dream(
            self.model, belief, n_dreams=self.n_futures, horizon=self.horizon, generator=generator
        )
        return self.score(futures, position)

    def score(self, futures: Dream, position: float = 0.0) -> Decision:
        """Score every action on the same N futures, each bought now and held to the horizon."""
        wealth = held_to_horizon(futures, self.actions, position, self.account)  # (A, N)
        growth = wealth.log()
        value = torch.where(growth.isfinite().all(1), growth.mean(1), -torch.inf)
        n = growth.shape[1]
        profit = (wealth > 1).double().mean(1)
        return Decision(
            action=self.actions[value.argmax()].item(),
            actions=self.actions,
            value=value,
            standard_error=growth.std(1) / n**0.5,
            prob_profit=profit,
            prob_profit_error=(profit * (1 - profit) / n).sqrt(),
            n_futures=n,
            horizon=futures.horizon,
        )


def held_to_horizon(futures: Dream, actions: Tensor, position: float, account: Account) -> Tensor:
    """Wealth (A, N) at the horizon of one unit that moves from ``position`` to each action now.

    The units bought are kept: leverage drifts with the price, and only the first trade costs.
    A future that touches the liquidation price ends at 0; one that is not a number, at NaN.
    """
    start = futures.log_price[:, :1].exp()
    end = (futures.log_price[:, -1:].exp() / start).T  # (1, N)
    lowest = (futures.low / start).amin(1)
    highest = (futures.high / start).amax(1)
    leverage = actions.unsqueeze(1)  # (A, 1)
    config = account.config
    cost = config.turnover_cost * (leverage - position).abs()
    cost = cost + config.funding * config.bar * futures.horizon * leverage
    # a flat account feels no price, not even a broken one: staying out can always be chosen
    wealth = (1 - cost) * (1 + torch.where(leverage == 0, 0.0, leverage * (end - 1)))
    gone = account.liquidated(leverage, highest.unsqueeze(0), lowest.unsqueeze(0))
    return torch.where(gone, 0.0, wealth.clamp(min=0.0))


def base_rate(market: Market, horizon: int, account: AccountConfig) -> float:
    """Share of all stretches of ``horizon`` ticks in which one unit, bought, ends in profit.

    The number that any stated probability of profit has to be read against.
    """
    log_price = market.price.log()
    if log_price.shape[1] <= horizon:
        raise ValueError(f"horizon must be below the market's {log_price.shape[1]} prices")
    change = log_price[:, horizon:] - log_price[:, :-horizon]
    wealth = (1 - account.turnover_cost - account.funding * account.bar * horizon) * change.exp()
    return (wealth > 1).double().mean().item()
