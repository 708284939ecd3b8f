"""A training run that is killed and goes on: the same weights, to the bit."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mambadream_lite.market import HestonParams, Market, make_heston_market
from mambadream_lite.model import MambaWorldModel, fit, save_world_model
from mambadream_lite.model.checkpoint import read_tensors

SETTINGS = {"n_steps": 60, "batch_size": 4, "window": 32, "seed": 3, "val_every": 15}
# what the killed process runs: it dies in its own write number ``last``, before the file is
# moved to its place, or right after it; the data and the weights are those of ``build`` below
SCRIPT = """
import os, signal, sys, torch
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_run import SETTINGS, build
from mambadream_lite.model import fit, run
torch.set_num_threads(1)
write_whole, written = run.write_whole, 0

def die(handle=None):
    os.kill(os.getpid(), signal.SIGKILL)

def write(path, data):
    global written
    written += 1
    if written == {last} and {cut}:
        os.fsync = die
    write_whole(path, data)
    if written == {last}:
        die()

run.write_whole = write
model, train, val = build()
fit(model, train, val=val, progress=False, resume=Path({file!r}), save_every=1, **SETTINGS)
"""


def build() -> tuple[MambaWorldModel, Market, Market]:
    train, val = (make_heston_market(HestonParams(), 4, 200, seed=s) for s in (1, 2))
    torch.manual_seed(5)
    return MambaWorldModel(d_model=16, d_state=8, n_components=2), train, val


def run(resume: Path | None = None, **changes) -> tuple[dict, object]:
    torch.set_num_threads(1)
    model, train, val = build()
    settings = {**SETTINGS, "progress": False, "resume": resume, **changes}
    history = fit(model, train, val=val, **settings)
    return model.state_dict(), history


@pytest.fixture(scope="module")
def whole() -> tuple[dict, object]:
    return run()


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(("last", "cut"), [(1, True), (8, True), (8, False), (37, True)])
def test_a_killed_run_ends_with_the_same_weights(whole, tmp_path: Path, last: int, cut: bool):
    file = tmp_path / "run.safetensors"
    script = SCRIPT.format(tests=str(Path(__file__).parent), file=str(file), last=last, cut=cut)
    killed = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"TQDM_DISABLE": "1"},
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert file.exists() == (last > 1)  # killed in its first write, it leaves no file
    if last > 1:
        notes = json.loads(read_tensors(file, "cpu")[0]["notes"])
        assert notes["step"] == last - cut
    weights, history = run(file)
    assert same(weights, whole[0])
    assert history == whole[1]
    assert not file.exists()  # the run is over


def test_a_run_that_is_kept_is_the_run_that_is_not(whole, tmp_path: Path) -> None:
    weights, history = run(tmp_path / "kept" / "run.safetensors", save_every=7)
    assert same(weights, whole[0]) and history == whole[1]


def stop_half_way(file: Path) -> None:
    """Leave the file of a run that stopped at step 30."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "unlink", lambda self, missing_ok=False: None)
        run(file, n_steps=60, save_every=30)


@pytest.mark.parametrize("change", [{"seed": 4}, {"n_steps": 61}, {"lr": 1e-3}])
def test_the_file_of_another_run_is_refused(tmp_path: Path, change: dict) -> None:
    file = tmp_path / "run.safetensors"
    stop_half_way(file)
    with pytest.raises(ValueError, match="belongs to another run"):
        run(file, **change)
    assert file.exists()  # nothing is lost


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.999])
def test_a_file_that_is_cut_is_refused(tmp_path: Path, share: float) -> None:
    file = tmp_path / "run.safetensors"
    stop_half_way(file)
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match="truncated or not a safetensors file"):
        run(file)


def test_a_checkpoint_is_no_run(tmp_path: Path) -> None:
    model, train, _ = build()
    model.fit_scaler(train)
    file = save_world_model(model, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="is not a mambadream-training-run-1 file"):
        run(file)
