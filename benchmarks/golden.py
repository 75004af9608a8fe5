"""How closely the SAMA transformer repeats what the authors' released code computes, at small size in float32.

    python benchmarks/golden.py

Prints the relative L2 error of the forward pass with and without source and semantic tokens, and of the state after
all Euler steps, and how many tensors of the released 14B file map into the full-size model and back.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

TESTS = Path(__file__).parent.parent / "tests"
sys.path.insert(0, str(TESTS / "models"))


def main() -> None:
    import test_sama

    for name, error in test_sama.golden_errors(test_sama.golden_model()).items():
        print(f"{name:<24}{error:.1e}")

    from opensama.models.convert import FAMILIES
    from opensama.models.sama import SamaTransformer3DModel

    row = FAMILIES["sama"]
    released = json.loads((TESTS / "golden" / "sama_14b_keys.json").read_text())["tensors"]
    released = {name: tuple(shape) for name, shape in released.items()}
    with torch.device("meta"):
        full = {name: tuple(p.shape) for name, p in SamaTransformer3DModel().state_dict().items()}
    there = {row.to_ours(name): shape for name, shape in released.items()} == full
    back = {row.to_released(name): shape for name, shape in full.items()} == released
    print(f"{len(released)} released tensors into the 14B model: {'all' if there else 'NOT ALL'} fit, none is left")
    print(f"{len(full)} tensors of the 14B model back: {'all' if back else 'NOT ALL'} fit, none is left")


if __name__ == "__main__":
    main()
