"""How near to the right answer a change comes that is carried to the frames between those that a model saw.

    python benchmarks/model_fps.py [SEEDS]

For each family of drawn edits: PSNR in dB near what differs, of every second frame, mean over the seeds. `edited`: the
model, for which the softened and noisy answer stands in, saw that frame; `carried`: it saw those beside; `held`: the
edit of the frame before. The clips move twice as far from frame to frame as at the 16 a second that they are drawn for.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))


def main(seeds: int) -> None:
    from opensama.world import EDIT_FAMILIES
    from tests.pipeline.test_frame_rate import carried_edits

    means = []
    print(f"{'':<12}{'edited':>8}{'carried':>9}{'held':>7}")
    for family in EDIT_FAMILIES:
        found = [carried_edits(family, seed) for seed in range(seeds)]
        means.append([sum(one[name] for one in found) / seeds for name in ("edited", "carried", "held")])
        print(f"{family:<12}{means[-1][0]:8.1f}{means[-1][1]:9.1f}{means[-1][2]:7.1f}")
    print(
        "all         {:8.1f}{:9.1f}{:7.1f}".format(*(sum(column) / len(means) for column in zip(*means, strict=True)))
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 8)
