"""Whether stated probabilities come true: margins, intervals, and sums over a dream (chapter 04).

    python -m mambadream_lite.judge.calibration data/heston.safetensors

writes ``data/benchmarks/calibration.json``.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.stats import binomtest, kstest
from torch import Tensor

from mambadream_lite.dream.rollout import dream
from mambadream_lite.judge.limit import CHUNK, WARMUP
from mambadream_lite.judge.scores import block_mean, crps, pit
from mambadream_lite.market import HarVar, Market
from mambadream_lite.market.benchmark import machine, rounded, write_json
from mambadream_lite.market.features import FEATURES, VELOCITY
from mambadream_lite.model import WorldModel, load_world_model
from mambadream_lite.model.recipes import TEST_SEED, TRAIN_SEED, heston_market

BLOCK = 500
SUM = 20  # ticks of the sum that a dream is asked about
CONTEXT, N_CONTEXTS, N_DREAMS, N_DRAWS = 300, 4000, 99, 50


@dataclass(frozen=True)
class Coverage:
    """How often what came lay in the central interval that was said to hold it.

    Attributes:
        stated: probability of the interval.
        share: of the values that lay in it.
        low, high: 95 % interval of the true share, if the values were independent
            (Clopper and Pearson, 1934).
        error: standard error of ``share`` from means of blocks, if they are not.
    """

    stated: float
    share: float
    low: float
    high: float
    error: float


def coverage(levels: Tensor, stated: float, block: int = BLOCK) -> Coverage:
    """Coverage of a central interval, read off probability integral transforms (B, T)."""
    inside = (levels - 0.5).abs() < 0.5 * stated
    bounds = binomtest(int(inside.sum()), inside.numel()).proportion_ci(method="exact")
    share, error = block_mean(inside.double(), block)
    return Coverage(stated, share, bounds.low, bounds.high, error)


@torch.no_grad()
def sum_pit(
    model: WorldModel,
    market: Market,
    *,
    horizon: int = SUM,
    n_dreams: int = N_DREAMS,
    generator: torch.Generator,
) -> Tensor:
    """Where the last ``horizon`` log returns' sum lies among as many dreams of it (chapter 04).

    The rank of the truth among the dreams, ties and the space between ranks filled by chance: it
    is uniform on [0, 1] exactly if the truth is one more draw from the dreams' law.

    Args:
        model: the world model.
        market: B paths; all but the last ``horizon`` ticks are the context.
        horizon: ticks that are summed.
        n_dreams: futures of each context.
        generator: source of the dreams, and of what breaks ties.

    Returns:
        (B,) probability integral transforms.
    """
    n_ticks = market.features.shape[1]
    context = market.window(0, n_ticks - horizon)
    dreams = dream(model, context, n_dreams=n_dreams, horizon=horizon, generator=generator)
    told = (dreams.log_price[:, -1] - dreams.log_price[:, 0]).view(-1, n_dreams)
    came = market.log_return[:, -horizon:].sum(1, keepdim=True)
    rank = (told < came).sum(1)
    return (rank + torch.rand(len(rank), generator=generator)) / (n_dreams + 1)


def main() -> None:
    """Command line: ``python -m mambadream_lite.judge.calibration CHECKPOINT [--out FILE]``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, default=Path("data/benchmarks/calibration.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(TEST_SEED)
    model, _ = load_world_model(args.checkpoint)
    market = heston_market(100, 2_001 + WARMUP, TEST_SEED)
    levels, model_crps = [], []
    for x in market.features.split(CHUNK):
        with torch.no_grad():
            law, _, _ = model(x[:, :-1])
        ahead = x[:, 1:]
        levels.append(pit(law, ahead)[:, WARMUP:])
        draws = torch.stack([law.sample(generator=generator) for _ in range(N_DRAWS)])
        model_crps.append(crps(draws, ahead)[:, WARMUP:])
    every, scores = torch.cat(levels), torch.cat(model_crps)
    har = HarVar.fit(heston_market(20, 20_000, TRAIN_SEED)).forecast(market)
    torch.manual_seed(TEST_SEED)
    ahead = market.features[:, 1:].double()
    old = crps(har.sample((N_DRAWS,)), ahead)[:, WARMUP:]
    margins = {}
    for i, name in enumerate(FEATURES):
        z = every[..., i]
        gain, error = block_mean(old[..., i] - scores[..., i], BLOCK)
        margins[name] = {
            "pit_ks": round(float(kstest(z.flatten().numpy(), "uniform").statistic), 5),
            "coverage": [rounded(asdict(coverage(z, p))) for p in (0.9, 0.99)],
            "crps": round(block_mean(scores[..., i], BLOCK)[0], 6),
            "crps_har_less_model": round(gain, 6),
            "crps_error": round(error, 6),
        }
    sums = sum_pit(
        model, heston_market(N_CONTEXTS, CONTEXT + SUM, TEST_SEED + 1000), generator=generator
    )
    test = kstest(sums.numpy(), "uniform")
    counts, _ = np.histogram(sums.numpy(), bins=20, range=(0, 1))
    content = {
        "what": "calibration of one-step margins, and of the sum of 20 returns by dreams",
        "ticks": every[..., VELOCITY].numel(),
        "draws_a_tick_for_crps": N_DRAWS,
        "machine": machine(),
        "margins": margins,
        "sum": {
            "ticks_summed": SUM,
            "contexts": N_CONTEXTS,
            "dreams_each": N_DREAMS,
            "counts": counts.tolist(),
            "ks": round(float(test.statistic), 5),
            "p_value": round(float(test.pvalue), 4),
            "coverage": [
                rounded(asdict(coverage(sums[None], p, N_CONTEXTS // 20))) for p in (0.9, 0.98)
            ],
        },
    }
    write_json(args.out, content)
    print(json.dumps(content, indent=2))


if __name__ == "__main__":
    main()
