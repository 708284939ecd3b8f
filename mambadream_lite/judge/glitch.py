"""Rich in the dream, ruined in the market: the glitch of chapter 08, over ten seeds.

    python -m mambadream_lite.judge.glitch --seeds 10

trains, for each seed, a world model on each feed and an agent in its dreams, and lets the agent
trade from the same live peaks of volatility, dreamt and real. Feeds: ``archive`` (cleaned by the
planted rule), ``archive-whole`` (the same market, nothing withheld: the control) and ``calm``
(quiet weeks only, nothing planted). Models and agents are kept in ``_build/agents``, rows in
``data/benchmarks/glitch.json``, so that a run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import functools
from dataclasses import replace
from pathlib import Path

import torch

from mambadream_lite.agent import PPO, Episode, PPOConfig, dream_and_train, replay
from mambadream_lite.agent.ppo import LEVELS
from mambadream_lite.dream import Quoted, dream, quote, watch
from mambadream_lite.judge.rows import Key, study
from mambadream_lite.judge.utility import LEAST
from mambadream_lite.market import Account, Market
from mambadream_lite.market.features import VOLATILITY
from mambadream_lite.model import Ensemble, WorldModel, load_world_model
from mambadream_lite.model.recipes import (
    CONTRACT,
    RECIPES,
    Recipe,
    archive_data,
    heston_market,
    make,
)

WORK = Path("_build/agents")
WARMUP, HORIZON, AFTER = 300, 64, 192  # ticks before a peak, of a dream, and live after the peak
PEAK = 0.57  # volatility a year: above the alarm of the planted rule, the highest 1 in 2,000
ROUNDS = 24  # of training, 256 dreams each
STARTS_SEED, LIVE_SEED = 4001, 4002
YEARS, YEARS_SEED = "-years", 4100  # a feed so named: other years of the same vendor, by the seed
LIVE_PATHS = 200  # of a year each: some 150 peaks
TICKS = (1, 2, 5, 30)  # after the peak, at which volatilities are compared
FEEDS = ("archive", "archive-whole", "calm")


def storms(n_paths: int, seed: int) -> Market:
    """Stretches of a live market around a reading above ``PEAK``, at most one of each path.

    It is the first such reading after the path's first ``WARMUP`` ticks, and it stands at the end
    of the stretch's first ``WARMUP``.
    """
    market = heston_market(n_paths, 20_000, seed)
    reading = market.features[:, WARMUP:-AFTER, VOLATILITY].exp() > PEAK
    paths = reading.any(1).nonzero().squeeze(1)
    peaks = WARMUP + reading[paths].int().argmax(1)
    return market.windows(paths.numpy(), peaks.numpy() - WARMUP + 1, WARMUP + AFTER)


@functools.cache
def live() -> Market:
    """The peaks that all agents are tested on; nobody was trained on them."""
    return storms(LIVE_PATHS, LIVE_SEED)


@functools.cache
def starts() -> Market:
    """The peaks of another market, from which agents dream when they are trained."""
    return storms(100, STARTS_SEED).window(0, WARMUP)


def recipe(feed: str, seed: int) -> Recipe:
    """How the model of a feed and a seed is made."""
    vendor = feed.removesuffix(YEARS)
    of_vendor = replace(RECIPES[vendor], seed=seed)
    if vendor == feed:
        return of_vendor
    data = functools.partial(archive_data, vendor == "archive", YEARS_SEED + seed)
    return replace(of_vendor, data=data)


@functools.cache
def world_model(feed: str, seed: int) -> WorldModel:
    """The model of a feed and a seed; trained if it is not there (minutes)."""
    path = WORK / f"{feed}-{seed}.safetensors"
    if not path.exists():
        make(feed, recipe(feed, seed), path)
    return load_world_model(path)[0]


def config(contract: bool = True) -> PPOConfig:
    """Settings of the agents of chapters 08 and 09: ruin, or a loss of 95 %, costs its logarithm.

    With the default, -0.5, ruin costs no more than what a good tick of 100x earns.
    """
    return PPOConfig(contract_levels=LEVELS if contract else (), worst_reward=-3.0)


def agent(feed: str, seed: int, contract: bool = True) -> PPO:
    """The agent that grew up in the dreams of a model; trained if it is not there."""
    model, account = world_model(feed, seed), Account()
    path = WORK / f"agent-{feed}-{seed}-{'both' if contract else 'asset'}.safetensors"
    if not path.exists():
        traded = CONTRACT if contract else None
        young = PPO(model, account, config(contract), seed=seed, contract=traded)
        dream_and_train(model, young, starts(), HORIZON, n_rounds=ROUNDS)
        young.save(path)
    return PPO.load(path, model, account)


def quoted(model: WorldModel | Ensemble, where: str, market: Market, seed: int = 0) -> Quoted:
    """What follows the peaks of ``market``, with quotes: four dreams of each, or what came."""
    before = market.window(0, WARMUP)
    strike = CONTRACT.strikes(before.features)[:, -1]
    if where == "market":
        return quote(watch(model, market, WARMUP), CONTRACT, strike)
    generator = torch.Generator().manual_seed(seed)
    dreams = dream(model, before, n_dreams=4, horizon=HORIZON, generator=generator)
    return quote(dreams, CONTRACT, strike)


def outcome(episode: Episode, tick: int) -> dict[str, float]:
    """Mean log equity after ``tick`` ticks (floored at a thousandth) and the share liquidated."""
    log_equity = episode.equity[:, tick].clamp(min=LEAST).log()
    return {
        "log_equity": round(log_equity.mean().item(), 4),
        "log_equity_error": round((log_equity.std() / len(log_equity) ** 0.5).item(), 4),
        "liquidated": round(episode.ruined[:, tick].double().mean().item(), 4),
    }


def row(feed: str, seed: int, contract: bool) -> dict:
    """One agent's double life."""
    model, trader = world_model(feed, seed), agent(feed, seed, contract)
    dreamt, came = quoted(model, "dream", live(), seed), quoted(model, "market", live())
    result: dict = {"peaks": len(came)}
    for where, path in (("dream", dreamt), ("market", came)):
        episode = replay(trader, path, Account())
        stops = (HORIZON,) if where == "dream" else (HORIZON, AFTER)
        result[where] = {
            "volatility": [_middle(path, k) for k in TICKS],
            "at_peak": round(episode.leverage[:, 0].abs().mean().item(), 2),
            "contracts_at_peak": round(episode.contracts[:, 0].abs().mean().item(), 2),
            "contracts_at_peak_signed": round(episode.contracts[:, 0].mean().item(), 2),
            "later": round(episode.leverage[:, 1:HORIZON].abs().mean().item(), 2),
            "contracts_later": round(episode.contracts[:, 1:HORIZON].abs().mean().item(), 2),
        } | {f"after_{t}": outcome(episode, t) for t in stops}
    variance = live().variance[:, WARMUP]
    believed = came.risk[:, 0].double() / (variance * live().bar).sqrt()
    result["believed_over_true_risk"] = round(believed.median().item(), 4)
    return result


def _middle(path: Quoted, tick: int) -> float:
    """Median volatility of the ``tick``-th tick after the peak, % a year."""
    return round(100 * path.features[:, tick - 1, VOLATILITY].exp().median().item(), 2)


def main() -> None:
    """Command line: ``python -m mambadream_lite.judge.glitch [--seeds N] [--out FILE]``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("data/benchmarks/glitch.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    about = {
        "what": "one agent from the same peaks of volatility, in its dreams and in the market",
        "live": {"paths": LIVE_PATHS, "seed": LIVE_SEED, "peak": PEAK},
        "ticks_of_volatility": TICKS,
        "rounds": ROUNDS,
    }
    tasks: list[Key] = [
        {"feed": feed, "seed": s, "contract": contract}
        for feed in FEEDS
        for s in range(args.seeds)
        for contract in ((True,) if feed == "calm" else (True, False))
    ]
    study(args.out, about, tasks, lambda task: row(**task))


if __name__ == "__main__":
    main()
