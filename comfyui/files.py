"""ComfyUI's folders and its VIDEO type, as files and `Video`s: nothing here holds more than a frame of a film."""

from __future__ import annotations

import inspect
import io as streams
import os
import shutil
import tempfile
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import folder_paths
import numpy as np
import torch
from comfy_api.latest import InputImpl, io, ui

from opensama.media.video_io import read_video
from opensama.values import UserError, Video

WEIGHTS = (".safetensors", ".sft", ".gguf")
"""Kinds of files that weights are read from; pickles are not."""
NEARLY_LOSSLESS = 10.0  # crf
PIPELINES = ("SamaPipeline", "IcvePipeline", "BerniniPipeline")


# --- what is there


def weight_files(*kinds: str) -> dict[str, Path]:
    """The weights in ComfyUI's folders of these kinds, by their names below them."""
    found: dict[str, Path] = {}
    for kind in kinds:
        if kind not in folder_paths.folder_names_and_paths:
            continue
        for folder in folder_paths.get_folder_paths(kind):
            names, _ = folder_paths.recursive_search(folder, excluded_dir_names=[".git"])
            for name in sorted(folder_paths.filter_files_extensions(names, WEIGHTS)):
                found.setdefault(name, Path(folder, name))
    return found


def model_folders(*, pipelines: bool) -> dict[str, Path]:
    """The folders in models/diffusers: those with a pipeline of ours, or those with any base model."""
    found: dict[str, Path] = {}
    for folder in folder_paths.get_folder_paths("diffusers"):
        for index in sorted(Path(folder).glob("*/model_index.json")):
            ours = any(f'"{name}"' in index.read_text(errors="replace") for name in PIPELINES)
            if ours or not pipelines:
                found.setdefault(index.parent.name, index.parent)
    return found


def chosen(name: str, among: dict[str, Path]) -> Path:
    """The path of a name that a person chose. UserError where it is gone since."""
    if name not in among:
        raise UserError(f"There is no {name} in ComfyUI's model folders any more: choose another, or reload the page.")
    return among[name]


# --- what comes in


@contextmanager
def source_of(video: Any, background: str = "white") -> Iterator[Video]:
    """A VIDEO as a `Video` that reads its file; for as long as the context lasts.

    A trimmed one is the part of its file, with its own sound. What is in no file, or has crops and sizes that its file
    does not, is written into ComfyUI's temporary folder first, by ComfyUI.
    """
    temporary = Path(folder_paths.get_temp_directory())
    temporary.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="opensama-", dir=temporary) as scratch:
        pending = hasattr(video, "has_pending_frame_edits") and video.has_pending_frame_edits()
        if pending or isinstance(video, InputImpl.VideoFromComponents):
            yield read_video(_saved(video, Path(scratch)), background=background)
            return
        given = video.get_stream_source()
        if isinstance(given, streams.BytesIO):
            path = Path(scratch, "video")
            with path.open("wb") as file:
                shutil.copyfileobj(given, file)
        else:
            path = Path(given)
        window = video.get_active_trim_window() if hasattr(video, "get_active_trim_window") else (0.0, 0.0)
        yield _trimmed(read_video(path, background=background), *window)


def _saved(video: Any, folder: Path) -> Path:
    """What ComfyUI makes of a VIDEO, coded as well as it can be asked to."""
    path = folder / "video.mp4"
    how = {"crf": NEARLY_LOSSLESS} if "crf" in inspect.signature(video.save_to).parameters else {}
    video.save_to(str(path), **how)
    return path


def _trimmed(video: Video, start: float, duration: float) -> Video:
    """The frames that ComfyUI shows of a trimmed video: from the first at or after `start`, before `start + duration`.

    Both are seconds of the file's own clock; a duration of 0 goes to the end.
    """
    if not start and not duration:
        return video
    ticks, origin = video.timestamps, video.origin / video.time_base
    first = bisect_left(ticks, int(start / video.time_base) - origin)
    stop = bisect_left(ticks, int((start + duration) / video.time_base) - origin) if duration else len(ticks)
    if first >= stop:
        raise UserError(
            f"Nothing is left of the trimmed video: it begins at {start:g} s of {float(video.duration):g} s."
        )
    return video if (first, stop) == (0, len(ticks)) else video.clip(first, stop, sound=True)


def frames_of(images: torch.Tensor) -> np.ndarray:
    """IMAGE [b h w c] of 0 to 1 as `t h w 3`, uint8."""
    frames = np.empty((*images.shape[:3], 3), np.uint8)
    for index, image in enumerate(images):
        frames[index] = (image[..., :3].cpu().float().clamp(0, 1) * 255).round().byte().numpy()
    return frames


def image_of(frames: Iterator[np.ndarray], count: int) -> torch.Tensor:
    """Frames `h w 3` as IMAGE [b h w 3], float32 of 0 to 1."""
    images: torch.Tensor | None = None
    for index, frame in enumerate(frames):
        if images is None:
            images = torch.empty(count, *frame.shape)
        images[index] = torch.from_numpy(frame.astype(np.float32) / np.iinfo(frame.dtype).max)
    assert images is not None
    return images


# --- what goes out


class NewFile(NamedTuple):
    """Where a node writes."""

    path: Path
    shown: ui.SavedResult
    """How the page finds it."""
    unnumbered: Path
    """The name that a second try would have, too."""


def new_file(prefix: str, ending: str, video: Video, *, keep: bool) -> NewFile:
    """A new name in ComfyUI's output folder, or, not to be kept, in its temporary one.

    UserError for a prefix that leads out of the folder.
    """
    root = folder_paths.get_output_directory() if keep else folder_paths.get_temp_directory()
    place = os.path.normpath(prefix)
    if os.path.isabs(place) or place.split(os.sep)[0] == os.pardir or os.path.basename(place) in ("", ".", ".."):
        raise UserError(f"The prefix {prefix!r} names no file in ComfyUI's output folder: give one such as video/edit.")
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, root, video.width, video.height)
    file = f"{name}_{counter:05}_{ending}"
    saved = ui.SavedResult(file, subfolder, io.FolderType.output if keep else io.FolderType.temp)
    return NewFile(Path(folder, file), saved, Path(folder, f"{name}{ending}"))
