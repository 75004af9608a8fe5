#!/usr/bin/env bash
# A GGUF layer that is told to compute in float32 has weights of float16's accuracy.
#
# Guess, written down first: with `compute_dtype=torch.float32`, diffusers' layer for GGUF weights multiplies a block's
# scale and its integers in float32, so its weights are the gguf package's own to the last bit, or to 1e-7.
#
# What happens (diffusers 0.42.1, gguf 0.19.0): the product of scale and integers is made in float16, the type that the
# scale is stored in, and becomes `compute_dtype` after that. Weights are 2e-4 to 5e-4 away from those of the gguf package, a
# thousand times float32's rounding. Beside a Q4_0's own error of 8 % that is little; for two tools that read one file
# and are held against each other, it is the whole difference.
#
# Output seen:
#   diffusers 0.42.1, gguf 0.19.0, torch 2.13.0+cpu
#   Q8_0: error of the type 5.4e-03, the layer's weights from gguf's 2.1e-04, all of them float16 numbers: True
#   Q5_1: error of the type 3.8e-02, the layer's weights from gguf's 4.9e-04, all of them float16 numbers: True
#   Q4_0: error of the type 8.6e-02, the layer's weights from gguf's 1.6e-04, all of them float16 numbers: True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 diffusers==0.42.1 transformers==5.23.0 accelerate==1.15.0 gguf==0.19.0
cat > "$work/probe.py" <<'PY'
import sys

import diffusers
import gguf
import numpy as np
import torch
from diffusers.quantizers.gguf.utils import GGUFLinear, GGUFParameter

print(f"diffusers {diffusers.__version__}, gguf 0.19.0, torch {torch.__version__}")
exact = np.random.default_rng(0).standard_normal((256, 512)).astype(np.float32)
as_seen = True
for name in ("Q8_0", "Q5_1", "Q4_0"):
    kind = gguf.GGMLQuantizationType[name]
    blocks = gguf.quants.quantize(exact, kind)
    wanted = torch.from_numpy(gguf.quants.dequantize(blocks, kind))
    layer = GGUFLinear(512, 256, bias=False, compute_dtype=torch.float32)
    layer.weight = GGUFParameter(torch.from_numpy(blocks), quant_type=kind)
    with torch.no_grad():
        found = layer(torch.eye(512)).T
    away = float((found - wanted).norm() / wanted.norm())
    own = float((wanted - torch.from_numpy(exact)).norm() / np.linalg.norm(exact))
    halves = torch.equal(found, found.half().float())
    print(f"{name}: error of the type {own:.1e}, the layer's weights from gguf's {away:.1e}, "
          f"all of them float16 numbers: {halves}")
    as_seen = as_seen and 3e-5 < away < 1e-3 and halves
sys.exit(not as_seen)
PY
"$work/venv/bin/python" "$work/probe.py" 2> /dev/null
