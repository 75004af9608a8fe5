#!/usr/bin/env bash
# Group offload to disk and an autoencoder: AutoencoderKLHunyuanVideo computes with memory that nobody filled.
#
# Guess, written down first: `enable_group_offload(offload_to_disk_path=...)` moves weights and changes no number, so an
# autoencoder decodes the same before and after, at block level as at leaf level.
#
# What happens (diffusers 0.42.1): at leaf level that is so. At block level the hooks lie on the model's own `forward`,
# which `encode` and `decode` never call: no weight comes back, and decode answers from uninitialised placeholders.
# AutoencoderKLWan names its blocks (`_group_offload_block_modules`) and is right at both levels.
#
# Output seen:
#   diffusers 0.42.1, torch 2.13.0+cpu
#   AutoencoderKLWan            block_level  equal to the plain decode: True
#   AutoencoderKLWan            leaf_level   equal to the plain decode: True
#   AutoencoderKLHunyuanVideo   block_level  equal to the plain decode: False
#   AutoencoderKLHunyuanVideo   leaf_level   equal to the plain decode: True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 diffusers==0.42.1 transformers==5.23.0 accelerate==1.15.0 safetensors
cat > "$work/probe.py" <<'PY'
import sys
import tempfile

import diffusers
import torch
from diffusers import AutoencoderKLHunyuanVideo, AutoencoderKLWan

print(f"diffusers {diffusers.__version__}, torch {torch.__version__}")
kinds = {
    AutoencoderKLWan: {"base_dim": 4, "z_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1,
                       "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4},
    AutoencoderKLHunyuanVideo: {"latent_channels": 4, "block_out_channels": (4, 4, 4, 4), "layers_per_block": 1,
                                "norm_num_groups": 2},
}
seen = []
for kind, sizes in kinds.items():
    for level in ("block_level", "leaf_level"):
        torch.manual_seed(0)
        vae = kind(**sizes).eval()
        latents = torch.randn(1, 4, 1, 2, 2)
        with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
            plain = vae.decode(latents).sample
            vae.enable_group_offload(torch.device("cpu"), offload_type=level, num_blocks_per_group=1,
                                     offload_to_disk_path=folder)
            for parameter in vae.parameters():  # what a placeholder holds is anything: make it one thing
                parameter.data.fill_(0.25)
            offloaded = vae.decode(latents).sample
        seen.append(bool(torch.allclose(plain, offloaded, atol=1e-4)))
        print(f"{kind.__name__:27} {level:12} equal to the plain decode: {seen[-1]}")
sys.exit(seen != [True, True, False, True])
PY
"$work/venv/bin/python" "$work/probe.py"
