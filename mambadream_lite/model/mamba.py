"""The Mamba block with mamba-ssm's parameters, on any device (chapter 04).

``Mamba`` has the state_dict keys, shapes and initialisation of ``mamba_ssm.Mamba``, so
weights go both ways. State is passed in and returned: a future is forked by reusing it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from mambadream_lite.model.scan import selective_scan, selective_step

DT_MIN, DT_MAX, DT_FLOOR = 1e-3, 1e-1, 1e-4  # initial step sizes: Gu and Dao (2023), section 3.6


class MambaState(NamedTuple):
    """All that a block remembers: O(1) in the length of history.

    Attributes:
        conv: last inputs of the convolution (B, E, d_conv - 1).
        ssm: hidden state (B, E, S), float32.
    """

    conv: Tensor
    ssm: Tensor


class Mamba(nn.Module):
    """Selective state space block of Gu and Dao (2023), Figure 3 (chapter 04).

    Args:
        d_model: width D of input and output.
        d_state: state size S per channel.
        d_conv: width of the causal convolution, >= 2.
        expand: inner width E over D.

    Raises:
        ValueError: a size below 1 (below 2 for ``d_conv``).
    """

    def __init__(self, d_model: int, d_state: int = 32, d_conv: int = 4, expand: int = 2) -> None:
        super().__init__()
        for name, value, least in (
            ("d_model", d_model, 1),
            ("d_state", d_state, 1),
            ("d_conv", d_conv, 2),
            ("expand", expand, 1),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        self.d_inner, self.d_state, self.d_conv = expand * d_model, d_state, d_conv
        self.least_context = d_conv  # ticks that fill the convolution
        self.dt_rank = math.ceil(d_model / 16)
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=False)
        self.conv1d = nn.Conv1d(self.d_inner, self.d_inner, d_conv, groups=self.d_inner)
        self.x_proj = nn.Linear(self.d_inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, self.d_inner)
        self.A_log = nn.Parameter(
            torch.arange(1, d_state + 1, dtype=torch.float32).log().repeat(self.d_inner, 1)
        )
        self.D = nn.Parameter(torch.ones(self.d_inner))
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=False)
        self._init_dt()

    def _init_dt(self) -> None:
        """Bias dt_proj so that softplus of it is log-uniform in [DT_MIN, DT_MAX]."""
        nn.init.uniform_(self.dt_proj.weight, -(self.dt_rank**-0.5), self.dt_rank**-0.5)
        span = math.log(DT_MAX) - math.log(DT_MIN)
        dt = torch.exp(torch.rand(self.d_inner) * span + math.log(DT_MIN)).clamp(min=DT_FLOOR)
        with torch.no_grad():
            self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # inverse of softplus

    def forward(self, x: Tensor, state: MambaState | None = None) -> tuple[Tensor, MambaState]:
        """A sequence at once.

        Args:
            x: (B, T, D).
            state: what came before; None is nothing.

        Returns:
            y (B, T, D) and the state after the last tick.
        """
        inner, gate = self.in_proj(x).chunk(2, dim=-1)  # (B, T, E) each
        inner = inner.transpose(1, 2)  # (B, E, T)
        if state is None:
            past = inner.new_zeros(*inner.shape[:2], self.d_conv - 1)
        else:
            past = state.conv
        padded = torch.cat([past, inner], dim=-1)  # (B, E, d_conv - 1 + T)
        u = nnf.silu(self.conv1d(padded)).transpose(1, 2)  # (B, T, E)
        dt, B, C = self._select(u)
        h = None if state is None else state.ssm
        y, h = selective_scan(u, dt, self._A(), B, C, self.D, h)
        y = self.out_proj(y * nnf.silu(gate))
        return y, MambaState(padded[..., -(self.d_conv - 1) :], h)

    def step(self, x_t: Tensor, state: MambaState) -> tuple[Tensor, MambaState]:
        """One tick at constant cost: x_t (B, D) -> y (B, D) and the new state."""
        inner, gate = self.in_proj(x_t).chunk(2, dim=-1)  # (B, E) each
        padded = torch.cat([state.conv, inner.unsqueeze(-1)], dim=-1)  # (B, E, d_conv)
        u = nnf.silu((padded * self.conv1d.weight.squeeze(1)).sum(-1) + self.conv1d.bias)
        dt, B, C = self._select(u)
        y, h = selective_step(state.ssm, u, dt, self._A(), B, C, self.D)
        return self.out_proj(y * nnf.silu(gate)), MambaState(padded[..., 1:], h)

    def initial_state(self, batch: int) -> MambaState:
        """The state before the first tick: zeros."""
        like = self.in_proj.weight
        return MambaState(
            like.new_zeros(batch, self.d_inner, self.d_conv - 1),
            like.new_zeros(batch, self.d_inner, self.d_state, dtype=torch.float32),
        )

    def _A(self) -> Tensor:
        return -torch.exp(self.A_log.float())

    def _select(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The selection: dt (.., E), B and C (.., S), all read off the input itself."""
        dt, B, C = self.x_proj(u).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        return nnf.softplus(self.dt_proj(dt)), B, C
