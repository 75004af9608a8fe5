#!/usr/bin/env bash
# TaylorSeerCache on Wan: enabled, and every attention is still computed at every step.
#
# Guess, written down first: with its defaults ("all attention-like modules are hooked") TaylorSeer caches the attention
# of Wan's blocks, as it does for other video transformers.
#
# What happens (diffusers 0.42.1): its patterns end in "attn" and must match a module's whole name. Wan's attention is
# called attn1 and attn2, so nothing is hooked: `is_cache_enabled` is True, and no call is saved. HunyuanVideo's is called
# attn and is cached. The same settings with a pattern of one's own skip Wan's attention, too.
#
# Output seen:
#   diffusers 0.42.1
#   Wan, defaults            enabled: True, hooked: 0, attention computed in 8 of 8 steps
#   Wan, a pattern for attn1 enabled: True, hooked: 2, attention computed in 5 of 8 steps
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 diffusers==0.42.1 transformers==5.23.0 accelerate==1.15.0 safetensors
cat > "$work/probe.py" <<'PY'
import sys

import diffusers
import torch
from diffusers import TaylorSeerCacheConfig, WanTransformer3DModel

print(f"diffusers {diffusers.__version__}")


def count(**patterns) -> tuple[bool, int, int]:
    torch.manual_seed(0)
    model = WanTransformer3DModel(num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4,
                                  text_dim=8, freq_dim=16, ffn_dim=16, num_layers=2).eval()
    calls = []
    model.blocks[1].attn1.to_q.register_forward_hook(lambda *_: calls.append(1))
    model.enable_cache(TaylorSeerCacheConfig(cache_interval=2, disable_cache_before_step=2,
                                             taylor_factors_dtype=torch.float32, **patterns))
    hooked = sum("taylorseer_cache" in m._diffusers_hook.hooks for m in model.modules() if hasattr(m, "_diffusers_hook"))
    for step in range(8):
        with torch.no_grad(), model.cache_context("cond"):
            model(torch.randn(1, 4, 1, 4, 4), torch.tensor([1000.0 - 100 * step]), torch.randn(1, 3, 8))
    return model.is_cache_enabled, hooked, len(calls)


default, own = count(), count(cache_identifiers=[r"blocks\.\d+\.attn1"])
for name, (enabled, hooked, computed) in (("Wan, defaults           ", default), ("Wan, a pattern for attn1", own)):
    print(f"{name} enabled: {enabled}, hooked: {hooked}, attention computed in {computed} of 8 steps")
sys.exit((default, own) != ((True, 0, 8), (True, 2, 5)))
PY
"$work/venv/bin/python" "$work/probe.py"
