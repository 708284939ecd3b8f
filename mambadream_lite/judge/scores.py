"""Proper scores: what a forecast said, against what came (chapter 04).

A forecaster hands over a distribution; the judge scores it. Gneiting and Raftery (2007).
"""

from __future__ import annotations

import numpy as np
import scoringrules
import torch
from torch import Tensor

from mambadream_lite.model.heads import MixtureOfGaussians


def log_score(law: MixtureOfGaussians, x: Tensor) -> Tensor:
    """Log density (...) of what came, x (..., F), in nats; higher is better."""
    return law.log_prob(x)


def pit(law: MixtureOfGaussians, x: Tensor) -> Tensor:
    """Probability integral transform (..., F) of each feature: uniform if calibrated."""
    return law.cdf(x)


def crps(samples: Tensor, x: Tensor) -> Tensor:
    """Continuous ranked probability score of each value, in its own units; lower is better.

    Args:
        samples: (M, ...) draws from the forecast, M >= 2.
        x: (...) what came.
    """
    if samples.shape[1:] != x.shape or len(samples) < 2:
        raise ValueError(
            f"samples must have shape (M, *{tuple(x.shape)}) with M >= 2, got "
            f"{tuple(samples.shape)}"
        )
    score = scoringrules.crps_ensemble(x.numpy(), samples.numpy(), m_axis=0, backend="numpy")
    return torch.from_numpy(np.asarray(score))


def block_mean(scores: Tensor, block: int) -> tuple[float, float]:
    """Mean of (B, T) scores and its standard error from means of blocks of ``block`` ticks.

    Neighbouring ticks share a market; blocks longer than that memory are nearly independent.
    """
    n_blocks = scores.shape[1] // block
    if n_blocks * len(scores) < 8:
        raise ValueError(f"scores {tuple(scores.shape)} hold fewer than 8 blocks of {block} ticks")
    blocks = scores[:, : n_blocks * block].double().reshape(-1, block).mean(1)
    return blocks.mean().item(), (blocks.std() / len(blocks) ** 0.5).item()
