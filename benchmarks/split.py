"""Two edits asked for in one instruction: in one pass, or told apart and made one after the other.

    python benchmarks/split.py [--model tiny] [-n 20] [--preserve]      the world's `two` family
    python benchmarks/split.py --rules 1000      how the rules split the world's instructions; no model

Each of `n` test instructions of two edits is made in one pass and as a chain, and held to the exact answer as
`opensama evaluate world` does: right (both edits, the rest kept, in every third of the clip), the first and the second
edit right by itself, and the squared error where the answer differs from the source, over the source's own (median; a
copy has 1): of all, and where the first or the second edit alone changes something. Last the items of which the chain
has the lower error.
"""

from __future__ import annotations

import argparse
from collections import Counter

import numpy as np

from opensama import EditRequest, Video, load
from opensama.evaluation.world.report import through
from opensama.evaluation.world.scores import answer_key, squared_error
from opensama.pipeline.split import Splitting
from opensama.pipeline.split_rules import split_by_rules
from opensama.world import CONTROL_FAMILIES, EDIT_FAMILIES, plan_edit, render_edits, sample_edit, to_uint8
from opensama.world.edits import EditPlan
from opensama.world.scenes import FPS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("-n", type=int, default=20)
    parser.add_argument("--rules", type=int, default=0, help="instructions of each family and side to split")
    parser.add_argument("--preserve", action="store_true")
    options = parser.parse_args()
    if options.rules:
        count_splits(options.rules)
    else:
        compare_passes(options.model, options.n, options.preserve)


def count_splits(n: int) -> None:
    right, told = Counter[str](), Counter[str]()
    for family in (*EDIT_FAMILIES, *CONTROL_FAMILIES):
        group = "two" if family == "two" else "all others"
        for split in ("train", "test"):
            for i in range(n):
                plan = plan_edit(f"rules-{i}", split, family)
                wanted = [part.instruction for part in plan.parts] if family == "two" else [plan.instruction]
                told[group] += 1
                right[group] += list(split_by_rules(plan.instruction)) == wanted
    for group in told:
        print(f"{group:<12}{right[group]:>7,} of {told[group]:,} as they should be")


def compare_passes(model: str, n: int, preserve: bool) -> None:
    editor = load(model)
    autoencoder = through(editor)
    rows: dict[str, list[list[float]]] = {"one pass": [], "chain": []}
    for i in range(n):
        sample = sample_edit(f"0-{i}", "test", "two", 17, 128)
        key, halves = answer_key(sample, autoencoder), [_alone(sample.plan, part) for part in (0, 1)]
        video = Video.from_frames(sample.source, FPS)
        asked = EditRequest(video, sample.instruction, preserve=preserve)
        chained = Splitting("rules").by_rules(asked)
        assert len(chained.edits) == 2, sample.instruction
        for name, request in (("one pass", asked), ("chain", chained)):
            output = editor.edit(request).array()
            verdict = key.judge(output)
            errors = [squared_error(before, sample.target, output) for before in (sample.source, *halves)]
            parts = [float(part.right) for part in verdict.parts]
            rows[name].append([float(verdict.success), *parts, *errors, verdict.still])
    print(f"{model}, {n} instructions of two edits{', preserve' if preserve else ''}")
    heads = ("right", "first", "second", "error", "first", "second", "kept dB")
    print(f"{'':<12}{''.join(f'{head:>9}' for head in heads)}")
    for name, found in rows.items():
        *shares, error, of_first, of_second, kept = np.array(found).T
        kept = kept[kept < 99]  # a style changes everything: nothing is left to be kept
        said = "".join(f"{share.mean():>9.0%}" for share in shares)
        said += "".join(f"{np.median(one):>9.2f}" for one in (error, of_first, of_second))
        print(f"{name:<12}{said}{kept.mean() if len(kept) else np.nan:>9.1f}")
    lower = [np.array(rows["chain"])[:, column] < np.array(rows["one pass"])[:, column] for column in (3, 4, 5)]
    print(f"{'chain lower':<12}{'':27}{''.join(f'{one.sum():>9}' for one in lower)}")


def _alone(plan: EditPlan, part: int) -> np.ndarray:
    """The right answer without one of the edits [t h w 3]: where it differs from the answer, that edit is at work."""
    drawn = render_edits([EditPlan(plan.family, "", plan.parts[part].before, plan.target, ())], 17, 128, 128)
    return to_uint8(drawn.source[0])


if __name__ == "__main__":
    main()
