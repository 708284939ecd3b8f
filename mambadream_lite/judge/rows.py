"""A study in rows: goes on where it stopped, and keeps what it has (chapters 04 to 09)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from mambadream_lite.market.benchmark import machine, write_json

Key = dict[str, Any]


def study(
    out: Path, about: dict[str, Any], tasks: Iterable[Key], run: Callable[[Key], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Run every task that has no row in ``out`` yet; the file is written after each of them.

    Args:
        out: json file with the rows.
        about: what the file says of itself, beside the machine.
        tasks: what tells one row from another; each row keeps its own as ``task``.
        run: makes the rest of a row.

    Returns:
        The rows of ``tasks``, in their order; rows of other tasks stay in the file.
    """
    tasks = list(tasks)
    stored = json.loads(out.read_text())["rows"] if out.exists() else []
    rows = {_key(row["task"]): row for row in stored}
    for task in tqdm(tasks, desc=out.stem):
        if _key(task) in rows:
            continue
        rows[_key(task)] = {"task": task} | run(task)
        wanted = [_key(t) for t in tasks]
        done = [rows[k] for k in wanted if k in rows]
        done += [row for k, row in rows.items() if k not in wanted]  # of another call: kept
        write_json(out, about | {"machine": machine(), "rows": done})
    return [rows[_key(task)] for task in tasks]


def _key(task: Key) -> str:
    return json.dumps(task, sort_keys=True)
