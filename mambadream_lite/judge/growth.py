"""What more data, another seed and longer windows do to a world model (chapters 04 and 05).

    python -m mambadream_lite.judge.growth

trains the book's model on 2, 20 and 200 years of bars with several seeds, and measures each
after its short windows and after its long ones: the distance to the limit, and the drift of its
dreams. Hours on one core. Checkpoints are kept in ``_build/growth``, so that a run goes on
where it stopped; the results go to ``data/benchmarks/growth.json``.
"""

from __future__ import annotations

import argparse
import functools
import json
from dataclasses import asdict
from pathlib import Path

import torch
from tqdm.auto import tqdm

from mambadream_lite.judge.drift import volatility_drift
from mambadream_lite.judge.limit import WARMUP, limit_gap
from mambadream_lite.market import bayes_filter
from mambadream_lite.market.benchmark import machine, rounded, write_json
from mambadream_lite.model import load_world_model
from mambadream_lite.model.recipes import (
    HESTON_STAGES,
    PARAMS,
    TEST_SEED,
    Recipe,
    heston_data,
    heston_market,
    make,
)

SEEDS = {200: (0, 1, 2, 3, 4), 20: (0, 1), 2: (0, 1)}  # by paths of about a year each
STAGES = ("short windows", "long windows")
CONTEXT_SEED, N_CONTEXTS, CONTEXT = 105, 1024, 500


def trained(n_paths: int, seed: int, stage: int, work: Path) -> Path:
    """The checkpoint of one training run after a stage; trained if it is not there."""
    name = f"heston-{n_paths}-{seed}"
    path = work / f"{name}-{stage}.safetensors"
    if not path.exists():
        base = None if stage == 0 else trained(n_paths, seed, stage - 1, work)
        data = functools.partial(heston_data, n_paths)
        recipe = Recipe(data, {}, HESTON_STAGES[stage : stage + 1], seed=seed)
        make(name, recipe, path, base=base)
    return path


def main() -> None:
    """Command line: ``python -m mambadream_lite.judge.growth [--work FOLDER] [--out FILE]``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--work", type=Path, default=Path("_build/growth"))
    parser.add_argument("--out", type=Path, default=Path("data/benchmarks/growth.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    market = heston_market(100, 2_001 + WARMUP, TEST_SEED)
    best = bayes_filter(market, PARAMS)
    context = heston_market(N_CONTEXTS, CONTEXT, CONTEXT_SEED)

    done = json.loads(args.out.read_text())["rows"] if args.out.exists() else []
    known = {(row["paths"], row["seed"], row["stage"]) for row in done}
    wanted = [(n, s, i) for n, seeds in SEEDS.items() for s in seeds for i in range(len(STAGES))]
    for n_paths, seed, stage in tqdm(wanted, desc="models"):
        if (n_paths, seed, STAGES[stage]) in known:
            continue
        model, metrics = load_world_model(trained(n_paths, seed, stage, args.work))
        gap = asdict(limit_gap(model, market, best))
        drift = volatility_drift(model, context, PARAMS, seed=CONTEXT_SEED)
        row = {"paths": n_paths, "seed": seed, "stage": STAGES[stage]}
        row |= {"best_step": metrics["best_step"], "limit": rounded(gap)}
        done.append(row | {"drift": [rounded(asdict(d)) for d in drift]})
        content = {
            "what": "nats a tick below the Bayes filter, and volatility of dreams against truth",
            "ticks": best.log_score[:, WARMUP + 1 :].numel(),
            "contexts": N_CONTEXTS,
            "machine": machine(),
            "rows": sorted(done, key=lambda r: (-r["paths"], r["seed"], r["stage"] == STAGES[1])),
        }
        write_json(args.out, content)


if __name__ == "__main__":
    main()
