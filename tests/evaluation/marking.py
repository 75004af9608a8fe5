"""A judge of benchmarks that looks: marks by how much the edit's pixels differ from the source's, in the asked form."""

from __future__ import annotations

import json
import re

import numpy as np
from PIL import Image

from tests.curation.server import Asked

FULL = 0.4  # the mean change, of all light there is, that gets the highest mark


def change(asked: Asked) -> float:
    """Mean difference of what is shown first and second, 0 to 1."""
    if "left the original" in asked.text:
        pairs = [(image[:, : image.shape[1] // 2], image[:, image.shape[1] // 2 :]) for image in asked.images]
    else:
        first, second = asked.groups[-2:]
        pairs = list(zip(first, second, strict=False))
    return float(np.mean([abs(_tiny(a) - _tiny(b)).mean() for a, b in pairs]))


def _tiny(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((16, 12), Image.Resampling.BOX), float) / 255


def marker(asked: Asked) -> str:
    """The reply to any of the protocols' questions; `yes` to a greeting."""
    if not asked.images:
        return "yes"
    level = min(1.0, change(asked) / FULL)

    def mark(low: int, high: int) -> int:
        return round(low + level * (high - low))

    if "edit_accuracy" in asked.text:
        groups = ("edit_accuracy", "video_quality", "naturalness")
        said = {name: {"scores": [mark(1, 10)] * 3, "reasoning": "seen"} for name in groups}
        return "```json\n" + json.dumps(said) + "\n```"
    if "instruct follow" in asked.text:
        names = re.findall(r'"(\w[\w ]* score \(1-10\))": <n>', asked.text)
        return json.dumps({"instruction": "x"} | dict.fromkeys(names, mark(1, 10)) | {"reason": "seen"})
    if "square brackets" in asked.text:
        return f"[{mark(1, 5)}] as seen."
    if "prompt following" in asked.text:
        names = ("prompt following", "edit quality", "background consistency")
        return json.dumps(dict.fromkeys(names, mark(0, 3)))
    labels = re.findall(r"^(.+): <n>$", asked.text, re.MULTILINE)
    return "Seen.\n" + "\n".join(f"{label}: {mark(1, 5)}" for label in labels)
