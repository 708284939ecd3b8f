"""How many futures a decision needs, and whether its probabilities come true (chapters 10, 11).

    python -m mambadream_lite.judge.planning

writes ``data/benchmarks/planning.json``: for the Heston model, the error of the chosen action
against a reference of 100,000 futures, with common and with independent futures, drawn and
expected; and stated probabilities of profit beside what came, on fresh Heston markets and on the
S&P 500 after the model's training. Rows are kept, so that a run goes on where it stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mambadream_lite.agent.decision import Objective
from mambadream_lite.agent.mpc import ACTIONS
from mambadream_lite.agent.plans import constant, expected_growth, held_to_horizon
from mambadream_lite.dream import advance, dream, observe
from mambadream_lite.judge.rows import Key, study
from mambadream_lite.market import Account, AccountConfig, load_sp500
from mambadream_lite.model import load_world_model
from mambadream_lite.model.recipes import SP500_SPLIT, heston_market

CONTEXTS, REFERENCE = 12, 100_000
COUNTS = (10, 30, 100, 300, 1000, 3000, 10_000)
HORIZONS = (3, 20)
ERROR_SEED, ODDS_SEED = 1901, 1902
WARMUP = 200
PATHS, DECISIONS, APART, ODDS_FUTURES = 64, 100, 5, 1000  # Heston: one every 5 ticks, 5 ahead
MONTH, YEAR = 20, 250  # days: how far the S&P's decisions look ahead, and back


def choice_errors(growth: Tensor, count: int, common: bool) -> tuple[Tensor, Tensor]:
    """Growth given up by the action that few futures choose, and whether it is the best one.

    Args:
        growth: (A, M) of all actions in all futures: the reference.
        count: futures a decision; the M are cut into decisions of that many.
        common: score all actions on the same futures, or each on its own.

    Returns:
        (M / count,) regrets, in growth of the reference, and (M / count,) bool.
    """
    reference = Objective().value(growth)[0]
    n = growth.shape[1] // count
    values = Objective().value(growth[:, : n * count].view(len(growth), n, count))[0]  # (A, n)
    if not common:
        # decision i scores action a on the futures of decision i + a: no two actions share any
        shift = torch.arange(len(growth))[:, None] + torch.arange(n)[None]
        values = values.gather(1, shift % n)
    chosen = values.argmax(0)
    return reference.max() - reference[chosen], chosen == reference.argmax()


def errors(horizon: int, context: int) -> dict:
    """Decision errors at one moment of a Heston market, basis points over the horizon."""
    model, _ = load_world_model("data/heston.safetensors")
    market = heston_market(CONTEXTS, WARMUP, ERROR_SEED)
    belief = observe(model, market).take(slice(context, context + 1))
    generator = torch.Generator().manual_seed(ERROR_SEED + context)
    path = dream(model, belief, n_dreams=REFERENCE, horizon=horizon, generator=generator)
    account, actions = Account(), torch.tensor(ACTIONS, dtype=torch.float64)
    scorers = {
        "drawn": held_to_horizon(path, actions, 0.0, account).log(),
        "expected": expected_growth(path, constant(actions, horizon), 0.0, account),
    }
    rows = []
    for scorer, growth in scorers.items():
        for common in (True, False):
            for count in COUNTS:
                if not common and REFERENCE // count < len(ACTIONS):
                    continue  # not enough futures for each action to have its own
                regret, same = choice_errors(growth, count, common)
                numbers = {
                    "regret_bp": round(1e4 * regret.mean().item(), 4),
                    "same": round(same.double().mean().item(), 4),
                }
                rows.append({"scorer": scorer, "common": common, "futures": count} | numbers)
    best = Objective().value(scorers["expected"])
    i = int(best[0].argmax())
    return {
        "best": ACTIONS[i],
        "worth_bp": round(1e4 * best[0][i].item(), 4),
        "worth_error_bp": round(1e4 * best[1][i].item(), 4),
        "rows": rows,
    }


def heston_odds() -> dict:
    """Stated probability that one unit bought now ends in profit, net of costs, and what came."""
    model, _ = load_world_model("data/heston.safetensors")
    market = heston_market(PATHS, WARMUP + DECISIONS * APART, ODDS_SEED)
    belief, account = observe(model, market.window(0, WARMUP)), Account()
    generator = torch.Generator().manual_seed(ODDS_SEED)
    one = torch.ones(1, dtype=torch.float64)
    stated, came = [], []
    for t in range(WARMUP, WARMUP + DECISIONS * APART):
        if (t - WARMUP) % APART == 0:
            terms = {"n_dreams": ODDS_FUTURES, "horizon": APART, "generator": generator}
            path = dream(model, belief, **terms)
            profit = held_to_horizon(path, one, 0.0, account)[0] > 1
            stated.append(profit.view(PATHS, -1).double().mean(1))
            kept = 1 - account.config.turnover_cost
            came.append(kept * market.price[:, t + APART] / market.price[:, t] > 1)
        belief = advance(model, belief, market.features[:, t], market.log_return[:, t])
    return odds(torch.stack(stated, dim=1), torch.stack(came, dim=1))


def sp500_odds() -> dict:
    """The same on the S&P 500, on every 20th day from 2007 on: stretches that do not overlap."""
    model, _ = load_world_model("data/sp500.safetensors")
    market = load_sp500()
    first = int(np.searchsorted(market.time, np.datetime64(SP500_SPLIT[2])))
    days = np.arange(first, len(market.time) - MONTH - 1, MONTH)
    contexts = market.windows(np.zeros(len(days), dtype=int), days - YEAR + 1, YEAR)
    account = Account(AccountConfig(half_spread=1.0, fee=1.0, bar=market.bar, max_leverage=5))
    generator = torch.Generator().manual_seed(ODDS_SEED)
    terms = {"n_dreams": ODDS_FUTURES, "horizon": MONTH, "generator": generator}
    path = dream(model, contexts, **terms)
    profit = held_to_horizon(path, torch.ones(1, dtype=torch.float64), 0.0, account)[0] > 1
    stated = profit.view(len(days), -1).double().mean(1)
    kept = 1 - account.config.turnover_cost
    came = kept * market.price[0, days + MONTH + 1] / market.price[0, days + 1] > 1
    return odds(stated[None], came[None])


def odds(stated: Tensor, came: Tensor) -> dict:
    """As they are kept: probabilities (B, n) by path, and 0 or 1."""
    return {
        "futures": ODDS_FUTURES,
        "stated": [[round(p, 3) for p in path] for path in stated.tolist()],
        "came": ["".join(str(int(c)) for c in path) for path in came.tolist()],
    }


def tasks() -> list[Key]:
    """All rows that are wanted."""
    wanted: list[Key] = [{"kind": "odds", "market": name} for name in ("sp500", "heston")]
    wanted += [
        {"kind": "errors", "horizon": h, "context": c} for h in HORIZONS for c in range(CONTEXTS)
    ]
    return wanted


def run(task: Key) -> dict:
    """One row."""
    if task["kind"] == "errors":
        return errors(task["horizon"], task["context"])
    return {"sp500": sp500_odds, "heston": heston_odds}[task["market"]]()


def main() -> None:
    """Command line: ``python -m mambadream_lite.judge.planning [--out FILE]``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, default=Path("data/benchmarks/planning.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    about = {
        "what": "error of the chosen action against 100,000 futures, and stated probabilities of "
        "profit beside what came",
        "odds": {"heston_ticks_ahead": APART, "sp500_days_ahead": MONTH},
    }
    study(args.out, about, tasks(), run)


if __name__ == "__main__":
    main()
