"""mamba-ssm's own code on CPU tensors, beside ours; prints relative errors as json.

Runs in a process of its own (see test_mamba_ssm.py): its compiled scan exists only for CUDA, so
a stand-in module takes that place and its reference scan runs instead. The step is the real
Triton kernel, run by Triton's interpreter.
"""

import contextlib
import json
import sys
import types

import torch

sys.modules["selective_scan_cuda"] = types.ModuleType("selective_scan_cuda")
torch.cuda.device = lambda index: contextlib.nullcontext()  # the kernel's launcher selects one

from mamba_ssm.modules import mamba_simple  # noqa: E402
from mamba_ssm.ops.selective_scan_interface import selective_scan_ref  # noqa: E402

from mambadream_lite.model import Mamba  # noqa: E402

mamba_simple.selective_scan_fn = selective_scan_ref
D_MODEL, D_STATE, BATCH, TICKS = 128, 32, 2, 12


def error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """max |a - b| / max |b|."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def compare(seed: int) -> dict[str, float]:
    """Forward, gradients and steps of two blocks with the same random weights."""
    torch.manual_seed(seed)
    theirs = mamba_simple.Mamba(D_MODEL, D_STATE, use_fast_path=False, layer_idx=0)
    for parameter in theirs.parameters():  # away from the initial values, zeros and ones included
        parameter.data += 0.02 * torch.randn_like(parameter)
    ours = Mamba(D_MODEL, D_STATE)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)

    x = torch.randn(BATCH, TICKS, D_MODEL, requires_grad=True)
    outputs = ours(x)[0], theirs(x)
    grads = [
        torch.autograd.grad(y.square().sum(), [*block.parameters(), x])
        for y, block in zip(outputs, (ours, theirs), strict=True)
    ]
    found = {
        "forward": error(*outputs),
        "gradients": max(error(a, b) for a, b in zip(*grads, strict=True)),
        "step": 0.0,
    }
    with torch.no_grad():
        state = ours.initial_state(BATCH)
        conv, ssm = theirs.allocate_inference_cache(BATCH, 1, dtype=torch.float32)
        for t in range(TICKS):
            y, state = ours.step(x[:, t], state)
            z, conv, ssm = theirs.step(x[:, t : t + 1], conv, ssm)
            found["step"] = max(found["step"], error(y, z[:, 0]))
        found["state"] = max(error(state.ssm, ssm), error(state.conv, conv[..., 1:]))
    return found


if __name__ == "__main__":
    kernel = mamba_simple.selective_state_update
    errors = [compare(seed) for seed in range(2)]
    worst = {name: max(e[name] for e in errors) for name in errors[0]}
    print(json.dumps({"kernel": kernel is not None and kernel.__module__, **worst}))
