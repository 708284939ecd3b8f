"""Backtests: a policy traded through a market that it has not seen, bar after bar (chapter 11).

A decision that is taken when a bar has closed is filled at the open of the next one, at the
account's costs. Nothing here trades by itself: the one loop is ``agent.replay``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from mambadream_lite.agent.policies import Observation, Policy
from mambadream_lite.agent.trading import Episode, PolicyError, replay
from mambadream_lite.dream.quote import quote
from mambadream_lite.dream.rollout import Dream, foreseen, watch
from mambadream_lite.judge.utility import LEAST
from mambadream_lite.market.account import BP, Account, AccountConfig, AccountState
from mambadream_lite.market.contract import VolatilityContract
from mambadream_lite.market.features import Market
from mambadream_lite.model.ensemble import Ensemble
from mambadream_lite.model.world_model import WorldModel

Builder = Callable[[Market], Policy]
Bars = slice | Tensor
ALL = slice(None)


@dataclass(frozen=True)
class Backtest:
    """What a policy did in B markets over H bars, and what became of it.

    The statistics are (B,), one a path, of all bars or of those that ``bars`` picks: a slice, or
    indices in any order, as a bootstrap draws them. An account below a thousandth of its start
    counts as that, so that ruin costs a finite number.

    Attributes:
        bar: length of a bar in years.
        equity: (B, H + 1), 1 at the start, 0 once ruined.
        leverage: (B, H) that was asked for in the asset, for each bar.
        contracts: (B, H) of the volatility contract, likewise; each bar's contract is a new one.
        traded: (B, H) notional of the asset turned over at the open, as a share of the equity
            before it.
        ruined: (B, H + 1) bool.
        time: (H + 1,) label of the bar that closes at each value of the equity, if it has one.
    """

    bar: float
    equity: Tensor
    leverage: Tensor
    contracts: Tensor
    traded: Tensor
    ruined: Tensor
    time: np.ndarray | None = field(default=None, repr=False)

    @cached_property
    def log_growth(self) -> Tensor:
        """(B, H) change of log equity over each bar; finite, also at ruin."""
        return self.equity.clamp(min=LEAST).log().diff(dim=1)

    def growth(self, bars: Bars = ALL) -> Tensor:
        """Log growth of equity a year."""
        return self.log_growth[:, bars].mean(1) / self.bar

    def growth_bp(self, bars: Bars = ALL) -> Tensor:
        """Log growth of equity a bar, basis points."""
        return self.log_growth[:, bars].mean(1) / BP

    def volatility(self, bars: Bars = ALL) -> Tensor:
        """Standard deviation of the simple returns of equity, scaled to a year."""
        return self._simple(bars).std(1) / self.bar**0.5

    def sharpe(self, bars: Bars = ALL) -> Tensor:
        """Mean simple return of a bar over its standard deviation, scaled to a year.

        Who earns nothing has 0, whatever the risk. No interest is taken off: the account pays
        none on its cash.
        """
        r = self._simple(bars)
        mean = r.mean(1)
        return torch.where(mean == 0, 0.0, mean / r.std(1)) / self.bar**0.5

    def drawdown(self, bars: Bars = ALL) -> Tensor:
        """Worst loss from a peak, as a share of the peak."""
        return self.underwater(bars).amax(1)

    def turnover(self, bars: Bars = ALL) -> Tensor:
        """Multiples of its equity that an account trades in the asset in a year."""
        return self.traded[:, bars].mean(1) / self.bar

    def underwater(self, bars: Bars = ALL) -> Tensor:
        """(B, H + 1) loss from the peak so far, as a share of the peak."""
        wealth = torch.nn.functional.pad(self.log_growth[:, bars].cumsum(1), (1, 0))
        return 1 - (wealth - wealth.cummax(1).values).exp()

    def _simple(self, bars: Bars) -> Tensor:
        return self.log_growth[:, bars].expm1()


class BacktestError(PolicyError):
    """A policy failed in a backtest; ``record`` is the ``Backtest`` until then."""

    def __init__(self, error: PolicyError, record: Backtest) -> None:
        when = "" if record.time is None else f" (the last closed bar is {record.time[-1]})"
        super().__init__(f"{error}{when}", error.tick, error.episode)
        self.record = record


@dataclass
class WalkForward:
    """Builds its policy anew every so many ticks, from the bars that have closed (a ``Policy``).

    Attributes:
        build: is handed the market's past only.
        market: all of it.
        warmup: bars before the first decision.
        every: ticks that each policy trades before the next is built.
    """

    build: Builder
    market: Market
    warmup: int
    every: int
    policy: Policy | None = field(default=None, init=False)

    def act(
        self, observation: Observation, state: AccountState, generator: torch.Generator | None
    ) -> Tensor:
        """What the latest policy wants; its observations still go back to the first tick."""
        h = observation.log_price.shape[1] - 1
        if h % self.every == 0:
            self.policy = self.build(self.market.window(0, self.warmup + h))
        return self.policy.act(observation, state, generator)


def backtest(
    policy: Policy | Builder,
    market: Market,
    *,
    model: WorldModel | Ensemble | None = None,
    path: Dream | None = None,
    warmup: int,
    account: Account | None = None,
    contract: VolatilityContract | None = None,
    generator: torch.Generator | None = None,
    every: int | None = None,
) -> Backtest:
    """Trade a policy through a market (chapter 11).

    Args:
        policy: decides before each bar; with ``every``, what builds one from a ``Market``.
        market: B paths of T bars.
        model: whose forecasts the policy is shown; None shows a reward of 0 and a risk of 1.
        path: the market after its warm-up with the forecasts of something else, from
            ``foreseen``, instead of a model's.
        warmup: bars before the first decision, >= 1; H = T - warmup bars are traded. A contract's
            strike needs about 200 of them to forget where it started.
        account: costs, margin and liquidation; None takes the default ones at the market's bar.
        contract: is quoted beside the asset, from the strike that the warm-up leads to.
        generator: for policies that draw.
        every: walk forward: the builder is called before the first decision and again every so
            many ticks, each time with the bars that have closed by then (of a simulated market,
            with their latent variance too). Its policy trades until the next.

    Raises:
        ValueError: a warm-up that leaves nothing, ``every`` below 1, an account that charges
            funding for bars of another length, and what ``watch`` and ``replay`` refuse.
        TypeError: a policy that cannot act, or with ``every`` a builder that cannot be called.
        BacktestError: the policy or its builder raised something, or the account refuses what it
            wants; the error keeps what was traded.
    """
    n_ticks = market.features.shape[1]
    if not 1 <= warmup < n_ticks:
        raise ValueError(f"warmup must lie between 1 and {n_ticks - 1} ticks, got {warmup}")
    if every is not None and every < 1:
        raise ValueError(f"every must be at least 1 tick, got {every}")
    if every is None and not hasattr(policy, "act"):
        raise TypeError(f"policy must have a method act, got {policy!r}; a builder needs every")
    if every is not None and not callable(policy):
        raise TypeError(f"policy must be a builder (Market -> Policy) with every, got {policy!r}")
    account = Account(AccountConfig(bar=market.bar)) if account is None else account
    terms = account.config
    if terms.funding and abs(terms.bar / market.bar - 1) > 1e-6:
        raise ValueError(
            f"account charges funding for bars of {terms.bar:.6g} years, the market's have "
            f"{market.bar:.6g}"
        )
    trader = policy if every is None else WalkForward(policy, market, warmup, every)
    if path is not None and (model is not None or path.horizon != n_ticks - warmup):
        raise ValueError(
            f"path must have {n_ticks - warmup} bars and no model beside it, got {path.horizon}"
        )
    path = _seen(market, model, warmup) if path is None else path
    if contract is not None:
        strike = contract.strikes(market.features[:, :warmup].double())[:, -1]
        path = quote(path, contract, strike)
    try:
        episode = replay(trader, path, account, generator=generator)
    except PolicyError as error:
        raise BacktestError(error, _record(error.episode, market, warmup)) from error.__cause__
    return _record(episode, market, warmup)


def _seen(market: Market, model: WorldModel | Ensemble | None, warmup: int) -> Dream:
    """The market as the policy is shown it."""
    if model is not None:
        return watch(model, market, warmup)
    nothing = torch.zeros(market.features.shape[:2], dtype=torch.float64)[:, 1:]
    return foreseen(market, nothing, nothing + 1, warmup)


def _record(episode: Episode, market: Market, warmup: int) -> Backtest:
    """An episode with the market's clock; shorter than the market if the policy failed."""
    before = episode.equity[:, :-1]
    traded = episode.flows.traded.abs()
    n_values = episode.equity.shape[1]
    return Backtest(
        bar=market.bar,
        equity=episode.equity,
        leverage=episode.leverage,
        contracts=episode.contracts,
        traded=torch.where(before > 0, traded / before, 0.0),
        ruined=episode.ruined,
        time=market.time[warmup - 1 :][:n_values],
    )
