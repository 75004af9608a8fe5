"""How closely our transformers repeat what the authors' released code computes, at small size in float32.

    python benchmarks/golden.py

Prints for SAMA and for ICVE the relative L2 error of one forward pass (SAMA's with and without source and semantic
tokens) and of the state after all Euler steps, and how many tensors of the released file have a place in the full-size
model, and of the model in the file.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))


def main() -> None:
    from tests.models import test_icve, test_sama

    for family, keys, tests in (("sama", "sama_14b_keys", test_sama), ("icve", "icve_13b_keys", test_icve)):
        print(family)
        for name, error in tests.golden_errors(tests.golden_model()).items():
            print(f"  {name:<24}{error:.1e}")
        places(family, ROOT / "tests" / "golden" / f"{keys}.json")


def places(family: str, keys: Path) -> None:
    """Says whether every released tensor is rows of the full-size model's, and every row of these is in one."""
    from opensama.models.convert import empty_model, released_shape
    from opensama.models.families import MODEL_FAMILIES

    row = MODEL_FAMILIES[family]
    released = {name: tuple(shape) for name, shape in json.loads(keys.read_text())["tensors"].items()}
    ours = {name: tuple(p.shape) for name, p in empty_model(row, released, {}).state_dict().items()}
    layout = row.layout(ours)
    there = {name: released_shape(parts, ours) for name, parts in layout.items()} == released
    held = dict.fromkeys(ours, 0)
    for part in {part for parts in layout.values() for part in parts}:
        held[part.name] += part.stop - part.start
    back = all(held[name] == shape[0] for name, shape in ours.items())
    print(f"  {len(released)} released tensors into the full-size model: {'all' if there else 'NOT ALL'} fit")
    print(f"  {len(ours)} tensors of that model back: {'all' if back else 'NOT ALL'} have their place, none is left")


if __name__ == "__main__":
    main()
