"""How long a simulated market takes, and how much memory, from 10^4 to 10^7 bars (chapter 01).

    python -m mambadream_lite.market.benchmark

writes ``data/benchmarks/market.json``. Each size runs in a process of its own, so that its peak
of memory is its own too.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from mambadream_lite.market.heston import HestonParams
from mambadream_lite.market.simulation import make_heston_market

N_PATHS = 100
SIZES = (10**4, 10**5, 10**6, 10**7)  # bars in all
REPEATS = 5


def machine() -> dict:
    """What the figures were measured on."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
        cpu = names[0] if names else cpu
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__.split("+")[0],
    }


def write_json(path: Path, content: dict) -> None:
    """Write whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=2) + "\n")
    part.replace(path)


def rounded(values: dict[str, float]) -> dict[str, float]:
    """Six digits behind the point: more than any standard error here leaves."""
    return {k: round(v, 6) for k, v in values.items()}


def measure(n_bars: int) -> dict:
    """Seconds of one market of ``n_bars`` bars in 100 paths with its features, and peak memory."""
    seconds, before = [], _peak()
    make_heston_market(HestonParams(), 1, 10, seed=0)  # imports and first calls are not counted
    for seed in range(REPEATS):
        start = time.perf_counter()
        make_heston_market(HestonParams(), N_PATHS, n_bars // N_PATHS, seed=seed)
        seconds.append(time.perf_counter() - start)
    return {
        "bars": n_bars,
        "seconds_median": round(statistics.median(seconds), 4),
        "seconds_min": round(min(seconds), 4),
        "seconds_max": round(max(seconds), 4),
        "peak_mb_above_start": round(_peak() - before, 1),
    }


def _peak() -> float:
    """Largest memory of this process so far, in MB (Linux counts in kB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Command line: ``python -m mambadream_lite.market.benchmark [--out FILE]``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, default=Path("data/benchmarks/market.json"))
    args = parser.parse_args()
    rows = []
    for size in tqdm(SIZES, desc="sizes"):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows.append(pool.apply(measure, (size,)))
    content = {
        "what": "make_heston_market with features",
        "paths": N_PATHS,
        "repeats": REPEATS,
        "threads": torch.get_num_threads(),
        "machine": machine(),
        "rows": rows,
    }
    write_json(args.out, content)
    print(json.dumps(content, indent=2))


if __name__ == "__main__":
    main()
