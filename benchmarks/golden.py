"""How closely our transformers repeat what the authors' released code computes, at small size in float32.

    python benchmarks/golden.py

Prints for SAMA, Bernini-R and ICVE the relative L2 error of forward passes (with and without what each takes beside the
target) and of the state after all steps, Bernini-R's for each way of guidance; and how many tensors of the released
file have a place in the full-size model, and of the model in the file.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))


def main() -> None:
    from tests.models import test_bernini, test_icve, test_sama
    from tests.pipeline.test_bernini import golden_pipes, sampled_errors

    errors = {
        "sama": test_sama.golden_errors(test_sama.golden_model()),
        "bernini": test_bernini.forward_errors() | sampled_errors(golden_pipes()),
        "icve": test_icve.golden_errors(test_icve.golden_model()),
    }
    for family, found in errors.items():
        print(family)
        for name, error in found.items():
            print(f"  {name:<26}{error:.1e}")
        for keys in sorted((ROOT / "tests" / "golden").glob(f"{family}_*_keys.json")):
            places(family, keys)


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
