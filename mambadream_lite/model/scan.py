"""The selective scan: one two-line recurrence, and the real kernels that compute it.

``recurrence`` is the definition (Eq. 2 of Gu and Dao, 2023, discretised as in their code).
Everything else computes the same numbers faster: on a CPU the fused loops of ``scan_cpu``,
on CUDA the kernels of mamba-ssm. Where neither is installed, a plain PyTorch loop runs, and
says so once.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor


def recurrence(
    h: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor
) -> tuple[Tensor, Tensor]:
    """One tick of the state space model; the only definition in this project.

    Args:
        h: hidden state (B, E, S).
        x: input (B, E).
        dt: step size (B, E), > 0: how much of the past this input lets go.
        A: (E, S), < 0.
        B, C: (B, S), input and output maps, chosen by the input: the selection.
        D: (E,), skip.

    Returns:
        Output y (B, E) and the new state (B, E, S).
    """
    h = torch.exp(dt.unsqueeze(-1) * A) * h + (dt * x).unsqueeze(-1) * B.unsqueeze(1)
    y = (h * C.unsqueeze(1)).sum(-1) + D * x
    return y, h


def selective_scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, h: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Run the recurrence over time.

    Args:
        x, dt: (B, T, E).
        A: (E, S).
        B, C: (B, T, S).
        D: (E,).
        h: initial state (B, E, S), zeros if None.

    Returns:
        y (B, T, E) and the final state (B, E, S).
    """
    if x.is_cuda and (kernel := _mamba_ssm("selective_scan_fn")) is not None:
        return scan_with_kernel(kernel, x, dt, A, B, C, D, h)
    if h is None:
        h = x.new_zeros(x.shape[0], *A.shape)
    if _fits_numba(x) and (kernels := numba_kernels()) is not None:
        return kernels.FusedScan.apply(x, dt, A, B, C, D, h)
    return scan_in_a_loop(x, dt, A, B, C, D, h)


def scan_in_a_loop(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, h: Tensor
) -> tuple[Tensor, Tensor]:
    """``selective_scan`` as it reads in the paper: the recurrence, tick after tick."""
    outputs = []
    # unbind once: indexing x[:, t] inside the loop costs 1.4 times as much under autograd
    for x_t, dt_t, B_t, C_t in zip(*(z.unbind(1) for z in (x, dt, B, C)), strict=True):
        y, h = recurrence(h, x_t, dt_t, A, B_t, C_t, D)
        outputs.append(y)
    return torch.stack(outputs, dim=1), h


def selective_step(
    h: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor
) -> tuple[Tensor, Tensor]:
    """``recurrence`` for one tick, by a fused kernel where no gradient is asked for.

    mamba-ssm's Triton kernel writes its state in place, so it works on a copy: the caller's
    state stays what it was, and a future can be forked from it.
    """
    if not torch.is_grad_enabled():
        if x.is_cuda and (kernel := _mamba_ssm("selective_state_update")) is not None:
            h = h.clone()
            return kernel(h, x, dt, A, B, C, D=D), h
        if _fits_numba(x) and (kernels := numba_kernels()) is not None:
            return kernels.fused_step(h, x, dt, A, B, C, D)
    return recurrence(h, x, dt, A, B, C, D)


def scan_with_kernel(
    kernel: Callable[..., Tensor | tuple[Tensor, Tensor]],
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    h: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The scan by mamba-ssm's ``selective_scan_fn``, which neither takes nor differentiates a
    state. Both are recovered exactly.

    The initial state enters by linearity: it adds ``C_t exp(A sum dt) h``. The final state is
    read, with its gradient, by S virtual ticks with dt = 0 (the state stands still) and
    C = e_n (the output is its n-th entry).
    """
    batch, n_ticks, inner = x.shape
    n_state = A.shape[1]
    eye = torch.eye(n_state, dtype=C.dtype, device=C.device).expand(batch, -1, -1)
    still = x.new_zeros(batch, n_state, inner)
    u = torch.cat([x, still], dim=1).transpose(1, 2).contiguous()
    step = torch.cat([dt, still.to(dt.dtype)], dim=1).transpose(1, 2).contiguous()
    b = torch.cat([B, torch.zeros_like(eye)], dim=1).transpose(1, 2).contiguous()
    c = torch.cat([C, eye], dim=1).transpose(1, 2).contiguous()
    out = kernel(u, step, A, b, c, D.float()).transpose(1, 2)
    y, final = out[:, :n_ticks], out[:, n_ticks:].transpose(1, 2).float()
    if h is not None:
        decay = torch.exp(dt.float().cumsum(1).unsqueeze(-1) * A)  # (B, T, E, S)
        carried = decay * h.unsqueeze(1)
        y = y + torch.einsum("btes,bts->bte", carried, C.float()).to(y.dtype)
        final = final + carried[:, -1]
    return y, final


def _fits_numba(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32


@functools.cache
def numba_kernels() -> ModuleType | None:
    """The compiled CPU kernels; None, said once, where numba is not installed."""
    try:
        return importlib.import_module("mambadream_lite.model.scan_cpu")
    except ImportError as error:
        _say_slow("numba", error, "pip install numba")
        return None


@functools.cache
def _mamba_ssm(name: str) -> Callable[..., Tensor] | None:
    module = {
        "selective_scan_fn": "mamba_ssm.ops.selective_scan_interface",
        "selective_state_update": "mamba_ssm.ops.triton.selective_state_update",
    }[name]
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        _say_slow(f"mamba-ssm's {name}", error, "requirements-gpu.txt says how to build it")
        return None


def _say_slow(what: str, error: ImportError, cure: str) -> None:
    warnings.warn(
        f"{what} cannot be imported ({error}): the plain PyTorch recurrence runs instead, and is "
        f"slower; {cure}",
        stacklevel=4,
    )
