#!/usr/bin/env bash
# torch 2.13.0: torch.utils.flop_counter counts nothing for scaled_dot_product_attention on a CPU.
#
# Guess, written down first: the counter knows attention (its page names flash and efficient attention), so that the same
# call has the same count on every device and by every backend: 4 b h n^2 d, here 4 * 2 * 8 * 256^2 * 64 = 268,435,456.
# Seen: 0 on a CPU by its own fused kernel, in float32 and bfloat16, without a word; the right number by the `math`
# backend there, and on the `meta` device. Forward and backward together: 0 again, where the products by themselves are
# three times the forward's. So a transformer's count on a CPU lacks its largest part on long sequences, and a share of
# the machine's speed (MFU) that is computed from it comes out too low.
#
# torch 2.13.0+cpu
# cpu, fused kernel, float32                0
# cpu, fused kernel, bfloat16               0
# cpu, math backend, float32      268,435,456
# meta, float32                   268,435,456
# cpu, fused, with backward                 0
# cpu, math, with backward        805,306,368
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.0
"$folder/venv/bin/python" - <<'PY'
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

B, H, N, D = 2, 8, 256, 64
RIGHT = 4 * B * H * N * N * D


def count(device: str, dtype: torch.dtype, backend: SDPBackend | None = None, backward: bool = False) -> int:
    q, k, v = (torch.ones(B, H, N, D, device=device, dtype=dtype, requires_grad=backward) for _ in range(3))
    with sdpa_kernel(backend or [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]), FlopCounterMode(display=False) as counter:
        out = scaled_dot_product_attention(q, k, v)
        if backward:
            out.sum().backward()
    return counter.get_total_flops()


print("torch", torch.__version__)
seen = {
    "cpu, fused kernel, float32": (count("cpu", torch.float32), 0),
    "cpu, fused kernel, bfloat16": (count("cpu", torch.bfloat16), 0),
    "cpu, math backend, float32": (count("cpu", torch.float32, SDPBackend.MATH), RIGHT),
    "meta, float32": (count("meta", torch.float32), RIGHT),
    "cpu, fused, with backward": (count("cpu", torch.float32, backward=True), 0),
    "cpu, math, with backward": (count("cpu", torch.float32, SDPBackend.MATH, backward=True), 3 * RIGHT),
}
for what, (found, _) in seen.items():
    print(f"{what:<30}{found:>13,}")
assert all(found == known for found, known in seen.values()), "the counter has changed"
PY
