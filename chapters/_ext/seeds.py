"""Do a chapter's asserted claims hold at every seed? Runs chapters by papermill, prints a table.

    python chapters/_ext/seeds.py --seeds 10 chapters/07_agent_in_the_dream.ipynb ...

Nothing is stored but the runs, in ``_build/seeds``. Exits with 1 if a claim fails.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import papermill
from papermill.exceptions import PapermillExecutionError

ROOT = Path(__file__).resolve().parents[2]


def run(chapter: Path, seed: int) -> tuple[str, float]:
    """What failed ("" if nothing) and the seconds that it took."""
    out = ROOT / "_build" / "seeds" / f"{chapter.stem}-{seed}.ipynb"
    out.parent.mkdir(parents=True, exist_ok=True)
    start, failed = time.perf_counter(), ""
    try:
        papermill.execute_notebook(
            chapter, out, parameters={"seed": seed}, cwd=chapter.parent, progress_bar=False
        )
    except PapermillExecutionError as error:
        lines = error.source.strip().splitlines()
        asserted = [line.strip() for line in lines if line.strip().startswith("assert")]
        failed = f"cell {error.cell_index}: {error.ename} {error.evalue or asserted}"
    return failed, time.perf_counter() - start


def main() -> None:
    """Command line: ``python chapters/_ext/seeds.py [--seeds N] CHAPTER ...``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("chapters", nargs="+", type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    args = parser.parse_args()
    os.environ["TQDM_DISABLE"] = "1"
    failures = 0
    for chapter in args.chapters:
        for seed in range(args.seeds):
            failed, seconds = run(chapter.resolve(), seed)
            failures += bool(failed)
            verdict = failed or "all claims hold"
            print(f"{chapter.stem:<24} seed {seed}: {seconds:5.0f} s  {verdict}", flush=True)
    print(f"{failures} of {len(args.chapters) * args.seeds} runs failed")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
