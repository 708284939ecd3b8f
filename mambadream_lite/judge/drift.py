"""Whether a dream keeps the market's volatility, tick after tick (chapter 05).

Each dream begins with a context whose latent variance is known, so the truth can be started
again from that variance. Over many contexts, volatility h ticks later has one distribution in
the dream and one in the truth; the Kolmogorov-Smirnov distance says how far they are apart, and
the same distance among truths how far chance alone takes it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import ks_2samp

from mambadream_lite.dream.rollout import dream
from mambadream_lite.market import HestonParams, Market, make_heston_market
from mambadream_lite.market.features import VOLATILITY
from mambadream_lite.model import Ensemble, WorldModel

HORIZONS = (50, 100, 200, 500, 1000)
N_TRUTHS = 20


@dataclass(frozen=True)
class Drift:
    """The volatility of dreams against that of the truth, ``horizon`` ticks after the start.

    Attributes:
        ks: Kolmogorov-Smirnov distance between the dreams and all truths together.
        band: the largest such distance of one truth from the other 19: about 1 in 20 exceeds it.
        bias: mean log volatility of the dreams less that of the truths; 0.1 is 10 % too high.
        spread: sd of log volatility in the dreams over that in the truths.
    """

    horizon: int
    ks: float
    band: float
    bias: float
    spread: float


def restarted_truths(
    context: Market, params: HestonParams, n_steps: int, *, seed: int, n_truths: int = N_TRUTHS
) -> np.ndarray:
    """Volatility (n_truths, B, n_steps) that follows the last latent variance of each context."""
    if context.variance is None:
        raise ValueError("context must be a simulated market: its latent variance is needed")
    v0 = context.variance[:, -1].numpy()
    return np.stack(
        [
            make_heston_market(params, len(v0), n_steps, seed=seed + i, v0=v0)
            .features[..., VOLATILITY]
            .numpy()
            for i in range(n_truths)
        ]
    )


def compare(dreams: np.ndarray, truths: np.ndarray, horizons: tuple[int, ...]) -> list[Drift]:
    """Volatility of dreams (N, H) against truths (R, N, H) at each horizon."""
    rows = []
    for h in horizons:
        told, real = dreams[:, h - 1], truths[:, :, h - 1]
        others = [np.delete(real, i, axis=0).ravel() for i in range(len(real))]
        band = max(ks_2samp(a, b).statistic for a, b in zip(real, others, strict=True))
        rows.append(
            Drift(
                horizon=h,
                ks=float(ks_2samp(told, real.ravel()).statistic),
                band=float(band),
                bias=float(told.mean() - real.mean()),
                spread=float(told.std() / real.std()),
            )
        )
    return rows


def volatility_drift(
    model: WorldModel | Ensemble,
    context: Market,
    params: HestonParams,
    *,
    horizons: tuple[int, ...] = HORIZONS,
    seed: int,
) -> list[Drift]:
    """Dream once from each context and compare with the truth (chapter 05).

    Args:
        model: the world model.
        context: B simulated paths; the more, the finer the comparison.
        params: of the market that ``context`` came from.
        horizons: ticks after the start, ascending.
        seed: of the dreams; the truths take the 20 numbers from 1,000 above it.

    Raises:
        ValueError: a context whose latent variance is not known.
    """
    truths = restarted_truths(context, params, horizons[-1], seed=seed + 1000)
    generator = torch.Generator().manual_seed(seed)
    dreams = dream(model, context, n_dreams=1, horizon=horizons[-1], generator=generator)
    return compare(dreams.features[..., VOLATILITY].numpy(), truths, horizons)
