"""Accounts that trade along dreamt or real paths, side by side: what the environments share.

A small trader's orders move no price, so paths exist before anybody trades in them. A desk seats
N accounts, each at its own tick of its own path, and says what each sees, earns and loses
(chapter 07).
"""

from __future__ import annotations

from dataclasses import fields, replace

import torch
from torch import Tensor

from mambadream_lite.dream.quote import Quoted
from mambadream_lite.dream.rollout import Dream
from mambadream_lite.market.account import BP, Account, AccountState, Flows
from mambadream_lite.market.features import REFERENCE_VOLATILITY
from mambadream_lite.model.ensemble import Ensemble
from mambadream_lite.model.world_model import WorldModel

REWARD_UNIT = BP  # rewards are counted in basis points of log growth
SEEN_LIMIT = 20.0  # beyond which an input is no longer told apart
MEAN_GAIN = 20.0  # an expected return of a twentieth of its sd is a strong signal
LEAST_EQUITY = 1e-12  # what a logarithm makes of nothing


def n_inputs(n_features: int, *, beliefs: bool = True, contract: bool = False) -> int:
    """Number of columns of ``trader_inputs``."""
    return n_features + 2 * beliefs + contract + 2


def trader_inputs(
    features: Tensor,
    reward: Tensor,
    risk: Tensor,
    state: AccountState,
    model: WorldModel | Ensemble,
    *,
    strike: Tensor | None = None,
    beliefs: bool = True,
) -> Tensor:
    """What a trader's network sees (N, I): scaled features, the model's belief, the account.

    Args:
        features: (N, F) the last closed tick, raw units.
        reward, risk: (N,) the model's expected return of the coming tick, and its sd.
        state: the accounts.
        model: gives the scaler, the unit of velocity and the length of a bar.
        strike: (N,) of the volatility contract for the coming tick, if it can be traded: seen
            as the log of the variance that the model expects over it, or alone without beliefs.
        beliefs: show reward and risk.
    """
    columns = []
    if beliefs:
        columns += [MEAN_GAIN * reward / risk, (risk / model.velocity_unit).log()]
    if strike is not None:
        expected = risk.double().square() / float(model.bar) if beliefs else REFERENCE_VOLATILITY**2
        columns.append((expected / strike).log())
    leverage = state.leverage.sign() * state.leverage.abs().log1p()
    columns += [leverage / 5, state.drawdown]
    scaled = (features - model.feature_mean) / model.feature_std
    seen = torch.cat([scaled, torch.stack([c.float() for c in columns], dim=-1)], dim=-1)
    return seen.clamp(-SEEN_LIMIT, SEEN_LIMIT)


class Desk:
    """N accounts at work.

    Args:
        model: gives the scaler of what they see.
        account: costs, margin, liquidation.
        n: accounts.
        drawdown_penalty: price of a new drawdown, per unit of equity lost from the peak.
        worst_reward: losses of one tick are clipped here (log growth); gains never are.
        expected_reward: earn the growth that the model expects of the asset instead of the
            growth that the path shows; costs, margin, ruin and the volatility contract stay the
            path's.
        beliefs: show the model's expected return and risk.
    """

    def __init__(
        self,
        model: WorldModel | Ensemble,
        account: Account,
        n: int,
        *,
        drawdown_penalty: float,
        worst_reward: float,
        expected_reward: bool,
        beliefs: bool = True,
    ) -> None:
        if not (drawdown_penalty >= 0 and worst_reward < 0):
            raise ValueError(
                "drawdown_penalty must not be negative and worst_reward must be, got "
                f"{drawdown_penalty} and {worst_reward}"
            )
        self.model, self.account, self.beliefs = model, account, beliefs
        self.drawdown_penalty, self.worst_reward = drawdown_penalty, worst_reward
        self.expected_reward = expected_reward
        self.paths: Dream | None = None
        self.state = account.open(n)
        self.row = torch.zeros(n, dtype=torch.long)
        self.tick, self.stop = torch.zeros_like(self.row), torch.zeros_like(self.row)

    def seat(
        self, which: Tensor, row: Tensor, tick: Tensor, horizon: int, leverage: Tensor | float = 0.0
    ) -> None:
        """Give the accounts ``which`` (N,) a fresh start at their row and tick, all (N,)."""
        fresh = self.account.open(len(which), leverage)
        self.state = _choose(which, fresh, self.state)
        self.row = torch.where(which, row, self.row)
        self.tick = torch.where(which, tick, self.tick)
        self.stop = torch.where(which, tick + horizon, self.stop)

    def see(self) -> Tensor:
        """What each account sees before its next tick, (N, I) float32.

        After the last tick of a path no forecast of another was made; the last one stands in.
        """
        path, before = self.paths, (self.tick - 1).clamp(min=0)
        features = torch.where(
            (self.tick == 0)[:, None], path.start[self.row], path.features[self.row, before]
        )
        ahead = self.tick.clamp(max=path.horizon - 1)
        reward, risk = path.reward[self.row, ahead], path.risk[self.row, ahead]
        strike = path.strike[self.row, self.tick] if isinstance(path, Quoted) else None
        return trader_inputs(
            features, reward, risk, self.state, self.model, strike=strike, beliefs=self.beliefs
        )

    def trade(self, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Hold ``target`` through the next tick: leverage (N,), or (N, 2) with contracts.

        Returns:
            Rewards (N,) in basis points; which accounts are ruined; and which reached their
            horizon or the end of what may be believed of their dream.
        """
        path, row, tick, before = self.paths, self.row, self.tick, self.state
        opened = path.log_price[row, tick]
        price = opened.exp()
        second = {}
        if target.ndim == 2:
            target, contracts = target.unbind(1)
            second = {"contracts": contracts, "payoff": path.payoff[row, tick]}
        after = self.account.step(
            before,
            target,
            path.log_price[row, tick + 1] - opened,
            path.high[row, tick] / price,
            path.low[row, tick] / price,
            **second,
        )
        grown = self._growth(before, after, target, **second)
        fall = after.drawdown.clamp(max=0.999) - before.drawdown.clamp(max=0.999)
        reward = grown.clamp(min=self.worst_reward)
        reward = reward - self.drawdown_penalty * fall.clamp(min=0.0)
        reward = torch.where(after.ruined, self.worst_reward, reward) / REWARD_UNIT
        self.state, self.tick = after, tick + 1
        last = self.tick >= self.stop
        halted = ~path.alive[row, self.tick.clamp(max=path.horizon - 1)]
        return reward, after.ruined, last | halted

    def _growth(
        self,
        before: AccountState,
        after: AccountState,
        target: Tensor,
        contracts: Tensor | None = None,
        payoff: Tensor | None = None,
    ) -> Tensor:
        """Log growth (N,) of the tick: expected under the model's forecast, or as it came.

        The expectation is of the logarithm's first two terms, of the asset alone.
        """
        if not self.expected_reward:
            return (after.equity / before.equity.clamp(min=LEAST_EQUITY)).clamp(LEAST_EQUITY).log()
        mean = self.paths.reward[self.row, self.tick].double()
        risk = self.paths.risk[self.row, self.tick].double()
        terms = self.account.config
        cost = terms.turnover_cost * (target - before.leverage).abs()
        growth = target * mean - 0.5 * (target * risk).square() - cost
        if contracts is None:
            return growth
        settled = 1 + contracts * payoff.double() - terms.contract_fee * BP * contracts.abs()
        return growth + settled.clamp(LEAST_EQUITY).log()


def _choose(which: Tensor, one: AccountState, other: AccountState) -> AccountState:
    """The accounts of ``one`` where ``which`` (N,), else of ``other``."""
    flows = Flows(
        *(
            torch.where(which, getattr(one.flows, f.name), getattr(other.flows, f.name))
            for f in fields(Flows)
        )
    )
    names = ("equity", "leverage", "peak", "ruined")
    chosen = {k: torch.where(which, getattr(one, k), getattr(other, k)) for k in names}
    return replace(one, flows=flows, **chosen)
