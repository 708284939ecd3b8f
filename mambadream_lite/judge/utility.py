"""What a policy earns in a market whose truth is known, with the luck taken out (chapter 07).

A return is mostly luck. The simulator knows how much of it nobody could have foreseen, and since
a position is taken before that part is drawn, the part has mean zero whatever the policy is.
Taking it away changes no policy's mean and most of its noise: a control variate.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mambadream_lite.agent.policies import Policy
from mambadream_lite.agent.trading import Episode, replay
from mambadream_lite.dream.rollout import Dream
from mambadream_lite.market.account import BP, Account
from mambadream_lite.market.features import IMBALANCE, Market
from mambadream_lite.market.heston import HestonParams
from mambadream_lite.market.order_book import Edge

LEAST = 1e-3  # an account below a thousandth of its start counts as that


def true_mean(
    market: Market, params: HestonParams, warmup: int, edge: Edge | None = None
) -> Tensor:
    """E[simple return | latent variance, imbalance] of each bar after the warm-up, (B, H).

    Args:
        market: simulated, with its latent variance.
        params, edge: of the simulation; ``Edge()`` if None.
        warmup: as in ``watch``.
    """
    v = market.variance[:, warmup:-1]
    v_next = params.theta + (v - params.theta) * np.exp(-params.kappa * market.bar)
    scale = (0.5 * market.bar * (1 - params.rho**2) * (v + v_next)).sqrt()
    book = market.features[:, warmup - 1 : -1, IMBALANCE].double().numpy()
    edge = Edge() if edge is None else edge
    return params.mu * market.bar + scale * torch.from_numpy(edge.shock_mean(book))


def growth(episode: Episode, path: Dream, expected: Tensor) -> tuple[Tensor, Tensor]:
    """Growth of log equity of each path (N,), basis points a tick: as it came, and without luck.

    Args:
        episode: from ``replay`` on ``path``.
        path: what was traded.
        expected: (N, H) mean simple return of each tick, from ``true_mean``.
    """
    surprise = path.log_price.diff(dim=1).exp() - 1 - expected
    luck = (episode.leverage * surprise).mean(1) / BP
    came = episode.equity[:, -1].clamp(min=LEAST).log() / path.horizon / BP
    return came, came - luck


def tune(candidates: list[Policy], path: Dream, account: Account) -> Policy:
    """The policy that grows most along dreams, by the model's own expectation."""
    scores = [growth(replay(p, path, account), path, path.reward)[1].mean() for p in candidates]
    return candidates[int(np.argmax(scores))]
