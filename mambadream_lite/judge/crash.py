"""Does dreaming of a crash help in a crash? Agents raised in dreams of 2008 and of calm days.

    python -m mambadream_lite.judge.crash --seeds 10

trains, for each seed, the same PPO again and again in dreams of the shipped S&P 500 model, ten
thousand dreams each, and changes only the days that the dreams start from and what the agent is
paid (chapters 07 and 10): ``expected``, the growth that the model's reward head expects, or
``drawn``, the growth of the dreamt price. The agents then trade, beside the old rules, the end of
2008, the years after it, and storms and ordinary stretches of simulated worlds, which every seed
draws anew. Agents are kept in ``_build/crash``, rows in ``data/benchmarks/crash.json``, so that a
run goes on where it stopped.

What an agent dreams of is known before what it is tested on, with two exceptions that are named:
``hindsight`` starts its dreams inside the crash, and the test ``whole`` holds the days that
``turmoil`` and ``hindsight`` start from.
"""

from __future__ import annotations

import argparse
import functools
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mambadream_lite.agent import (
    PPO,
    BuyAndHold,
    Episode,
    Flat,
    MomentRule,
    MovingAverageRule,
    Observation,
    Policy,
    PPOConfig,
    dream_and_train,
    replay,
)
from mambadream_lite.dream import Dream, dream, watch
from mambadream_lite.judge.rows import Key, study
from mambadream_lite.judge.utility import LEAST
from mambadream_lite.market import Account, AccountConfig, AccountState, Market, load_sp500
from mambadream_lite.market.account import BP
from mambadream_lite.market.features import VOLATILITY
from mambadream_lite.market.worlds import make_daily_worlds
from mambadream_lite.model import WorldModel, load_world_model
from mambadream_lite.model.recipes import SP500_SPLIT

MODEL = Path("data/sp500.safetensors")  # trained to 2004, stopped by 2005 and 2006
STARTS = {  # dreams start at the close of each day of these
    "calm": ("2006-01-01", "2006-09-01"),
    "turmoil": ("2008-01-01", "2008-09-01"),  # the same months, two years on
    "hindsight": ("2008-09-01", "2009-01-01"),  # look-ahead: the days of the test
}
STRETCHES = {
    "crash": ("2008-09-01", "2009-01-01"),
    "after": ("2009-01-01", "2019-01-01"),
    "whole": ("2007-01-01", "2019-01-01"),
}
WARMUP, HORIZON, AFTER = 250, 60, 85  # days: of a context, of a dream, of a storm (as the crash)
ROUNDS, N_STARTS, N_DREAMS = 40, 64, 4  # 10,240 dreams an agent
PEAK = 0.5  # volatility a year at which a storm begins; read on 6 of 1,951 days before 2007
WORLDS, WORLDS_SEED = 64, 9000  # of four paths, 1,000 days each; no model has seen these seeds
LEVELS = (-5.0, -3.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0, 5.0)
WINDOWS = (5, 10, 20, 50, 100, 200)  # days of the moving average to choose from
# where the dreams start, and what they pay
AGENTS = tuple((name, pay) for pay in ("expected", "drawn") for name in ("calm", "turmoil"))
AGENTS += (("hindsight", "expected"),)
RULES = ("flat", "buy and hold", "moving average", "model moments")


@dataclass(frozen=True)
class Trial:
    """N paths of H days to trade, and log prices (N, W) of the days before them."""

    path: Dream
    before: Tensor


@dataclass(frozen=True)
class Remembering:
    """A rule that also knows the prices from before its first day, as the agents' model does."""

    rule: MovingAverageRule
    before: Tensor

    def act(
        self, observation: Observation, state: AccountState, generator: torch.Generator | None
    ) -> Tensor:
        """What the rule does on the longer history."""
        price = torch.cat([self.before, observation.log_price], dim=1)
        return self.rule.act(replace(observation, log_price=price), state, generator)


@functools.cache
def world_model() -> WorldModel:
    """The S&P 500's model."""
    return load_world_model(MODEL)[0]


@functools.cache
def sp500() -> Market:
    """The S&P 500, 1999 to 2018."""
    return load_sp500()


def account() -> Account:
    """The terms of chapter 10: daily bars, two basis points a turn, at most 5x."""
    terms = {"half_spread": 1.0, "fee": 1.0, "max_leverage": 5.0}
    return Account(AccountConfig(bar=sp500().bar, **terms))


def contexts(first: str, stop: str) -> Market:
    """The ``WARMUP`` days up to each day of [``first``, ``stop``), that day included."""
    start, end = _days(first, stop)
    last = np.arange(start, end)
    return sp500().windows(0 * last, last - WARMUP + 1, WARMUP)


def stretch(first: str, stop: str) -> Market:
    """The days of [``first``, ``stop``) after the ``WARMUP`` days before them, as one path."""
    start, end = _days(first, stop)
    return sp500().window(start - WARMUP, end)


def storms(market: Market) -> Market:
    """The ``AFTER`` days that follow the first reading above ``PEAK``, of each path that has one.

    The reading ends the ``WARMUP`` days before them: its close tells that a stretch begins here.
    """
    reading = market.features[:, WARMUP:-AFTER, VOLATILITY].exp() > PEAK
    paths = reading.any(1).nonzero().squeeze(1)
    first = WARMUP + reading[paths].int().argmax(1)
    return market.windows(paths.numpy(), first.numpy() - WARMUP + 1, WARMUP + AFTER)


def sound(path: Dream) -> Tensor:
    """(N,) bool: prices stay numbers. From inside the crash 1 dream in some 10,000 explodes."""
    finite = torch.stack([path.high, path.low, path.log_price[:, 1:]]).isfinite().all(2).all(0)
    return finite & path.alive.all(1)  # nothing else ends a dream here


def part(path: Dream, rows: Tensor) -> Dream:
    """Some of N paths."""
    return Dream(**{f.name: getattr(path, f.name)[rows] for f in fields(Dream)})


class Dreamer(PPO):
    """PPO that leaves out the dreams in which no account can be kept."""

    def learn(self, path: Dream) -> float:
        """See ``PPO.learn``."""
        return super().learn(part(path, sound(path)))


@functools.cache
def trials(seed: int) -> dict[str, Trial]:
    """All that is traded under a seed: real days, this seed's worlds, and this seed's dreams."""
    model = world_model()
    worlds = make_daily_worlds(WORLDS, 1000, seed=WORLDS_SEED + seed)
    markets = {name: stretch(*days) for name, days in STRETCHES.items()}
    markets |= {"storms": storms(worlds), "ordinary": worlds.window(0, WARMUP + AFTER)}
    found = {
        name: Trial(watch(model, market, WARMUP), market.price[:, :WARMUP].log())
        for name, market in markets.items()
    }
    generator = torch.Generator().manual_seed(WORLDS_SEED + seed)
    for name, days in STARTS.items():
        seen = contexts(*days)
        path = dream(model, seen, n_dreams=N_DREAMS, horizon=HORIZON, generator=generator)
        before = seen.price[:, :-1].log().repeat_interleave(N_DREAMS, dim=0)
        kept = sound(path)
        found[f"dreams of {name}"] = Trial(part(path, kept), before[kept])
    return found


def config(pay: str) -> PPOConfig:
    """Daily leverages; ruin costs the logarithm of 95 %, as in ``judge.glitch``."""
    return PPOConfig(levels=LEVELS, worst_reward=-3.0, expected_reward=pay == "expected")


def agent(starts: str, pay: str, seed: int, work: Path) -> PPO:
    """The agent that grew up in dreams from ``starts``; trained (a minute) if it is not there."""
    path = work / f"{starts}-{pay}-{seed}.safetensors"
    if not path.exists():
        young = Dreamer(world_model(), account(), config(pay), seed=seed)
        terms = {"n_rounds": ROUNDS, "n_starts": N_STARTS, "n_dreams": N_DREAMS}
        dream_and_train(world_model(), young, contexts(*STARTS[starts]), HORIZON, **terms)
        young.save(path)
    return PPO.load(path, world_model(), account())


@functools.cache
def moving_average() -> MovingAverageRule:
    """The window and the side that grew most on the S&P 500 before 2007."""
    first = str(sp500().time[WARMUP])
    market = stretch(first, SP500_SPLIT[2])
    past = Trial(watch(world_model(), market, WARMUP), market.price[:, :WARMUP].log())
    sides = [MovingAverageRule(w, side) for w in WINDOWS for side in (1.0, -1.0)]
    grown = [outcome(lived(rule, past))["log_growth"] for rule in sides]
    return sides[int(np.argmax(grown))]


def lived(policy: Policy, trial: Trial) -> Episode:
    """What becomes of a policy, which starts with nothing held."""
    if isinstance(policy, MovingAverageRule):
        policy = Remembering(policy, trial.before)
    return replay(policy, trial.path, account())


def outcome(episode: Episode) -> dict[str, float]:
    """Means over paths: log growth (floored at a thousandth), worst drawdown, ruin, leverage."""
    equity = episode.equity
    grown = equity[:, -1].clamp(min=LEAST).log()
    fall = 1 - (equity / equity.cummax(dim=1).values).amin(1)
    return {
        "paths": len(equity),
        "log_growth": round(grown.mean().item(), 5),
        "bp_a_day": round(grown.mean().item() / episode.leverage.shape[1] / BP, 3),
        "drawdown": round(fall.mean().item(), 4),
        "ruined": round(episode.ruined[:, -1].double().mean().item(), 4),
        "leverage": round(episode.leverage.mean().item(), 3),
        "leverage_abs": round(episode.leverage.abs().mean().item(), 3),
    }


def facts(path: Dream) -> dict[str, float]:
    """Mean return that the reward head expected and that came, bp a day; volatility a year."""
    returns, year = path.log_price.diff(dim=1), sp500().bar ** 0.5
    return {
        "paths": len(path),
        "believed": round(path.reward.double().mean().item() / BP, 3),
        "came": round((returns.exp() - 1).mean().item() / BP, 3),
        "believed_volatility": round(_rms(path.risk.double()) / year, 4),
        "volatility": round(_rms(returns) / year, 4),
    }


def row(task: Key, work: Path) -> dict:
    """One trader, or the market itself, in all trials of a seed."""
    kind, seed, name = task["kind"], task["seed"], task.get("name")
    if kind == "market":
        return {test: facts(trial.path) for test, trial in trials(seed).items()}
    chosen: dict[str, object] = {}
    if kind == "agent":
        policy: Policy = agent(name, task["pay"], seed, work)
    elif name == "moving average":
        policy = moving_average()
        chosen = {"chosen": str(policy)}
    else:  # mean over variance, as the reward head has it: what it pays best but for costs
        bet = MomentRule(1.0, limit=account().config.max_leverage)
        policy = {"flat": Flat(), "buy and hold": BuyAndHold(), "model moments": bet}[name]
    return chosen | {test: outcome(lived(policy, t)) for test, t in trials(seed).items()}


def tasks(n_seeds: int) -> list[Key]:
    """All rows that are wanted; a seed is finished before the next, hindsight comes last."""
    wanted: list[Key] = []
    for seed in range(n_seeds):
        wanted.append({"kind": "market", "seed": seed})
        wanted += [{"kind": "rule", "name": name, "seed": seed} for name in RULES]
        wanted += [{"kind": "agent", "name": n, "pay": pay, "seed": seed} for n, pay in AGENTS]
    return sorted(wanted, key=lambda task: task.get("name") == "hindsight")


def _days(first: str, stop: str) -> tuple[int, int]:
    time = sp500().time
    start, end = np.searchsorted(time, np.array([first, stop], dtype=time.dtype))
    return int(start), int(end)


def _rms(values: Tensor) -> float:
    return values.square().mean().sqrt().item()


def main() -> None:
    """Command line: ``python -m mambadream_lite.judge.crash [--seeds N] [--work D] [--out F]``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--work", type=Path, default=Path("_build/crash"))
    parser.add_argument("--out", type=Path, default=Path("data/benchmarks/crash.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    about = {
        "what": "agents raised in dreams from calm and from turmoil, in a crash and elsewhere",
        "starts": STARTS,
        "look_ahead": {"hindsight": ["crash", "whole"], "turmoil": ["whole"]},
        "stretches": STRETCHES,
        "dreams": ROUNDS * N_STARTS * N_DREAMS,
        "horizon": HORIZON,
        "worlds": {"worlds": WORLDS, "first_seed": WORLDS_SEED, "peak": PEAK, "days": AFTER},
    }
    study(args.out, about, tasks(args.seeds), lambda task: row(task, args.work))


if __name__ == "__main__":
    main()
