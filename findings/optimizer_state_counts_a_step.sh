#!/usr/bin/env bash
# torch 2.13.0: to ask for the state of an optimizer that has not stepped yet (get_optimizer_state_dict, as a checkpoint at
# step 0 does) leaves it with one step counted, and the training that follows is another one.
#
# Guess, written down first: a getter changes nothing. A fresh AdamW has no state, so the answer is empty, or says step 0,
# and the run that was asked goes on exactly like one that was not.
#
# Seen with torch 2.13.0: the getter lets the optimizer take a step with zero gradients and rate 0, to make its state. The
# weights stay, the counter does not. AdamW's correction for its young averages is then that of step 2, and the first update
# is sqrt(1 + beta2) / (1 + beta1) of what it should be: 0.744 with the defaults.
#   torch 2.13.0
#   expected: step 0 in the state, and a first update of 0.0100
#   not asked: the first update is 0.0100
#   asked once before it: the state says step 1, the first update is 0.0074
#   weights 20 steps later differ by up to 0.005 (rate 0.01)
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q torch==2.13.0 numpy==2.3.5
"$place/venv/bin/python" - <<'PYTHON'
import torch
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

print(f"torch {torch.__version__.partition('+')[0]}")
print("expected: step 0 in the state, and a first update of 0.0100")


def train(asked: bool) -> tuple[float | None, float, torch.Tensor]:
    """The counter that the state names, the mean change of a weight in the first update, the weights after 20 steps."""
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0)
    counted = float(get_optimizer_state_dict(model, optimizer)["state"]["weight"]["step"]) if asked else None
    before, update = model.weight.detach().clone(), 0.0
    for step in range(20):
        model(torch.ones(2, 4)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        if step == 0:
            update = float((model.weight - before).abs().mean())
    return counted, update, model.weight.detach()


_, plain, weights = train(asked=False)
counted, update, others = train(asked=True)
print(f"not asked: the first update is {plain:.4f}")
print(f"asked once before it: the state says step {counted:.0f}, the first update is {update:.4f}")
off = float((weights - others).abs().max())
print(f"weights 20 steps later differ by up to {off:.3f} (rate 0.01)")
assert counted == 1 and abs(plain - 0.01) < 1e-4
assert abs(update / plain - (1 + 0.999) ** 0.5 / (1 + 0.9)) < 1e-3 and off > 1e-3
PYTHON
