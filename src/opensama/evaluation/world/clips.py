"""Styles on real videos: a style is a function of the frames, so that it has an exact answer on any clip."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from opensama.evaluation.world.key import AnswerKey, Frames, Question, Through, to_float
from opensama.evaluation.world.run import Edit, collect
from opensama.evaluation.world.scores import ItemScore, row, squared_error
from opensama.media.frames import cover, to_frames, to_pixels
from opensama.media.video_io import read_video
from opensama.values import EditRequest, UserError, Video
from opensama.world import STYLES, apply_style, to_uint8
from opensama.world.looks import HOURS, WEATHERS
from opensama.world.phrasing import clause, sentence
from opensama.world.scenes import FPS, an

SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif")


def list_clips(folder: Path) -> list[Path]:
    """The videos of a folder, by name. Raises UserError where there is none."""
    found = sorted(p for p in folder.glob("*") if p.suffix.lower() in SUFFIXES)
    if not found:
        raise UserError(f"There is no video in {folder}: a folder with {', '.join(SUFFIXES)} files is needed.")
    return found


def first_second(path: Path, frames: int, size: int) -> Frames:
    """`frames` frames from the start, 16 a second as in the world, the middle square at `size`: uint8 [t h w 3]."""
    video = read_video(path)
    stamps = np.array([float(stamp * video.time_base) for stamp in video.timestamps])
    wanted = [int(np.abs(stamps - i / FPS).argmin()) for i in range(frames)]
    shown = list(video.frames(0, wanted[-1] + 1))
    return to_frames(cover(to_pixels([shown[i] for i in wanted]), size, size))


def style_key(source: Frames, style: str, through: Through) -> AnswerKey:
    """Right is `style`; wrong are the source and all other styles."""
    clip = to_float(source)
    others = tuple(name for name in STYLES if name != style)
    wrong = torch.stack([apply_style(name, clip) for name in others])
    return AnswerKey(clip, apply_style(style, clip), [Question("style", style, clip, others, wrong)], through)


def ask_for(rng: random.Random, style: str) -> str:
    """An instruction, worded as no training edit is."""
    key = "hour" if style in HOURS else "weather" if style in WEATHERS else "look"
    return sentence(clause(rng, key, "test", style=style, a_style=an(style)))


def evaluate_clips(
    edit: Edit,
    through: Through,
    folder: Path,
    *,
    limit: int | None = None,
    seed: int = 0,
    frames: int = 17,
    size: int = 128,
    progress: Callable[[int, int], None] | None = None,
) -> list[ItemScore]:
    """Every style on every video of a folder, or `limit` of these edits by chance, in held-out phrasings."""
    edits = [(path, style) for path in list_clips(folder) for style in STYLES]
    rng = random.Random(seed)
    if limit is not None and limit < len(edits):
        edits = sorted(rng.sample(edits, limit))
    rows: list[ItemScore] = []
    read: dict[Path, Frames] = {}
    for done, (path, style) in enumerate(edits):
        if path not in read:
            read = {path: first_second(path, frames, size)}
        source = read[path]
        text = ask_for(rng, style)
        began = time.monotonic()
        output = collect(edit(EditRequest(Video.from_frames(source, fps=FPS), text, seed=seed, preserve=False)))
        seconds = time.monotonic() - began
        verdict = style_key(source, style, through).judge(output)
        answer = to_uint8(apply_style(style, to_float(source)))
        ratio = squared_error(source, answer, output)
        rows.append(row("clips", text, f"{path.name}: {style}", verdict, ratio, seconds))
        if progress is not None:
            progress(done + 1, len(edits))
    return rows
