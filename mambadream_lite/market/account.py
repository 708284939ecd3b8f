"""The account: what a position earns, what it costs, and when it is liquidated (chapter 07).

Time: a leverage decided when bar t has closed is filled at the open of bar t + 1, half a
spread and a fee worse, and earns bar t + 1. State goes in and comes out; nothing is hidden.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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
        max_leverage: largest |notional| / equity that may be asked for, > 0.
        maintenance: equity below this share of the notional is liquidated, in [0, 1).
        bar: length of a bar in years.

    Raises:
        ValueError: a cost below zero, leverage not above zero, maintenance outside [0, 1).
    """

    half_spread: float = 0.5
    fee: float = 0.2
    funding: float = 0.0
    max_leverage: float = 100.0
    maintenance: float = 0.004
    bar: float = 1 / BARS_PER_YEAR

    def __post_init__(self) -> None:
        if not (self.half_spread >= 0 and self.fee >= 0):
            raise ValueError(
                f"half_spread and fee must not be negative, got {self.half_spread}, {self.fee}"
            )
        if not self.max_leverage > 0:
            raise ValueError(f"max_leverage must be above 0, got {self.max_leverage}")
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
class AccountState:
    """N accounts at one moment; all tensors (N,), float64.

    Attributes:
        equity: wealth as a multiple of the start; 0 once ruined.
        leverage: notional / equity held now (negative is short).
        peak: highest equity so far.
        ruined: True once liquidated; it never turns back.
    """

    equity: Tensor
    leverage: Tensor
    peak: Tensor
    ruined: Tensor

    @property
    def drawdown(self) -> Tensor:
        """(N,) loss from the peak, as a share of the peak, in [0, 1]."""
        return 1 - self.equity / self.peak


class Account:
    """N accounts that trade one asset on margin (chapter 07).

    The whole equity is margin. An account is liquidated when, at the worst price inside the
    bar, its equity is at or below ``maintenance`` times its notional; the venue keeps what
    is left, and the account stays at zero.
    """

    def __init__(self, config: AccountConfig | None = None) -> None:
        self.config = AccountConfig() if config is None else config

    def open(self, n: int, leverage: float | Tensor = 0.0) -> AccountState:
        """``n`` accounts with equity 1 that hold ``leverage`` (one number or (n,)) already."""
        one = torch.ones(n, dtype=torch.float64)
        return AccountState(one, one * leverage, one, torch.zeros(n, dtype=torch.bool))

    def step(
        self, state: AccountState, target: Tensor, log_return: Tensor, high: Tensor, low: Tensor
    ) -> AccountState:
        """Trade to ``target`` at the open of a bar, then live through the bar.

        Args:
            state: the N accounts before the bar.
            target: (N,) leverage wanted, |target| <= ``max_leverage``.
            log_return: (N,) log return of the bar.
            high, low: (N,) extremes of the bar over the price of the fill, as ratios; with a
                gap at the open both may lie on one side of 1.

        Returns:
            The accounts after the bar; ``leverage`` has drifted with the price.

        Raises:
            ValueError: a target that is not finite or above ``max_leverage``, or a bar that is
                not finite.
        """
        limit = self.config.max_leverage
        if not (target.abs() <= limit + 1e-9).all():
            worst = target[~(target.abs() <= limit + 1e-9)][0].item()
            raise ValueError(f"target leverage must lie within +-{limit}, got {worst}")
        for name, value in (("log_return", log_return), ("high", high), ("low", low)):
            if not torch.isfinite(value).all():
                raise ValueError(f"{name} must be finite, got {value[~torch.isfinite(value)][0]}")
        target = torch.where(state.ruined, 0.0, target.double())
        cost = self.config.turnover_cost * (target - state.leverage).abs()
        cost = cost + self.config.funding * self.config.bar * target
        paid = state.equity * (1 - cost).clamp(min=0.0)

        price = log_return.double().exp()
        growth = 1 + target * (price - 1)
        ruined = state.ruined | self.liquidated(target, high, low) | (paid * growth <= 0)
        equity = torch.where(ruined, 0.0, paid * growth)
        leverage = torch.where(ruined, 0.0, target * price / growth)
        return AccountState(equity, leverage, torch.maximum(state.peak, equity), ruined)

    def liquidated(self, leverage: Tensor, high: Tensor, low: Tensor) -> Tensor:
        """(N,) bool: does the worst price of the bar reach the liquidation price?"""
        worst = torch.where(leverage > 0, low.double(), high.double())
        equity = 1 + leverage * (worst - 1)
        return (leverage != 0) & (equity <= self.config.maintenance * leverage.abs() * worst)

    def liquidation_price(self, leverage: Tensor) -> Tensor:
        """Price ratio at which a position opened at 1 is liquidated.

        Long: (1 - 1/L) / (1 - m). Short: (1 + 1/L) / (1 + m).
        """
        side = leverage.sign()
        return (1 - 1 / leverage) / (1 - side * self.config.maintenance)
