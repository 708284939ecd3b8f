"""Training speed of the Mamba block on a CPU, beside other code for the same function (chapter 03).

    PYTHONPATH=.venv/mamba-ssm python -m mambadream_lite.model.benchmark

times forward plus backward of two layers and writes ``data/benchmarks/training.json``. Each
contestant runs in a process of its own, so that its peak of memory is its own. What is not
installed is left out, and the file says so.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from mambadream_lite.market.benchmark import machine, write_json
from mambadream_lite.model import Mamba, scan

BATCH, TICKS, D_MODEL, D_STATE, LAYERS = 32, 128, 128, 32, 2
LEAST, SECONDS = 3, 6.0  # passes, and time that they take together, at least


class _Stack(nn.Module):
    """Two blocks, each with its own way of being called."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(make() for _ in range(LAYERS))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            y = block(x)
            x = x + (y[0] if isinstance(y, tuple) else y)
        return x


def _ours() -> nn.Module:
    return _Stack(lambda: Mamba(D_MODEL, D_STATE))


def _loop() -> nn.Module:
    scan.numba_kernels = lambda: None  # the plain PyTorch loop over the two-line definition
    return _ours()


def _mambapy() -> nn.Module:
    from mambapy.mamba import MambaBlock, MambaConfig

    config = MambaConfig(d_model=D_MODEL, n_layers=LAYERS, d_state=D_STATE)
    return _Stack(lambda: MambaBlock(config))


def _transformers() -> nn.Module:
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    config = MambaConfig(hidden_size=D_MODEL, state_size=D_STATE, num_hidden_layers=LAYERS)
    return _Stack(lambda: MambaMixer(config, layer_idx=0))


CONTESTANTS = {
    "ours, compiled": _ours,
    "plain PyTorch loop": _loop,
    "mambapy pscan": _mambapy,
    "transformers, torch path": _transformers,
}


def measure(name: str) -> dict:
    """Seconds of one forward and backward pass, and peak memory above the model itself."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    try:
        model = CONTESTANTS[name]()
    except ImportError as error:
        return {"not measured": str(error)}
    x = torch.randn(BATCH, TICKS, D_MODEL)
    before, seconds = _peak(), []
    while len(seconds) <= LEAST or sum(seconds[1:]) < SECONDS:
        start = time.perf_counter()
        model(x).square().mean().backward()
        seconds.append(time.perf_counter() - start)
    seconds = seconds[1:]  # the first pass compiles and warms up
    return {
        "passes": len(seconds),
        "seconds_median": round(statistics.median(seconds), 4),
        "seconds_min": round(min(seconds), 4),
        "seconds_max": round(max(seconds), 4),
        "peak_mb_above_start": round(_peak() - before, 1),
    }


def _peak() -> float:
    """Largest memory of this process so far, in MB (Linux counts in kB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Command line: ``python -m mambadream_lite.model.benchmark [--out FILE]``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, default=Path("data/benchmarks/training.json"))
    args = parser.parse_args()
    rows = {}
    for name in tqdm(CONTESTANTS, desc="contestants"):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows[name] = pool.apply(measure, (name,))
    sizes = {"batch": BATCH, "ticks": TICKS, "d_model": D_MODEL, "d_state": D_STATE}
    content = {
        "what": "forward plus backward, float32, one thread",
        "sizes": sizes | {"layers": LAYERS},
        "machine": machine(),
        "rows": rows,
    }
    write_json(args.out, content)
    print(json.dumps(content, indent=2))


if __name__ == "__main__":
    main()
