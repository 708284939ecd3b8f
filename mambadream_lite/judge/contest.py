"""Everybody on one market: planner, agent, rules and the best there is (chapters 10 and 11).

    python -m mambadream_lite.judge.contest --seeds 10

lets, for each seed, the planner and PPO trade on that seed's world model, beside the rules, all on
the same fresh Heston paths, and keeps the growth of every path: differences are paired. Levels are
the same for all, and all may let a position drift. Before that, the planner's horizon is chosen:
on another market, by what the model itself expects of the trades. Rows are kept in
``data/benchmarks/contest.json``, so that a run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

import numpy as np
import torch

from mambadream_lite.agent import (
    MPC,
    PPO,
    BuyAndHold,
    LetDrift,
    MomentRule,
    MovingAverageRule,
    OptimalRule,
    Policy,
    dream_and_train,
    replay,
)
from mambadream_lite.agent.ppo import LEVELS
from mambadream_lite.dream import Dream, dream, watch
from mambadream_lite.judge.agents import (
    DREAMS,
    PASSES,
    ROUNDS,
    STARTS,
    STARTS_SEED,
    WARMUP,
    seen_by_the_best,
    world_model,
)
from mambadream_lite.judge.rows import Key, study
from mambadream_lite.judge.utility import growth, true_mean, tune
from mambadream_lite.market import Account, Market
from mambadream_lite.model.recipes import PARAMS, heston_market

WORK = Path("_build/agents")
PATHS, TICKS = 48, 400  # of the contest
TEST_SEED, TUNE_SEED = 1801, 1802
N_FUTURES, HORIZON = 64, 3  # scored by expectation; the horizon is the best in its own eyes
HORIZONS = (1, 2, 3, 5, 8, 12, 20)
TUNE_PATHS, TUNE_TICKS = 24, 150
DREAMT = 50  # ticks of the dreams in which agents are trained and rules are tuned
WINDOWS = (10, 20, 50, 100, 200)
FRACTIONS, BANDS = (0.25, 0.35, 0.5, 0.7, 1.0), (2.0, 5.0, 10.0, 15.0, 20.0)


@functools.cache
def arena(seed: int = TEST_SEED, paths: int = PATHS, ticks: int = TICKS) -> Market:
    """A market that nobody was trained on."""
    return heston_market(paths, WARMUP + ticks, seed)


def planner(seed: int, market: Market, horizon: int, n_futures: int = N_FUTURES) -> Policy:
    """The planner on a seed's world model, ready to trade from the end of the warm-up."""
    mpc = MPC(world_model(seed), n_futures=n_futures, horizon=horizon, actions=LEVELS)
    generator = torch.Generator().manual_seed(seed)
    return LetDrift(mpc.live(market.window(0, WARMUP), generator), LEVELS)


def dreamer(seed: int) -> Policy:
    """PPO brought up in the dreams of a seed's model, as in chapter 07; trained if not there."""
    model, path = world_model(seed), WORK / f"agent-heston-{seed}-asset.safetensors"
    if not path.exists():
        young = PPO(model, Account(), seed=seed)
        starts = heston_market(256, WARMUP, STARTS_SEED)
        terms = {"n_rounds": ROUNDS, "n_starts": STARTS, "n_dreams": DREAMS, "n_passes": PASSES}
        dream_and_train(model, young, starts, DREAMT, **terms)
        young.save(path)
    return LetDrift(PPO.load(path, model, Account()), LEVELS)


def tuned(seed: int, candidates: list[Policy]) -> Policy:
    """The candidate that does best along dreams, by the model's own expectation."""
    model = world_model(seed)
    generator = torch.Generator().manual_seed(TUNE_SEED + seed)
    begin = arena(TUNE_SEED, TUNE_PATHS, TUNE_TICKS).window(0, WARMUP)
    path = dream(model, begin, n_dreams=4, horizon=4 * DREAMT, generator=generator)
    return tune(candidates, path, Account())


def policy(kind: str, seed: int, market: Market) -> Policy:
    """One of the contestants, with the choices that its rules leave open made in dreams."""
    if kind == "planner":
        return planner(seed, market, HORIZON)
    if kind == "dreamer":
        return dreamer(seed)
    if kind == "model moments":
        return tuned(seed, [MomentRule(f, b) for f in FRACTIONS for b in BANDS])
    if kind == "moving average":
        return tuned(seed, [MovingAverageRule(w, s) for w in WINDOWS for s in (1.0, -1.0)])
    if kind == "optimal":
        best = OptimalRule.solve(PARAMS, Account().config, levels=LEVELS)
        return LetDrift(best, LEVELS)
    return BuyAndHold()


def seen(kind: str, seed: int, market: Market) -> Dream:
    """The market as a contestant sees it: the optimal one with the optimal forecaster's eyes."""
    if kind == "optimal":
        return seen_by_the_best(market, WARMUP)
    return watch(world_model(seed), market, WARMUP)


def row(kind: str, seed: int) -> dict:
    """Growth of each path, basis points a tick, without luck and as it came."""
    market = arena()
    chosen, path = policy(kind, seed, market), seen(kind, seed, market)
    episode = replay(chosen, path, Account())
    came, fair = growth(episode, path, true_mean(market, PARAMS, WARMUP))
    return {
        "chosen": str(chosen) if isinstance(chosen, MomentRule | MovingAverageRule) else "",
        "utility": round(fair.mean().item(), 4),
        "as_it_came": round(came.mean().item(), 4),
        "leverage": round(episode.leverage.abs().mean().item(), 2),
        "ruined": round(episode.ruined[:, -1].double().mean().item(), 4),
        "paths": [round(x, 3) for x in fair.tolist()],
    }


def horizon_row(horizon: int, seed: int) -> dict:
    """The planner with a horizon, on the market that it is chosen on: as its model sees it."""
    market = arena(TUNE_SEED, TUNE_PATHS, TUNE_TICKS)
    path = watch(world_model(seed), market, WARMUP)
    episode = replay(planner(seed, market, horizon), path, Account())
    believed = growth(episode, path, path.reward)[1]
    true = growth(episode, path, true_mean(market, PARAMS, WARMUP))[1]
    return {
        "believed": round(believed.mean().item(), 4),
        "true": round(true.mean().item(), 4),
        "leverage": round(episode.leverage.abs().mean().item(), 2),
    }


def ratio(rows: list[dict], one: str, other: str, n_draws: int = 10_000) -> tuple[float, ...]:
    """Utility of one contestant over another's: estimate and 95 % interval.

    Seeds and paths are drawn again, both with replacement, the same for the two (a paired
    bootstrap over both sources of chance).

    Args:
        rows: of the contest.
        one, other: kinds.
        n_draws: of the bootstrap, from a generator of its own.
    """
    table = {}
    for kind in (one, other):
        mine = {r["task"]["seed"]: r["paths"] for r in rows if r["task"].get("kind") == kind}
        table[kind] = mine
    seeds = sorted(set(table[one]) | set(table[other]))
    first, second = (
        # a rule without a model has one row, which serves every seed
        np.array([mine.get(s, next(iter(mine.values()))) for s in seeds])
        for mine in (table[one], table[other])
    )
    rng = np.random.default_rng(0)
    which = rng.integers(len(seeds), size=(n_draws, len(seeds)))
    paths = rng.integers(first.shape[1], size=(n_draws, first.shape[1]))
    drawn = []
    for s, p in zip(which, paths, strict=True):
        drawn.append(first[s][:, p].mean() / second[s][:, p].mean())
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(first.mean() / second.mean()), float(low), float(high)


def tasks(n_seeds: int) -> list[Key]:
    """All rows that are wanted, the cheap and the choices first."""
    wanted: list[Key] = [{"kind": "horizon", "horizon": h, "seed": 0} for h in HORIZONS]
    wanted += [{"kind": k, "seed": 0} for k in ("optimal", "buy and hold")]
    for seed in range(n_seeds):
        for kind in ("moving average", "model moments", "dreamer", "planner"):
            wanted.append({"kind": kind, "seed": seed})
    return wanted


def main() -> None:
    """Command line: ``python -m mambadream_lite.judge.contest [--seeds N] [--out FILE]``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("data/benchmarks/contest.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    about = {
        "what": "growth of log equity on fresh Heston paths after costs, basis points a tick",
        "test": {"paths": PATHS, "ticks": TICKS, "seed": TEST_SEED},
        "planner": {"n_futures": N_FUTURES, "horizon": HORIZON},
    }

    def run(task: Key) -> dict:
        if task["kind"] == "horizon":
            return horizon_row(task["horizon"], task["seed"])
        return row(task["kind"], task["seed"])

    study(args.out, about, tasks(args.seeds), run)


if __name__ == "__main__":
    main()
