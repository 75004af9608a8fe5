#!/usr/bin/env bash
# diffusers reads a GGUF tensor that ComfyUI-GGUF folded in the shape that it was folded to.
#
# Guess, written down first: a tensor whose rows do not fill blocks of 256 is stored folded to rows of 256, with its own
# shape in the header under `comfy.gguf.orig_shape.NAME`; a loader of such files gives it back in that shape.
#
# What happens (diffusers 0.42.1, gguf 0.19.0): the header's shape is not looked at. The tensor comes folded, in whole
# numbers too, so the file loads in ComfyUI and is "of an unexpected shape" here. A shape of five sides, as the patch
# embedding of a video transformer has it, needs no folding: gguf's Python code writes and reads it, although ggml itself
# knows four.
#
# Output seen:
#   diffusers 0.42.1, gguf 0.19.0
#   folded: the header says [96, 320], diffusers gives (120, 256)
#   blocks: the header says [96, 320], diffusers gives (120, 256)
#   five sides: (8, 4, 1, 2, 2)
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
from diffusers.models.model_loading_utils import load_gguf_checkpoint

print(f"diffusers {diffusers.__version__}, gguf 0.19.0")
path, draw, kinds = sys.argv[1], np.random.default_rng(0), gguf.GGMLQuantizationType
writer = gguf.GGUFWriter(path, "wan")
for name, kind in (("folded", kinds.F32), ("blocks", kinds.Q8_0)):
    whole = draw.standard_normal((96, 320), np.float32)
    writer.add_array(f"comfy.gguf.orig_shape.{name}", list(whole.shape))
    writer.add_tensor(name, gguf.quants.quantize(whole.reshape(-1, 256), kind), raw_dtype=kind)
writer.add_tensor("five sides", draw.standard_normal((8, 4, 1, 2, 2), np.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()

said = gguf.GGUFReader(path).get_field("comfy.gguf.orig_shape.folded").contents()
found = load_gguf_checkpoint(path)
shapes = {name: tuple(getattr(tensor, "quant_shape", tensor.shape)) for name, tensor in found.items()}
for name in ("folded", "blocks"):
    print(f"{name}: the header says {said}, diffusers gives {shapes[name]}")
print(f"five sides: {shapes['five sides']}")
sys.exit(not (shapes["folded"] == shapes["blocks"] == (120, 256) and shapes["five sides"] == (8, 4, 1, 2, 2)))
PY
"$work/venv/bin/python" "$work/probe.py" "$work/folded.gguf" 2> /dev/null
