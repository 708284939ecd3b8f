"""Does planning cure a wrong belief? MPC after the live peaks of chapter 08 (chapters 09, 10).

    python -m mambadream_lite.judge.planner_cure

lets the planner trade both instruments from the peaks of ``judge.glitch``: with the cleaned
archive's model alone, with an ensemble brought up on different feeds, and with that ensemble's
futures ended where its members disagree; and the same for the control, whose feed was whole. Rows
are kept in ``data/benchmarks/planner_cure.json``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from mambadream_lite.agent import MPC, replay
from mambadream_lite.agent.ppo import LEVELS
from mambadream_lite.dream import disagreement_halt, disagreement_threshold, quote, watch
from mambadream_lite.judge.cures import SHARE, ensemble, held_out
from mambadream_lite.judge.glitch import HORIZON, WARMUP, live, outcome, world_model
from mambadream_lite.judge.rows import Key, study
from mambadream_lite.market import Account
from mambadream_lite.model.recipes import CONTRACT

# the contract lives for one tick and the edge for some ten: two ticks ahead are enough for both
N_FUTURES, AHEAD = 300, 2
PEAKS = 36  # of the live ones: a quarter
# one instrument at a time: a bet on both is found within a tick or two all the same
ACTIONS = tuple({(0.0, level) for level in LEVELS} | {(level, 0.0) for level in LEVELS})
MINDS = ("alone", "averaged", "halted")


def row(feed: str, seed: int, mind: str) -> dict:
    """What the planner makes of the live peaks.

    ``alone``: with its own model. ``averaged``: with an ensemble on different feeds. ``halted``:
    the same, with futures that end where the members disagree.
    """
    model = world_model(feed, seed) if mind == "alone" else ensemble("other feeds", feed, seed)
    halt = None
    if mind == "halted":
        halt = disagreement_halt(disagreement_threshold(model, held_out(), SHARE, warmup=WARMUP))
    terms = {"n_futures": N_FUTURES, "horizon": AHEAD, "actions": ACTIONS}
    mpc = MPC(model, contract=CONTRACT, halt=halt, **terms)
    first = np.arange(min(PEAKS, len(live().features)))
    market = live().windows(first, 0 * first, WARMUP + HORIZON)
    before = market.window(0, WARMUP)
    strike = CONTRACT.strikes(before.features)[:, -1]
    path = quote(watch(model, market, WARMUP), CONTRACT, strike)
    planner = mpc.live(before, torch.Generator().manual_seed(seed))
    episode = replay(planner, path, Account())
    return {
        "contracts_at_peak": round(episode.contracts[:, 0].abs().mean().item(), 2),
        "leverage_at_peak": round(episode.leverage[:, 0].abs().mean().item(), 2),
        "traded": round((episode.contracts != 0).double().mean().item(), 4),
        f"after_{HORIZON}": outcome(episode, HORIZON),
    }


def tasks(n_seeds: int) -> list[Key]:
    """All rows that are wanted, seed by seed."""
    return [
        {"mind": mind, "feed": feed, "seed": seed}
        for seed in range(n_seeds)
        for mind in MINDS
        for feed in ("archive", "archive-whole")
    ]


def main() -> None:
    """Command line: ``python -m mambadream_lite.judge.planner_cure [--seeds N] [--out FILE]``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("data/benchmarks/planner_cure.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    about = {
        "what": "the planner from live peaks of volatility, with one model and with an ensemble",
        "peaks": PEAKS,
        "planner": {"n_futures": N_FUTURES, "horizon": AHEAD, "actions": len(ACTIONS)},
    }
    study(args.out, about, tasks(args.seeds), lambda task: row(**task))


if __name__ == "__main__":
    main()
