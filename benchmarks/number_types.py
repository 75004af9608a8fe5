"""What bfloat16 costs on this processor beside float32: a matrix product, and a step of Muon.

    python benchmarks/number_types.py

Ratios above 1 mean that bfloat16 is the slower one, as on processors that only have AVX2.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import torch

from opensama import runtime
from opensama.training.optim import Float32Muon


def seconds(act: Callable[[], object], times: int = 5) -> float:
    act()
    taken = []
    for _ in range(times):
        begun = perf_counter()
        act()
        taken.append(perf_counter() - begun)
    return min(taken)


def product(size: int, dtype: torch.dtype) -> float:
    a = torch.ones(size, size, dtype=dtype)
    return seconds(lambda: a @ a)


def muon(kind: type[torch.optim.Muon], size: int = 256) -> float:
    weight = torch.nn.Parameter(torch.zeros(size, size))
    weight.grad = torch.randn(size, size)
    optimizer = kind([weight], adjust_lr_fn="match_rms_adamw")
    return seconds(optimizer.step)


def main() -> None:
    torch.set_num_threads(1)
    for size in (128, 256, 512):
        ratio = product(size, torch.bfloat16) / product(size, torch.float32)
        print(f"product of two {size}x{size} matrices: bfloat16 takes {ratio:.2f} times as long as float32")
    ratio = muon(torch.optim.Muon) / muon(Float32Muon)
    print(f"a step of Muon on one 256x256 matrix: torch's takes {ratio:.2f} times as long as ours in float32")
    chosen = "bfloat16" if runtime.computes_bfloat16(torch.device("cpu")) else "float32"
    print(f"compute=auto chooses {chosen} here")


if __name__ == "__main__":
    main()
