"""Our block beside the real mamba-ssm: its modules, its reference scan, its Triton step kernel."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# `make unit` puts it there, apart from the other packages: see the Makefile
MAMBA_SSM = Path(sys.prefix) / "mamba-ssm"
SCRIPT = Path(__file__).with_name("mamba_ssm_parity.py")


@pytest.fixture(scope="module")
def errors() -> dict:
    if not (MAMBA_SSM / "mamba_ssm").is_dir():
        pytest.skip(f"mamba-ssm is not in {MAMBA_SSM.name}/ (make unit installs it, on Linux)")
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(MAMBA_SSM), str(root)])
    env = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", str(SCRIPT)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print("\nrelative errors against mamba-ssm:", found)
    return found


def test_the_step_is_compared_with_the_real_kernel(errors: dict) -> None:
    assert errors["kernel"] == "mamba_ssm.ops.triton.selective_state_update"


@pytest.mark.parametrize(
    ("what", "allowed"), [("forward", 1e-5), ("step", 1e-5), ("state", 1e-5), ("gradients", 1e-4)]
)
def test_the_block_is_mamba_ssms(errors: dict, what: str, allowed: float) -> None:
    assert 0 < errors[what] < allowed
