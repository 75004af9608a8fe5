"""How a node runs: progress with pictures, cancelling, and gradients left alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import comfy.model_management as comfy_models
import comfy.utils
import numpy as np
import torch
from PIL import Image

from opensama.media.frames import eight_bit, fitted
from opensama.pipeline.editor import Editor
from opensama.values import Cancelled, Progress, Video

PARTS = {"Checking": (0, 2), "Reading": (2, 8), "Editing": (8, 85), "Decoding": (85, 92), "Writing": (92, 100)}
"""Of the stages of an edit in its progress, in percent."""
PICTURE = 512  # pixels of a preview's longer side
BAR_EVERY, PICTURE_EVERY = 0.1, 1.0  # seconds


class Watch:
    """A request's progress in the browser: a bar, and a picture of the edit where there is one.

    Every call ends the edit where its person pressed cancel: it tells of itself after every step and frame.
    """

    def __init__(self) -> None:
        self._show, self._bar, self._picture = comfy.utils.ProgressBar(100), 0.0, 0.0

    def __call__(self, progress: Progress) -> None:
        if comfy_models.processing_interrupted():
            raise Cancelled
        now, ended = time.monotonic(), progress.done >= progress.total
        if now - self._bar < BAR_EVERY and not ended:
            return
        self._bar, picture = now, None
        if progress.preview is not None and now - self._picture >= PICTURE_EVERY:
            self._picture, picture = now, ("JPEG", Image.fromarray(fitted(progress.preview(), PICTURE)), PICTURE)
        first, last = PARTS.get(progress.stage, (0, 100))
        value = first + (last - first) * min(1.0, progress.fraction)
        try:
            self._show.update_absolute(value, 100, picture)
        except comfy_models.InterruptProcessingException:  # pressed just now
            raise Cancelled from None

    def frames(self, video: Video) -> Video:
        """The same video, whose frames are counted as they are written."""
        source = video.frames

        def watched(start: int, stop: int) -> Iterator[np.ndarray]:
            begun = time.monotonic()
            for done, frame in enumerate(source(start, stop), 1):
                shown = partial(eight_bit, frame)
                self(Progress("Writing", done, stop - start, time.monotonic() - begun, "frames", shown))
                yield frame

        return replace(video, source=watched)


@contextmanager
def own_models(editor: Editor | None = None) -> Iterator[None]:
    """Around loading and editing: outside of the inference mode in which ComfyUI runs nodes, since weights that are
    made in it can never be changed in place again; and with a GPU that is free of ComfyUI's own models.

    What was cancelled ends in ComfyUI's own way.
    """
    with torch.inference_mode(False), torch.no_grad():
        if torch.cuda.is_available() and (editor is None or editor.device.type == "cuda"):
            comfy_models.unload_all_models()
            comfy_models.soft_empty_cache()
        try:
            yield
        except Cancelled:
            raise comfy_models.InterruptProcessingException from None
