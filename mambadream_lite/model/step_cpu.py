"""One tick of a whole world model on a CPU, with nothing allocated on the way (chapter 06).

Dreaming asks for the same small step millions of times. What costs is memory: a new tensor of
states at every tick means pages that the machine has to find and clear. ``FusedStep`` keeps all
it needs in buffers, updates the states in place, and leaves matrix products to PyTorch and what
lies between them to loops compiled by numba. ``MambaWorldModel.forward`` is the definition that
the tests hold it to.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
import torch.nn.functional as nnf
from numba import njit
from torch import Tensor

from mambadream_lite.model.heads import (
    LOG_SCALE_RANGE,
    MIN_WEIGHT,
    MixtureHead,
    MixtureOfGaussians,
    mixture,
)
from mambadream_lite.model.mamba import MambaState
from mambadream_lite.model.scan_cpu import _exp
from mambadream_lite.model.world_model import Hidden, MambaWorldModel, WorldModel

LOW, HIGH = (np.float32(bound) for bound in LOG_SCALE_RANGE)


@njit(fastmath=True, cache=True)
def _convolve(past, inner, weight, bias, out):
    """Causal convolution of one tick: past (C, N, E), newest last, is shifted in place."""
    width, batch, channels = past.shape
    for n in range(batch):
        for e in range(channels):
            out[n, e] = bias[e] + weight[width, e] * inner[n, e]
        for c in range(width):
            for e in range(channels):
                out[n, e] += weight[c, e] * past[c, n, e]
        for c in range(width - 1):
            for e in range(channels):
                past[c, n, e] = past[c + 1, n, e]
        for e in range(channels):
            past[width - 1, n, e] = inner[n, e]


@njit(fastmath=True, cache=True)
def _advance(h, x, dt, A, B, C, D, y):
    """``recurrence`` in place: h (N, E, S)."""
    batch, channels, n_state = h.shape
    for n in range(batch):
        for e in range(channels):
            step = dt[n, e]
            drive, total = step * x[n, e], D[e] * x[n, e]
            for s in range(n_state):
                value = _exp(step * A[e, s]) * h[n, e, s] + drive * B[n, s]
                h[n, e, s] = value
                total += value * C[n, s]
            y[n, e] = total


@njit(cache=True)
def _moments(raw, n_components, n_features, out):
    """Mean and sd of the first feature, scaled units, into out (2, N).

    It comes first in the factor L, so its sd within a component is 1 / L_00.
    """
    weight = np.empty(n_components, np.float32)
    means, diag = n_components, n_components * (1 + n_features)
    for n in range(len(raw)):
        _softmax(raw[n], weight)
        mean, square = np.float32(0), np.float32(0)
        for k in range(n_components):
            mean += weight[k] * raw[n, means + k * n_features]
        for k in range(n_components):
            apart = raw[n, means + k * n_features] - mean
            root = np.exp(-min(max(raw[n, diag + k * n_features], LOW), HIGH))
            square += weight[k] * (apart * apart + root * root)
        out[0, n], out[1, n] = mean, np.sqrt(square)


@njit(cache=True)
def _softmax(logits, weight):
    """Weights of the mixture from the first logits of a row, as ``heads.mixture`` has them."""
    top, total = logits[0], np.float32(0)
    for k in range(len(weight)):
        top = max(top, logits[k])
    for k in range(len(weight)):
        weight[k] = np.exp(logits[k] - top)
        total += weight[k]
    floor = np.float32(MIN_WEIGHT)
    for k in range(len(weight)):
        weight[k] = floor + (1 - len(weight) * floor) * weight[k] / total


@njit(cache=True)
def _draw(raw, u, noise, n_components, heat, root_heat, out):
    """Draw (N, F) in scaled units: a component by u (N,), then mu + L^-1 noise within it."""
    batch, n_features = out.shape
    n_lower = n_features * (n_features - 1) // 2
    means, diag = n_components, n_components * (1 + n_features)
    lower = diag + n_components * n_features
    weight, shock = np.empty(n_components, np.float32), np.empty(n_features, np.float32)
    for n in range(batch):
        _softmax(raw[n], weight)
        if heat != 1:  # likelier components, or less likely ones
            top = np.log(weight.max())
            for k in range(n_components):
                weight[k] = np.exp((np.log(weight[k]) - top) / heat)
            weight /= weight.sum()
        chosen, cumulative = 0, weight[0]
        while chosen < n_components - 1 and u[n] > cumulative:
            chosen += 1
            cumulative += weight[chosen]
        at = lower + chosen * n_lower
        for i in range(n_features):
            total = noise[n, i]
            for j in range(i):
                total -= raw[n, at + i * (i - 1) // 2 + j] * shock[j]
            log_diag = raw[n, diag + chosen * n_features + i]
            shock[i] = total * np.exp(-min(max(log_diag, LOW), HIGH))
            out[n, i] = raw[n, means + chosen * n_features + i] + root_heat * shock[i]


class RawLaw(MixtureOfGaussians):
    """A mixture as the head's raw numbers (N, R): drawn from at once, spelled out only if asked."""

    def __init__(self, raw: Tensor, head: MixtureHead, shift: Tensor, scale: Tensor) -> None:
        self.raw, self.head, self.shift, self.scale = raw, head, shift, scale

    @functools.cached_property
    def _whole(self) -> MixtureOfGaussians:
        return mixture(self.raw, self.head, self.shift, self.scale)

    def __getattr__(self, name: str) -> Tensor:
        """The mixture's own tensors, made when one of them is first asked for."""
        if name not in ("log_weight", "component_mean", "precision_cholesky"):
            raise AttributeError(name)
        return getattr(self._whole, name)

    @functools.cached_property
    def _first(self) -> Tensor:
        """(2, N) mean and sd of the first feature, raw units."""
        both = torch.empty(2, len(self.raw))
        _moments(self.raw.numpy(), self.head.n_components, self.head.d_input, both.numpy())
        both *= self.scale[0]
        both[0] += self.shift[0]
        return both

    def first_moments(self) -> tuple[Tensor, Tensor]:
        """As ``MixtureOfGaussians.first_moments``."""
        return self._first[0], self._first[1]

    def draw(self, u: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """As ``MixtureOfGaussians.draw``."""
        z = torch.empty_like(noise)
        heat = np.float32(max(temperature, 1e-6))
        root = np.float32(math.sqrt(temperature))
        arrays = (self.raw.numpy(), u.numpy(), noise.numpy())
        _draw(*arrays, self.head.n_components, heat, root, z.numpy())
        return z * self.scale + self.shift


class Frame:
    """What stands around the blocks: the way in, and both heads as one matrix product."""

    def __init__(self, model: WorldModel, n: int) -> None:
        self.model, head = model, model.head
        out = torch.cat([head.out.weight, head.skip.weight], dim=1)  # acts on [y, z]
        self.weight = torch.cat([out, model.reward_head.weight]).T.contiguous()
        self.bias = torch.cat([head.out.bias, model.reward_head.bias])
        self.read = torch.empty(n, len(self.weight))

    def enter(self, x: Tensor, action: Tensor | None) -> Tensor:
        """The residual stream (N, D) of a tick (N, F)."""
        z, y = self.model.enter(x, action)
        self.read[:, y.shape[-1] :] = z
        return y

    def leave(self, y: Tensor) -> tuple[RawLaw, Tensor, Tensor]:
        """Law, reward (N,) and risk (N,) of the next tick."""
        model = self.model
        self.read[:, : y.shape[-1]] = model.final_norm(y)
        out = torch.addmm(self.bias, self.read, self.weight)
        law = RawLaw(out[:, :-1], model.head, model.feature_mean, model.feature_std)
        risk = law.first_moments()[1] * model.velocity_unit
        return law, out[:, -1] * risk, risk


class FusedStep:
    """A Mamba world model that steps N dreams in place (chapter 06).

    Args:
        model: float32, on the CPU, with a mixture head; its weights are read once, here.
        hidden: the states to start from; they are copied.
    """

    def __init__(self, model: MambaWorldModel, hidden: Hidden) -> None:
        self.frame, self.norms = Frame(model, len(hidden[0].ssm)), model.norms
        self.states = [
            (s.conv.permute(2, 0, 1).contiguous(), s.ssm.detach().clone(), _Weights(b))
            for s, b in zip(hidden, model.blocks, strict=True)
        ]

    def __call__(self, x: Tensor, action: Tensor | None = None) -> tuple[RawLaw, Tensor, Tensor]:
        """Take a tick (N, F) in; returns the law of the next, its reward (N,) and risk (N,)."""
        y = self.frame.enter(x, action)
        for (conv, ssm, weights), norm in zip(self.states, self.norms, strict=True):
            y += weights.step(norm(y), conv, ssm)
        return self.frame.leave(y)

    @property
    def hidden(self) -> Hidden:
        """The states now, in the model's own layout; copies."""
        return tuple(
            MambaState(conv.permute(1, 2, 0).contiguous(), ssm.clone())
            for conv, ssm, _ in self.states
        )


class _Weights:
    """One block's weights, transposed once, as its step needs them."""

    def __init__(self, block: torch.nn.Module) -> None:
        self.d_state, self.rank = block.d_state, block.dt_rank
        self.in_proj = block.in_proj.weight.T.contiguous()
        self.x_proj = block.x_proj.weight.T.contiguous()
        self.dt_proj, self.dt_bias = block.dt_proj.weight.T.contiguous(), block.dt_proj.bias
        self.out_proj = block.out_proj.weight.T.contiguous()
        self.conv = block.conv1d.weight.detach().squeeze(1).T.contiguous().numpy()  # (d_conv, E)
        self.conv_bias, self.D = block.conv1d.bias.detach().numpy(), block.D.detach().numpy()
        self.A = (-block.A_log.detach().exp()).numpy()

    def step(self, x: Tensor, conv: Tensor, ssm: Tensor) -> Tensor:
        """``Mamba.step``, the states changed in place."""
        both = x @ self.in_proj
        inner, gate = both.chunk(2, dim=-1)
        u = torch.empty(inner.shape)
        _convolve(conv.numpy(), inner.numpy(), self.conv, self.conv_bias, u.numpy())
        nnf.silu(u, inplace=True)
        chosen = u @ self.x_proj
        dt = nnf.softplus(torch.addmm(self.dt_bias, chosen[:, : self.rank], self.dt_proj))
        y = torch.empty_like(u)
        # contiguous, or the loops over them are not vectorised
        B, C = (z.contiguous() for z in chosen[:, self.rank :].chunk(2, dim=-1))
        arrays = (ssm.numpy(), u.numpy(), dt.numpy(), self.A, B.numpy(), C.numpy(), self.D)
        _advance(*arrays, y.numpy())
        y *= nnf.silu(gate)
        return y @ self.out_proj
