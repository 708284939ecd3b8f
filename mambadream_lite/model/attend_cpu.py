"""Attention of one tick to a cache on a CPU, compiled: the Transformer's fused step (chapter 06).

PyTorch's attention is made for many queries at once; for one it spends most of its time on
preparation. This loop reads each key and value once, as the recurrence of ``scan_cpu`` does its
states, so that neither side of the comparison is held back by its kernel.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from mambadream_lite.model.scan_cpu import _exp


@njit(fastmath=True, cache=True)
def _attend(query, keys, values, length, scale, out):
    batch, n_heads, d_head = query.shape
    score = np.empty(length, np.float32)
    for n in range(batch):
        for h in range(n_heads):
            top = np.float32(-np.inf)
            for s in range(length):
                total = np.float32(0)
                for d in range(d_head):
                    total += query[n, h, d] * keys[n, h, s, d]
                score[s] = total * scale
                top = max(top, score[s])
            norm = np.float32(0)
            for s in range(length):
                score[s] = _exp(score[s] - top)
                norm += score[s]
            for d in range(d_head):
                out[n, h, d] = 0
            for s in range(length):
                for d in range(d_head):
                    out[n, h, d] += score[s] * values[n, h, s, d]
            for d in range(d_head):
                out[n, h, d] /= norm


def attend(query: Tensor, keys: Tensor, values: Tensor, length: int) -> Tensor:
    """Softmax attention of one query a head to the first ``length`` entries of a cache.

    Args:
        query: (N, n_heads, d_head), float32 on the CPU.
        keys, values: (N, n_heads, room, d_head).
        length: entries that are filled, >= 1.

    Returns:
        (N, n_heads, d_head).
    """
    query = query.contiguous()
    out = torch.empty_like(query)
    scale = np.float32(query.shape[-1] ** -0.5)
    _attend(query.numpy(), keys.numpy(), values.numpy(), length, scale, out.numpy())
    return out
