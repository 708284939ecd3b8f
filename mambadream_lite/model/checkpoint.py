"""Checkpoints: safetensors with all that is needed to use them again, written atomically."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from mambadream_lite.market.features import FEATURES, Market
from mambadream_lite.model.transformer import TransformerWorldModel
from mambadream_lite.model.world_model import MambaWorldModel, WorldModel

FORMAT = "mambadream-world-model-1"
KINDS = {kind.__name__: kind for kind in (MambaWorldModel, TransformerWorldModel)}


def fingerprint(market: Market) -> str:
    """Short hash of a market's features: what a checkpoint says it was trained on."""
    data = market.features.contiguous().cpu().numpy().tobytes()
    return hashlib.sha256(data).hexdigest()[:16]


def save_world_model(
    model: WorldModel, path: str | Path, *, metrics: dict[str, Any] | None = None
) -> Path:
    """Write a model with its config, scaler, bar length and metrics to a safetensors file.

    The file is written beside its place and moved there in one step: an interrupted write
    leaves the old file whole.

    Args:
        model: the model; its scaler must have been fitted.
        path: where to; parent folders are made.
        metrics: anything json can hold (seed, steps, data fingerprint, scores).
    """
    if (model.feature_mean == 0).all() and (model.feature_std == 1).all():
        raise ValueError("model has no scaler yet: call fit, or model.fit_scaler, before saving")
    header = {
        "format": FORMAT,
        "kind": type(model).__name__,
        "config": json.dumps(model.config),
        "features": json.dumps(FEATURES),
        "metrics": json.dumps(metrics or {}),
    }
    data = save({k: v.contiguous() for k, v in model.state_dict().items()}, metadata=header)
    return write_whole(Path(path), data)


def write_whole(path: Path, data: bytes) -> Path:
    """Write a file beside its place and move it there in one step; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)  # mkstemp makes files that only their owner can read
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path


def read_tensors(path: Path, device: str | torch.device) -> tuple[dict[str, str], dict]:
    """Header and tensors of a safetensors file; a ``ValueError`` if it is cut or none."""
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            header = file.metadata() or {}
            return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"path: {path} is truncated or not a safetensors file ({error}); train it again or "
            "restore it"
        ) from error


def load_world_model(
    path: str | Path, *, device: str | torch.device = "cpu"
) -> tuple[WorldModel, dict[str, Any]]:
    """Read a model that ``save_world_model`` wrote.

    Returns:
        The model in evaluation mode, frozen (no gradients), and its metrics.

    Raises:
        FileNotFoundError: no file at ``path``.
        ValueError: the file is truncated, is no world model, or its tensors do not have the
            sizes that its own config or this package's features demand.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path: no checkpoint at {path}")
    header, tensors = read_tensors(path, device)
    if header.get("format") != FORMAT:
        raise ValueError(f"path: {path} is not a {FORMAT} checkpoint: {header.get('format')!r}")
    if tuple(json.loads(header["features"])) != FEATURES:
        raise ValueError(f"path: {path} was trained on features {header['features']}")
    kind = header.get("kind", "MambaWorldModel")
    if kind not in KINDS:
        raise ValueError(f"path: {path} holds a {kind!r}; this package knows {sorted(KINDS)}")
    model = KINDS[kind](**json.loads(header["config"])).to(device)
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    if expected != found:
        name = next(n for n in sorted(expected | found) if expected.get(n) != found.get(n))
        raise ValueError(
            f"path: {path} does not match its config: {name} should have shape "
            f"{expected.get(name)} and has {found.get(name)}"
        )
    model.load_state_dict(tensors)
    return model.eval().requires_grad_(False), json.loads(header["metrics"])
