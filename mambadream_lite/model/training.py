"""Training: one-step likelihood of the next tick, and squared error of the reward (chapter 04)."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from mambadream_lite.market.features import VELOCITY, Market
from mambadream_lite.model.world_model import MambaWorldModel

WARMUP = 16  # ticks at the start of a window that are not scored: the state is still empty
GRADIENT_CLIP = 1.0
NO_DECAY = ("A_log", "D", "bias", "norm")  # parameters that weight decay must not touch


@dataclass
class History:
    """What happened in a training run.

    Attributes:
        step: optimiser steps at which the entries below were taken.
        log_score: mean training log score since the entry before, nats a tick.
        val_step, val_log_score: the same on the held-out market.
    """

    step: list[int] = field(default_factory=list)
    log_score: list[float] = field(default_factory=list)
    val_step: list[int] = field(default_factory=list)
    val_log_score: list[float] = field(default_factory=list)


def fit(
    model: MambaWorldModel,
    train: Market,
    *,
    n_steps: int,
    val: Market | None = None,
    batch_size: int = 16,
    window: int = 128,
    lr: float = 3e-3,
    weight_decay: float = 0.01,
    reward_weight: float = 0.2,
    seed: int = 0,
    val_every: int = 200,
    progress: bool = True,
) -> History:
    """Train a world model on random windows of a market (chapter 04).

    The loss is minus the mean log score plus ``reward_weight`` times half the squared error
    of the reward in units of the model's own (detached) predicted sd. AdamW, one-cycle
    learning rate, clipped gradients.
    With ``val``, the weights that scored best there are the ones the model ends with.

    Args:
        model: changed in place; its scaler is fitted on ``train``.
        train: training market; no window crosses from one path to another.
        n_steps: optimiser steps.
        val: held-out market, scored every ``val_every`` steps and at the end.
        batch_size, window: windows a step, ticks a window.
        lr: peak learning rate.
        weight_decay: on matrices only.
        reward_weight: weight of the reward loss.
        seed: seed of the windows that are drawn.
        progress: show a progress bar.

    Returns:
        ``History`` of the log scores.

    Raises:
        ValueError: paths (or their pieces between gaps) shorter than a window, a count below 1.
    """
    for name, value in (("n_steps", n_steps), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if window <= WARMUP or len(train.free_starts(window + 1)) == 0:
        raise ValueError(
            f"window must lie between {WARMUP + 1} and the {train.features.shape[1] - 1} ticks "
            f"of a training path, got {window}"
        )
    model.fit_scaler(train)
    model.train()
    device = model.feature_mean.device
    optimizer = torch.optim.AdamW(_groups(model, weight_decay), lr=lr, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=lr, total_steps=n_steps, pct_start=min(0.1, 50 / n_steps)
    )
    rng = np.random.default_rng(seed)
    history, recent = History(), []
    best_score, best_weights = -np.inf, None
    # tqdm's notebook bar forgets this variable, which keeps speeds out of stored outputs
    silent = not progress or bool(os.environ.get("TQDM_DISABLE"))
    bar = tqdm(range(1, n_steps + 1), desc="fit", unit="step", disable=silent)
    for step in bar:
        x = sample_windows(train, batch_size, window + 1, rng).to(device)
        log_score, reward_error = score(model, x)
        loss = -log_score.mean() + 0.5 * reward_weight * reward_error.mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_CLIP)
        optimizer.step()
        schedule.step()
        recent.append(log_score.mean().item())
        if step % 20 == 0 or step == n_steps:
            history.step.append(step)
            history.log_score.append(float(np.mean(recent)))
            recent.clear()
            bar.set_postfix(log_score=f"{history.log_score[-1]:.3f}")
        if val is not None and (step % val_every == 0 or step == n_steps):
            history.val_step.append(step)
            history.val_log_score.append(evaluate(model, val, window=window))
            if history.val_log_score[-1] > best_score:
                best_score = history.val_log_score[-1]
                best_weights = {k: v.detach().clone() for k, v in model.state_dict().items()}
    if best_weights is not None:
        model.load_state_dict(best_weights)
    model.eval()
    return history


def score(model: MambaWorldModel, x: Tensor) -> tuple[Tensor, Tensor]:
    """Log score, and squared reward error in predicted variances, of windows x (B, T + 1, F).

    The first ``WARMUP`` predictions of a window are left out. Returns two (B, T - WARMUP).
    """
    law, reward, _ = model(x[:, :-1])
    target = x[:, WARMUP + 1 :]
    # the reward is a simple return; velocity times its unit is the log return
    earned = torch.expm1(target[..., VELOCITY] * model.velocity_unit)
    law = law[:, WARMUP:]
    # in units of the forecast's own sd, or the wildest ticks alone would teach the mean
    risk = law.stddev[..., VELOCITY].detach() * model.velocity_unit
    return law.log_prob(target), ((reward[:, WARMUP:] - earned) / risk).square()


@torch.no_grad()
def evaluate(model: MambaWorldModel, market: Market, *, window: int = 128) -> float:
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


def _groups(model: MambaWorldModel, weight_decay: float) -> list[dict]:
    decay, keep = [], []
    for name, parameter in model.named_parameters():
        skip = any(part in name for part in NO_DECAY)
        (keep if skip else decay).append(parameter)
    return [
        {"params": decay, "weight_decay": weight_decay},
        {"params": keep, "weight_decay": 0.0},
    ]
