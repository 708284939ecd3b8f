"""The recurrence of ``scan.py`` fused into compiled CPU loops by numba, with its gradient.

A plain PyTorch loop writes each tick's state (B, E, S) to memory and reads it back. Here one
channel's states stay in the cache: the forward pass keeps none of them, and the backward
pass computes them again. The recurrence in ``scan.py`` is the definition that the tests hold
these loops to.

One thread, on purpose: numba's threads and PyTorch's would spin side by side and wait for
each other, which on a machine with few cores costs far more than a second thread gains.
"""

from __future__ import annotations

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from torch import Tensor

LOG2_E = np.float32(1.4426950408889634)
MIN_EXPONENT = np.float32(-126.0)  # 2^-126: below it float32 is denormal, and slow
# Taylor series of 2^f around 0, used on |f| <= 1/2 only: relative error below 1e-7
POWERS = tuple(np.float32(c) for c in np.cumprod([1.0] + [np.log(2) / i for i in range(1, 8)]))
C0, C1, C2, C3, C4, C5, C6, C7 = POWERS


@intrinsic
def _float_of_bits(typing_context, bits):
    def generate(context, builder, signature, args):
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), generate


@njit(inline="always", fastmath=True)
def _exp(x: float) -> float:
    """exp(x) for x <= 0 without a branch, so that the compiler can vectorise the loop."""
    scaled = max(x * LOG2_E, MIN_EXPONENT)
    whole = np.int32(scaled - np.float32(0.5))  # truncation rounds to nearest for scaled <= 0
    f = scaled - np.float32(whole)
    power = C0 + f * (C1 + f * (C2 + f * (C3 + f * (C4 + f * (C5 + f * (C6 + f * C7))))))
    return power * _float_of_bits(np.int32((whole + np.int32(127)) << np.int32(23)))


@njit(fastmath=True, cache=True)
def _forward(x, dt, A, B, C, D, h, y, final):
    batch, n_ticks, inner = x.shape
    n_state = A.shape[1]
    for b in range(batch):
        for e in range(inner):
            state = h[b, e].copy()
            for t in range(n_ticks):
                step, drive = dt[b, t, e], dt[b, t, e] * x[b, t, e]
                out = D[e] * x[b, t, e]
                for s in range(n_state):
                    state[s] = _exp(step * A[e, s]) * state[s] + drive * B[b, t, s]
                    out += state[s] * C[b, t, s]
                y[b, t, e] = out
            final[b, e] = state


@njit(fastmath=True, cache=True)
def _backward(x, dt, A, B, C, D, h, gy, gfinal, gx, gdt, gA, gB, gC, gD, gh):
    batch, n_ticks, inner = x.shape
    n_state = A.shape[1]
    for b in range(batch):
        states = np.empty((n_ticks + 1, n_state), np.float32)
        decay = np.empty((n_ticks, n_state), np.float32)
        for e in range(inner):
            states[0] = h[b, e]
            for t in range(n_ticks):
                step, drive = dt[b, t, e], dt[b, t, e] * x[b, t, e]
                for s in range(n_state):
                    decay[t, s] = _exp(step * A[e, s])
                    states[t + 1, s] = decay[t, s] * states[t, s] + drive * B[b, t, s]
            grad = gfinal[b, e].copy()
            for t in range(n_ticks - 1, -1, -1):
                step, value, g = dt[b, t, e], x[b, t, e], gy[b, t, e]
                to_step, to_drive = np.float32(0.0), np.float32(0.0)
                for s in range(n_state):
                    grad[s] += g * C[b, t, s]
                    gC[b, t, s] += g * states[t + 1, s]
                    gB[b, t, s] += grad[s] * step * value
                    to_drive += grad[s] * B[b, t, s]
                    lost = grad[s] * decay[t, s] * states[t, s]
                    to_step += lost * A[e, s]
                    gA[b, e, s] += lost * step
                    grad[s] *= decay[t, s]
                gx[b, t, e] = to_drive * step + g * D[e]
                gdt[b, t, e] = to_drive * value + to_step
                gD[b, e] += g * value
            gh[b, e] = grad


@njit(fastmath=True, cache=True)
def _step(h, x, dt, A, B, C, D, y, out):
    batch, inner = x.shape
    for b in range(batch):
        for e in range(inner):
            drive, total = dt[b, e] * x[b, e], D[e] * x[b, e]
            for s in range(A.shape[1]):
                value = _exp(dt[b, e] * A[e, s]) * h[b, e, s] + drive * B[b, s]
                out[b, e, s] = value
                total += value * C[b, s]
            y[b, e] = total


class FusedScan(torch.autograd.Function):
    """``selective_scan`` with float32 CPU tensors; shapes as there, the state not optional."""

    @staticmethod
    def forward(ctx, x, dt, A, B, C, D, h):
        """Outputs y (B, T, E) and the final state (B, E, S)."""
        saved = [z.contiguous() for z in (x, dt, A, B, C, D, h)]
        ctx.save_for_backward(*saved)
        y, final = torch.empty_like(saved[0]), torch.empty_like(saved[6])
        _forward(*(z.detach().numpy() for z in (*saved, y, final)))
        return y, final

    @staticmethod
    def backward(ctx, gy, gfinal):
        """Gradients of all seven inputs."""
        saved = ctx.saved_tensors
        x, dt, A, B, C, D, h = saved
        batch = len(x)
        grads = [
            torch.empty_like(x),
            torch.empty_like(dt),
            torch.zeros(batch, *A.shape),
            torch.zeros_like(B),
            torch.zeros_like(C),
            torch.zeros(batch, *D.shape),
            torch.empty_like(h),
        ]
        outer = (gy.contiguous(), gfinal.contiguous())
        _backward(*(z.detach().numpy() for z in (*saved, *outer, *grads)))
        gx, gdt, gA, gB, gC, gD, gh = grads
        return gx, gdt, gA.sum(0), gB, gC, gD.sum(0), gh


def fused_step(
    h: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor
) -> tuple[Tensor, Tensor]:
    """``recurrence`` without a gradient, for float32 CPU tensors."""
    inputs = [z.detach().contiguous() for z in (h, x, dt, A, B, C, D)]
    y, out = torch.empty_like(inputs[1]), torch.empty_like(inputs[0])
    _step(*(z.numpy() for z in (*inputs, y, out)))
    return y, out
