"""The best trader of the Heston market: dynamic programming over what matters (chapter 02).

The edge lives in the imbalance, its size in the volatility, and the cost in the position held.
So the value of a state is a table over (imbalance, variance, position), and the best action
solves Bellman's equation (Bellman, 1957). The variance is taken as known: who runs the optimal
filter knows it to a few per cent, and the table is flat on that scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import norm
from torch import Tensor

from mambadream_lite.agent.policies import Observation
from mambadream_lite.market.account import AccountConfig, AccountState
from mambadream_lite.market.features import IMBALANCE
from mambadream_lite.market.heston import HestonParams
from mambadream_lite.market.order_book import Edge

N_IMBALANCE = 121  # points of the table
REACH = 4.0  # sds of imbalance that the table covers
DISCOUNT = 0.98  # a bar: a look of 50 bars, five times the memory of the imbalance
TOLERANCE = 1e-7  # log growth, a thousandth of a basis point: what the last sweep may still change


@dataclass(frozen=True)
class OptimalRule:
    """Trades the planted edge as well as it can be traded (a ``Policy``).

    Attributes:
        levels: (L,) leverages that it chooses from, ascending.
        imbalance: (I,) points of the table.
        risk: (G,) sd of the next log return at each variance of the table, ascending.
        choice: (I, G, L) index of the level to go to, given the level held.
    """

    levels: Tensor
    imbalance: Tensor
    risk: Tensor
    choice: Tensor

    @classmethod
    def solve(
        cls,
        params: HestonParams,
        account: AccountConfig,
        *,
        edge: Edge | None = None,
        levels: tuple[float, ...] = (-1.0, 0.0, 1.0),
    ) -> OptimalRule:
        """Value iteration for expected log growth a bar, after costs.

        Args:
            params, edge: the market; ``Edge()`` if None.
            account: costs and bar length.
            levels: leverages allowed, within the account's ``max_leverage``.

        Raises:
            ValueError: levels beyond the limit, or not ascending.
        """
        if list(levels) != sorted(set(levels)) or max(map(abs, levels)) > account.max_leverage:
            raise ValueError(f"levels must ascend within +-{account.max_leverage}, got {levels}")
        from mambadream_lite.market.bayes_grid import Transitions, variance_grid

        edge = Edge() if edge is None else edge
        grid = variance_grid(params, account.bar)
        steps = Transitions.of(params, grid, account.bar)
        imbalance = np.linspace(-REACH, REACH, N_IMBALANCE)
        leverage = np.array(levels)

        _, base, own, square, cross = steps.forecast.T  # (G,) each
        tilt = edge.shock_mean(imbalance)[:, None]
        # without the edge the price is a martingale but for mu, whatever the variance does
        gain = params.mu * account.bar + tilt * own  # (I, G) of the simple return
        variance = square + 2 * tilt * cross - (base + tilt * own) ** 2
        growth = gain[..., None] * leverage - 0.5 * variance[..., None] * leverage**2
        cost = account.turnover_cost * np.abs(leverage[:, None] - leverage)  # (held, next)
        reward = growth[:, :, None, :] - cost  # (I, G, held, next)

        to_imbalance = norm.pdf(imbalance, edge.persistence * imbalance[:, None], edge.noise)
        to_imbalance /= to_imbalance.sum(1, keepdims=True)
        to_variance = steps.matrix()
        value = np.zeros(growth.shape)  # (I, G, L): of arriving with a level
        change = np.inf
        while change > TOLERANCE:
            ahead = np.einsum("ij,jgl,hg->ihl", to_imbalance, value, to_variance, optimize=True)
            options = reward + DISCOUNT * ahead[:, :, None, :]
            best = options.max(-1)
            change, value = np.abs(best - value).max(), best
        return cls(
            levels=torch.tensor(leverage),
            imbalance=torch.tensor(imbalance),
            risk=torch.tensor(np.sqrt(square - base**2)),
            choice=torch.tensor(options.argmax(-1)),
        )

    def act(
        self, observation: Observation, state: AccountState, generator: torch.Generator | None
    ) -> Tensor:
        """The table's choice at the nearest point; the variance is read off the predicted risk."""
        i = _nearest(self.imbalance, observation.features[:, IMBALANCE])
        g = _nearest(self.risk, observation.risk)
        held = _nearest(self.levels, state.leverage)
        return self.levels[self.choice[i, g, held]]


def _nearest(points: Tensor, x: Tensor) -> Tensor:
    """Index of the point nearest to each x; ``points`` ascend."""
    middle = 0.5 * (points[1:] + points[:-1])
    return torch.searchsorted(middle, x.to(points).contiguous())
