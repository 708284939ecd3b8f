"""Accounts that trade along dreamt or real paths, side by side: what the environments share.

A small trader's orders move no price, so paths exist before anybody trades in them. A desk seats
N accounts, each at its own tick of its own path, and says what each sees, earns and loses
(chapter 07).
"""

from __future__ import annotations

from dataclasses import fields, replace

import torch
from torch import Tensor

from mambadream_lite.dream.rollout import Dream
from mambadream_lite.market.account import Account, AccountState, Flows
from mambadream_lite.model.ensemble import Ensemble
from mambadream_lite.model.world_model import WorldModel

REWARD_UNIT = 1e-4  # rewards are counted in basis points of log growth
SEEN_LIMIT = 20.0  # beyond which an input is no longer told apart
BELIEFS = 4  # inputs beside the features: expected return, risk, leverage, drawdown
MEAN_GAIN = 20.0  # an expected return of a twentieth of its sd is a strong signal


def trader_inputs(
    features: Tensor,
    reward: Tensor,
    risk: Tensor,
    state: AccountState,
    *,
    mean: Tensor,
    std: Tensor,
    unit: float,
) -> Tensor:
    """What a trader's network sees (N, F + 4): scaled features, the model's belief, the account.

    Args:
        features: (N, F) the last closed tick, raw units.
        reward, risk: (N,) the model's expected return of the coming tick, and its sd.
        state: the accounts.
        mean, std: (F,) of the model's training data.
        unit: log return of one unit of velocity.
    """
    belief = torch.stack([MEAN_GAIN * reward / risk, (risk / unit).log()], dim=-1)
    leverage = state.leverage.sign() * state.leverage.abs().log1p()
    own = torch.stack([leverage / 5, state.drawdown], dim=-1).float()
    return torch.cat([(features - mean) / std, belief, own], dim=-1)


class Desk:
    """N accounts at work.

    Args:
        model: gives the scaler of what they see.
        account: costs, margin, liquidation.
        n: accounts.
        drawdown_penalty: price of a new drawdown, per unit of equity lost from the peak.
        worst_reward: losses of one tick are clipped here (log growth); gains never are.
        expected_reward: earn the growth that the model expects of a tick instead of the growth
            that the path shows; costs, margin and ruin stay the path's.
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
    ) -> None:
        if not (drawdown_penalty >= 0 and worst_reward < 0):
            raise ValueError(
                "drawdown_penalty must not be negative and worst_reward must be, got "
                f"{drawdown_penalty} and {worst_reward}"
            )
        self.model, self.account = model, account
        self.drawdown_penalty, self.worst_reward = drawdown_penalty, worst_reward
        self.expected_reward = expected_reward
        self.paths: Dream | None = None
        self.state = account.open(n)
        self.row = torch.zeros(n, dtype=torch.long)
        self.tick, self.stop = torch.zeros_like(self.row), torch.zeros_like(self.row)

    def seat(self, which: Tensor, row: Tensor, tick: Tensor, horizon: int) -> None:
        """Give the accounts ``which`` (N,) a fresh start at their row and tick, all (N,)."""
        fresh = self.account.open(len(which))
        self.state = _choose(which, fresh, self.state)
        self.row = torch.where(which, row, self.row)
        self.tick = torch.where(which, tick, self.tick)
        self.stop = torch.where(which, tick + horizon, self.stop)

    def see(self) -> Tensor:
        """What each account sees before its next tick, (N, F + 4) float32.

        After the last tick of a path no forecast of another was made; the last one stands in.
        """
        path, before = self.paths, (self.tick - 1).clamp(min=0)
        features = torch.where(
            (self.tick == 0)[:, None], path.start[self.row], path.features[self.row, before]
        )
        ahead = self.tick.clamp(max=path.horizon - 1)
        reward, risk = path.reward[self.row, ahead], path.risk[self.row, ahead]
        model = self.model
        scaling = {"mean": model.feature_mean, "std": model.feature_std}
        seen = trader_inputs(
            features, reward, risk, self.state, **scaling, unit=model.velocity_unit
        )
        return seen.clamp(-SEEN_LIMIT, SEEN_LIMIT)

    def trade(self, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Hold leverage ``target`` (N,) through the next tick.

        Returns:
            Rewards (N,) in basis points; which accounts are ruined; and which reached their
            horizon or the end of what may be believed of their dream.
        """
        path, row, tick, before = self.paths, self.row, self.tick, self.state
        opened = path.log_price[row, tick]
        price = opened.exp()
        after = self.account.step(
            before,
            target,
            path.log_price[row, tick + 1] - opened,
            path.high[row, tick] / price,
            path.low[row, tick] / price,
        )
        grown = self._growth(before, after, target)
        fall = after.drawdown.clamp(max=0.999) - before.drawdown.clamp(max=0.999)
        reward = grown.clamp(min=self.worst_reward)
        reward = reward - self.drawdown_penalty * fall.clamp(min=0.0)
        reward = torch.where(after.ruined, self.worst_reward, reward) / REWARD_UNIT
        self.state, self.tick = after, tick + 1
        last = self.tick >= self.stop
        halted = ~path.alive[row, self.tick.clamp(max=path.horizon - 1)]
        return reward, after.ruined, last | halted

    def _growth(self, before: AccountState, after: AccountState, target: Tensor) -> Tensor:
        """Log growth (N,) of the tick: expected under the model's forecast, or as it came."""
        if not self.expected_reward:
            return (after.equity / before.equity.clamp(min=1e-12)).clamp(min=1e-12).log()
        mean = self.paths.reward[self.row, self.tick].double()
        risk = self.paths.risk[self.row, self.tick].double()
        cost = self.account.config.turnover_cost * (target - before.leverage).abs()
        return target * mean - 0.5 * (target * risk).square() - cost


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
