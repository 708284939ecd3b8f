"""The volatility contract: the account's second instrument (chapters 02 and 08).

A belief about the price is traded in the asset. A belief about *volatility* needs something
whose payoff is volatility: a realised-variance swap that lives for one bar. Its buyer earns

    size * (min(realised / strike, CAP) - 1)

per unit of notional. The strike of the next bar follows by a public rule from what everybody
has seen, the same rule in the market and in a dream. The rule is score driven (Creal, Koopman
and Lucas, 2013): the surprise that is paid out is the surprise that moves the forecast,

    strike' = strike + pull * (level - strike) + sqrt(strike) * (gain * (min(realised / strike,
              CAP) - 1) + fear * z + jolt * (z^2 - 1)),

with z = return / sqrt(strike * bar), cut at +-4. Pull and level are Heston's kappa * bar and
theta; a fall (z < 0) and any large move raise the strike. The remaining three weights are fitted
on a market of their own. In the truth the swap is then a fair game, up to its bid and ask.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.optimize import minimize
from torch import Tensor

from mambadream_lite.market.features import (
    REFERENCE_VOLATILITY,
    VELOCITY,
    VOLATILITY,
    Market,
    check_features,
)
from mambadream_lite.market.heston import HestonParams

CAP = 4.0  # realised variance above four times the strike (twice in volatility) pays no more
CAP_Z = 4.0  # a return beyond four standard deviations moves the strike no further
LOWEST = 1e-4  # strike, variance a year: 1 % volatility
WARMUP = 200  # ticks after which a strike has forgotten where it started
GUESS = (0.015, -0.006, 1e-3)  # of gain, fear, jolt: where the fit starts


@dataclass(frozen=True)
class VolatilityContract:
    """A one-bar realised-variance swap with a bounded payoff and a public strike.

    Attributes:
        gain, fear, jolt, pull, level: weights of the strike's rule (see the module), per bar.
        size: earned by one unit of notional if the realised variance is twice the strike.
    """

    gain: float
    fear: float
    jolt: float
    pull: float
    level: float
    size: float = 0.01

    @classmethod
    def fit(cls, train: Market, params: HestonParams) -> VolatilityContract:
        """The weights whose strikes forecast best (least mean of ratio - log ratio).

        That loss is least where realised / strike is 1 on average, whatever the noise of the
        realised variance (Patton, 2011): where the contract is fair.

        Args:
            train: many paths of some 1,000 ticks serve best; not the market to be traded.
            params: of the market; they give pull and level.

        Raises:
            ValueError: paths no longer than two warm-ups, or a fit that did not converge.
        """
        features = train.features.double()
        if features.shape[1] <= 2 * WARMUP:
            raise ValueError(
                f"train must have more than {2 * WARMUP} ticks a path, got {features.shape[1]}"
            )
        realised = _realised(features[:, WARMUP:, VOLATILITY])
        drift = {"pull": params.kappa * train.bar, "level": params.theta}

        def contract(scaled) -> VolatilityContract:
            return cls(*(float(s * g) for s, g in zip(scaled, GUESS, strict=True)), **drift)

        def loss(scaled) -> float:
            ratio = realised / contract(scaled).strikes(features)[:, WARMUP:-1]
            return (ratio - ratio.log()).mean().item()

        options = {"xatol": 1e-3, "fatol": 1e-9}
        found = minimize(loss, [1.0] * len(GUESS), method="Nelder-Mead", options=options)
        if not found.success:
            raise ValueError(f"train: the fit of the strike did not converge: {found.message}")
        return contract(found.x)

    def strikes(self, features: Tensor, start: Tensor | None = None) -> Tensor:
        """Strikes (B, T + 1), variance a year: of each bar, and of the bar that comes next.

        Args:
            features: (B, T, 6), raw units, bar after bar.
            start: (B,) strike of the first bar: the last column of an earlier stretch. If None
                it is the first bar's own realised variance, and the first ``WARMUP`` bars are
                to be left out.
        """
        check_features(features, "features")
        realised = _realised(features[..., VOLATILITY]).unbind(1)
        move = (REFERENCE_VOLATILITY * features[..., VELOCITY]).unbind(1)
        strike = realised[0] if start is None else start.to(realised[0])
        strikes = [strike]
        for reading, step in zip(realised, move, strict=True):
            root = strike.sqrt()
            surprise = (reading / strike).clamp(max=CAP) - 1
            z = (step / root).clamp(-CAP_Z, CAP_Z)
            news = self.gain * surprise + self.fear * z + self.jolt * (z.square() - 1)
            strike = strike + self.pull * (self.level - strike) + root * news
            strike = strike.clamp(min=LOWEST)
            strikes.append(strike)
        return torch.stack(strikes, dim=1)

    def payoff(self, volatility: Tensor, strike: Tensor) -> Tensor:
        """What a buyer earns per unit of notional over a bar; the seller earns the negative.

        Args:
            volatility: the feature of that bar (log of volatility a year).
            strike: the one that was in force for it, same shape.

        Returns:
            Payoffs in [-size, (CAP - 1) size], same shape.
        """
        return self.size * ((_realised(volatility) / strike).clamp(max=CAP) - 1)


def _realised(volatility: Tensor) -> Tensor:
    return (2 * volatility).exp()
