"""Draws a training run's losses over its minutes, from the checkpoints' own history.

    python benchmarks/curve.py RUN_FOLDER [--key changed] [--after 0.1] [--out docs/images/curve.png]
    python benchmarks/curve.py RUN_FOLDER --scores [--key core]

With --scores it is what was measured on edits kept from training: `core`, `full`, or with a family, as `core add`.
`changed` is the velocity error where the answer differs from the source, stage after stage. To each stage a
power law, floor + gain * step^-rate, is fitted (least squares after the first tenth, or `--after`): what ten and a
hundred times the steps would bring if it went on so.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

WIDTH, HEIGHT, LEFT, BELOW = 900, 360, 50, 30
COLORS = {
    "pretrain": (60, 150, 60),
    "pictures": (150, 60, 150),
    "windows": (60, 150, 60),
    "images": (30, 90, 200),
    "videos": (200, 70, 30),
}


def power_law(steps: np.ndarray, values: np.ndarray) -> tuple[float, float, float]:
    """(floor, gain, rate) of floor + gain * step^-rate with floor >= 0, the best over a grid of rates."""
    best = (float("inf"), 0.0, 0.0, 0.0)
    for rate in np.linspace(0.05, 2, 79):
        x = np.stack([np.ones_like(steps), steps**-rate], 1)
        floor, gain = np.linalg.lstsq(x, values, rcond=None)[0]
        if floor < 0:
            floor, gain = 0.0, float((x[:, 1] @ values) / (x[:, 1] @ x[:, 1]))
        error = float(np.square(floor + gain * x[:, 1] - values).sum())
        best = min(best, (error, float(floor), float(gain), float(rate)))
    return best[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--scores", action="store_true")
    parser.add_argument("--key", help="changed; of scores core")
    parser.add_argument("--after", type=float, default=0.1, help="share of a stage's steps that the fit leaves out")
    parser.add_argument("--out", type=Path, default=Path("docs/images/curve.png"))
    options = parser.parse_args()
    key = options.key or ("core" if options.scores else "changed")
    file = "scores.jsonl" if options.scores else "metrics.jsonl"
    curves, passed, histories = {}, 0.0, {}
    for stage in (stage for stage in COLORS if (options.run / stage / file).is_file()):
        rows = [json.loads(line) for line in (options.run / stage / file).read_text().splitlines()]
        histories[stage] = history = [row for row in rows if key in row]
        curves[stage] = [(passed + row["minutes"], row[key]) for row in history]
        passed = curves[stage][-1][0]
    top = 1.0
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(picture)

    def place(minutes: float, value: float) -> tuple[float, float]:
        x = LEFT + minutes / (passed or 1) * (WIDTH - LEFT - 10)
        return x, 10 + (1 - min(value, top) / top) * (HEIGHT - BELOW - 10)

    for i in range(6):
        y = place(0, i * top / 5)[1]
        draw.line((LEFT, y, WIDTH - 10, y), fill=(225, 225, 225))
        draw.text((10, y - 6), f"{i * top / 5:.1f}", fill="black")
    for minutes in range(0, int(passed) + 1, 10):
        draw.text((place(minutes, 0)[0] - 6, HEIGHT - BELOW + 8), str(minutes), fill="black")
    for stage, points in curves.items():
        draw.line([place(*p) for p in points], fill=COLORS[stage], width=2)
        draw.text((place(*points[len(points) // 2])[0], 20), stage, fill=COLORS[stage])
    draw.text((WIDTH - 120, HEIGHT - BELOW - 16), f"{key}, minutes", fill="black")
    picture.save(options.out, optimize=True)
    for stage, points in curves.items():
        print(
            f"{stage}: {points[0][1]:.3f} at {points[0][0]:.1f} min to {points[-1][1]:.3f} at {points[-1][0]:.1f} min"
        )
        kept = [row for row in histories[stage] if row["step"] > options.after * histories[stage][-1]["step"]]
        if len(kept) < 3:
            continue
        steps = np.array([row["step"] for row in kept], dtype=float)
        floor, gain, rate = power_law(steps, np.array([row[key] for row in kept]))
        said = ", ".join(f"{n} times the steps {floor + gain * (n * steps[-1]) ** -rate:.3f}" for n in (1, 10, 100))
        print(f"  {floor:.3f} + {gain:.2f} * step^-{rate:.2f}: {said}")


if __name__ == "__main__":
    main()
