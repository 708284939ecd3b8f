"""Adds up the reports of ``make test`` and prints one line: so many passed, so many failed."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

REPORTS = ("unit", "notebooks", "site")


def count(report: Path) -> tuple[int, int, int]:
    """(passed, failed, skipped) of a JUnit report; one that is missing counts as one failure."""
    if not report.exists():
        return 0, 1, 0
    suites = ElementTree.parse(report).getroot().iter("testsuite")
    total = failed = skipped = 0
    for suite in suites:
        total += int(suite.get("tests", 0))
        failed += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped += int(suite.get("skipped", 0))
    return total - failed - skipped, failed, skipped


def main(folder: Path, status: int) -> None:
    """Print each part and the sum; ``status`` is non-zero if anything at all went wrong."""
    results = {name: count(folder / f"{name}.xml") for name in REPORTS}
    for name, (passed, failed, skipped) in results.items():
        print(f"{name:10s} {passed:5d} passed {failed:4d} failed {skipped:4d} skipped")
    passed, failed, _ = (sum(column) for column in zip(*results.values(), strict=True))
    if status and not failed:
        failed = 1
        print("A check that is not a test failed (style, imports or the build): see above.")
    print(f"{passed} passed, {failed} failed")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
