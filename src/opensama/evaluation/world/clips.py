"""Styles on real videos: a style is a function of the frames, so that it has an exact answer on any clip."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch

from opensama.evaluation.tabular import EDIT_SUFFIXES
from opensama.evaluation.world.answer_key import AnswerKey, Frames, PartCandidates, Through, to_float
from opensama.media.frames import cover, to_frames, to_pixels
from opensama.media.video_io import read_video
from opensama.values import UserError
from opensama.world import STYLES, apply_style
from opensama.world.edit_planner import style_clause
from opensama.world.phrasing import as_sentence
from opensama.world.scenes import FPS


def list_clips(folder: Path) -> list[Path]:
    """The videos of a folder, by name. Raises UserError where there is none."""
    found = sorted(p for p in folder.glob("*") if p.suffix.lower() in EDIT_SUFFIXES)
    if not found:
        raise UserError(f"There is no video in {folder}: a folder with {', '.join(EDIT_SUFFIXES)} files is needed.")
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
    return AnswerKey(clip, apply_style(style, clip), [PartCandidates("style", style, clip, others, wrong)], through)


def ask_for(rng: random.Random, style: str) -> str:
    """An instruction, worded as no training edit is."""
    return as_sentence(style_clause(rng, "test", style))
