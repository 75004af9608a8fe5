"""Draws a training run's losses over its minutes, from the checkpoints' own history.

    python benchmarks/curve.py RUN_FOLDER [--key changed] [--out docs/images/curve.png]

`changed` is the velocity error where the answer differs from the source; images first, then videos.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from PIL import Image, ImageDraw

WIDTH, HEIGHT, LEFT, BELOW = 900, 360, 50, 30
COLORS = {"images": (30, 90, 200), "videos": (200, 70, 30)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--key", default="changed")
    parser.add_argument("--out", type=Path, default=Path("docs/images/curve.png"))
    options = parser.parse_args()
    curves, passed = {}, 0.0
    for stage in COLORS:
        history = json.loads((options.run / stage / "state.json").read_text())["history"]
        curves[stage] = [(passed + row["minutes"], row[options.key]) for row in history]
        passed = curves[stage][-1][0]
    top = 1.0
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(picture)

    def place(minutes: float, value: float) -> tuple[float, float]:
        x = LEFT + minutes / passed * (WIDTH - LEFT - 10)
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
    draw.text((WIDTH - 120, HEIGHT - BELOW - 16), f"{options.key}, minutes", fill="black")
    picture.save(options.out, optimize=True)
    for stage, points in curves.items():
        print(
            f"{stage}: {points[0][1]:.3f} at {points[0][0]:.1f} min to {points[-1][1]:.3f} at {points[-1][0]:.1f} min"
        )


if __name__ == "__main__":
    main()
