"""Model predictive control: a thousand futures, one step, then think again (chapter 10)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from mambadream_lite.agent.decision import Action, Decision, Objective, worst_mean
from mambadream_lite.agent.plans import (
    Position,
    constant,
    cross_entropy,
    expected_growth,
    followed,
    held_to_horizon,
)
from mambadream_lite.agent.policies import Observation
from mambadream_lite.dream.halt import Halt
from mambadream_lite.dream.quote import quote
from mambadream_lite.dream.rollout import Belief, Dream, advance, dream, observe
from mambadream_lite.market.account import Account, AccountConfig, AccountState
from mambadream_lite.market.contract import VolatilityContract
from mambadream_lite.market.features import Market
from mambadream_lite.model.ensemble import Ensemble
from mambadream_lite.model.world_model import WorldModel

DIRECTIONS = (-1.0, -0.5, 0.0, 0.5, 1.0)
LEVERAGES = (1.0, 2.0, 3.0, 5.0)
ACTIONS = tuple(sorted({d * lev for d in DIRECTIONS for lev in LEVERAGES}))

# log growth (P, N) that the future beyond the horizon adds, of plans that end at (P, 2)
Terminal = Callable[[Dream, Tensor], Tensor]


class MPC:
    """Plan by dreaming: score every action on the same futures, take the best (chapter 10).

    Model predictive control by sampling, as in Chua et al. (2018): only the first step of the
    best plan is ever carried out; ``live`` makes the policy that does so, tick after tick.

    Args:
        model: the world model, or an ensemble of them.
        n_futures: futures a decision.
        horizon: ticks a future. An action is held to the horizon, so a horizon beyond the memory
            of the edge counts an edge that has died (chapter 10 measures it).
        actions: leverages of the asset to choose from, or pairs of both instruments' leverages;
            staying out must be among them.
        account: costs and margin.
        contract: the volatility contract, if actions are pairs.
        objective: what is to be large.
        expected_reward: score each tick by the model's expectation of it instead of by the one
            that was drawn (``expected_growth``); for log growth.
        halt: ends futures that are not to be believed: they can lose, but not win.
        search: rounds of the cross-entropy method that improve the best action to a sequence;
            0 is none.
        terminal: value of the futures beyond the horizon; only with ``expected_reward``.
        history: the past, from which base rates are counted; for actions of the asset.

    Raises:
        ValueError: no futures or no horizon, no action that stays out, one beyond the account's
            limit, pairs without the contract or the other way round, an objective, a terminal
            value or a past that do not go with the rest.
    """

    def __init__(
        self,
        model: WorldModel | Ensemble,
        *,
        n_futures: int = 1000,
        horizon: int = 4,
        actions: tuple[Action, ...] = ACTIONS,
        account: AccountConfig | None = None,
        contract: VolatilityContract | None = None,
        objective: Objective | None = None,
        expected_reward: bool = True,
        halt: Halt | None = None,
        search: int = 0,
        terminal: Terminal | None = None,
        history: Market | None = None,
    ) -> None:
        for name, value in (("n_futures", n_futures), ("horizon", horizon)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.model, self.n_futures, self.horizon = model, n_futures, horizon
        self.account, self.contract, self.halt = Account(account), contract, halt
        self.objective = Objective() if objective is None else objective
        self.expected_reward, self.search, self.terminal = expected_reward, search, terminal
        self.actions = torch.tensor(sorted(actions), dtype=torch.float64)
        if (self.actions.ndim == 2) != (contract is not None):
            raise ValueError("actions must be pairs if and only if a contract is given")
        self.size = self.actions.abs() if contract is None else self.actions.abs().sum(1)
        if not (self.size == 0).any():
            raise ValueError(f"actions must hold 0 (stay out), got {actions}")
        if self.actions.abs().max() > self.account.config.max_leverage:
            raise ValueError(
                f"actions {actions} go beyond max_leverage {self.account.config.max_leverage}"
            )
        if search < 0 or (terminal is not None and not expected_reward):
            raise ValueError("search must not be negative, and terminal needs expected_reward")
        if expected_reward and self.objective.kind != "log growth":
            raise ValueError('objective must be "log growth" with expected_reward')
        self.base_rate = None
        if history is not None:
            if contract is not None:
                raise ValueError("history gives base rates for actions of the asset alone")
            rates = [base_rate(history, horizon, self.account.config, a) for a in sorted(actions)]
            self.base_rate = torch.tensor(rates)

    def decide(
        self,
        hidden_or_context: Belief | Market | Tensor,
        position: float = 0.0,
        *,
        generator: torch.Generator,
        strike: Tensor | None = None,
    ) -> Decision:
        """Choose what to hold over the next tick.

        Args:
            hidden_or_context: a ``Belief`` or context (as in ``dream``) of one market, B = 1.
            position: leverage of the asset held now; turning over from it costs.
            generator: source of the futures, and of the search.
            strike: (1,) of the volatility contract for the next tick, if it is traded.
        """
        belief = hidden_or_context
        if not isinstance(belief, Belief):
            belief = observe(self.model, belief)
        if len(belief.features) != 1:
            raise ValueError(f"decide plans for one market, got {len(belief.features)} contexts")
        decision = self.score(self.imagine(belief, strike, generator), position)
        if not self.search:
            return decision
        # a plan found on some futures is judged on others, or the search would believe its luck
        found = self._improve(decision, belief, position, strike, generator)
        fresh = self.imagine(belief, strike, generator)
        own, others = self._values(fresh, found[None], position), self.score(fresh, position)
        if not own[0] > others.value.max():
            return others
        pair = tuple(found[0].tolist())
        return replace(
            others,
            action=pair if self.contract else pair[0],
            plan=found,
            plan_value=own[0].item(),
        )

    def imagine(self, belief: Belief, strike: Tensor | None, generator: torch.Generator) -> Dream:
        """The futures of B markets (B * n_futures, context-major), quoted if there is a contract.

        Raises:
            ValueError: a contract without its strike.
        """
        futures = dream(
            self.model,
            belief,
            n_dreams=self.n_futures,
            horizon=self.horizon,
            generator=generator,
            halt=self.halt,
        )
        if self.contract is None:
            return futures
        if strike is None:
            raise ValueError("strike of the volatility contract must be given: it is traded")
        return quote(futures, self.contract, strike)

    def score(self, futures: Dream, position: float = 0.0) -> Decision:
        """Score every action on the same N futures, each bought now and held to the horizon."""
        plans = constant(self.actions, futures.horizon)
        value, error = self.objective.value(self._growth(futures, plans, position))
        wealth = self._wealth(futures, plans, position)
        n = len(futures)
        profit = (wealth > 1).double().mean(1)
        chosen = self.actions[self._best(value)].tolist()
        return Decision(
            action=chosen if self.contract is None else tuple(chosen),
            actions=self.actions,
            value=value,
            standard_error=error,
            prob_profit=profit,
            prob_profit_error=(profit * (1 - profit) / n).sqrt(),
            mean=wealth.mean(1) - 1,
            cvar=0.0 - worst_mean(wealth - 1, 0.05),
            ruined=(wealth == 0).double().mean(1),
            base_rate=self.base_rate,
            alive=int(futures.alive[:, -1].sum()),
            n_futures=n,
            horizon=futures.horizon,
        )

    def choose(self, futures: Dream, position: Tensor) -> Tensor:
        """Best actions (B,), or (B, 2) with the contract, for B markets at once.

        Args:
            futures: of B markets, from ``imagine``.
            position: (B,) leverage of the asset held in each.
        """
        plans = constant(self.actions, futures.horizon)
        held = position.repeat_interleave(self.n_futures)
        growth = self._growth(futures, plans, held).view(len(plans), len(position), -1)
        value, _ = self.objective.value(growth)
        return self.actions[self._best(value)]

    def live(self, context: Belief | Market | Tensor, generator: torch.Generator) -> Planner:
        """The planner as a policy that trades on from the end of a context of B markets."""
        return Planner(self, context, generator)

    def _growth(self, futures: Dream, plans: Tensor, position: Position) -> Tensor:
        """Log growth (P, N) of plans, as the objective is to see it."""
        if not self.expected_reward:
            return self._wealth(futures, plans, position).log()
        growth = expected_growth(futures, plans, position, self.account)
        return growth if self.terminal is None else growth + self.terminal(futures, plans[:, -1])

    def _wealth(self, futures: Dream, plans: Tensor, position: Position) -> Tensor:
        """Wealth (P, N) as drawn: with the asset alone, a constant plan is bought and kept."""
        if self.contract is None and (plans == plans[:, :1]).all():
            return held_to_horizon(futures, plans[:, 0, 0], position, self.account)
        return followed(futures, plans, position, self.account)

    def _values(self, futures: Dream, plans: Tensor, position: Position) -> Tensor:
        return self.objective.value(self._growth(futures, plans, position))[0]

    def _best(self, value: Tensor) -> Tensor:
        """Index of the largest value along the first dimension; of equals the smallest bet."""
        size = self.size.view(-1, *[1] * (value.ndim - 1)).expand_as(value)
        equal = value >= value.amax(0) - 1e-15
        return torch.where(equal, size, torch.inf).argmin(0)

    def _improve(
        self,
        decision: Decision,
        belief: Belief,
        position: float,
        strike: Tensor | None,
        generator: torch.Generator,
    ) -> Tensor:
        """A sequence (H, 2) that is better than the decision on futures of its own."""
        futures = self.imagine(belief, strike, generator)
        index = decision.of(decision.action)
        return cross_entropy(
            lambda plans: self._values(futures, plans, position),
            constant(self.actions, self.horizon)[index],
            float(self.actions.abs().max()),
            generator=generator,
            n_rounds=self.search,
            contracts=self.contract is not None,
        )


class Planner:
    """MPC as a ``Policy``: takes each tick into its belief at O(1) cost, and plans again.

    It keeps the belief between calls: one planner trades one stretch of the market, once.

    Args:
        mpc: how it plans.
        context: what the B markets looked like until now.
        generator: of all its futures.
    """

    def __init__(
        self, mpc: MPC, context: Belief | Market | Tensor, generator: torch.Generator
    ) -> None:
        self.mpc, self.generator = mpc, generator
        self.belief = context if isinstance(context, Belief) else observe(mpc.model, context)
        self.ticks = 0

    def act(
        self, observation: Observation, state: AccountState, generator: torch.Generator | None
    ) -> Tensor:
        """Leverage (B,), or (B, 2), for the coming tick.

        Raises:
            ValueError: a tick that does not follow the last one, or the first was not the last
                of the context.
        """
        seen = observation.log_price.shape[1] - 1
        if seen != self.ticks:
            raise ValueError(f"observation is of tick {seen}, the planner waits for {self.ticks}")
        if seen:
            move = observation.log_price[:, -1] - observation.log_price[:, -2]
            self.belief = advance(self.mpc.model, self.belief, observation.features, move)
        elif not torch.equal(self.belief.features, observation.features.float()):
            raise ValueError("observation does not begin where the planner's context ends")
        self.ticks += 1
        futures = self.mpc.imagine(self.belief, observation.strike, self.generator)
        return self.mpc.choose(futures, state.leverage)


def base_rate(market: Market, horizon: int, account: AccountConfig, leverage: float = 1.0) -> float:
    """Share of all stretches of ``horizon`` ticks in which ``leverage``, bought, ends in profit.

    The number that any stated probability of profit has to be read against. The units are kept;
    liquidations on the way are not counted.

    Raises:
        ValueError: a market that is not longer than the horizon.
    """
    log_price = market.price.log()
    if log_price.shape[1] <= horizon:
        raise ValueError(f"horizon must be below the market's {log_price.shape[1]} prices")
    change = (log_price[:, horizon:] - log_price[:, :-horizon]).expm1()
    cost = (
        account.turnover_cost * abs(leverage) + account.funding * account.bar * horizon * leverage
    )
    return ((1 - cost) * (1 + leverage * change) > 1).double().mean().item()
