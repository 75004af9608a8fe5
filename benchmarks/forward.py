"""Our transformer's forward pass against diffusers' WanTransformer3DModel over as many tokens.

    python benchmarks/forward.py [--tokens 1000 2000 4000 8000] [--layers 2] [--rounds 5] [--threads 1]

Blocks as wide as Wan2.1-1.3B's (12 heads of 128, a feed-forward of 8960), random weights, float32 on the CPU. Half of
our tokens are the source's, 65 are semantic; the peer has one clip of as many. Both compute in turns; a figure is the
median of its rounds in CPU seconds, the ratio that of the pairs' own ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from diffusers import WanTransformer3DModel

from opensama.models.sama import SamaTransformer3DModel

SIZES = {"num_attention_heads": 12, "attention_head_dim": 128, "ffn_dim": 8960, "text_dim": 4096}
SEMANTIC, TEXT = 65, 64


def cpu_seconds(forward: Callable[[], object]) -> float:
    began = time.process_time()
    forward()
    return time.process_time() - began


def passes(layers: int, tokens: int) -> tuple[Callable[[], object], Callable[[], object], int]:
    """Both forward passes, and how many joint tokens they have."""
    torch.manual_seed(0)
    ours = SamaTransformer3DModel(num_layers=layers, **SIZES).eval()
    peer = WanTransformer3DModel(num_layers=layers, **SIZES).eval()
    rows = max(1, round((tokens - SEMANTIC) / 2 / 5 / 16))
    half = torch.randn(1, 16, 5, 2 * rows, 32)
    joint = 2 * half[0, 0].numel() // 4 + SEMANTIC
    whole = torch.randn(1, 16, 1, 2, 2 * joint)
    text, time_step = torch.randn(1, TEXT, 4096), torch.tensor([500.0])
    semantic = torch.randn(1, SEMANTIC, 1152)
    peer.rope = type(peer.rope)(128, (1, 2, 2), max(1024, joint))
    return (
        lambda: ours(half, time_step, text, source_hidden_states=half, semantic_hidden_states=semantic),
        lambda: peer(whole, time_step, text),
        joint,
    )


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[1000, 2000, 4000, 8000])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{'tokens':>8}{'ours':>9}{'diffusers':>11}{'ratio':>8}")
    for tokens in options.tokens:
        ours, peer, joint = passes(options.layers, tokens)
        ours(), peer()
        pairs = [(cpu_seconds(ours), cpu_seconds(peer)) for _ in range(options.rounds)]
        ratio = statistics.median(a / b for a, b in pairs)
        medians = [statistics.median(side) for side in zip(*pairs, strict=True)]
        print(f"{joint:>8}{medians[0]:>9.2f}{medians[1]:>11.2f}{ratio:>8.2f}", flush=True)


if __name__ == "__main__":
    main()
