"""The old way against the new way on the S&P 500 of 2007 to 2018 (chapter 11).

    python -m mambadream_lite.judge.verdict

backtests every policy at three costs, on twelve years that no model and no choice has seen: world
models were trained before 2005 and stopped by 2005 and 2006, rules are tuned on what lies before
2007. Rows are kept in ``data/benchmarks/verdict.json``, so that a run goes on where it stopped.
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
    Policy,
    PPOConfig,
    dream_and_train,
    replay,
)
from mambadream_lite.agent.mpc import ACTIONS
from mambadream_lite.dream import Dream, dream, foreseen, watch
from mambadream_lite.judge.backtest import Backtest, backtest
from mambadream_lite.judge.evidence import STATISTICS, compare, deflated_sharpe, summary
from mambadream_lite.judge.rows import Key, study
from mambadream_lite.judge.utility import growth, tune
from mambadream_lite.market import Account, AccountConfig, Garch, Market, load_sp500
from mambadream_lite.market.features import velocity_unit
from mambadream_lite.model import Ensemble, WorldModel, load_world_model
from mambadream_lite.model.recipes import SP500_SPLIT

WORK = Path("_build/agents")
MEMBERS = Path("_build/history")  # where ``judge.history`` leaves the five seeds
COSTS = (0.0, 2.0, 10.0)  # basis points of what is traded, half of it spread
YEAR = 252  # days, between two choices of a rule that is tuned again
N_FUTURES, HORIZONS = 100, (1, 5, 20)  # of the planner; it chooses a horizon on 2005 and 2006
WINDOWS = (10, 20, 50, 100, 200)
FRACTIONS, BANDS = (0.25, 0.5, 1.0), (0.0, 0.25, 0.5, 1.0)
LIMIT = 5.0
NAMES = (
    "buy and hold",
    "moving average",
    "moving average, tuned each year",
    "GARCH moments",
    "model moments",
    "PPO",
    "planner",
    "planner, five seeds",
)
SEEDS = (0, 1, 2)  # of PPO
CRASH = ("2008-09-01", "2009-01-01")
ROUNDS, DREAMT, CONTEXT = 24, 60, 250  # of PPO: rounds, days of a dream, days before it


def account(cost: float) -> AccountConfig:
    """Terms of trade at a cost in basis points of what is traded."""
    return AccountConfig(half_spread=cost / 2, fee=cost / 2, bar=sp500().bar, max_leverage=LIMIT)


@functools.cache
def sp500() -> Market:
    """The days up to the end of the test."""
    return load_sp500().between(SP500_SPLIT[0], SP500_SPLIT[3])


def day(date: str) -> int:
    """Index of the first day on or after a date."""
    return int(np.searchsorted(sp500().time, np.datetime64(date)))


@functools.cache
def world_model(seed: int = 0) -> WorldModel:
    """The shipped model, or another seed that ``judge.history`` has trained."""
    path = Path("data/sp500.safetensors") if seed == 0 else MEMBERS / f"sp500-{seed}.safetensors"
    if not path.exists():
        raise ValueError(f"seed: {path} is not there; python -m mambadream_lite.judge.history")
    return load_world_model(path)[0]


@functools.cache
def ensemble() -> Ensemble:
    """Five seeds."""
    return Ensemble([world_model(seed) for seed in range(5)]).eval()


def before_the_test() -> Market:
    """1999 to 2006."""
    return sp500().between(SP500_SPLIT[0], SP500_SPLIT[2])


def seen_by_garch(market: Market, warmup: int) -> Dream:
    """A market after its warm-up, with forecasts of a GJR-GARCH-t fitted before the test."""
    law = Garch.fit(before_the_test(), asymmetric=True).forecast(market)
    unit = velocity_unit(market.bar)
    mean, sd = law.mean * unit, law.variance.sqrt() * unit
    return foreseen(market, mean + 0.5 * sd.square(), sd, warmup)


def best_average(past: Market, terms: AccountConfig) -> MovingAverageRule:
    """The window, and the side, that would have grown most on a past, net of costs."""
    price, best = past.price[0].log(), {}
    for window in WINDOWS:
        average = price.unfold(0, window, 1).mean(1)  # of the last ``window`` prices
        side = (price[window - 1 : -1] - average[:-1]).sign()  # held over the bar that follows
        turned = side.diff(prepend=side.new_zeros(1)).abs()
        move = price[window - 1 :].diff().expm1()
        for leverage in (1.0, -1.0):
            growth_of_bars = (leverage * side * move - terms.turnover_cost * turned).log1p()
            best[window, leverage] = growth_of_bars.sum().item()
    return MovingAverageRule(*max(best, key=best.__getitem__))


def bets() -> list[Policy]:
    """Rules that bet on moments, to choose from."""
    return [MomentRule(f, b, LIMIT) for f in FRACTIONS for b in BANDS]


def imagined(model: WorldModel | Ensemble) -> Dream:
    """Dreams from 2005 and 2006, in which what is left open is chosen."""
    first, last = day(SP500_SPLIT[1]), day(SP500_SPLIT[2])
    ends = np.arange(first, last, 10)
    contexts = sp500().windows(np.zeros(len(ends), dtype=int), ends - CONTEXT + 1, CONTEXT)
    generator = torch.Generator().manual_seed(0)
    return dream(model, contexts, n_dreams=4, horizon=DREAMT, generator=generator)


def planner(model: WorldModel | Ensemble, cost: float, horizon: int, first: int) -> Policy:
    """The planner, ready to trade from day ``first`` on."""
    mpc = MPC(model, n_futures=N_FUTURES, horizon=horizon, account=account(cost))
    return LetDrift(mpc.live(sp500().window(0, first), torch.Generator().manual_seed(0)), ACTIONS)


@functools.cache
def horizon_of(cost: float) -> int:
    """The planner's horizon that does best on 2005 and 2006 in the model's own eyes."""
    first, last = day(SP500_SPLIT[1]), day(SP500_SPLIT[2])
    path = watch(world_model(), sp500().window(0, last), first)
    terms, scores = Account(account(cost)), []
    for horizon in HORIZONS:
        episode = replay(planner(world_model(), cost, horizon, first), path, terms)
        scores.append(growth(episode, path, path.reward)[1].mean().item())
    return HORIZONS[int(np.argmax(scores))]


def raised(cost: float, seed: int) -> PPO:
    """PPO brought up in dreams that begin before 2007; trained if it is not there."""
    model, terms = world_model(), Account(account(cost))
    path = WORK / f"agent-sp500-{cost:g}-{seed}.safetensors"
    if not path.exists():
        young = PPO(model, terms, PPOConfig(levels=ACTIONS, worst_reward=-3.0), seed=seed)
        last = day(SP500_SPLIT[2])
        ends = np.arange(CONTEXT, last, 5)
        contexts = sp500().windows(np.zeros(len(ends), dtype=int), ends - CONTEXT, CONTEXT)
        dream_and_train(model, young, contexts, DREAMT, n_rounds=ROUNDS)
        young.save(path)
    return PPO.load(path, model, terms)


def run(name: str, cost: float, seed: int = 0) -> tuple[Backtest, str]:
    """The backtest of one policy over the test, and the choice that was made for it."""
    market, first, terms = sp500(), day(SP500_SPLIT[2]), account(cost)
    common = {"warmup": first, "account": Account(terms)}
    if name == "buy and hold":
        return backtest(BuyAndHold(), market, **common), ""
    if name == "moving average":
        rule = best_average(before_the_test(), terms)
        return backtest(rule, market, **common), str(rule)
    if name == "moving average, tuned each year":
        again = functools.partial(best_average, terms=terms)
        return backtest(again, market, every=YEAR, **common), ""
    if name == "GARCH moments":
        past = seen_by_garch(before_the_test(), 1)
        ends = [replay(rule, past, Account(terms)).equity[0, -1].item() for rule in bets()]
        rule = bets()[int(np.argmax(ends))]
        return backtest(rule, market, path=seen_by_garch(market, first), **common), str(rule)
    if name == "model moments":
        rule = tune(bets(), imagined(world_model()), Account(terms))
        return backtest(rule, market, model=world_model(), **common), str(rule)
    if name == "PPO":
        agent = raised(cost, seed)
        return backtest(agent, market, model=world_model(), **common), ""
    model = ensemble() if name == "planner, five seeds" else world_model()
    horizon = horizon_of(cost)
    policy = planner(model, cost, horizon, first)
    return backtest(policy, market, model=model, **common), f"horizon {horizon}"


def row(name: str, cost: float, seed: int = 0) -> dict:
    """One policy at one cost: statistics with intervals, beside buy and hold, and its record."""
    record, choice = run(name, cost, seed)
    facts = summary(record, seed=0)
    r = record.log_growth[0].expm1()
    z = (r - r.mean()) / r.std(correction=0)
    result = {
        "choice": choice,
        "sharpe_a_day": (r.mean() / r.std()).item() if r.std() > 0 else 0.0,
        "skew": z.pow(3).mean().item(),
        "kurtosis": z.pow(4).mean().item(),
        "days": len(r),
        "leverage": round(record.leverage.abs().mean().item(), 3),
    }
    result |= {k: [round(v, 4) for v in (f.value, f.low, f.high)] for k, f in facts.items()}
    if name != "buy and hold":
        held, _ = run("buy and hold", cost)
        for statistic in ("growth", "sharpe"):
            gap = compare(record, held, statistic, seed=0)
            kept = [round(v, 4) for v in (gap.value, gap.low, gap.high)]
            result[f"{statistic}_over_holding"] = kept
    if cost == COSTS[1]:
        result["weekly_equity"] = [round(x, 4) for x in record.equity[0, ::5].tolist()]
        first = day(CRASH[0]) - day(SP500_SPLIT[2])
        autumn = slice(first, day(CRASH[1]) - day(SP500_SPLIT[2]))
        result["crash_leverage"] = [round(x, 3) for x in record.leverage[0, autumn].tolist()]
        result["crash_equity"] = [
            round(x, 4) for x in record.equity[0, first : autumn.stop + 1].tolist()
        ]
    return result


def news(rows: list[dict]) -> list[float]:
    """Deflated Sharpe ratio of each row: the policies side by side are the trials."""
    daily = [r["sharpe_a_day"] for r in rows]
    return [
        deflated_sharpe(
            r["sharpe_a_day"],
            skew=r["skew"],
            kurtosis=r["kurtosis"],
            n_bars=r["days"],
            n_trials=len(rows),
            variance=float(np.var(daily, ddof=1)),
        )
        for r in rows
    ]


def tasks() -> list[Key]:
    """All rows that are wanted, the middle cost first, the dearest of all last."""
    *usual, dearest = NAMES
    wanted: list[Key] = [
        {"name": name, "cost": cost, "seed": 0}
        for cost in (COSTS[1], COSTS[0], COSTS[2])
        for name in usual
    ]
    wanted += [{"name": "PPO", "cost": COSTS[1], "seed": seed} for seed in SEEDS[1:]]
    return [*wanted, {"name": dearest, "cost": COSTS[1], "seed": 0}]


def main() -> None:
    """Command line: ``python -m mambadream_lite.judge.verdict [--out FILE]``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, default=Path("data/benchmarks/verdict.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    about = {
        "what": "policies on the S&P 500 of 2007 to 2018: statistics with 95 % intervals",
        "statistics": STATISTICS,
        "planner": {"n_futures": N_FUTURES, "horizons": HORIZONS},
        "crash": CRASH,
    }
    study(args.out, about, tasks(), lambda task: row(**task))


if __name__ == "__main__":
    main()
