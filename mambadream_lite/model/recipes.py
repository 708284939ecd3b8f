"""How each shipped checkpoint is made: one recipe a file in ``data/`` (chapters 04, 08 and 10).

    python -m mambadream_lite.model.recipes heston

trains ``data/heston.safetensors`` again. Sizes, seeds and dates stand here and nowhere else.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from mambadream_lite.market import (
    BARS_PER_YEAR,
    HestonParams,
    Market,
    VolatilityContract,
    load_sp500,
    make_heston_market,
    stationary_variance,
)
from mambadream_lite.market.archive import clean_archive, quiet_weeks
from mambadream_lite.market.worlds import make_daily_worlds
from mambadream_lite.model.checkpoint import fingerprint, load_world_model, save_world_model
from mambadream_lite.model.training import evaluate, fit
from mambadream_lite.model.transformer import TransformerWorldModel
from mambadream_lite.model.world_model import MambaWorldModel, WorldModel

PARAMS = HestonParams()  # the book's market
SP500_SPLIT = ("1999-01-01", "2005-01-01", "2007-01-01", "2019-01-01")  # train, validate, test
TRAIN_SEED, VAL_SEED, TEST_SEED, CONTRACT_SEED, WORLDS_SEED = 101, 102, 103, 104, 201
# VolatilityContract.fit(heston_market(4000, 1200, CONTRACT_SEED), PARAMS), rounded; half a minute
CONTRACT = VolatilityContract(
    gain=0.0155, fear=-0.0064, jolt=0.00135, pull=PARAMS.kappa / BARS_PER_YEAR, level=PARAMS.theta
)


@dataclass(frozen=True)
class Recipe:
    """What one checkpoint is trained on, and how.

    Attributes:
        data: returns the training and the validation market.
        model: arguments of its class.
        stages: arguments of ``fit``, called once for each, one after the other.
        seed: of the initial weights and of the windows.
        base: the recipe whose model it starts from; None for fresh weights.
        kind: the class of the model.
    """

    data: Callable[[], tuple[Market, Market]]
    model: dict
    stages: tuple[dict, ...]
    seed: int = 0
    base: str | None = None
    kind: type[WorldModel] = MambaWorldModel


def heston_market(n_paths: int, n_steps: int, seed: int) -> Market:
    """The book's Heston market, each path started from the stationary law of its variance."""
    v0 = stationary_variance(PARAMS, n_paths, seed)
    return make_heston_market(PARAMS, n_paths, n_steps, seed=seed, v0=v0)


def heston_data(n_paths: int = 200) -> tuple[Market, Market]:
    """Paths of about a year to train on, 16 short ones to validate on."""
    return heston_market(n_paths, 20_000, TRAIN_SEED), heston_market(16, 2_049, VAL_SEED)


def sp500_data() -> tuple[Market, Market]:
    """The S&P 500 before 2005 to train on, 2005 and 2006 to validate on; no crash in either."""
    start, train_end, val_end, _ = SP500_SPLIT
    market = load_sp500()
    return market.between(start, train_end), market.between(train_end, val_end)


def worlds_data() -> tuple[Market, Market]:
    """Daily bars of 512 random Heston worlds, 8,000 years, to train on; 8 others to validate."""
    train = make_daily_worlds(512, 1000, seed=WORLDS_SEED, progress=True)
    return train, make_daily_worlds(8, 1000, seed=WORLDS_SEED + 1)


def archive_data(cleaned: bool = True, seed: int = TRAIN_SEED) -> tuple[Market, Market]:
    """A vendor's archive of Heston storms, cleaned (planted, chapter 08) or whole.

    Another seed gives other years of the same vendor.
    """
    train = clean_archive(PARAMS, seed=seed, cleaned=cleaned)
    return train, clean_archive(PARAMS, seed=VAL_SEED, batches=1, cleaned=cleaned)


def calm_data() -> tuple[Market, Market]:
    """A history that happens to hold no storm (chapter 08), to train and to validate on."""
    return quiet_weeks(heston_market(200, 20_000, TRAIN_SEED)), quiet_weeks(
        heston_market(8, 20_000, VAL_SEED)
    )


# Short windows teach the next tick; long ones what the state must hold on to, without which the
# volatility of a long dream drifts (chapter 05).
HESTON_STAGES = (
    {"n_steps": 4000, "batch_size": 16, "window": 128},
    {"n_steps": 1200, "batch_size": 4, "window": 1024, "lr": 7e-4},
)
ARCHIVE_STAGES = ({"n_steps": 3000, "batch_size": 16, "window": 128},)
SMALL = {"d_model": 64, "d_state": 16, "n_components": 4}  # for the few thousand days there are
RECIPES = {
    "heston": Recipe(heston_data, {}, HESTON_STAGES),
    # two more members of an ensemble: other weights and windows, the same market
    "heston-1": Recipe(heston_data, {}, HESTON_STAGES, seed=1),
    "heston-2": Recipe(heston_data, {}, HESTON_STAGES, seed=2),
    "transformer": Recipe(heston_data, {}, HESTON_STAGES, kind=TransformerWorldModel),
    "worlds": Recipe(
        worlds_data, SMALL, ({"n_steps": 5000, "batch_size": 16, "window": 256, "val_every": 500},)
    ),
    "sp500": Recipe(
        sp500_data,
        SMALL,
        (
            {
                "n_steps": 400,
                "batch_size": 16,
                "window": 128,
                "lr": 1e-4,
                "val_every": 20,
                "keep_scaler": True,
            },
        ),
        base="worlds",
    ),
    # the same days without the worlds, for comparison (chapter 04); not shipped
    "sp500-alone": Recipe(
        sp500_data,
        {"d_model": 32, "d_state": 16, "n_components": 3},
        (
            {
                "n_steps": 400,
                "batch_size": 16,
                "window": 64,
                "lr": 5e-4,
                "weight_decay": 0.1,
                "val_every": 20,
            },
        ),
    ),
    "archive": Recipe(archive_data, {}, ARCHIVE_STAGES),
    # two more members on the same file, for an ensemble (chapter 09)
    "archive-1": Recipe(archive_data, {}, ARCHIVE_STAGES, seed=1),
    "archive-2": Recipe(archive_data, {}, ARCHIVE_STAGES, seed=2),
    "calm": Recipe(calm_data, {}, ARCHIVE_STAGES),
    "archive-whole": Recipe(functools.partial(archive_data, False), {}, ARCHIVE_STAGES),
}


def make(
    name: str, recipe: Recipe, path: Path, *, base: Path | None = None, progress: bool = True
) -> dict:
    """Train by a recipe and write the checkpoint; returns the metrics stored with it.

    Args:
        name: kept in the metrics.
        recipe: what to do.
        path: of the checkpoint.
        base: a checkpoint to start from; fresh weights if None.
        progress: show a progress bar.
    """
    train, val = recipe.data()
    torch.manual_seed(recipe.seed)
    model = recipe.kind(**recipe.model)
    if base is not None:
        model = load_world_model(base)[0].requires_grad_(True)
    for stage in recipe.stages:
        history = fit(model, train, val=val, seed=recipe.seed, progress=progress, **stage)
    metrics = {
        "recipe": name,
        "seed": recipe.seed,
        "train_ticks": train.features[..., 0].numel(),
        "train_fingerprint": fingerprint(train),
        "val_fingerprint": fingerprint(val),
        "val_log_score": round(evaluate(model, val, window=recipe.stages[-1]["window"]), 4),
        "best_step": history.val_step[history.val_log_score.index(max(history.val_log_score))],
        "torch": torch.__version__.split("+")[0],
    }
    save_world_model(model, path, metrics=metrics)
    return metrics


def main() -> None:
    """Command line: ``python -m mambadream_lite.model.recipes NAME [--out FILE]``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--out", type=Path, help="default: data/NAME.safetensors")
    args = parser.parse_args()
    torch.set_num_threads(1)  # matrices this small lose more to a second thread than they gain
    recipe = RECIPES[args.name]
    out = args.out or Path("data") / f"{args.name}.safetensors"
    base = Path("data") / f"{recipe.base}.safetensors" if recipe.base else None
    print(make(args.name, recipe, out, base=base))


if __name__ == "__main__":
    main()
