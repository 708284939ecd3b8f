"""What a dreamt tick costs on a CPU, beside a Transformer and other Mambas (chapter 06).

    PYTHONPATH=.venv/mamba-ssm python -m mambadream_lite.dream.benchmark

writes ``data/benchmarks/dreams.json``. All contestants share the embedding, the heads, the noise
and the weights; only what steps the block differs, and before anything is timed their dreams are
held against each other. What is not installed is left out, and the file says so.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from mambadream_lite.dream.noise import Noise
from mambadream_lite.dream.rollout import TILE, Belief, dream, observe
from mambadream_lite.market.benchmark import machine, write_json
from mambadream_lite.model import MambaWorldModel, WorldModel, load_world_model, scan
from mambadream_lite.model.recipes import heston_market
from mambadream_lite.model.step_cpu import Frame
from mambadream_lite.model.world_model import EagerStep, Step

DREAMS, TICKS, LONG, CONTEXT, REPEATS = 1000, 100, 1000, 100, 5
SHORT = 4  # ticks of context before dreams whose cost is followed from their first tick on
POSITIONS = (1, 10, 16, 64, 128, 256, 512, 1000)
AROUND = 4  # ticks on both sides of a position whose median is its cost
Make = Callable[[WorldModel, Belief], Step]


class _Foreign:
    """The world model with another library's block in it."""

    def __init__(self, model: MambaWorldModel, n: int, block: Callable[[Tensor], Tensor]) -> None:
        self.frame, self.norm, self.block = Frame(model, n), model.norms[0], block

    def __call__(self, x: Tensor, action: Tensor | None = None) -> tuple:
        y = self.frame.enter(x, action)
        return self.frame.leave(y + self.block(self.norm(y)))


def _fused(model: WorldModel, belief: Belief) -> Step:
    return model.stepper(belief.hidden, TICKS)


def _eager(model: WorldModel, belief: Belief) -> Step:
    return EagerStep(model, belief.hidden)  # with the fused recurrence taken away, see ``main``


def _mambapy(model: WorldModel, belief: Belief) -> Step:
    from mambapy.mamba import MambaBlock, MambaConfig

    config = MambaConfig(
        d_model=model.config["d_model"], n_layers=1, d_state=model.config["d_state"]
    )
    block = MambaBlock(config)
    block.load_state_dict(model.blocks[0].state_dict())
    cache = belief.hidden[0].ssm, belief.hidden[0].conv

    def step(x: Tensor) -> Tensor:
        nonlocal cache
        y, cache = block.step(x, cache)
        return y

    return _Foreign(model, len(belief.features), step)


def _transformers(model: WorldModel, belief: Belief) -> Step:
    from transformers import DynamicCache, MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    sizes = {"hidden_size": model.config["d_model"], "state_size": model.config["d_state"]}
    config = MambaConfig(**sizes, num_hidden_layers=1)
    mixer = MambaMixer(config, layer_idx=0).eval()
    mixer.load_state_dict(model.blocks[0].state_dict())
    cache, state = DynamicCache(config=config), belief.hidden[0]
    n = len(state.ssm)
    mixer(torch.zeros(n, model.blocks[0].d_conv, sizes["hidden_size"]), cache_params=cache)
    cache.get_conv_state(0, state_idx=0)[..., 1:] = state.conv
    cache.get_recurrent_state(0, state_idx=0).copy_(state.ssm)

    def step(x: Tensor) -> Tensor:
        return mixer(x.unsqueeze(1), cache_params=cache).squeeze(1)

    return _Foreign(model, n, step)


CONTESTANTS: dict[str, Make] = {
    "ours, fused": _fused,
    "ours, eager": _eager,
    "mambapy, step": _mambapy,
    "transformers, cached step": _transformers,
}


@torch.no_grad()
def roll(make: Make, model: WorldModel, belief: Belief, noise: Noise, tile: int) -> Tensor:
    """Features (N, H, 6) of N dreams, ``tile`` at a time."""
    done = []
    for start in range(0, len(belief.features), tile):
        part = belief.take(slice(start, start + tile))
        u, normal, _ = noise.rows(start, len(part.features))
        step, x, ticks = make(model, part), part.features, []
        for h in range(noise.horizon):
            x = step(x)[0].draw(u[h], normal[h])
            ticks.append(x)
        done.append(torch.stack(ticks, dim=1))
    return torch.cat(done)


def race(model: MambaWorldModel, belief: Belief) -> dict:
    """Seconds of 1,000 dreams of 100 ticks for each contestant, at the tile that suits it best."""
    noise = Noise(0, TICKS, 6, torch.device("cpu"))
    known, rows, kernels = None, {}, scan.numba_kernels
    for name, make in tqdm(CONTESTANTS.items(), desc="contestants"):
        scan.numba_kernels = (lambda: None) if name == "ours, eager" else kernels
        try:
            result = roll(make, model, belief, noise, DREAMS)  # the first pass compiles
        except ImportError as error:
            rows[name] = {"not measured": str(error)}
            continue
        known = result if known is None else known
        seconds = {}
        for tile in (TILE, DREAMS):
            seconds[tile] = []
            for _ in range(REPEATS):
                start = time.perf_counter()
                roll(make, model, belief, noise, tile)
                seconds[tile].append(time.perf_counter() - start)
        best = min(seconds, key=lambda tile: statistics.median(seconds[tile]))
        rows[name] = {
            "seconds_median": round(statistics.median(seconds[best]), 4),
            "seconds_min": round(min(seconds[best]), 4),
            "seconds_max": round(max(seconds[best]), 4),
            "dreams_together": best,
            "largest_difference_after_10_ticks": float(
                (result[:, :10] - known[:, :10]).abs().max()
            ),
        }
    scan.numba_kernels = kernels
    return rows


def floor(model: MambaWorldModel) -> dict:
    """Seconds that nobody can save: 100 times the matrix products, and one pass over all states."""
    block = model.blocks[0]
    weights = [model.embed.weight, block.in_proj.weight, block.x_proj.weight, block.dt_proj.weight]
    weights += [block.out_proj.weight, Frame(model, 1).weight.T]
    weights = [w.T.contiguous() for w in weights]
    inputs = [torch.randn(TILE, len(w)) for w in weights]
    outputs = [torch.empty(TILE, w.shape[1]) for w in weights]
    states = block.initial_state(DREAMS).ssm.fill_(1.0)
    products, passes = [], []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        for _ in range(TICKS * DREAMS // TILE):
            for x, w, out in zip(inputs, weights, outputs, strict=True):
                torch.mm(x, w, out=out)
        middle = time.perf_counter()
        for _ in range(TICKS):
            states.mul_(0.999)
        passes.append(time.perf_counter() - middle)
        products.append(middle - start)
    return {
        "matrix_products": round(statistics.median(products[1:]), 4),
        "one_pass_over_the_states": round(statistics.median(passes[1:]), 4),
    }


@torch.no_grad()
def cost_by_position(model: WorldModel, belief: Belief) -> dict:
    """Microseconds a dream at each position of 1,000-tick dreams, and the mean up to there."""
    noise = Noise(0, LONG, 6, torch.device("cpu"))
    runs = []
    for _ in range(3):
        total = np.zeros(LONG)
        for start in range(0, DREAMS, TILE):
            part = belief.take(slice(start, start + TILE))
            u, normal, _ = noise.rows(start, len(part.features))
            step, x = model.stepper(part.hidden, LONG), part.features
            for h in range(LONG):
                begin = time.perf_counter()
                x = step(x)[0].draw(u[h], normal[h])
                total[h] += time.perf_counter() - begin
        runs.append(total)
    cost = np.median(runs, axis=0) / DREAMS * 1e6
    at = {}
    for p in POSITIONS:
        near = cost[max(p - 1 - AROUND, 0) : p + AROUND] if p > 1 else cost[1 : 2 + AROUND]
        at[p] = round(float(np.median(near)), 3)
    mean = {p: round(float(cost[:p].mean()), 3) for p in POSITIONS}
    return {"microseconds_at": at, "microseconds_mean_up_to": mean}


def state_bytes(model: WorldModel, belief: Belief, extra: int) -> int:
    """Bytes that one dream remembers, ``extra`` ticks after its context."""
    with torch.no_grad():
        x = belief.features[:1]
        hidden = belief.take(slice(0, 1)).hidden
        for _ in range(extra):
            _, _, hidden = model(x, hidden)
    return sum(z.numel() * z.element_size() for layer in hidden for z in layer)


def main() -> None:
    """Command line: ``python -m mambadream_lite.dream.benchmark [--out FILE]``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, default=Path("data/benchmarks/dreams.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    context = heston_market(DREAMS, CONTEXT, 107)
    mamba = load_world_model("data/heston.safetensors")[0]
    transformer = load_world_model("data/transformer.safetensors")[0]
    belief = observe(mamba, context)
    rows = race(mamba, belief)
    start = time.perf_counter()
    generator = torch.Generator().manual_seed(0)
    dream(mamba, belief, n_dreams=1, horizon=TICKS, generator=generator)
    whole = time.perf_counter() - start
    least = floor(mamba)
    positions, sizes = {}, {}
    for name, model in tqdm({"mamba": mamba, "transformer": transformer}.items(), desc="positions"):
        begun = observe(model, context.window(0, SHORT))
        positions[name] = cost_by_position(model, begun)
        sizes[name] = {p: state_bytes(model, begun, p) for p in POSITIONS}
    content = {
        "what": "1,000 dreams on a CPU, float32, one thread",
        "sizes": {
            "dreams": DREAMS,
            "ticks": TICKS,
            "context": CONTEXT,
            "context_by_position": SHORT,
            "repeats": REPEATS,
        },
        "parameters": {
            name: sum(p.numel() for p in m.parameters())
            for name, m in (("mamba", mamba), ("transformer", transformer))
        },
        "machine": machine(),
        "seconds_of_100_ticks": rows,
        "seconds_of_dream_with_prices": round(whole, 4),
        "floor_seconds": least,
        "by_position": positions,
        "bytes_of_state": sizes,
    }
    write_json(args.out, content)
    print(json.dumps(content, indent=2))


if __name__ == "__main__":
    main()
