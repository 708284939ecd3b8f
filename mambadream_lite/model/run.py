"""One training run: all of its state in one object, so that it can stop and go on (chapter 04)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from mambadream_lite.market.features import VELOCITY
from mambadream_lite.model.checkpoint import read_tensors, write_whole
from mambadream_lite.model.world_model import WorldModel

WARMUP = 16  # ticks at the start of a window that are not scored: the state is still empty
GRADIENT_CLIP = 1.0
NO_DECAY = ("A_log", "D", "bias", "norm")  # parameters that weight decay must not touch
FORMAT = "mambadream-training-run-1"
CLOCK = ("last_epoch", "_step_count", "_last_lr")  # all of the schedule that moves


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


@dataclass
class Run:
    """A run after ``step`` optimiser steps.

    Attributes:
        model, optimizer, schedule: in training.
        rng: draws the windows.
        recent: log scores since the last entry of ``history``.
        best: score and weights of the best validation so far.
    """

    model: WorldModel
    optimizer: torch.optim.AdamW
    schedule: torch.optim.lr_scheduler.OneCycleLR
    rng: np.random.Generator
    step: int = 0
    history: History = field(default_factory=History)
    recent: list[float] = field(default_factory=list)
    best_score: float = -np.inf
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def start(
        cls, model: WorldModel, n_steps: int, lr: float, weight_decay: float, seed: int
    ) -> Run:
        """A run at step 0: AdamW and a one-cycle learning rate of ``n_steps`` steps."""
        optimizer = torch.optim.AdamW(_groups(model, weight_decay), lr=lr, betas=(0.9, 0.98))
        warm_up = min(0.1 * n_steps, 50)
        if warm_up == 1:  # OneCycleLR divides by the length of its first phase less one
            warm_up = 1.5
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=lr, total_steps=n_steps, pct_start=warm_up / n_steps
        )
        return cls(model, optimizer, schedule, np.random.default_rng(seed))

    def learn(self, x: Tensor, reward_weight: float, mixed_precision: bool = False) -> None:
        """One optimiser step on windows x (B, T + 1, F)."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=mixed_precision):
            log_score, reward_error = score(self.model, x)
        loss = -log_score.mean() + 0.5 * reward_weight * reward_error.mean()
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), GRADIENT_CLIP)
        self.optimizer.step()
        self.schedule.step()
        self.recent.append(log_score.mean().item())
        self.step += 1

    def note(self) -> float:
        """Enter the mean of the recent log scores into the history, and return it."""
        self.history.step.append(self.step)
        self.history.log_score.append(float(np.mean(self.recent)))
        self.recent.clear()
        return self.history.log_score[-1]

    def judge(self, val_log_score: float) -> None:
        """Enter a validation score, and keep the weights if it is the best."""
        self.history.val_step.append(self.step)
        self.history.val_log_score.append(val_log_score)
        if val_log_score > self.best_score:
            self.best_score = val_log_score
            weights = self.model.state_dict()
            self.best_weights = {k: v.detach().clone() for k, v in weights.items()}

    def finish(self) -> None:
        """Leave the model with its best weights, in evaluation mode."""
        if self.best_weights:
            self.model.load_state_dict(self.best_weights)
        self.model.eval()

    def save(self, path: Path, identity: str) -> None:
        """Write everything that the rest of the run depends on, whole or not at all."""
        adam = self.optimizer.state_dict()
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in self.best_weights.items()}
        for i, moments in adam["state"].items():
            tensors |= {f"adam.{i}.{k}": v for k, v in moments.items()}
        notes = {
            "step": self.step,
            "groups": adam["param_groups"],
            "clock": {name: getattr(self.schedule, name) for name in CLOCK},
            "rng": self.rng.bit_generator.state,
            "history": asdict(self.history),
            "recent": self.recent,
            "best_score": self.best_score,
        }
        header = {"format": FORMAT, "identity": identity, "notes": json.dumps(notes)}
        # a copy each: safetensors refuses tensors that share memory
        whole = {k: v.detach().clone().contiguous() for k, v in tensors.items()}
        write_whole(path, save(whole, metadata=header))

    def load(self, path: Path, identity: str) -> None:
        """Go on where ``save`` stopped.

        Raises:
            ValueError: a file that is cut, no training run, or of another run.
        """
        header, tensors = read_tensors(path, self.model.feature_mean.device)
        if header.get("format") != FORMAT:
            raise ValueError(f"resume: {path} is not a {FORMAT} file: {header.get('format')!r}")
        if header["identity"] != identity:
            raise ValueError(
                f"resume: {path} belongs to another run (model, data or settings differ): "
                "give another file, or delete it to start afresh"
            )
        notes = json.loads(header["notes"])

        def part(prefix: str) -> dict[str, Tensor]:
            return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}

        self.model.load_state_dict(part("model."))
        self.best_weights, self.best_score = part("best."), notes["best_score"]
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in part("adam.").items():
            i, key = name.split(".")
            state.setdefault(int(i), {})[key] = value
        self.optimizer.load_state_dict({"state": state, "param_groups": notes["groups"]})
        self.schedule.load_state_dict(notes["clock"])
        self.rng.bit_generator.state = notes["rng"]
        self.step, self.recent = notes["step"], notes["recent"]
        self.history = History(**notes["history"])


def score(model: WorldModel, x: Tensor) -> tuple[Tensor, Tensor]:
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


def _groups(model: WorldModel, weight_decay: float) -> list[dict]:
    decay, keep = [], []
    for name, parameter in model.named_parameters():
        skip = any(part in name for part in NO_DECAY)
        (keep if skip else decay).append(parameter)
    return [
        {"params": decay, "weight_decay": weight_decay},
        {"params": keep, "weight_decay": 0.0},
    ]
