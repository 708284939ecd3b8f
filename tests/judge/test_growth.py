"""The study goes on where it stopped."""

from pathlib import Path

import pytest

from mambadream_lite.judge import growth
from mambadream_lite.model import load_world_model

TINY = (
    {"n_steps": 2, "batch_size": 2, "window": 32},
    {"n_steps": 3, "batch_size": 1, "window": 64},
)


def test_stages_follow_each_other_and_none_is_trained_twice(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(growth, "HESTON_STAGES", TINY)
    last = growth.trained(1, 5, 1, tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["heston-1-5-0.safetensors", "heston-1-5-1.safetensors"]
    _, metrics = load_world_model(last)
    assert metrics["train_ticks"] == 20_000 and metrics["seed"] == 5 and metrics["best_step"] == 3
    monkeypatch.setattr(growth, "make", lambda *args, **more: pytest.fail("trained again"))
    assert growth.trained(1, 5, 1, tmp_path) == last
