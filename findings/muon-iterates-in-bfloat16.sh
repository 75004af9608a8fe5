#!/usr/bin/env bash
# torch 2.13.0: torch.optim.Muon orthogonalises in bfloat16 whatever the weights' type, with float64 weights too, and
# nothing of its arguments changes that. Its momentum has the weights' type, so a look at the state shows nothing.
#
# The guess before running: the iteration takes the type of the gradient, and bfloat16 is what one gets under autocast.
#
# Seen:
#   torch 2.13.0
#   expected: matrix products in the weights' own type
#   weights float32: state float32, matrix products in bfloat16
#   weights float64: state float64, matrix products in bfloat16
#   float64, one step of an orthogonal gradient: the update is off by 1e-02 of the exact direction, not 1e-15
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q torch==2.13.0 numpy==2.3.5
"$place/venv/bin/python" - <<'PYTHON'
import torch
from torch.utils._python_dispatch import TorchDispatchMode

print(f"torch {torch.__version__.partition('+')[0]}")
print("expected: matrix products in the weights' own type")


class Products(TorchDispatchMode):
    """Notes the types of matrix products."""

    def __init__(self):
        super().__init__()
        self.kinds = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if any(word in str(function) for word in ("mm.", "addmm")):
            self.kinds.add(str(out.dtype).removeprefix("torch."))
        return out


for dtype in (torch.float32, torch.float64):
    weight = torch.nn.Parameter(torch.zeros(32, 32, dtype=dtype))
    optimizer = torch.optim.Muon([weight], lr=0.1, weight_decay=0.0)
    weight.grad = torch.randn(32, 32, dtype=dtype, generator=torch.Generator().manual_seed(0))
    with Products() as products:
        optimizer.step()
    state = str(optimizer.state[weight]["momentum_buffer"].dtype).removeprefix("torch.")
    print(f"weights {str(dtype).removeprefix('torch.')}: state {state}, matrix products in {', '.join(products.kinds)}")
    assert state == str(dtype).removeprefix("torch.") and products.kinds == {"bfloat16"}

exact, _ = torch.linalg.qr(torch.randn(32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
weight = torch.nn.Parameter(torch.zeros(32, 32, dtype=torch.float64))
optimizer = torch.optim.Muon([weight], lr=1.0, weight_decay=0.0)
weight.grad = exact.clone()
optimizer.step()
update = -weight.detach()  # odd polynomials of an orthogonal matrix keep its direction
off = float((update / update.norm() - exact / exact.norm()).norm())
print(f"float64, one step of an orthogonal gradient: the update is off by {off:.0e} of the exact direction, not 1e-15")
assert 1e-4 < off < 1e-1
PYTHON
