"""Where the book is and which pages it has; shared by the book's tests."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "_build" / "html"
# What the tests looked at, printed at their end: a test that looked at nothing is seen.
counts: Counter[str] = Counter()


def book_pages() -> list[str]:
    """Documents of the book in reading order, such as ``chapters/index``."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    return [toc["root"]] + [c["file"] for part in toc["parts"] for c in part["chapters"]]
