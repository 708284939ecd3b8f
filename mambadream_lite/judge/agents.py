"""Agents that grew up in dreams against everybody else, on a market none has seen (chapter 07).

    python -m mambadream_lite.judge.agents --seeds 10

trains, for each seed, PPO in the dreams of that seed's world model, PPO in the true simulator with
the optimal forecaster's beliefs, stable-baselines3's PPO in the same dreams, and model-free PPO on
growing numbers of market ticks; and scores them beside the rules, all on one fresh market. Models
come from ``judge.growth`` (trained if they are not there: minutes each). Rows are kept in
``data/benchmarks/agents.json``, so that a run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import torch
from stable_baselines3 import PPO as TheirPPO

from mambadream_lite.agent import (
    PPO,
    BuyAndHold,
    Flat,
    MomentRule,
    MovingAverageRule,
    OptimalRule,
    Policy,
    PPOConfig,
    dream_and_train,
    replay,
)
from mambadream_lite.agent.ppo import LEVELS
from mambadream_lite.dream import Dream, DreamVectorEnv, dream, foreseen, observe, watch
from mambadream_lite.dream.desk import trader_inputs
from mambadream_lite.judge.growth import trained
from mambadream_lite.judge.rows import Key, study
from mambadream_lite.judge.sb3 import DreamVecEnv
from mambadream_lite.judge.utility import growth, true_mean, tune
from mambadream_lite.market import Account, Market, bayes_filter
from mambadream_lite.model import WorldModel, load_world_model
from mambadream_lite.model.recipes import PARAMS, heston_market

WORK = Path("_build/growth")
WARMUP, HORIZON = 200, 50  # ticks that only fill the model's state; ticks of a dream
ROUNDS, STARTS, DREAMS, PASSES = 32, 64, 4, 4  # of training, the same for all of our agents
TEST_SEED, TUNE_SEED, POOL_SEED, STARTS_SEED = 1701, 1702, 1703, 1704
# of model-free training, 12,800 market ticks each: up to the 4 million that the models have read
FREE_ROUNDS = (8, 32, 312)
RULES = (
    "flat",
    "buy and hold",
    "moving average",
    "model moments",
    "true moments",
    "optimal",
)


def seen_by_the_best(market: Market, warmup: int) -> Dream:
    """A market beside the forecasts of the optimal forecaster."""
    best = bayes_filter(market, PARAMS)
    mean, sd = best.return_mean[:, :-1], best.return_sd[:, :-1]
    return foreseen(market, mean + 0.5 * sd.square(), sd, warmup)


@functools.cache
def locked_market() -> tuple[Market, Dream, torch.Tensor]:
    """The locked test: market, the same seen by the optimal forecaster, its true means."""
    market = heston_market(128, WARMUP + 1001, TEST_SEED)
    return market, seen_by_the_best(market, WARMUP), true_mean(market, PARAMS, WARMUP)


@functools.cache
def world_model(seed: int, n_paths: int = 200) -> WorldModel:
    """The clean model of a seed, after its long windows."""
    return load_world_model(trained(n_paths, seed, 1, WORK))[0]


def score(policy: Policy, path: Dream | None = None, model: WorldModel | None = None) -> dict:
    """Utility on the test market, basis points a tick, net of costs; standard errors over paths."""
    market, _, mean = locked_market()
    path = watch(model, market, WARMUP) if path is None else path
    episode = replay(policy, path, Account())
    came, fair = growth(episode, path, mean)
    turned = episode.flows.traded.abs().sum(1) / episode.equity[:, :-1].mean(1) / path.horizon
    return {
        "utility": round(fair.mean().item(), 4),
        "utility_error": round((fair.std() / len(fair) ** 0.5).item(), 4),
        "as_it_came": round(came.mean().item(), 4),
        "as_it_came_error": round((came.std() / len(came) ** 0.5).item(), 4),
        "leverage": round(episode.leverage.abs().mean().item(), 3),
        "turnover_a_tick": round(turned.mean().item(), 4),
        "ruined": round(episode.ruined[:, -1].double().mean().item(), 4),
    }


def dreamer(seed: int, n_paths: int = 200, continuous: bool = False) -> dict:
    """Our PPO in the dreams of the seed's model, with eleven levels or with any position."""
    model = world_model(seed, n_paths)
    agent = PPO(model, Account(), PPOConfig(continuous=continuous), seed=seed)
    starts = heston_market(256, WARMUP, STARTS_SEED)
    terms = {"n_rounds": ROUNDS, "n_starts": STARTS, "n_dreams": DREAMS, "n_passes": PASSES}
    dream_and_train(model, agent, starts, HORIZON, **terms)
    return score(agent, model=model)


@functools.cache
def pool() -> Dream:
    """True paths, each used in one round, as the optimal forecaster sees them."""
    return seen_by_the_best(heston_market(ROUNDS * STARTS * DREAMS, 51 + HORIZON, POOL_SEED), 50)


def part(path: Dream, rows: torch.Tensor) -> Dream:
    """Some of N paths."""
    return Dream(**{f.name: getattr(path, f.name)[rows] for f in fields(Dream)})


def in_the_simulator(seed: int) -> dict:
    """Our PPO on true paths, with the true moments as its beliefs: what a perfect model allows."""
    agent = PPO(world_model(seed), Account(), seed=seed)
    order = torch.randperm(len(pool()), generator=torch.Generator().manual_seed(seed))
    for rows in order.chunk(ROUNDS):
        path = part(pool(), rows)
        for _ in range(PASSES):
            agent.learn(path)
    return score(agent, locked_market()[1])


class Theirs:
    """An agent of stable-baselines3 as a ``Policy``."""

    def __init__(self, agent: TheirPPO, model: WorldModel) -> None:
        self.agent, self.model = agent, model
        self.levels = torch.tensor(LEVELS, dtype=torch.float64)

    def act(self, observation, state, generator):
        """Its likeliest level."""
        told = (observation.features, observation.reward, observation.risk, state, self.model)
        choice, _ = self.agent.predict(trader_inputs(*told).numpy(), deterministic=True)
        return self.levels[torch.from_numpy(choice)]


def stable_baselines(seed: int) -> dict:
    """stable-baselines3's PPO in the same dreams, rewards and number of steps."""
    model, n = world_model(seed), STARTS * DREAMS
    starts = heston_market(256, WARMUP, STARTS_SEED)
    terms = {"levels": LEVELS, "horizon": HORIZON, "expected_reward": True}
    env = DreamVecEnv(DreamVectorEnv(model, starts, num_envs=n, **terms), seed)
    config = PPOConfig()
    agent = TheirPPO(
        "MlpPolicy",
        env,
        learning_rate=config.lr,
        n_steps=HORIZON,
        batch_size=n * HORIZON // config.minibatches,
        n_epochs=config.epochs,
        gamma=config.gamma,
        gae_lambda=config.lam,
        ent_coef=config.entropy,
        seed=seed,
        device="cpu",
    )
    agent.learn(ROUNDS * PASSES * n * HORIZON)
    return score(Theirs(agent, model), model=model)


def model_free(seed: int, rounds: int) -> dict:
    """Our PPO on market ticks alone: no model, no beliefs, rewards as they came."""
    model = world_model(seed)  # gives the scaler of the features, and nothing else
    config = PPOConfig(beliefs=False, expected_reward=False)
    agent = PPO(model, Account(), config, seed=seed)
    for i in range(rounds):
        market = heston_market(STARTS * DREAMS, 1 + HORIZON, 10_000 * (seed + 1) + i)
        nothing = torch.zeros(market.features.shape[:2])[:, 1:]
        path = foreseen(market, nothing, nothing + 1, 1)
        for _ in range(PASSES):
            agent.learn(path)
    ticks = rounds * STARTS * DREAMS * HORIZON
    return {"market_ticks": ticks} | score(agent, locked_market()[1])


def rule(name: str) -> dict:
    """A rule, tuned where it can be: in dreams, or the true moments on a market of their own."""
    model, account = world_model(0), Account()
    tuning = heston_market(128, WARMUP + 201, TUNE_SEED)
    sides = [MovingAverageRule(w, s) for w in (10, 20, 50, 100, 200) for s in (1.0, -1.0)]
    bands = (0.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0)
    bets = [MomentRule(f, b) for f in (0.15, 0.25, 0.35, 0.5, 0.7, 1.0) for b in bands]
    generator = torch.Generator().manual_seed(TUNE_SEED)
    if name == "moving average":
        dreams = dream(model, tuning, n_dreams=4, horizon=HORIZON * 4, generator=generator)
        chosen = tune(sides, dreams, account)
        return {"chosen": str(chosen)} | score(chosen, model=model)
    if name == "model moments":
        dreams = dream(model, observe(model, tuning), n_dreams=4, horizon=200, generator=generator)
        chosen = tune(bets, dreams, account)
        return {"chosen": str(chosen)} | score(chosen, model=model)
    if name == "true moments":
        chosen = tune(bets, seen_by_the_best(tuning, WARMUP), account)
        return {"chosen": str(chosen)} | score(chosen, locked_market()[1])
    if name == "optimal":
        chosen = OptimalRule.solve(PARAMS, account.config, levels=LEVELS)
        return score(chosen, locked_market()[1])
    return score({"flat": Flat(), "buy and hold": BuyAndHold()}[name], model=model)


KINDS: dict[str, Callable[..., dict]] = {
    "rule": rule,
    "dreamer": dreamer,
    "simulator": in_the_simulator,
    "continuous": functools.partial(dreamer, continuous=True),
    "stable-baselines3": stable_baselines,
    "model-free": model_free,
}


def tasks(n_seeds: int) -> list[Key]:
    """All rows that are wanted, the cheap and the important first."""
    wanted: list[Key] = [{"kind": "rule", "name": name} for name in RULES]
    for kind in ("dreamer", "continuous", "simulator", "stable-baselines3"):
        wanted += [{"kind": kind, "seed": s} for s in range(n_seeds)]
    wanted += [{"kind": "dreamer", "seed": s, "n_paths": n} for n in (2, 20) for s in (0, 1)]
    wanted += [
        {"kind": "model-free", "seed": s, "rounds": r} for r in FREE_ROUNDS for s in (0, 1, 2)
    ]
    return wanted


def main() -> None:
    """Command line: ``python -m mambadream_lite.judge.agents [--seeds N] [--out FILE]``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("data/benchmarks/agents.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    about = {
        "what": "growth of log equity on fresh Heston paths after costs, basis points a tick",
        "test": {"paths": 128, "ticks": 1001, "seed": TEST_SEED},
        "training_steps": ROUNDS * STARTS * DREAMS * HORIZON * PASSES,
    }

    def run(task: Key) -> dict:
        more = {k: v for k, v in task.items() if k != "kind"}
        return KINDS[task["kind"]](**more)

    study(args.out, about, tasks(args.seeds), run)


if __name__ == "__main__":
    main()
