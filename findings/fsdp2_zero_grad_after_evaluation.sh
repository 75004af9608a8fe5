#!/usr/bin/env bash
# FSDP2: `module.zero_grad()` after an evaluation clears nothing of the outermost module; its gradients count twice.
#
# A guess: `model.zero_grad()` before each step leaves no gradient, whatever was computed without gradients between.
# What happens (torch 2.13.0, two gloo processes on the CPU): after a forward pass under `no_grad` the outermost module
# keeps its gathered parameters registered (it is not resharded after forward by default). `zero_grad()` walks over
# these, not over the sharded ones that hold `.grad`. The next backward pass adds to what should have been cleared.
# Blocks inside reshard at once, so their gradients are right: only the embedding and the head learn at twice the rate.
# `optimizer.zero_grad()`, which knows the sharded parameters, or `model.reshard()` before, does it.
#
#   torch 2.13.0+cpu
#   expected: every gradient of the second step is 1.0 times that of one process
#   zero_grad, step:                          outermost 1.0, block 1.0
#   evaluation, zero_grad, step:              outermost 2.0, block 1.0
#   evaluation, reshard, zero_grad, step:     outermost 1.0, block 1.0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 numpy
cat > "$work/run.py" <<'PY'
import sys
import warnings

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.block, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.block(self.embed(x)).tanh())


def loss(model):
    return model(torch.linspace(-1, 1, 12).view(3, 4)).square().mean()


def step(model):
    loss(model).backward()
    return {name: p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad for name, p in model.named_parameters()}


def make():
    torch.manual_seed(0)
    return Net()


def main(rank, folder):
    warnings.filterwarnings("ignore")
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/store", 2), rank=rank, world_size=2)
    alone = step(make())
    found = {}
    for what in ("zero_grad, step", "evaluation, zero_grad, step", "evaluation, reshard, zero_grad, step"):
        model = make()
        fully_shard(model.block)
        fully_shard(model)
        step(model)
        if "evaluation" in what:
            with torch.no_grad():
                loss(model)
        if "reshard" in what:
            model.reshard()
        model.zero_grad()
        again = step(model)
        ratios = [float(again[name].norm() / alone[name].norm()) for name in ("embed.weight", "block.weight")]
        found[what] = [round(ratio, 3) for ratio in ratios]
        if rank == 0:
            print(f"{what + ':':<41} outermost {found[what][0]}, block {found[what][1]}", flush=True)
    dist.destroy_process_group()
    if list(found.values()) != [[1.0, 1.0], [2.0, 1.0], [1.0, 1.0]]:
        sys.exit("the behaviour has changed")


if __name__ == "__main__":
    print("torch", torch.__version__)
    print("expected: every gradient of the second step is 1.0 times that of one process", flush=True)
    torch.multiprocessing.spawn(main, (sys.argv[1],), nprocs=2)
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" "$work/run.py" "$work"
