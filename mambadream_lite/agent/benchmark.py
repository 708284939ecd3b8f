"""What one decision costs on a CPU, and what makes it dearer (chapter 10).

    python -m mambadream_lite.agent.benchmark

writes ``data/benchmarks/mpc.json``: milliseconds from a closed tick to the chosen action, as
futures, horizon, actions and the length of history grow.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm.auto import tqdm

from mambadream_lite.agent.mpc import ACTIONS, MPC
from mambadream_lite.dream.rollout import Belief, advance, observe
from mambadream_lite.market.benchmark import machine, write_json
from mambadream_lite.model import WorldModel, load_world_model
from mambadream_lite.model.recipes import heston_market

FUTURES, HORIZON = 1000, 20
MORE_FUTURES, HORIZONS = (10, 100, 1000, 10_000), (1, 3, 20, 100)
MORE_ACTIONS = (15, 150, 1500)
HISTORY = (10, 10_000)  # ticks seen before the decision
REPEATS = 7


def options(n: int) -> tuple[float, ...]:
    """``n`` leverages within +-5 and 0; the book's own if it is as many as those."""
    if n == len(ACTIONS):
        return ACTIONS
    return tuple({0.0} | set(torch.linspace(-5, 5, n - 1).tolist()))


def milliseconds(work: Callable[[], object]) -> float:
    """Median of ``REPEATS`` runs, after one that is not counted."""
    work()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return round(1e3 * statistics.median(times), 2)


def decision(model: WorldModel, belief: Belief, n_futures: int, horizon: int, actions: int) -> dict:
    """One decision: in all, and how much of it went into the futures."""
    mpc = MPC(model, n_futures=n_futures, horizon=horizon, actions=options(actions))
    generator, flat = torch.Generator().manual_seed(1), torch.zeros(1, dtype=torch.float64)
    return {
        "futures": n_futures,
        "horizon": horizon,
        "actions": actions,
        "decide_ms": milliseconds(lambda: mpc.decide(belief, generator=generator)),
        "act_ms": milliseconds(lambda: mpc.choose(mpc.imagine(belief, None, generator), flat)),
        "dream_ms": milliseconds(lambda: mpc.imagine(belief, None, generator)),
    }


def after(model: WorldModel, ticks: int) -> dict:
    """Taking in one more tick and deciding, with ``ticks`` of history behind."""
    market = heston_market(1, ticks + 1, 7)
    belief = observe(model, market.window(0, ticks))
    mpc = MPC(model, n_futures=FUTURES, horizon=HORIZON)
    generator, flat = torch.Generator().manual_seed(1), torch.zeros(1, dtype=torch.float64)

    def work() -> None:
        now = advance(model, belief, market.features[:, ticks], market.log_return[:, ticks])
        mpc.choose(mpc.imagine(now, None, generator), flat)

    return {"history": ticks, "tick_ms": milliseconds(work)}


def main() -> None:
    """Command line: ``python -m mambadream_lite.agent.benchmark [--out FILE]``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, default=Path("data/benchmarks/mpc.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, _ = load_world_model("data/heston.safetensors")
    belief = observe(model, heston_market(1, 300, 7))
    sizes = [(n, HORIZON, 15) for n in MORE_FUTURES]
    sizes += [(FUTURES, h, 15) for h in HORIZONS if h != HORIZON]
    sizes += [(FUTURES, HORIZON, a) for a in MORE_ACTIONS if a != 15]
    content = {
        "what": "milliseconds of one decision; decide: with all that it says of itself, act: the "
        "action alone, dream: the futures alone",
        "repeats": REPEATS,
        "machine": machine(),
        "decisions": [decision(model, belief, *size) for size in tqdm(sizes, desc="decisions")],
        "history": [after(model, ticks) for ticks in tqdm(HISTORY, desc="history")],
    }
    write_json(args.out, content)
    print(json.dumps(content, indent=2))


if __name__ == "__main__":
    main()
