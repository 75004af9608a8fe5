"""Where named things are in a clip, frame by frame: Grounding DINO finds them, SAM 2 follows them.

Letters: t frames, h w rows and columns, q boxes that the detector proposes, n tokens. Boxes are left, top, right,
bottom in pixels of the clip. Pictures are brought to the models as the published processors do it (bilinear, smoothed,
ImageNet's mean and deviation), by our own few lines: the processors for video need torchvision.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from opensama import runtime
from opensama.curation.elements import Clip, Masklet
from opensama.media.frames import evenly_spaced
from opensama.values import UserError

if TYPE_CHECKING:
    import torch
    from diffusers import ModelMixin
    from torch import Tensor
    from transformers import GroundingDinoForObjectDetection, PreTrainedModel, PreTrainedTokenizerBase, Sam2VideoModel

Model = TypeVar("Model", bound="ModelMixin | PreTrainedModel")
DETECTOR = "IDEA-Research/grounding-dino-base"
TRACKER = "facebook/sam2.1-hiera-large"
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LOOKED_AT = 3  # frames in which the detector looks


class Segmenter(Protocol):
    """Finds and tracks named things in a clip."""

    name: str

    def load(self) -> None:
        """Reads what it needs, before the first clip. UserError where that is not there."""
        ...

    def segment(self, clip: Clip, names: Sequence[str]) -> list[Masklet]:
        """A masklet for each name that is found, in the order of `names`."""
        ...


def open_segmenter(name: str = "", device: str | None = None) -> Segmenter:
    """By name: empty for the published models, "DETECTOR,TRACKER" for others (folders or hub ids), or "world".

    Nothing is loaded before the first clip.
    """
    if name == "world":
        from opensama.curation.oracles import WorldSegmenter

        return WorldSegmenter()
    parts = [part.strip() for part in name.split(",")] if name else [DETECTOR, TRACKER]
    if len(parts) != 2 or not all(parts):
        raise UserError(
            f"The segmenter {name!r} is not two models: give Grounding DINO and SAM 2 as DETECTOR,TRACKER, or world."
        )
    return GroundedSam(parts[0], parts[1], device=device)


@dataclass(frozen=True)
class Box:
    """One proposal of the detector."""

    corners: tuple[float, float, float, float]
    score: float

    def overlap(self, other: Box) -> float:
        """Intersection over union."""
        (a, b, c, d), (e, f, g, h) = self.corners, other.corners
        common = max(0.0, min(c, g) - max(a, e)) * max(0.0, min(d, h) - max(b, f))
        return common / max(1e-9, (c - a) * (d - b) + (g - e) * (h - f) - common)


class GroundedSam:
    """Grounding DINO on a few frames for a box each, then SAM 2 from the best frame forwards and backwards."""

    def __init__(
        self,
        detector: str = DETECTOR,
        tracker: str = TRACKER,
        *,
        device: str | None = None,
        dtype: str | None = None,
        threshold: float = 0.3,
        edges: tuple[int, int] = (800, 1333),
    ):
        """`threshold`: the least score of a box. `edges`: short and (at most) long side that the detector sees.

        `dtype` is the tracker's; the detector's deformable attention has no half precision.
        """
        self.name = f"{detector} and {tracker}"
        self.threshold, self.edges = threshold, edges
        self._names, self._device, self._dtype = (detector, tracker), device, dtype

    def load(self) -> None:
        _ = self._detector, self._tracker

    def segment(self, clip: Clip, names: Sequence[str]) -> list[Masklet]:
        import torch

        height, width = clip.frames.shape[1:3]
        best: dict[str, tuple[int, Box, int]] = {}  # name: frame, box, other matches
        with torch.inference_mode():
            for at in evenly_spaced(len(clip.frames), LOOKED_AT):
                for name, found in self.detect(clip.frames[at], names).items():
                    if name not in best or found[0].score > best[name][1].score:
                        best[name] = at, found[0], len(found) - 1
            masks: dict[str, np.ndarray] = {}
            for at in sorted({frame for frame, _, _ in best.values()}):
                group = [name for name in best if best[name][0] == at]
                tracked = self.track(clip.frames, at, [best[name][1].corners for name in group])
                masks |= dict(zip(group, tracked, strict=True))
        return [Masklet(name, masks[name], best[name][1].score, best[name][2]) for name in names if name in best]

    def detect(self, frame: np.ndarray, names: Sequence[str]) -> dict[str, list[Box]]:
        """For each name that is found its best box, then boxes elsewhere that fit about as well (0.8 of its score).

        A box's score for a name is the mean over the name's tokens, as in the published evaluation.
        """
        import torch

        model, tokenizer = self._detector
        text, spans = detector_prompt(names)
        coded = tokenizer(
            text,
            return_tensors="pt",
            return_offsets_mapping=True,
            truncation=True,
            max_length=model.config.max_text_len,
        )
        places = coded.pop("offset_mapping")[0].tolist()
        pixels = to_model(frame[None], fit(frame.shape[:2], *self.edges), model.device, model.dtype)
        mask = torch.ones(1, *pixels.shape[-2:], dtype=torch.long, device=model.device)
        inputs = {
            key: coded[key].to(model.device)
            for key in ("input_ids", "attention_mask", "token_type_ids")
            if key in coded
        }
        out = model(pixel_values=pixels, pixel_mask=mask, **inputs)
        scores = out.logits[0].float().sigmoid().cpu()  # [q n]
        corners = to_corners(out.pred_boxes[0].float().cpu(), frame.shape[0], frame.shape[1])
        found: dict[str, list[Box]] = {}
        for name, (start, stop) in zip(names, spans, strict=True):
            tokens = [i for i, (a, b) in enumerate(places) if start <= a < b <= stop]
            if not tokens:
                continue  # beyond what the text encoder reads
            mine = scores[:, tokens].mean(1)
            order = mine.argsort(descending=True, stable=True).tolist()
            first = Box(_four(corners[order[0]]), float(mine[order[0]]))
            if first.score < self.threshold:
                continue
            kept = [first]
            for index in order[1:]:
                box = Box(_four(corners[index]), float(mine[index]))
                if box.score < max(self.threshold, 0.8 * first.score):
                    break
                if all(box.overlap(other) < 0.5 for other in kept):
                    kept.append(box)
            found[name] = kept
        return found

    def track(
        self, frames: np.ndarray, at: int, corners: Sequence[tuple[float, float, float, float]]
    ) -> list[np.ndarray]:
        """Masks [t h w] of the things in these boxes of frame `at`."""
        import torch
        from torch.nn import functional
        from transformers import Sam2VideoInferenceSession

        model = self._tracker
        side = model.config.image_size
        side = side if isinstance(side, int) else side[0]
        t, h, w, _ = frames.shape
        pixels = [to_model(frame[None], (side, side), "cpu", model.dtype)[0] for frame in frames]
        session = Sam2VideoInferenceSession(
            video=torch.stack(pixels),
            video_height=h,
            video_width=w,
            inference_device=model.device,
            inference_state_device=model.device,
            video_storage_device="cpu",
            dtype=model.dtype,
        )
        scale = torch.tensor([side / w, side / h])
        for number, box in enumerate(corners):
            points = torch.tensor(box).view(1, 1, 2, 2) * scale
            inputs = {"point_coords": points, "point_labels": torch.tensor([[[2, 3]]], dtype=torch.int32)}
            session.add_point_inputs(session.obj_id_to_idx(number), at, inputs)
        session.obj_with_new_inputs = list(range(len(corners)))
        out = np.zeros((len(corners), t, h, w), bool)
        for back in (False, True):
            for seen in model.propagate_in_video_iterator(session, start_frame_idx=at, reverse=back):
                large = functional.interpolate(seen.pred_masks.float(), (h, w), mode="bilinear", align_corners=False)
                out[:, seen.frame_idx] = (large[:, 0] > 0).cpu().numpy()
        return list(out)

    @cached_property
    def _detector(self) -> tuple[GroundingDinoForObjectDetection, PreTrainedTokenizerBase]:
        import torch
        from transformers import AutoTokenizer, GroundingDinoForObjectDetection

        folder = model_folder(self._names[0], ("config.json", "*.safetensors", "tokenizer*"))
        model = load_pretrained(GroundingDinoForObjectDetection, folder, torch.float32)
        return model.to(runtime.pick_device(self._device)), AutoTokenizer.from_pretrained(folder)

    @cached_property
    def _tracker(self) -> Sam2VideoModel:
        from transformers import Sam2VideoModel

        folder = model_folder(self._names[1], ("config.json", "*.safetensors"))
        device = runtime.pick_device(self._device)
        return load_pretrained(Sam2VideoModel, folder, runtime.pick_dtype(self._dtype, device)).to(device)


def detector_prompt(names: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """The detector's text, each name closed by a full stop, and from where to where each stands in it."""
    text, spans = "", []
    for name in names:
        spans.append((len(text), len(text) + len(name)))
        text += f"{name}. "
    return text.rstrip(), spans


def fit(size: tuple[int, ...], shortest: int, longest: int) -> tuple[int, int]:
    """Rows and columns with the short side at `shortest`, unless the long one would be more than `longest`."""
    height, width = size
    low, high = min(size), max(size)
    scale = min(shortest / low, longest / high)
    return max(1, round(height * scale)), max(1, round(width * scale))


def to_model(frames: np.ndarray, size: tuple[int, int], device: str | torch.device, dtype: torch.dtype) -> Tensor:
    """Frames uint8 [t h w 3] as [t 3 rows columns], bilinear and smoothed where they shrink, normalised."""
    import torch
    from torch.nn import functional

    pixels = torch.from_numpy(np.ascontiguousarray(frames)).to(device).movedim(-1, 1).float()
    if tuple(pixels.shape[-2:]) != size:
        pixels = functional.interpolate(pixels, size, mode="bilinear", antialias=True, align_corners=False)
    mean, deviation = (torch.tensor(v, device=device).view(3, 1, 1) for v in (MEAN, DEVIATION))
    return ((pixels / 255 - mean) / deviation).to(dtype)


def to_corners(boxes: Tensor, height: int, width: int) -> Tensor:
    """Centre and size in shares of the picture, [q 4], as corners in its pixels, inside it."""
    import torch

    x, y, w, h = boxes.unbind(-1)
    corners = torch.stack((x - w / 2, y - h / 2, x + w / 2, y + h / 2), -1).clamp(0, 1)
    return corners * torch.tensor([width, height, width, height])


def model_folder(name: str, files: Sequence[str]) -> Path:
    """The folder of a model given as a folder or as owner/name on the hub. UserError says what is missing."""
    path = Path(name).expanduser()
    if path.is_dir():
        missing = runtime.missing_files(path, files)
        if missing:
            raise UserError(f"The model folder {path} has no {', '.join(missing)}: copy it again, whole.")
        return path
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise UserError(f"There is no model folder {path}: check the name, or give an id such as {TRACKER}.")
    return runtime.locate(name, files)


def load_pretrained(kind: type[Model], folder: Path, dtype: torch.dtype) -> Model:
    """A model of that class of transformers or diffusers, on the CPU. UserError if the folder holds another, or less.

    The libraries would draw a missing tensor at random and go on.
    """
    try:
        with runtime.quiet_loading():
            model, said = kind.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, output_loading_info=True, local_files_only=True
            )
    except Exception as error:  # the libraries raise anything for a damaged file
        words = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"The model in {folder} cannot be read as {kind.__name__}: {words[0]}") from error
    lacking = sorted(said["missing_keys"]) + [str(entry) for entry in said["mismatched_keys"]]
    if lacking:
        raise UserError(
            f"The weights in {folder} are not of a {kind.__name__}: they lack {lacking[0]}"
            f"{f' and {len(lacking) - 1} more' if lacking[1:] else ''}; choose another folder, or copy it again."
        )
    return model.eval()


def _four(row: Tensor) -> tuple[float, float, float, float]:
    a, b, c, d = row.tolist()
    return a, b, c, d
