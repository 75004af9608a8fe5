"""Metrics that need weights: consistency and likeness by DINO, CLIP or SigLIP; with a text, alignment and direction.

With the normalised image features f_t of the edit, g_t of the source on the same frames, and text features p of what
the edit should show and q of what the source shows:

    consistency    mean over t of (f_{t-1}.f_t + f_0.f_t) / 2, cosines cut at 0 (VBench's formula)
    likeness       mean of f_t.g_t
    alignment      mean of f_t.p
    direction      mean of the cosine of f_t - g_t and p - q

VBench's subject consistency is the first with facebook/dino-vitb16, its background consistency the same with
openai/clip-vit-base-patch32, on frames that were not made smaller first. Nothing is downloaded: whoever measures gives
a folder. Frames go to the network at the size that pairs come in, a few at a time, so memory does not grow.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from opensama.evaluation.metrics.alignment import SIDE, align
from opensama.runtime import pick_device, quiet_loading, read_object
from opensama.values import UserError, Video

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import BaseImageProcessor, PreTrainedModel, PreTrainedTokenizerBase
    from transformers.modeling_outputs import BaseModelOutputWithPooling

AT_ONCE = 8  # frames


class Network:
    """A transformers image encoder, with its text encoder if it has one, from a folder; in float32, however saved."""

    def __init__(self, folder: Path, *, device: str | None = None) -> None:
        if not (folder / "config.json").is_file():
            raise UserError(f"{folder} is no folder of a transformers model; it has no config.json.")
        import torch
        from safetensors import SafetensorError
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

        self._device = pick_device(device)
        self.reads = "text_config" in read_object(folder / "config.json")
        try:
            with quiet_loading():
                self._processor: BaseImageProcessor = AutoImageProcessor.from_pretrained(folder, backend="pil")
                model: PreTrainedModel = AutoModel.from_pretrained(folder, use_safetensors=True, dtype=torch.float32)
                self._model = model.to(self._device).eval()
                self._tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder) if self.reads else None
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            raise UserError(f"The model in {folder} cannot be loaded ({error}): get all of its files again.") from error

    def images(self, frames: list[np.ndarray]) -> np.ndarray:
        """Normalised features `n d` of uint8 RGB frames."""
        import torch

        pixels = self._processor(images=frames, return_tensors="pt").to(self._device)
        with torch.no_grad():
            found = self._model.get_image_features(**pixels) if self.reads else self._model(**pixels)
        return _normalised(found)

    def text(self, text: str) -> np.ndarray:
        """Normalised features `d`. UserError if the network reads none."""
        import torch

        if not self.reads:
            raise UserError("This network knows no text; give a CLIP or SigLIP, or measure without a text.")
        length = int(self._model.config.text_config.max_position_embeddings)
        tokens = self._tokenizer([text], padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        with torch.no_grad():
            return _normalised(self._model.get_text_features(**tokens.to(self._device)))[0]


def measure_by_network(
    source: Video,
    edited: Video,
    network: Network,
    *,
    text: str | None = None,
    source_text: str | None = None,
    side: int = SIDE,
) -> dict[str, float]:
    """The metrics above; alignment where `text` says what the edit shows, direction where both texts are given and the
    edit is no copy."""
    wanted = None if text is None else network.text(text)
    towards = None if wanted is None or source_text is None else wanted - network.text(source_text)
    first: np.ndarray | None = None
    last: np.ndarray | None = None
    sums: dict[str, list[float]] = {"consistency": [], "likeness": [], "alignment": [], "direction": []}
    for ours, theirs in _features(source, edited, network, side):
        if first is None or last is None:
            first = theirs
        else:
            sums["consistency"].append((max(0.0, float(last @ theirs)) + max(0.0, float(first @ theirs))) / 2)
        last = theirs
        sums["likeness"].append(float(ours @ theirs))
        if wanted is not None:
            sums["alignment"].append(float(theirs @ wanted))
        if towards is not None:
            moved = theirs - ours
            size = float(np.linalg.norm(moved) * np.linalg.norm(towards))
            if size > 1e-6:
                sums["direction"].append(float(moved @ towards) / size)
    return {name: float(np.mean(values)) for name, values in sums.items() if values}


def _features(source: Video, edited: Video, network: Network, side: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    block: list[tuple[np.ndarray, np.ndarray]] = []

    def done() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        ours, theirs = (network.images([pair[i] for pair in block]) for i in (0, 1))
        yield from zip(ours, theirs, strict=True)

    for pair in align(source, edited, side).pairs():
        block.append(pair)
        if len(block) == AT_ONCE:
            yield from done()
            block.clear()
    if block:
        yield from done()


def _normalised(found: BaseModelOutputWithPooling | Tensor) -> np.ndarray:
    """Of a pooled output, of the first token where nothing is pooled, or of a plain tensor: `n d`, float64."""
    features: Tensor | None = getattr(found, "pooler_output", None)
    if features is None:
        features = found if not hasattr(found, "last_hidden_state") else found.last_hidden_state[:, 0]
    values = features.double().cpu().numpy()
    return np.asarray(values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-12))
