"""A study goes on where it stopped."""

import json
from pathlib import Path

import pytest

from mambadream_lite.judge.rows import study

TASKS = [{"name": "a", "seed": s} for s in (0, 1, 2)]


def test_a_study_that_fails_keeps_its_rows_and_goes_on(tmp_path: Path) -> None:
    out, called = tmp_path / "rows.json", []

    def run(task: dict) -> dict:
        called.append(task["seed"])
        if task["seed"] == 2 and len(called) == 3:
            raise RuntimeError("the power went")
        return {"value": 10 * task["seed"]}

    with pytest.raises(RuntimeError):
        study(out, {"what": "numbers"}, TASKS, run)
    kept = json.loads(out.read_text())
    assert kept["what"] == "numbers" and "machine" in kept
    assert kept["rows"] == [{"task": {"name": "a", "seed": s}, "value": 10 * s} for s in (0, 1)]
    rows = study(out, {"what": "numbers"}, TASKS, run)
    assert called == [0, 1, 2, 2]
    assert [row["value"] for row in rows] == [0, 10, 20]


def test_rows_stand_in_the_order_of_the_tasks(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    study(out, {}, TASKS[2:], lambda task: {"value": 2})
    study(out, {}, TASKS, lambda task: {"value": task["seed"]})
    assert [row["task"]["seed"] for row in json.loads(out.read_text())["rows"]] == [0, 1, 2]


def test_a_task_with_more_columns_is_another_task(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    tasks = [{"seed": 1}, {"seed": 1, "years": 2}]
    rows = study(out, {}, tasks, lambda task: {"value": len(task)})
    assert [row["value"] for row in rows] == [1, 2]
    assert study(out, {}, tasks, lambda task: pytest.fail("known")) == rows


def test_rows_of_another_call_are_kept(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    study(out, {}, TASKS[:2], lambda task: {"value": task["seed"]})
    study(out, {}, TASKS[2:], lambda task: {"value": task["seed"]})
    assert [row["value"] for row in json.loads(out.read_text())["rows"]] == [2, 0, 1]
