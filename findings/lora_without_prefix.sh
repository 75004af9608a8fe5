#!/usr/bin/env bash
# A Wan LoRA without a prefix before its names, as DiffSynth-Studio and LightX2V write them: none of it is loaded.
#
# Guess, written down first: the loader that turns `diffusion_model.blocks.0.self_attn.q...` into diffusers' names does
# so without the prefix, too, or raises.
#
# What happens (diffusers 0.42.1): the prefix alone chooses the converter. Without it nothing is converted, no adapter is
# made, and the call returns after a warning. The same tensors behind the prefix fill every layer.
#
# Output seen:
#   diffusers 0.42.1
#   with diffusion_model.  layers with a LoRA: 2 of 2
#   without                layers with a LoRA: 0 of 2, raised: False
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 diffusers==0.42.1 transformers==5.23.0 peft==0.21.2 accelerate==1.15.0 \
  safetensors ftfy
cat > "$work/probe.py" <<'PY'
import sys

import diffusers
import torch
from diffusers import WanTransformer3DModel
from diffusers.loaders import WanLoraLoaderMixin
from peft.tuners.lora import LoraLayer

print(f"diffusers {diffusers.__version__}")


def layers(prefix: str) -> tuple[int, bool]:
    model = WanTransformer3DModel(num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4,
                                  text_dim=8, freq_dim=16, ffn_dim=16, num_layers=2).eval()
    tensors = {}
    for block in range(2):
        tensors[f"{prefix}blocks.{block}.self_attn.q.lora_A.weight"] = torch.randn(4, 24)
        tensors[f"{prefix}blocks.{block}.self_attn.q.lora_B.weight"] = torch.randn(24, 4)
    raised = False
    try:
        state = WanLoraLoaderMixin.lora_state_dict(tensors)
        WanLoraLoaderMixin.load_lora_into_transformer(state, model)
    except ValueError:
        raised = True
    return sum(isinstance(module, LoraLayer) for module in model.modules()), raised


(with_prefix, _), (without, raised) = layers("diffusion_model."), layers("")
print(f"with diffusion_model.  layers with a LoRA: {with_prefix} of 2")
print(f"without                layers with a LoRA: {without} of 2, raised: {raised}")
sys.exit((with_prefix, without, raised) != (2, 0, False))
PY
"$work/venv/bin/python" "$work/probe.py"
