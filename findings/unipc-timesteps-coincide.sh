#!/usr/bin/env bash
# diffusers 0.42.1: UniPCMultistepScheduler keeps integer timesteps for flow matching, and looks its first step up by
# them. Shifted by 5, many steps near sigma = 1 round to one integer.
#
# The guess before running: timesteps are 1000 sigma as numbers with fractions (FlowMatchEulerDiscreteScheduler's are),
# or, if they are rounded, a walk of 250 steps still begins at the first sigma, since timesteps are given in order.
#
# Seen:
#   torch 2.13.0, diffusers 0.42.1
#   expected: a timestep for each step, and a walk that begins at the first sigma
#   euler: float32, 250 of 250 timesteps differ
#   unipc: int64, 4 pairs of neighbours coincide
#   unipc, steps in order: the first one began at sigma 1 of 0..249, the last one raised AssertionError
#   unipc, with set_begin_index(0): all 250 steps, along a straight path to the data (error below 1e-3)
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q torch==2.13.0 diffusers==0.42.1 transformers==5.23.0 numpy==2.3.5
"$place/venv/bin/python" - <<'PYTHON'
import diffusers
import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

print(f"torch {torch.__version__.partition('+')[0]}, diffusers {diffusers.__version__}")
steps, sigmas = 250, np.linspace(1, 0, 251)[:-1]
print("expected: a timestep for each step, and a walk that begins at the first sigma")


def unipc():
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)
    scheduler.set_timesteps(sigmas=sigmas.copy())
    return scheduler


euler = FlowMatchEulerDiscreteScheduler(shift=5.0)
euler.set_timesteps(sigmas=sigmas.copy())
kind = str(euler.timesteps.dtype).removeprefix("torch.")
print(f"euler: {kind}, {len(euler.timesteps.unique())} of {steps} timesteps differ")
assert len(euler.timesteps.unique()) == steps

first = unipc()
twins = int((first.timesteps.diff() == 0).sum())
print(f"unipc: {str(first.timesteps.dtype).removeprefix('torch.')}, {twins} pairs of neighbours coincide")
assert first.timesteps.dtype == torch.int64 and twins > 0

noise, data = torch.randn(2, 1, 4, generator=torch.Generator().manual_seed(0))
x, error, begun = noise, None, None
for t in first.timesteps:
    try:
        x = first.step(noise - data, t, x, return_dict=False)[0]
    except AssertionError as raised:
        error = raised
        break
    begun = first.step_index - 1 if begun is None else begun
print(f"unipc, steps in order: the first one began at sigma {begun} of 0..{steps - 1}, the last one raised "
      f"{type(error).__name__}")
assert begun == 1 and error is not None

second, x = unipc(), noise
second.set_begin_index(0)
for t in second.timesteps:
    x = second.step(noise - data, t, x, return_dict=False)[0]
off = float((x - data).abs().max())
print(f"unipc, with set_begin_index(0): all {second.step_index} steps, along a straight path to the data (error "
      f"{'below' if off < 1e-3 else 'above'} 1e-3)")
assert second.step_index == steps and off < 1e-3
PYTHON
