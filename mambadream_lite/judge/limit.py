"""How far a world model is from the best forecaster there is, on fresh Heston ticks (chapter 04).

    python -m mambadream_lite.judge.limit data/heston.safetensors ...

scores each checkpoint, and the ensemble of all of them, and writes ``data/benchmarks/limit.json``.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from mambadream_lite.judge.scores import block_mean
from mambadream_lite.market import Filtered, Garch, Market, bayes_filter
from mambadream_lite.market.benchmark import machine, rounded, write_json
from mambadream_lite.market.features import VELOCITY
from mambadream_lite.model import Ensemble, WorldModel
from mambadream_lite.model.recipes import PARAMS, TEST_SEED, heston_market

WARMUP, BLOCK = 100, 500  # ticks left out of each path; ticks of a block, beyond v's half-life
CHUNK = 20  # paths forecast at a time


@dataclass(frozen=True)
class LimitGap:
    """Nats a tick below the optimal forecaster on the same ticks, with block standard errors.

    Attributes:
        joint, joint_error: of all six features.
        velocity, velocity_error: of velocity alone.
        mean_correlation, sd_correlation: of the expected reward and of the predicted sd of
            velocity with what the optimal forecaster says.
    """

    joint: float
    joint_error: float
    velocity: float
    velocity_error: float
    mean_correlation: float
    sd_correlation: float


@torch.no_grad()
def limit_gap(model: WorldModel | Ensemble, market: Market, best: Filtered) -> LimitGap:
    """Compare a model with ``best``, the optimal forecaster's run over the same market."""
    joint, velocity, rewards, sds = [], [], [], []
    for x in market.features.split(CHUNK):
        law, reward, _ = model(x[:, :-1])
        ahead = x[:, 1:]
        joint.append(law.log_prob(ahead).double())
        velocity.append(law.margin_log_prob(ahead)[..., VELOCITY].double())
        rewards.append(reward.double())
        sds.append(law.stddev[..., VELOCITY].double())
    known = best.return_mean + 0.5 * best.return_sd.square()  # of the simple return

    def below(limit: torch.Tensor, scores: list[torch.Tensor]) -> tuple[float, float]:
        return block_mean((limit[:, 1:] - torch.cat(scores))[:, WARMUP:], BLOCK)

    def alike(said: list[torch.Tensor], truth: torch.Tensor) -> float:
        pair = torch.stack([torch.cat(said)[:, WARMUP:].flatten(), truth[:, WARMUP:-1].flatten()])
        return torch.corrcoef(pair)[0, 1].item()

    return LimitGap(
        *below(best.log_score, joint),
        *below(best.velocity_score, velocity),
        alike(rewards, known),
        alike(sds, best.return_sd),
    )


def main() -> None:
    """Command line: ``python -m mambadream_lite.judge.limit CHECKPOINT ...``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--paths", type=int, default=100, help="of 2,101 ticks each")
    parser.add_argument("--out", type=Path, default=Path("data/benchmarks/limit.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    market = heston_market(args.paths, 2_001 + WARMUP, TEST_SEED)
    best = bayes_filter(market, PARAMS)
    models = {path.name: Ensemble.load([path]).members[0] for path in args.checkpoints}
    if len(models) > 1:
        models["ensemble"] = Ensemble(list(models.values()))
    rows = {}
    for name, model in models.items():
        rows[name] = rounded(asdict(limit_gap(model, market, best)))
    garch = Garch.fit(heston_market(5, 20_000, TEST_SEED + 1), asymmetric=True).forecast(market)
    short = garch.log_prob(market.features[:, 1:, VELOCITY].double())
    gap, error = block_mean((best.velocity_score[:, 1:] - short)[:, WARMUP:], BLOCK)
    content = {
        "what": "nats a tick below the Bayes filter, with block standard errors",
        "ticks": best.log_score[:, WARMUP + 1 :].numel(),
        "test_seed": TEST_SEED,
        "machine": machine(),
        "gjr_garch_t": {"velocity": round(gap, 6), "velocity_error": round(error, 6)},
        "models": rows,
    }
    write_json(args.out, content)
    print(json.dumps(content, indent=2))


if __name__ == "__main__":
    main()
