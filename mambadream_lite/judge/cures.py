"""Which cure helps against which disease: the table of chapter 09, over the seeds of chapter 08.

    python -m mambadream_lite.judge.cures --seeds 10

takes the models and agents of ``judge.glitch`` and applies each cure: to the agents of the cleaned
archive, after live peaks, where the question is what is saved; and to the same agents' controls,
where it is what the cure costs. Rows are kept in ``data/benchmarks/cures.json``.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from mambadream_lite.agent import PPO, dream_and_train, replay
from mambadream_lite.dream import (
    Quoted,
    disagreement_halt,
    disagreement_threshold,
    pause,
    surprise_threshold,
    surprised,
    watch,
)
from mambadream_lite.dream.halt import Halt
from mambadream_lite.judge.glitch import (
    AFTER,
    HORIZON,
    ROUNDS,
    WARMUP,
    WORK,
    agent,
    config,
    live,
    outcome,
    quoted,
    starts,
    world_model,
)
from mambadream_lite.judge.rows import Key, study
from mambadream_lite.market import Account, Market
from mambadream_lite.market.archive import ALARM
from mambadream_lite.market.features import VOLATILITY
from mambadream_lite.model import Ensemble, WorldModel
from mambadream_lite.model.recipes import CONTRACT, heston_market

SHARE = 0.01  # of ordinary held-out ticks that a halt or an alarm may stop: the false alarms
HELD_OUT_SEED, ORDINARY_SEED = 4003, 4004
HORIZONS = (8, 16, 32, 64, 128)
PAUSE = 78  # ticks, a day: how long an agent stays out after a halt
HOW = ("averaged", "halted", "paused", "retrained")
SEEDS = 10  # of models that there are, from which members are taken


@dataclass(frozen=True)
class Ensembled:
    """A kind of ensemble: which feeds its members were brought up on.

    Attributes:
        feeds: of the members, for the disease ``archive``.
        control: the same, for a trader whose own feed was whole.
        seeds: how many of the seeds are tried.
    """

    feeds: tuple[str, ...]
    control: tuple[str, ...]
    seeds: int = SEEDS


ENSEMBLES = {
    # three seeds on one feed
    "same feed": Ensembled(("archive",) * 3, ("archive-whole",) * 3),
    # three windows of one vendor's history
    "other years": Ensembled(
        ("archive", "archive-years", "archive-years"),
        ("archive-whole", "archive-whole-years", "archive-whole-years"),
        seeds=3,  # each needs models of its own: eight in all, five minutes each
    ),
    # three vendors, of which one cleans and one knows quiet weeks only
    "other feeds": Ensembled(
        ("archive", "archive-whole", "calm"), ("archive-whole", "archive-whole", "calm")
    ),
}


def ensemble(kind: str, feed: str, seed: int) -> Ensemble:
    """The ensemble that belongs to a seed: no member twice."""
    feeds = ENSEMBLES[kind].feeds if feed == "archive" else ENSEMBLES[kind].control
    members, used = [], {}
    for name in feeds:
        used[name] = used.get(name, -1) + 1
        members.append(world_model(name, (seed + used[name]) % SEEDS))
    return Ensemble(members).eval()


@functools.cache
def held_out() -> Market:
    """Ordinary ticks, at which thresholds are set."""
    return heston_market(32, 2_100, HELD_OUT_SEED)


@functools.cache
def ordinary() -> Market:
    """Ordinary ticks of another market, on which false alarms are counted."""
    return heston_market(32, 2_100, ORDINARY_SEED)


def peaks(model: WorldModel | Ensemble) -> Quoted:
    """The live peaks as a model sees them."""
    return quoted(model, "market", live())


def trade(trader: PPO, path: Quoted) -> dict:
    """What an agent makes of the live peaks."""
    episode = replay(trader, path, Account())
    return {
        "contracts_at_peak": round(episode.contracts[:, 0].abs().mean().item(), 2),
        "traded": round((episode.contracts[:, :HORIZON] != 0).double().mean().item(), 4),
        "halted_at_peak": round(1 - path.alive[:, 0].double().mean().item(), 4),
    } | {f"after_{t}": outcome(episode, t) for t in (HORIZON, AFTER)}


def no_cure(feed: str, seed: int) -> dict:
    """As it is."""
    return trade(agent(feed, seed), peaks(world_model(feed, seed)))


@functools.cache
def mixed_starts() -> Tensor:
    """The peaks of ``starts``, and as many ordinary moments, (B, T, F).

    An ensemble that ends every dream at a peak leaves nothing to learn there.
    """
    peaks = starts().features
    usual = heston_market(len(peaks), WARMUP, HELD_OUT_SEED + 10).features
    return torch.cat([peaks, usual])


def raised(
    feed: str,
    seed: int,
    name: str,
    model: WorldModel | Ensemble,
    horizon: int,
    halt: Halt | None = None,
) -> PPO:
    """An agent brought up in another way than that of chapter 08; trained if it is not there."""
    path = WORK / f"agent-{feed}-{seed}-{name}.safetensors"
    if not path.exists():
        young = PPO(model, Account(), config(), seed=seed, contract=CONTRACT)
        # as many dreamt ticks, whatever the horizon
        rounds = ROUNDS * HORIZON // horizon
        begin = starts() if halt is None else mixed_starts()
        dream_and_train(model, young, begin, horizon, n_rounds=rounds, halt=halt)
        young.save(path)
    return PPO.load(path, model, Account())


def horizon_cure(feed: str, seed: int, horizon: int) -> dict:
    """Trained in dreams of another length."""
    model = world_model(feed, seed)
    return trade(raised(feed, seed, f"horizon-{horizon}", model, horizon), peaks(model))


def ensemble_cure(feed: str, seed: int, kind: str, how: str) -> dict:
    """An ensemble beside the model.

    ``averaged``: the agent sees the ensemble's beliefs. ``halted``: it keeps its own, and stays
    out in the ticks before which members disagree. ``paused``: it stays out for a day more.
    ``retrained``: it grew up in dreams of the ensemble that end where members disagree, sees its
    beliefs, and stays out there.
    """
    model = ensemble(kind, feed, seed)
    limit = disagreement_threshold(model, held_out(), SHARE, warmup=WARMUP)
    halt = disagreement_halt(limit)
    trader, path = agent(feed, seed), peaks(world_model(feed, seed))
    if how in ("averaged", "retrained"):
        path = peaks(model)
    if how == "retrained":
        name = f"{kind.replace(' ', '-')}-halted"
        trader = raised(feed, seed, name, model, HORIZON, halt)
    trader.model = model if how in ("averaged", "retrained") else trader.model
    stopped = 0.0
    if how != "averaged":
        ticks = PAUSE if how == "paused" else 0
        path = replace(path, alive=pause(watch(model, live(), WARMUP, halt=halt).alive, ticks))
        usual = pause(watch(model, ordinary(), WARMUP, halt=halt).alive, ticks)
        stopped = round(1 - usual.double().mean().item(), 4)
    return {"threshold": round(limit, 4), "ordinary_ticks_stopped": stopped} | trade(trader, path)


def alarm_cure(feed: str, seed: int, share: float) -> dict:
    """The agent as it is, until its model has been surprised; then it stays out for good."""
    model = world_model(feed, seed)
    limit = surprise_threshold(model, held_out(), share, warmup=WARMUP)
    path = peaks(model)
    path = replace(path, alive=~surprised(model, live(), limit, WARMUP))
    return {"threshold": round(limit, 4)} | trade(agent(feed, seed), path)


def together(feed: str, seed: int) -> dict:
    """Short dreams of an ensemble on other feeds, ended by disagreement, a pause, and the alarm."""
    model = ensemble("other feeds", feed, seed)
    halt = disagreement_halt(disagreement_threshold(model, held_out(), SHARE, warmup=WARMUP))
    trader = raised(feed, seed, "together", model, 16, halt)
    alarm = surprise_threshold(model, held_out(), 0.001, warmup=WARMUP)
    calm = pause(watch(model, live(), WARMUP, halt=halt).alive, PAUSE)
    usual = pause(watch(model, ordinary(), WARMUP, halt=halt).alive, PAUSE)
    stopped = round(1 - usual.double().mean().item(), 4)
    path = replace(peaks(model), alive=calm & ~surprised(model, live(), alarm, WARMUP))
    return {"ordinary_ticks_stopped": stopped} | trade(trader, path)


def roc(feed: str, seed: int, kind: str) -> dict:
    """How well each measure of disagreement tells ticks of the glitch region from all others.

    The region: the last reading was above the alarm of the planted rule, so that the archive's
    model expects calm. Ordinary live ticks; area under the curve, and the share found at one
    false alarm in a hundred.
    """
    model = ensemble(kind, feed, seed)
    market = heston_market(64, 5_000, ORDINARY_SEED + 1)
    inside, measures = [], {"means": [], "log sds": [], "both": []}
    with torch.no_grad():
        for x in market.features.split(16):
            law, _, _ = model(x[:, :-1])
            inside.append((x[:, WARMUP:-1, VOLATILITY].exp() > ALARM).flatten())
            for name, values in law.disagreements().items():
                measures[name].append(values[:, WARMUP:].flatten())
    region = torch.cat(inside)
    return {"ticks": len(region), "in_the_region": int(region.sum())} | {
        name: curve(torch.cat(values), region) for name, values in measures.items()
    }


def curve(score: Tensor, region: Tensor) -> dict:
    """Area under the ROC curve, and points of it."""
    order = score.argsort(descending=True)
    hits = region[order].double()
    found = hits.cumsum(0) / hits.sum()
    false = (1 - hits).cumsum(0) / (1 - hits).sum()
    area = torch.trapezoid(found, false).item()
    at = {f"{q:g}": found[(false <= q).nonzero()[-1, 0]].item() for q in (0.001, 0.01, 0.05, 0.2)}
    return {"area": round(area, 4), "found_at": {q: round(v, 4) for q, v in at.items()}}


CURES: dict[str, Callable[..., dict]] = {
    "none": no_cure,
    "horizon": horizon_cure,
    "ensemble": ensemble_cure,
    "alarm": alarm_cure,
    "together": together,
    "roc": roc,
}


def tasks(n_seeds: int) -> list[Key]:
    """All rows that are wanted, seed by seed."""
    wanted: list[Key] = []
    for s in range(n_seeds):
        kinds = [kind for kind, made in ENSEMBLES.items() if s < made.seeds]
        for feed in ("archive", "archive-whole"):
            one = {"feed": feed, "seed": s}
            wanted.append({"cure": "none"} | one)
            for kind in kinds:
                for how in HOW:
                    wanted.append({"cure": "ensemble", "kind": kind, "how": how} | one)
            for share in (0.01, 0.001):
                wanted.append({"cure": "alarm", "share": share} | one)
            wanted += [{"cure": "horizon", "horizon": h} | one for h in HORIZONS if h != HORIZON]
            wanted.append({"cure": "together"} | one)
        for kind in kinds:
            wanted.append({"cure": "roc", "kind": kind, "feed": "archive", "seed": s})
    return wanted


def main() -> None:
    """Command line: ``python -m mambadream_lite.judge.cures [--seeds N] [--out FILE]``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--out", type=Path, default=Path("data/benchmarks/cures.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    about = {
        "what": "agents from live peaks of volatility, under each cure",
        "peaks": len(live().features),
        "false_alarms_set": SHARE,
    }

    def run(task: Key) -> dict:
        more = {k: v for k, v in task.items() if k != "cure"}
        return CURES[task["cure"]](**more)

    study(args.out, about, tasks(args.seeds), run)


if __name__ == "__main__":
    main()
