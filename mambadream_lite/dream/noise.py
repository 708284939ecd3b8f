"""The randomness of dreams, and the room that they need (chapter 05).

Noise is indexed by dream and tick. Whoever advances dreams 0 to 127 first, or all at once, finds
the same numbers for dream 5: results do not depend on how the work was cut.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 1024  # dreams whose noise is drawn together
BYTES_A_TICK = 57  # of a ``Dream``: 6 features, reward and risk in float32, 3 float64, 1 bool
RESERVE = 0.8  # share of the free memory that dreams may take


@dataclass
class Noise:
    """Standard normal and uniform draws of all dreams of one call.

    Attributes:
        seed: of block 0; block b has ``seed + b``.
        horizon, n_features: H and F.
        device: where the draws are made.
    """

    seed: int
    horizon: int
    n_features: int
    device: torch.device
    _last: tuple[int, tuple[Tensor, Tensor, Tensor]] | None = None

    @classmethod
    def seeded(
        cls, generator: torch.Generator, horizon: int, n_features: int, device: torch.device
    ) -> Noise:
        """Take one number from the generator: the next call's dreams are other ones."""
        seed = torch.randint(2**62, (1,), generator=generator, device=generator.device)
        return cls(int(seed), horizon, n_features, device)

    def rows(self, start: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """What dreams ``start`` to ``start + count`` need.

        Returns:
            u (H, N) uniform in [0, 1), which chooses components; normal (H, N, F); and (2, N, H)
            uniform in (0, 1], for the high and low of each tick.
        """
        parts = []
        while count > 0:
            block, first = divmod(start, BLOCK)
            last = min(first + count, BLOCK)
            u, normal, extremes = self._block(block)
            cut = slice(first, last)
            parts.append((u[:, cut], normal[:, cut], extremes[:, cut]))
            start, count = start + last - first, count - (last - first)
        if len(parts) == 1:
            return parts[0]
        u, normal, extremes = (torch.cat(z, dim=1) for z in zip(*parts, strict=True))
        return u, normal, extremes

    def _block(self, block: int) -> tuple[Tensor, Tensor, Tensor]:
        if self._last is None or self._last[0] != block:
            generator = torch.Generator(self.device).manual_seed(self.seed + block)
            ticks, given = (self.horizon, BLOCK), {"generator": generator, "device": self.device}
            u = torch.rand(ticks, **given)
            normal = torch.randn(*ticks, self.n_features, **given)
            extremes = 1 - torch.rand(2, BLOCK, self.horizon, dtype=torch.float64, **given)
            self._last = block, (u, normal, extremes)
        return self._last[1]


def check_room(n: int, horizon: int, device: torch.device) -> None:
    """Raise a ``MemoryError`` that says what fits if ``n`` dreams of ``horizon`` ticks do not."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    elif hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    else:
        return  # this system does not say
    needed, room = n * horizon * BYTES_A_TICK, RESERVE * free
    if needed > room:
        fit = int(room // (horizon * BYTES_A_TICK))
        raise MemoryError(
            f"{n:,} dreams of {horizon:,} ticks need {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB "
            f"are free: {fit:,} fit; dream that many at a time and keep only what you need"
        )
