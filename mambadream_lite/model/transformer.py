"""The fair opponent: a Transformer with the same heads and as many parameters (chapter 06).

Its hidden state is the cache of all keys and values so far, and that grows with every tick. A
block adds attention and a gated feed-forward layer side by side (Chowdhery et al., 2022), which
costs one norm and two matrix products less than one after the other; positions are rotations
(Su et al., 2024). Both are what one would use today for speed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from mambadream_lite.market.features import FEATURES
from mambadream_lite.model.world_model import EagerStep, Hidden, Step, WorldModel

ROTATION_BASE = 10_000.0  # slowest rotation: one turn in about 60,000 ticks


class KVState(NamedTuple):
    """All keys and values so far: O(T) in the length of history.

    Attributes:
        keys, values: (B, n_heads, T, d_head).
    """

    keys: Tensor
    values: Tensor


class TransformerBlock(nn.Module):
    """Causal attention and a gated feed-forward layer, side by side.

    Args:
        d_model: width D.
        n_heads: heads of attention; D must be a multiple of twice their number.
        d_ff: width of the feed-forward layer.

    Raises:
        ValueError: sizes that do not fit each other.
    """

    least_context = 1

    def __init__(self, d_model: int, n_heads: int = 4, d_ff: int = 168) -> None:
        super().__init__()
        if n_heads < 1 or d_model % (2 * n_heads):
            raise ValueError(f"d_model must be a multiple of 2 * n_heads, got {d_model}, {n_heads}")
        if d_ff < 1:
            raise ValueError(f"d_ff must be at least 1, got {d_ff}")
        self.n_heads, self.d_head = n_heads, d_model // n_heads
        self.sizes = [d_model, d_model, d_model, d_ff, d_ff]
        self.in_proj = nn.Linear(d_model, sum(self.sizes), bias=False)
        self.out_proj = nn.Linear(d_model + d_ff, d_model, bias=False)
        turn = torch.arange(self.d_head // 2) * (-2 / self.d_head)
        self.register_buffer("speed", ROTATION_BASE**turn, persistent=False)

    def forward(self, x: Tensor, state: KVState | None = None) -> tuple[Tensor, KVState]:
        """A sequence at once: x (B, T, D) -> (B, T, D), and the cache with it."""
        n_past = 0 if state is None else state.keys.shape[2]
        query, key, value, forward = self.project(x, n_past)
        if state is not None:
            key, value = torch.cat([state.keys, key], 2), torch.cat([state.values, value], 2)
        n_ticks = x.shape[1]
        seen = torch.ones(n_ticks, n_past + n_ticks, dtype=torch.bool, device=x.device)
        out = nnf.scaled_dot_product_attention(query, key, value, attn_mask=seen.tril(n_past))
        return self.join(out, forward), KVState(key, value)

    def step(self, x_t: Tensor, state: KVState) -> tuple[Tensor, KVState]:
        """One tick, at a cost that grows with the cache: x_t (B, D) -> (B, D)."""
        out, state = self.forward(x_t.unsqueeze(1), state)
        return out.squeeze(1), state

    def initial_state(self, batch: int) -> KVState:
        """The cache before the first tick: empty."""
        empty = self.in_proj.weight.new_zeros(batch, self.n_heads, 0, self.d_head)
        return KVState(empty, empty)

    def project(self, x: Tensor, n_past: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Query, key and value (B, n_heads, T, d_head), and the feed-forward part (B, T, d_ff)."""
        query, key, value, gate, up = self.in_proj(x).split(self.sizes, dim=-1)
        by_head = (x.shape[0], x.shape[1], self.n_heads, self.d_head)
        query, key, value = (z.reshape(by_head).transpose(1, 2) for z in (query, key, value))
        angle = torch.arange(n_past, n_past + x.shape[1], device=x.device)[:, None] * self.speed
        return _turn(query, angle), _turn(key, angle), value, nnf.silu(gate) * up

    def join(self, attended: Tensor, forward: Tensor) -> Tensor:
        """What both halves add to the residual stream (B, T, D)."""
        flat = attended.transpose(1, 2).flatten(2)
        return self.out_proj(torch.cat([flat, forward], dim=-1))


def _turn(x: Tensor, angle: Tensor) -> Tensor:
    """Rotate pairs of entries of x (B, n_heads, T, d_head) by angle (T, d_head / 2)."""
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class TransformerWorldModel(WorldModel):
    """A Transformer as a world model, called like ``MambaWorldModel`` (chapter 06).

    Args:
        d_input: number of features F.
        d_model: width D.
        n_heads: heads of attention.
        d_ff: width of the feed-forward layer; 168 makes a block as large as Mamba's.
        n_layers: number of blocks.
        n_components: mixture components K of the head.
        d_action: size A of an action that the next tick depends on.
        head: ``"mixture"`` or ``"linear"``.

    Raises:
        ValueError: a size below its least value, sizes that do not fit, or an unknown head.
    """

    def __init__(
        self,
        d_input: int = len(FEATURES),
        d_model: int = 128,
        n_heads: int = 4,
        d_ff: int = 168,
        n_layers: int = 1,
        n_components: int = 5,
        d_action: int = 0,
        head: str = "mixture",
    ) -> None:
        config = {
            "d_input": d_input,
            "d_model": d_model,
            "n_heads": n_heads,
            "d_ff": d_ff,
            "n_layers": n_layers,
            "n_components": n_components,
            "d_action": d_action,
            "head": head,
        }
        super().__init__(config, lambda: TransformerBlock(d_model, n_heads, d_ff))

    def stepper(self, hidden: Hidden, horizon: int) -> Step:
        """As ``WorldModel.stepper``: on a CPU with a cache that is there from the start."""
        return CachedStep(self, hidden, horizon) if self.fusable else EagerStep(self, hidden)


class CachedStep:
    """A Transformer world model that steps N dreams with preallocated caches (chapter 06).

    Args:
        model: float32, on the CPU, with a mixture head.
        hidden: the caches to start from; they are copied.
        horizon: ticks that there must be room for.
    """

    def __init__(self, model: TransformerWorldModel, hidden: Hidden, horizon: int) -> None:
        from mambadream_lite.model.attend_cpu import attend
        from mambadream_lite.model.step_cpu import Frame

        self.frame, self.model, self.attend = Frame(model, len(hidden[0].keys)), model, attend
        self.length = hidden[0].keys.shape[2]
        self.caches = []
        for state in hidden:
            batch, n_heads, _, d_head = state.keys.shape
            room = state.keys.new_empty(2, batch, n_heads, self.length + horizon, d_head)
            room[0, :, :, : self.length], room[1, :, :, : self.length] = state
            self.caches.append(room)

    def __call__(self, x: Tensor, action: Tensor | None = None) -> tuple:
        """Take a tick (N, F) in; returns the law of the next, its reward (N,) and risk (N,)."""
        y = self.frame.enter(x, action)
        now = self.length
        for cache, norm, block in zip(
            self.caches, self.model.norms, self.model.blocks, strict=True
        ):
            query, key, value, forward = block.project(norm(y).unsqueeze(1), now)
            cache[0, :, :, now], cache[1, :, :, now] = key.squeeze(2), value.squeeze(2)
            out = self.attend(query.squeeze(2), *cache, now + 1)
            y += block.join(out.unsqueeze(2), forward).squeeze(1)
        self.length += 1
        return self.frame.leave(y)
