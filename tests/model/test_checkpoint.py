"""Checkpoints: what is written is what is read, and no accident loses a file."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from mambadream_lite.market import Market
from mambadream_lite.model import (
    MambaWorldModel,
    fingerprint,
    load_world_model,
    save_world_model,
)


@pytest.fixture
def path(model: MambaWorldModel, tmp_path: Path) -> Path:
    return save_world_model(model, tmp_path / "model.safetensors", metrics={"seed": 3})


def rewrite(path: Path, **header: str) -> None:
    """Write the same tensors again with other entries in the header."""
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in names}
    save_file(tensors, path, metadata=metadata | header)


def test_a_round_trip_changes_no_bit(model: MambaWorldModel, path: Path) -> None:
    found, metrics = load_world_model(path)
    assert found.config == model.config
    assert metrics == {"seed": 3}
    before, after = model.state_dict(), found.state_dict()
    assert before.keys() == after.keys()
    for name in before:
        assert before[name].dtype == after[name].dtype
        assert torch.equal(before[name], after[name]), name


def test_a_loaded_model_predicts_the_same(model: MambaWorldModel, path: Path, market: Market):
    found, _ = load_world_model(path)
    with torch.no_grad():
        law, reward, _ = model(market.features)
    again, reward_again, _ = found(market.features)
    assert torch.equal(law.mean, again.mean)
    assert torch.equal(reward, reward_again)


def test_a_loaded_model_is_frozen(path: Path) -> None:
    model, _ = load_world_model(path)
    assert not model.training
    assert not any(weight.requires_grad for weight in model.parameters())


@pytest.mark.parametrize("share", [0.0, 0.0005, 0.01, 0.1, 0.5, 0.999])
def test_a_truncated_file_is_refused(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match=f"^path: {path} is truncated"):
        load_world_model(path)


def test_a_file_without_its_last_byte_is_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=f"^path: {path} is truncated"):
        load_world_model(path)


def test_a_pickle_is_refused_unread(model: MambaWorldModel, path: Path) -> None:
    torch.save(model.state_dict(), path)
    with pytest.raises(ValueError, match=f"^path: {path} is truncated or not a safetensors file"):
        load_world_model(path)


def test_tensors_of_other_sizes_are_refused(model: MambaWorldModel, path: Path) -> None:
    rewrite(path, config=json.dumps(model.config | {"d_model": 32}))
    with pytest.raises(ValueError, match=f"^path: {path} .*should have shape .* and has"):
        load_world_model(path)


def test_a_missing_tensor_is_refused(model: MambaWorldModel, path: Path) -> None:
    rewrite(path, config=json.dumps(model.config | {"n_layers": 3}))
    with pytest.raises(ValueError, match=f"^path: {path} .*blocks.2.*has None"):
        load_world_model(path)


def test_other_features_are_refused(path: Path) -> None:
    rewrite(path, features=json.dumps(["price", "volume"]))
    with pytest.raises(ValueError, match=f"^path: {path} was trained on features.*price"):
        load_world_model(path)


def test_a_file_of_another_kind_is_refused(path: Path) -> None:
    save_file({"x": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match=f"^path: {path} is not a .* checkpoint"):
        load_world_model(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="^path: .*nothing.safetensors"):
        load_world_model(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize("accident", ["fsync", "replace"])
def test_a_failing_write_leaves_the_old_file_whole(
    model: MambaWorldModel, path: Path, accident: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, accident, fail)
    with torch.no_grad():
        model.embed.weight.add_(1)
    with pytest.raises(OSError, match="disk full"):
        save_world_model(model, path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_new_checkpoint_replaces_the_old(model: MambaWorldModel, path: Path) -> None:
    with torch.no_grad():
        model.embed.weight.add_(1)
    save_world_model(model, path, metrics={"seed": 4})
    found, metrics = load_world_model(path)
    assert metrics == {"seed": 4}
    assert torch.equal(found.embed.weight, model.embed.weight)
    assert list(path.parent.iterdir()) == [path]


def test_folders_are_made_and_others_may_read(model: MambaWorldModel, tmp_path: Path) -> None:
    path = save_world_model(model, tmp_path / "new" / "folder" / "model.safetensors")
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_model_without_its_scaler_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="^model has no scaler"):
        save_world_model(MambaWorldModel(d_model=8, d_state=4), tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_fingerprint_tells_data_apart(market: Market) -> None:
    assert fingerprint(market) == fingerprint(market.window(0, market.features.shape[1]))
    assert fingerprint(market) != fingerprint(market.window(0, 100))
