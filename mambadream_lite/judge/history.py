"""Few real days: models of the S&P 500 against GJR-GARCH-t on 2007 to 2018 (chapter 04).

    python -m mambadream_lite.judge.history

trains on the days before 2007, alone and after many simulated worlds, scores velocity on the
years after, and writes ``data/benchmarks/sp500.json``. Models train on the days to 2004 and stop
by 2005 and 2006; GARCH is fitted to all of them.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from mambadream_lite.judge.scores import block_mean
from mambadream_lite.market import Garch, Market, load_sp500
from mambadream_lite.market.benchmark import machine, write_json
from mambadream_lite.market.features import VELOCITY
from mambadream_lite.model import Ensemble, WorldModel, load_world_model
from mambadream_lite.model.recipes import RECIPES, SP500_SPLIT, make

BLOCK = 60  # days; a storm lasts about as long
SEEDS = (0, 1, 2, 3, 4)


def garch_scores(market: Market) -> Tensor:
    """Log scores (T - 1,) of GJR-GARCH-t fitted to the days before the test, nats a day."""
    start, _, test, _ = SP500_SPLIT
    garch = Garch.fit(market.between(start, test), asymmetric=True)
    return garch.forecast(market).log_prob(market.features[:, 1:, VELOCITY].double())[0]


@torch.no_grad()
def model_scores(model: WorldModel | Ensemble, market: Market) -> Tensor:
    """Log scores (T - 1,) of the model's velocity, each day from all the days before it."""
    law, _, _ = model(market.features[:, :-1])
    return law.margin_log_prob(market.features[:, 1:])[0, :, VELOCITY].double()


def over_garch(model: WorldModel | Ensemble, market: Market, garch: Tensor) -> tuple[float, float]:
    """Mean log score of 2007 to 2018 above GARCH's, nats a day, and its block standard error."""
    first, last = np.searchsorted(market.time, np.array(SP500_SPLIT[2:], dtype=market.time.dtype))
    days = slice(first - 1, last - 1)  # score t is of day t + 1
    return block_mean((model_scores(model, market) - garch)[None, days], BLOCK)


def main() -> None:
    """Command line: ``python -m mambadream_lite.judge.history [--work FOLDER] [--out FILE]``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--work", type=Path, default=Path("_build/history"))
    parser.add_argument("--out", type=Path, default=Path("data/benchmarks/sp500.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    market = load_sp500()
    garch = garch_scores(market)
    worlds = Path("data/worlds.safetensors")
    models: dict[str, list[WorldModel]] = {"worlds": [load_world_model(worlds)[0]]}
    for name in ("sp500-alone", "sp500"):
        models[name] = []
        for seed in tqdm(SEEDS, desc=name):
            path = args.work / f"{name}-{seed}.safetensors"
            if not path.exists():
                base = worlds if RECIPES[name].base else None
                make(name, replace(RECIPES[name], seed=seed), path, base=base, progress=False)
            models[name].append(load_world_model(path)[0])
    rows = []
    for name, members in models.items():
        for seed, member in zip(SEEDS, members, strict=False):
            mean, error = over_garch(member, market, garch)
            rows.append(
                {"model": name, "seed": seed, "nats": round(mean, 5), "se": round(error, 5)}
            )
        if len(members) > 1:
            mean, error = over_garch(Ensemble(members), market, garch)
            rows.append(
                {"model": name, "seed": "ensemble", "nats": round(mean, 5), "se": round(error, 5)}
            )
    content = {
        "what": "log score of the S&P 500's velocity, 2007 to 2018, above GJR-GARCH-t's; a day",
        "block_days": BLOCK,
        "machine": machine(),
        "rows": rows,
    }
    write_json(args.out, content)
    print(json.dumps(content, indent=2))


if __name__ == "__main__":
    main()
