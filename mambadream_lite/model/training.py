"""Training: one-step likelihood of the next tick, and squared error of the reward (chapter 04)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from mambadream_lite.market.features import Market
from mambadream_lite.model.checkpoint import fingerprint
from mambadream_lite.model.run import WARMUP, History, Run, score
from mambadream_lite.model.world_model import WorldModel


def fit(
    model: WorldModel,
    train: Market,
    *,
    n_steps: int,
    val: Market | None = None,
    batch_size: int = 16,
    window: int = 128,
    lr: float = 3e-3,
    weight_decay: float = 0.01,
    reward_weight: float = 0.2,
    keep_scaler: bool = False,
    mixed_precision: bool = False,
    seed: int = 0,
    val_every: int = 200,
    progress: bool = True,
    resume: str | Path | None = None,
    save_every: int = 200,
) -> History:
    """Train a world model on random windows of a market (chapter 04).

    The loss is minus the mean log score plus ``reward_weight`` times half the squared error
    of the reward in units of the model's own (detached) predicted sd. AdamW, one-cycle
    learning rate, clipped gradients.
    With ``val``, the weights that scored best there are the ones the model ends with.

    Args:
        model: changed in place; its scaler is fitted on ``train`` unless it is kept.
        train: training market; no window crosses from one path to another.
        n_steps: optimiser steps.
        val: held-out market, scored every ``val_every`` steps and at the end.
        batch_size, window: windows a step, ticks a window.
        lr: peak learning rate.
        weight_decay: on matrices only.
        reward_weight: weight of the reward loss.
        keep_scaler: for a model that was trained before, on a larger market of the same bars.
        mixed_precision: matrix products in bfloat16, everything that adds up over time (the
            hidden state, the residual stream, the likelihood) in float32. For a GPU; on a CPU
            it is right but slow.
        seed: seed of the windows that are drawn.
        progress: show a progress bar.
        resume: a file to keep the run in. Every ``save_every`` steps it is written, whole or
            not at all; a run that finds it goes on from there and ends with the weights that
            it would have had, to the bit on a CPU. It is deleted at the end.
        save_every: steps between two writes of it.

    Returns:
        ``History`` of the log scores.

    Raises:
        ValueError: paths (or their pieces between gaps) shorter than a window, a count below 1,
            or a ``resume`` file of another run.
    """
    for name, value in (("n_steps", n_steps), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if window <= WARMUP or len(train.free_starts(window + 1)) == 0:
        raise ValueError(
            f"window must lie between {WARMUP + 1} and the {train.features.shape[1] - 1} ticks "
            f"of a training path, got {window}"
        )
    if not keep_scaler:
        model.fit_scaler(train)
    model.train()
    run = Run.start(model, n_steps, lr, weight_decay, seed)
    settings = [n_steps, batch_size, window, lr, weight_decay, reward_weight, seed, val_every]
    settings += [keep_scaler, mixed_precision]
    identity = json.dumps([model.config, settings, fingerprint(train), val and fingerprint(val)])
    if resume is not None and Path(resume).is_file():
        run.load(Path(resume), identity)
    # tqdm's notebook bar forgets this variable, which keeps speeds out of stored outputs
    silent = not progress or bool(os.environ.get("TQDM_DISABLE"))
    steps = range(run.step + 1, n_steps + 1)
    bar = tqdm(steps, desc="fit", unit="step", disable=silent, initial=run.step, total=n_steps)
    for step in bar:
        x = sample_windows(train, batch_size, window + 1, run.rng)
        run.learn(x.to(model.feature_mean.device), reward_weight, mixed_precision)
        if step % 20 == 0 or step == n_steps:
            bar.set_postfix(log_score=f"{run.note():.3f}")
        if val is not None and (step % val_every == 0 or step == n_steps):
            run.judge(evaluate(model, val, window=window))
        if resume is not None and step % save_every == 0:
            run.save(Path(resume), identity)
    run.finish()
    if resume is not None:
        Path(resume).unlink(missing_ok=True)
    return run.history


@torch.no_grad()
def evaluate(model: WorldModel, market: Market, *, window: int = 128) -> float:
    """Mean log score a tick on a whole market, in consecutive windows (the rest is cut off)."""
    x = market.features
    starts = market.free_starts(window + 1)
    starts = starts[starts % window == 0]
    if len(starts) == 0:
        raise ValueError(
            f"market: {x.shape[1]} ticks hold no window of {window} and one without a gap"
        )
    chunks = (
        torch.cat([x[:, s : s + window + 1] for s in starts])
        .to(model.feature_mean.device)
        .split(64)
    )
    scores = [score(model, chunk)[0] for chunk in chunks]
    return torch.cat(scores).mean().item()


def sample_windows(market: Market, n: int, length: int, rng: np.random.Generator) -> Tensor:
    """``n`` random windows of ``length`` ticks, (n, length, F), across no path's end or gap."""
    starts = market.free_starts(length)
    path = rng.integers(len(market.features), size=n)
    start = starts[rng.integers(len(starts), size=n)]
    return torch.stack(
        [market.features[p, s : s + length] for p, s in zip(path, start, strict=True)]
    )
