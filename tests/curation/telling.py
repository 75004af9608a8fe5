"""What stands for a VLM that words the change between two clips: it looks at the pictures it gets, in their order."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image

from opensama.media.motion import Flow
from opensama.vlm import Question, ScriptedVlm
from tests.curation.server import Asked


def told(first: list[np.ndarray], second: list[np.ndarray]) -> str:
    """Which way the picture went from the first clip to the second, by their flow; else which is lighter."""
    a, b = (_small(clip[len(clip) // 2]) for clip in (first, second))
    right = float(Flow()(a, b)[..., 0].mean() - Flow()(b, a)[..., 0].mean())
    if abs(right) > 0.02:  # what goes right is seen by a camera that turns left
        return json.dumps({"instruction": f"Pan to the {'left' if right > 0 else 'right'}.", "task": "camera"})
    tone = "brighter" if b.mean() > a.mean() else "darker"
    return json.dumps({"instruction": f"Make the scene {tone}.", "task": "other"})


def _small(frame: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(frame).resize((128, 72), Image.Resampling.BOX))


def server_tells(asked: Asked) -> str:
    return told(*asked.groups) if asked.images else "yes"


def _tells(question: Question) -> str:
    half = len(question.images) // 2
    return told(list(question.images[:half]), list(question.images[half:])) if half else "yes"


def scripted() -> ScriptedVlm:
    """The same without a server."""
    return ScriptedVlm(_tells, "teller")
