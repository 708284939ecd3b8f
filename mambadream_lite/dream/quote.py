"""The volatility contract quoted along a path, dreamt or real (chapter 08).

Strikes follow from what everybody has seen by the contract's public rule, and payoffs from the
volatility that came: the same function for a dream and for the market.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from torch import Tensor

from mambadream_lite.dream.rollout import Dream
from mambadream_lite.market.contract import VolatilityContract
from mambadream_lite.market.features import VOLATILITY


@dataclass(frozen=True)
class Quoted(Dream):
    """A ``Dream`` on which the volatility contract can be traded too.

    Attributes:
        strike: (N, H + 1) variance a year; column h is known before tick h.
        payoff: (N, H) of one unit bought before tick h, settled at its close.
    """

    strike: Tensor
    payoff: Tensor


def quote(path: Dream, contract: VolatilityContract, strike: Tensor) -> Quoted:
    """Quote a contract along N paths.

    Args:
        path: from ``dream`` or ``watch``.
        contract: the public rule.
        strike: (B,) in force for the first tick, of each of the B contexts that the N paths
            start from, context-major: the last column of ``contract.strikes(context)``.

    Raises:
        ValueError: N is no multiple of B, or a strike that is not above zero.
    """
    if len(strike) == 0 or len(path) % len(strike):
        raise ValueError(f"strike must divide the {len(path)} paths evenly, got {len(strike)}")
    if not (strike > 0).all():
        raise ValueError(f"strike must be above 0, got {strike[~(strike > 0)][0].item()}")
    start = strike.double().repeat_interleave(len(path) // len(strike))
    strikes = contract.strikes(path.features.double(), start=start)
    payoff = contract.payoff(path.features[..., VOLATILITY].double(), strikes[:, :-1])
    same = {f.name: getattr(path, f.name) for f in fields(Dream)}
    return Quoted(**same, strike=strikes, payoff=payoff)
