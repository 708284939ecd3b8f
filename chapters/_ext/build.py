"""Builds the book strictly and prints the path of its first page. Run by ``make book``.

The builder is chatty on success, so its output is kept back and shown only if it fails or warns.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Sphinx copies static files in full builds only, so a change in them asks for one.
STATIC = ("chapters/_static", "chapters/_ext", "chapters/_vendor", "_config.yml", "_toc.yml")
COLOUR = re.compile("\x1b\\[[0-9;]*m")
PROGRESS = re.compile(r"(reading sources|writing|copying|Copying|dumping|pickling|myst)|\s*$")


def newest(paths: tuple[str, ...]) -> float:
    """Time of the last change of any file in or under ``paths``, in seconds."""
    files = (
        f for p in paths for f in ((ROOT / p).rglob("*") if (ROOT / p).is_dir() else [ROOT / p])
    )
    return max(f.stat().st_mtime for f in files if "__pycache__" not in f.parts)


def main() -> int:
    """Build; return the builder's exit status."""
    index = ROOT / "_build" / "html" / "index.html"
    builder = Path(sys.executable).with_name("jupyter-book")
    command = [sys.executable, str(builder), "build", ".", "-W", "-n", "--keep-going"]
    if not index.exists() or newest(STATIC) > index.stat().st_mtime:
        command.append("--all")
    start = time.monotonic()
    print("Building the book ...", flush=True)
    done = subprocess.run(
        command,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode:
        lines = COLOUR.sub("", done.stdout).replace("\r", "\n").splitlines()
        print("\n".join(line for line in lines if not PROGRESS.match(line)))
        print("The book did not build; its warnings and errors are above.", file=sys.stderr)
        return done.returncode
    index.touch()
    print(f"Built in {time.monotonic() - start:.0f} s. Open this page in a browser:\n{index}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
