"""The account: what a position earns, what it costs, and when it is liquidated (chapter 07).

Time: a leverage decided when bar t has closed is filled at the open of bar t + 1, half a
spread and a fee worse, and earns bar t + 1. State goes in and comes out; nothing is hidden.

Two instruments: the asset, held until it is sold, and the volatility contract of
``contract.py``, which is bought or sold at the open of a bar and settled at its close.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from mambadream_lite.market.heston import BARS_PER_YEAR

BP = 1e-4


@dataclass(frozen=True)
class AccountConfig:
    """Terms of trade (chapter 07).

    Attributes:
        half_spread: cost of crossing half the spread, basis points of the amount traded.
        fee: exchange fee, basis points of the amount traded.
        funding: yearly rate paid on the notional of a long and received on a short.
        contract_fee: half the bid-ask of the volatility contract and its fee, basis points of
            the notional; paid at every opening, and each bar's contract is a new one.
        max_leverage: largest |notional| / equity of each instrument that may be asked for, > 0.
        position_limit: largest |notional| of each instrument, as a multiple of the starting
            equity, > 0; what is asked for beyond it is cut to it.
        maintenance: equity below this share of all notional is liquidated, in [0, 1).
        bar: length of a bar in years.

    Raises:
        ValueError: a cost below zero, leverage not above zero, maintenance outside [0, 1).
    """

    half_spread: float = 0.5
    fee: float = 0.2
    funding: float = 0.0
    contract_fee: float = 2.0
    max_leverage: float = 100.0
    position_limit: float = math.inf
    maintenance: float = 0.004
    bar: float = 1 / BARS_PER_YEAR

    def __post_init__(self) -> None:
        if not (self.half_spread >= 0 and self.fee >= 0):
            raise ValueError(
                f"half_spread and fee must not be negative, got {self.half_spread}, {self.fee}"
            )
        if not self.contract_fee >= 0:
            raise ValueError(f"contract_fee must not be negative, got {self.contract_fee}")
        for name in ("max_leverage", "position_limit"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if not 0 <= self.maintenance < 1:
            raise ValueError(f"maintenance must lie in [0, 1), got {self.maintenance}")
        if not math.isfinite(self.funding):
            raise ValueError(f"funding must be a finite yearly rate, got {self.funding}")
        if not self.bar > 0:
            raise ValueError(f"bar must be a positive number of years, got {self.bar}")

    @property
    def turnover_cost(self) -> float:
        """Cost of trading one unit of notional, as a fraction."""
        return (self.half_spread + self.fee) * BP


@dataclass(frozen=True)
class Flows:
    """Money that moved in one bar, as multiples of the starting equity; all tensors alike.

    equity before + asset_pnl + contract_pnl
        = equity after + spread + fee + funding + contract_cost + forfeited

    Attributes:
        traded: notional of the asset bought at the open; negative if sold.
        spread, fee: what that cost.
        funding: paid on the asset held; negative where it is received.
        asset_pnl: earned by the asset.
        opened: notional of volatility contracts bought at the open; negative if sold.
        contract_cost, contract_pnl: what that cost, and earned at the close.
        forfeited: what the venue kept at a liquidation; negative is a debt that it writes off.
    """

    traded: Tensor
    spread: Tensor
    fee: Tensor
    funding: Tensor
    asset_pnl: Tensor
    opened: Tensor
    contract_cost: Tensor
    contract_pnl: Tensor
    forfeited: Tensor


@dataclass(frozen=True)
class AccountState:
    """N accounts at one moment; all tensors (N,), float64.

    Attributes:
        equity: wealth as a multiple of the start; 0 once ruined.
        leverage: notional of the asset / equity held now (negative is short).
        peak: highest equity so far.
        ruined: True once liquidated; it never turns back.
        flows: of the bar that led here.
    """

    equity: Tensor
    leverage: Tensor
    peak: Tensor
    ruined: Tensor
    flows: Flows

    @property
    def drawdown(self) -> Tensor:
        """(N,) loss from the peak, as a share of the peak, in [0, 1]."""
        return 1 - self.equity / self.peak


class Account:
    """N accounts that trade on margin (chapter 07).

    The whole equity is margin. An account is liquidated when its equity is at or below
    ``maintenance`` times the notional of both instruments: at the worst price inside the bar
    (the contract has none there and counts with its notional only), or at the close, when the
    contract is settled. The venue keeps what is left, and the account stays at zero.
    """

    def __init__(self, config: AccountConfig | None = None) -> None:
        self.config = AccountConfig() if config is None else config

    def open(self, n: int, leverage: float | Tensor = 0.0) -> AccountState:
        """``n`` accounts with equity 1 that hold ``leverage`` (one number or (n,)) already."""
        one = torch.ones(n, dtype=torch.float64)
        zero = torch.zeros_like(one)
        still = Flows(*[zero] * len(fields(Flows)))
        return AccountState(one, one * leverage, one, torch.zeros(n, dtype=torch.bool), still)

    def step(
        self,
        state: AccountState,
        target: Tensor,
        log_return: Tensor,
        high: Tensor,
        low: Tensor,
        *,
        contracts: Tensor | None = None,
        payoff: Tensor | None = None,
    ) -> AccountState:
        """Trade to ``target`` at the open of a bar, then live through the bar.

        Args:
            state: the N accounts before the bar.
            target: (N,) leverage wanted in the asset, |target| <= ``max_leverage``; or what is
                held, wherever the price has carried it.
            log_return: (N,) log return of the bar.
            high, low: (N,) extremes of the bar over the price of the fill, as ratios; with a
                gap at the open both may lie on one side of 1.
            contracts: (N,) leverage wanted in the volatility contract, likewise; None is 0.
            payoff: (N,) of one unit of the contract over the bar.

        Returns:
            The accounts after the bar; ``leverage`` has drifted with the price.

        Raises:
            ValueError: a target that is not finite or above ``max_leverage``, a bar that is not
                finite, contracts without a payoff.
        """
        self._check(state, target, log_return, high, low, contracts, payoff)
        c = self.config
        equity = state.equity
        target = self._allowed(target, state)
        change = target - state.leverage
        funding = c.funding * c.bar * target
        cost = c.turnover_cost * change.abs() + funding
        price = log_return.double().exp()
        growth = 1 + target * (price - 1)
        if contracts is None:
            contracts = fee = earned = torch.zeros_like(target)
        else:
            contracts = self._allowed(contracts, state)
            fee, earned = c.contract_fee * BP * contracts.abs(), contracts * payoff.double()
            cost, growth = cost + fee, growth + earned
        paid = equity * (1 - cost).clamp(min=0.0)

        notional = target.abs() * price + contracts.abs()
        called = (notional > 0) & (growth <= c.maintenance * notional)
        called = called | self.liquidated(target, high, low, contracts) | (paid * growth <= 0)
        ruined = state.ruined | called
        after = torch.where(ruined, 0.0, paid * growth)
        leverage = torch.where(ruined, 0.0, target * price / growth)
        traded = equity * change
        flows = Flows(
            traded=traded,
            spread=c.half_spread * BP * traded.abs(),
            fee=c.fee * BP * traded.abs(),
            funding=equity * funding,
            asset_pnl=paid * (target * (price - 1)),
            opened=equity * contracts,
            contract_cost=equity * fee,
            contract_pnl=paid * earned,
            # at a cost above the equity (paid 0) the venue is left with the difference
            forfeited=paid * growth - after + equity * (1 - cost).clamp(max=0.0),
        )
        return AccountState(after, leverage, torch.maximum(state.peak, after), ruined, flows)

    def liquidated(
        self, leverage: Tensor, high: Tensor, low: Tensor, contracts: Tensor | float = 0.0
    ) -> Tensor:
        """(N,) bool: does the worst price of the bar reach the liquidation price?"""
        worst = torch.where(leverage > 0, low.double(), high.double())
        equity = 1 + leverage * (worst - 1)
        notional = leverage.abs() * worst + abs(contracts)
        return (notional > 0) & (equity <= self.config.maintenance * notional)

    def liquidation_price(self, leverage: Tensor) -> Tensor:
        """Price ratio at which a position in the asset alone, opened at 1, is liquidated.

        Long: (1 - 1/L) / (1 - m). Short: (1 + 1/L) / (1 + m).
        """
        side = leverage.sign()
        return (1 - 1 / leverage) / (1 - side * self.config.maintenance)

    def _allowed(self, target: Tensor, state: AccountState) -> Tensor:
        """Nothing for the ruined; no more than the position limit for the rich."""
        target = torch.where(state.ruined, 0.0, target.double())
        if math.isinf(self.config.position_limit):
            return target
        room = self.config.position_limit / state.equity  # inf once equity is 0
        return torch.maximum(torch.minimum(target, room), -room)

    def _check(self, state, target, log_return, high, low, contracts, payoff) -> None:
        limit = self.config.max_leverage
        for name, wanted in (("target leverage", target), ("contracts", contracts)):
            if wanted is None:
                continue
            beyond = ~(wanted.abs() <= limit + 1e-9)
            if wanted is target:
                beyond = beyond & (target != state.leverage)  # no order, no limit
            if beyond.any():
                worst = wanted[beyond][0].item()
                raise ValueError(f"{name} must lie within +-{limit}, got {worst}")
        if (contracts is None) != (payoff is None):
            raise ValueError("contracts and payoff must be given together, or neither")
        for name, value in (
            ("log_return", log_return),
            ("high", high),
            ("low", low),
            ("payoff", payoff),
        ):
            if value is not None and not torch.isfinite(value).all():
                raise ValueError(f"{name} must be finite, got {value[~torch.isfinite(value)][0]}")
