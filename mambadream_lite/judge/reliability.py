"""Whether what is called 70 % comes true in 70 % of all cases (chapter 11).

The Brier score of stated probabilities, taken apart after Murphy (1973), and a frequency per bin
with a band from a block bootstrap, since neighbouring decisions share a future.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import beta

FEWEST_BLOCKS = 8


@dataclass(frozen=True)
class Reliability:
    """Stated probabilities against what came, in K bins; NaN where a bin is empty.

    brier = reliability - resolution + uncertainty + within_variance - within_covariance

    Murphy's identity has the first three terms and holds if all probabilities in a bin are equal;
    the other two (Stephenson et al., 2008) make it exact for any.

    Attributes:
        edges: (K + 1,) of the bins; each holds its lower edge, the last one both.
        count: (K,) decisions in each bin.
        stated: (K,) mean stated probability.
        frequency: (K,) share that came true.
        low, high: (K,) 95 % band of ``frequency``: of the block bootstrap, and nowhere narrower
            than that of independent decisions (Clopper and Pearson, 1934). A bootstrap alone
            takes a bin in which nothing came for certain.
        brier: mean squared distance of stated probability and outcome; lower is better.
        reliability: part of it that recalibration would remove; 0 is calibrated.
        resolution: how far the bins' frequencies differ from the base rate; higher is better.
        uncertainty: Brier score of always stating the base rate.
        within_variance: of the stated probabilities inside their bins.
        within_covariance: twice that of stated probability and outcome inside the bins.
    """

    edges: np.ndarray
    count: np.ndarray
    stated: np.ndarray
    frequency: np.ndarray
    low: np.ndarray
    high: np.ndarray
    brier: float
    reliability: float
    resolution: float
    uncertainty: float
    within_variance: float
    within_covariance: float

    @property
    def calibrated(self) -> np.ndarray:
        """(K,) bool: does the band hold the mean stated probability? False for an empty bin."""
        return (self.low <= self.stated) & (self.stated <= self.high)


def reliability(
    stated: np.ndarray,
    came: np.ndarray,
    bins: int | np.ndarray = 10,
    *,
    block: int | np.ndarray,
    seed: int,
    n_boot: int = 1000,
) -> Reliability:
    """Hold stated probabilities against what came (chapter 11).

    Args:
        stated: (N,) probabilities, one a decision.
        came: (N,) bool, or 0 and 1.
        bins: number of bins of equal width, or their edges, ascending from 0 to 1.
        block: ids (N,) of the blocks that are drawn as wholes, such as the market's path; or a
            length in decisions, which stand in their order in time. 1 takes decisions for
            independent; those whose futures overlap are not.
        seed: of the bootstrap.
        n_boot: resamples.

    Raises:
        ValueError: probabilities outside [0, 1], outcomes other than 0 and 1, shapes that do not
            agree, bins that do not ascend from 0 to 1, fewer than 8 blocks.
    """
    f, o = np.asarray(stated, dtype=np.float64), np.asarray(came, dtype=np.float64)
    edges = np.linspace(0.0, 1.0, bins + 1) if np.ndim(bins) == 0 else np.asarray(bins, float)
    if len(edges) < 2 or edges[0] != 0 or edges[-1] != 1 or not (np.diff(edges) > 0).all():
        raise ValueError(f"bins must be at least 1, or edges ascending from 0 to 1, got {bins}")
    if f.ndim != 1 or o.shape != f.shape:
        raise ValueError(f"stated and came must both be (N,), got {f.shape} and {o.shape}")
    if not ((f >= 0) & (f <= 1)).all():
        raise ValueError(f"stated must lie in [0, 1], got {f[~((f >= 0) & (f <= 1))][0]}")
    if not np.isin(o, (0.0, 1.0)).all():
        raise ValueError(f"came must be 0 or 1, got {o[~np.isin(o, (0.0, 1.0))][0]}")
    blocks = _block_of(block, len(f))

    n_bins = len(edges) - 1
    k = np.searchsorted(edges[1:-1], f, side="right")  # (N,) bin of each decision
    count = np.bincount(k, minlength=n_bins)
    with np.errstate(invalid="ignore"):
        mean_stated = np.bincount(k, f, n_bins) / count
        frequency = np.bincount(k, o, n_bins) / count
    off, hit = f - mean_stated[k], o - frequency[k]
    low, high = _bands(k, o, blocks, n_bins, seed, n_boot)
    return Reliability(
        edges=edges,
        count=count,
        stated=mean_stated,
        frequency=frequency,
        low=low,
        high=high,
        brier=float(((f - o) ** 2).mean()),
        reliability=float(((mean_stated - frequency)[k] ** 2).mean()),
        resolution=float(((frequency[k] - o.mean()) ** 2).mean()),
        uncertainty=float(o.mean() * (1 - o.mean())),
        within_variance=float((off**2).mean()),
        within_covariance=float(2 * (off * hit).mean()),
    )


def _block_of(block: int | np.ndarray, n: int) -> np.ndarray:
    """(N,) number of each decision's block, from 0 on."""
    if np.ndim(block) == 0:
        if block < 1:
            raise ValueError(f"block must be at least 1 decision, got {block}")
        blocks = np.arange(n) // block
    elif np.shape(block) == (n,):
        blocks = np.unique(block, return_inverse=True)[1]
    else:
        raise ValueError(f"block must be a length or ids ({n},), got shape {np.shape(block)}")
    if n == 0 or blocks.max() + 1 < FEWEST_BLOCKS:
        raise ValueError(
            f"block leaves {len(np.unique(blocks))} blocks of {n} decisions; an interval needs "
            f"at least {FEWEST_BLOCKS}"
        )
    return blocks


def _bands(
    k: np.ndarray, o: np.ndarray, blocks: np.ndarray, n_bins: int, seed: int, n_boot: int
) -> tuple[np.ndarray, np.ndarray]:
    """95 % of the bins' frequencies (K,) when whole blocks are drawn again, or more."""
    n_blocks = int(blocks.max()) + 1
    cell = blocks * n_bins + k
    shape = (n_blocks, n_bins)
    counts = np.bincount(cell, minlength=n_blocks * n_bins).reshape(shape)
    hits = np.bincount(cell, o, n_blocks * n_bins).reshape(shape)
    rng = np.random.default_rng(seed)
    times = rng.multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), n_boot)  # each was drawn
    n = times @ counts
    drawn = np.divide(times @ hits, n, out=np.full(n.shape, np.nan), where=n > 0)
    low, high = np.full((2, n_bins), np.nan)
    seen = counts.sum(0) > 0
    low[seen], high[seen] = np.nanquantile(drawn[:, seen], [0.025, 0.975], axis=0)
    yes, total = hits.sum(0), counts.sum(0)
    least = np.where(yes == 0, 0.0, beta.ppf(0.025, yes, total - yes + 1))
    most = np.where(yes == total, 1.0, beta.ppf(0.975, yes + 1, total - yes))
    return np.minimum(low, least), np.maximum(high, most)  # NaN where a bin is empty
