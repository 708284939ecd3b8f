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
    _check_draws(samples, x)
    score = scoringrules.crps_ensemble(x.numpy(), samples.numpy(), m_axis=0, backend="numpy")
    return torch.from_numpy(np.asarray(score))


def energy_score(samples: Tensor, x: Tensor) -> Tensor:
    """Energy score of whole vectors, E|X - x| - E|X - X'| / 2; lower is better.

    The CRPS of several variables at once (Gneiting and Raftery, 2007, Eq. 22): it also judges
    how they move together. Scale the features first, or the one with the largest unit decides.

    Args:
        samples: (M, ..., F) draws from the forecast, M >= 2.
        x: (..., F) what came.

    Returns:
        (...) scores, in the unit of the features.
    """
    _check_draws(samples, x)
    draws = samples.movedim(0, -2).numpy()  # (..., M, F)
    score = scoringrules.es_ensemble(x.numpy(), draws, m_axis=-2, v_axis=-1, backend="numpy")
    return torch.from_numpy(np.asarray(score))


def _check_draws(samples: Tensor, x: Tensor) -> None:
    if samples.shape[1:] != x.shape or len(samples) < 2:
        raise ValueError(
            f"samples must have shape (M, *{tuple(x.shape)}) with M >= 2, got "
            f"{tuple(samples.shape)}"
        )


def block_mean(scores: Tensor, block: int) -> tuple[float, float]:
    """Mean of (B, T) scores and its standard error from means of blocks of ``block`` ticks.

    Neighbouring ticks share a market; blocks longer than that memory are nearly independent.
    """
    n_blocks = scores.shape[1] // block
    if n_blocks * len(scores) < 8:
        raise ValueError(f"scores {tuple(scores.shape)} hold fewer than 8 blocks of {block} ticks")
    blocks = scores[:, : n_blocks * block].double().reshape(-1, block).mean(1)
    return blocks.mean().item(), (blocks.std() / len(blocks) ** 0.5).item()
