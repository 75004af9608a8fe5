"""What a training run reads: rows of a manifest, made samples of one shape a batch.

A manifest is Parquet, as `opensama data import` and `opensama curate` write it (`data/manifest.py` says what it holds),
or JSONL or CSV by hand: paths relative to its own folder, images and videos alike (an image is a clip of one frame).

    {"source": "a.mp4", "target": "a-edited.mp4", "instruction": "Make the car red."}      an edit
    {"clip": "b.mp4", "caption": "A dog runs along a beach."}                              a clip, for pretext tasks

`width`, `height` and `frames` may stand in a row, too; where they do, no file is opened before its turn. A row becomes
one item, a clip `variants` of them, each with a pretext task and a seed of its own, so what an item holds depends on
nothing but itself: it may be encoded beforehand or in the step, and gives the same loss.

`c` channels, `t h w` frames, rows, columns of pixels in [-1, 1].
"""

from __future__ import annotations

import difflib
import hashlib
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple, overload

import numpy as np
from torch import Generator, Tensor

from opensama.data.manifest import Record, bring_in, read_manifest_table, text_rows
from opensama.media.frames import to_pixels
from opensama.media.video_io import read_video
from opensama.pretext import Mixture, splitmix64
from opensama.values import UserError, frames_down

Kind = Literal["image", "video"]
Stretch = tuple[float | None, float | None]
EDIT, CLIP = ("source", "target", "instruction"), ("clip", "caption")
_COLUMNS = (*EDIT, *CLIP, "width", "height", "frames")
LENGTHS = 16  # longer clips are cut to 16k+1 frames, so that batches find their like


class BadSample(Exception):
    """A sample that cannot be read or encoded; another takes its place."""


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """One line of a manifest: an edit has a source, a clip none."""

    line: int
    source: Path | str | None
    target: Path | str
    text: str
    size: tuple[int, int, int] | None = None  # width, height, frames, where the manifest says
    target_time: Stretch = (None, None)  # seconds in the file: from, to
    source_time: Stretch = (None, None)

    @property
    def is_clip(self) -> bool:
        return self.source is None


@dataclass(frozen=True)
class TrainingManifest:
    """The rows, and a fingerprint of what the file holds: a run goes on only with the same data."""

    path: Path
    rows: tuple[TrainingRow, ...]
    fingerprint: str


class Shape(NamedTuple):
    """What a batch has in common: width, height, frames of the target and of the source."""

    width: int
    height: int
    frames: int
    source_frames: int

    @property
    def kind(self) -> Kind:
        return "image" if self.frames == 1 else "video"

    @property
    def size(self) -> int:
        """Pixels of target and source together."""
        return self.width * self.height * (self.frames + self.source_frames)


@dataclass(frozen=True)
class TrainingItem:
    """One thing to learn from: a row, seen in one way."""

    row: TrainingRow
    shape: Shape
    seed: int
    name: str  # LINE or LINE.VARIANT


class ShapeIndex(Sequence[Shape]):
    """Shapes of many items: the different ones, and for each item [n] which of them it has."""

    def __init__(self, kinds: Sequence[Shape], of: np.ndarray):
        self.kinds, self.of = kinds, of

    @classmethod
    def among(cls, shapes: Sequence[Shape]) -> ShapeIndex:
        """Any sequence of shapes in this form."""
        if isinstance(shapes, ShapeIndex):
            return shapes
        known: dict[Shape, int] = {}
        of = np.fromiter((known.setdefault(shape, len(known)) for shape in shapes), np.int32, len(shapes))
        return cls(list(known), of)

    def __len__(self) -> int:
        return len(self.of)

    @overload
    def __getitem__(self, number: int) -> Shape: ...
    @overload
    def __getitem__(self, number: slice) -> ShapeIndex: ...
    def __getitem__(self, number: int | slice) -> Shape | ShapeIndex:
        if isinstance(number, slice):
            return ShapeIndex(self.kinds, self.of[number])
        return self.kinds[self.of[number]]

    def counts(self) -> dict[Shape, int]:
        """How many items have each shape; those that none has are left out."""
        counts = np.bincount(self.of, minlength=len(self.kinds)).tolist()
        return {shape: count for shape, count in zip(self.kinds, counts, strict=True) if count}


class _Items(Sequence[TrainingItem]):
    """Items by arrays, a few bytes each: one is made when it is asked for."""

    def __init__(
        self,
        rows: Sequence[TrainingRow],
        row_of: np.ndarray,
        variant: np.ndarray,
        seeds: np.ndarray,
        shapes: ShapeIndex,
    ):
        """`row_of`, `variant` (-1: the row's only one) and `seeds` [n] of each item."""
        self.rows, self.row_of, self.variant, self.seeds, self.shapes = rows, row_of, variant, seeds, shapes

    def __len__(self) -> int:
        return len(self.row_of)

    @overload
    def __getitem__(self, number: int) -> TrainingItem: ...
    @overload
    def __getitem__(self, number: slice) -> list[TrainingItem]: ...
    def __getitem__(self, number: int | slice) -> TrainingItem | list[TrainingItem]:
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        row, variant = self.rows[self.row_of[number]], int(self.variant[number])
        name = f"{row.line}.{variant}" if variant >= 0 else f"{row.line}"
        return TrainingItem(row, self.shapes[number], int(self.seeds[number]), name)


def shapes_of(items: Sequence[TrainingItem]) -> ShapeIndex:
    """Their shapes, in their order."""
    return items.shapes if isinstance(items, _Items) else ShapeIndex.among([item.shape for item in items])


class PixelPair(NamedTuple):
    """An item's pixels [c t h w], its text, and whether that is an instruction."""

    source: Tensor
    target: Tensor
    text: str
    is_edit: bool


@dataclass(frozen=True)
class Layout:
    """How rows become items. `bucket` gives the size (width, height) at which a picture of some size is trained on."""

    bucket: Callable[[int, int], tuple[int, int]]
    frames: int
    pretext: Mixture
    variants: int = 1
    seed: int = 0
    prefix: str = ""  # before instructions

    def items(self, rows: Sequence[TrainingRow], on_bad: Callable[[TrainingRow, str], None]) -> _Items:
        """All items, in the manifest's order; rows whose files cannot be opened are reported and left out.

        No pretext task is run for it: a task says how long it leaves a clip, and a seed which task it stands for.
        """

        def probed(row: TrainingRow) -> tuple[int, int, int] | str:
            try:
                return probe_row(row)
            except UserError as error:
                return str(error)

        kinds: dict[tuple[tuple[int, int, int], bool], int] = {}
        used: list[TrainingRow] = []
        kind_of: list[int] = []
        with ThreadPoolExecutor(16) as threads:
            opened = threads.map(probed, [row for row in rows if row.size is None])
            for row in rows:
                found = next(opened) if row.size is None else row.size
                if isinstance(found, str):
                    on_bad(row, found)
                    continue
                used.append(row)
                kind_of.append(kinds.setdefault((found, row.source is None), len(kinds)))
        shapes: dict[Shape, int] = {}
        tables = np.zeros((max(1, len(kinds)), len(self.pretext.tasks)), np.int32)  # shape by kind and task
        is_corrupted = np.zeros(max(1, len(kinds)), bool)
        for ((width, height, most), is_clip), kind in kinds.items():
            bucket, frames = self.bucket(width, height), training_length(min(most, self.frames))
            is_corrupted[kind] = is_clip and frames > 1
            sources = self.pretext.lengths(frames) if is_corrupted[kind] else [frames] * len(self.pretext.tasks)
            tables[kind] = [shapes.setdefault(Shape(*bucket, frames, n), len(shapes)) for n in sources]
        of_row = np.asarray(kind_of, np.int64)
        times = np.where(is_corrupted[of_row], self.variants, 1)
        row_of = np.repeat(np.arange(len(used)), times)
        variant = np.arange(len(row_of)) - np.repeat(np.cumsum(times) - times, times)
        lines = np.fromiter((row.line for row in used), np.uint64, len(used))[row_of]
        start = splitmix64(np.array([self.seed], np.int64).view(np.uint64))
        seeds = splitmix64(splitmix64(start + lines) + variant.astype(np.uint64)) >> np.uint64(2)
        of_item = of_row[row_of]
        shape_of = tables[of_item, self.pretext.pick(seeds)]
        variant = np.where(is_corrupted[of_item], variant, -1)
        return _Items(
            used, row_of.astype(np.int32), variant.astype(np.int16), seeds, ShapeIndex(list(shapes), shape_of)
        )

    def read(self, item: TrainingItem) -> PixelPair:
        """An item's pixels and text. Raises BadSample with the reason."""
        row, (width, height, frames, _) = item.row, item.shape
        try:
            target = read_pixels(row.target, width, height, frames, row.target_time)
            if row.source is not None:
                source = read_pixels(row.source, width, height, frames, row.source_time)
                return PixelPair(source, target, self.prefix + row.text, True)
        except (UserError, OSError, ValueError) as error:
            raise BadSample(str(error)) from error
        if frames == 1:
            return PixelPair(target, target, row.text, False)
        source, prompt, _ = self.pretext.apply(target, item.seed)
        return PixelPair(source, target, prompt + row.text, False)


class BatchSampler:
    """Which items are trained on together: batches of one shape, each epoch in an order of its own.

    A batch is a function of the seed and its number. Where a shape has too few items for a batch, some come twice.
    """

    def __init__(self, shapes: Sequence[Shape], kind: Kind, batch: int, seed: int):
        found = ShapeIndex.among(shapes)
        order = np.argsort(found.of, kind="stable")
        ends = np.cumsum(np.bincount(found.of, minlength=len(found.kinds)))
        parts = np.split(order, ends[:-1]) if len(order) else []
        pairs = zip(found.kinds, parts, strict=False)
        groups = {shape: part.tolist() for shape, part in pairs if len(part) and shape.kind == kind}
        self.groups, self.kind, self.batch, self.seed = sorted(groups.items()), kind, batch, seed
        self.epoch_length = sum(-(-len(members) // batch) for _, members in self.groups)
        self.epoch = lru_cache(2)(self._epoch)

    def _epoch(self, epoch: int) -> list[list[int]]:
        rng = random.Random(f"{self.seed} {self.kind} {epoch}")
        batches = []
        for _, members in self.groups:
            order = rng.sample(members, len(members))
            for first in range(0, len(order), self.batch):
                batches.append([order[i % len(order)] for i in range(first, first + self.batch)])
        rng.shuffle(batches)
        return batches

    def steps(self, a_step: int) -> int:
        """Steps of so many samples, over all processes, in which every item comes once."""
        return -(-self.epoch_length * self.batch // a_step)

    def numbers(self, index: int) -> list[int]:
        """Numbers of the items of one batch, all of one shape."""
        epoch, at = divmod(index, self.epoch_length)
        return self.epoch(epoch)[at]

    def other(self, number: int, tried: int) -> int:
        """An item of the same shape, in place of one that turned out bad."""
        members = next(members for _, members in self.groups if number in members)
        return members[(members.index(number) + tried) % len(members)]


def read_manifest(path: Path) -> TrainingManifest:
    """Rows of a Parquet, JSONL or CSV file. UserError names the first line that is wrong."""
    if path.suffix.lower() == ".parquet":
        rows = tuple(_rows_of_parquet(path))
    else:
        rows = tuple(_row(record, line, path) for line, record in text_rows(path))
    if not rows:
        raise UserError(f"The manifest {path} has no rows: each names a source, target and instruction, or a clip.")
    with path.open("rb") as file:
        return TrainingManifest(path, rows, hashlib.file_digest(file, "sha256").hexdigest()[:16])


def _rows_of_parquet(path: Path) -> Iterator[TrainingRow]:
    names = (
        "target", "source", "instruction", "caption", "width", "height", "frames",
        "target_start", "target_end", "source_start", "source_end",
    )  # fmt: skip
    table = read_manifest_table(path).columns(*names)
    columns = [table.column(name).to_pylist() for name in names]
    folder = f"{path.parent}/"  # a million paths: text is an order of magnitude quicker than Path
    for line, (target, source, instruction, caption, *size, a, b, c, d) in enumerate(zip(*columns, strict=True), 1):
        if source is not None and not instruction.strip():
            raise UserError(f"Row {line} of {path} has no instruction: an edit has {', '.join(EDIT)}.")
        text = caption if source is None else instruction
        whole = tuple(size) if None not in size else None
        yield TrainingRow(
            line, source and os.path.join(folder, source), os.path.join(folder, target), text, whole, (a, b), (c, d)
        )


def _whole_row(values: Mapping[str, object], line: int, path: Path) -> TrainingRow:
    """A row of a manifest that was written by this house as JSONL: every field of a record is there."""
    try:
        record = Record.from_dict(values)
    except (TypeError, ValueError) as error:
        raise UserError(f"Line {line} of {path} is no record: {error}; mend it.") from None
    if record.source is not None and not record.instruction.strip():
        raise UserError(f"Line {line} of {path} has no instruction: an edit has {', '.join(EDIT)}.")
    size = (record.width, record.height, record.frames)
    return TrainingRow(
        line,
        None if record.source is None else path.parent / record.source,
        path.parent / record.target,
        record.caption if record.source is None else record.instruction,
        size if None not in size else None,  # type: ignore[arg-type]
        (record.target_start, record.target_end),
        (record.source_start, record.source_end),
    )


def _row(record: Mapping[str, object], line: int, path: Path) -> TrainingRow:
    if "kind" in record:
        return _whole_row(record, line, path)
    where = f"Line {line} of {path}"
    for key in record:
        if key not in _COLUMNS:
            near = difflib.get_close_matches(str(key), _COLUMNS, 1)
            hint = f"did you mean {near[0]}?" if near else f"the columns are {', '.join(_COLUMNS)}; {bring_in(record)}"
            raise UserError(f"{where} has a column {key!r}, which is not known: {hint}")
    wanted = EDIT if "source" in record or "target" in record else CLIP
    texts = {key: text for key in wanted if isinstance(text := record.get(key), str) and text.strip()}
    missing = [key for key in wanted if key not in texts]
    if missing:
        raise UserError(
            f"{where} has no {', '.join(missing)}: an edit has {', '.join(EDIT)}, a clip {', '.join(CLIP)}."
        )
    size = None
    if "width" in record and "height" in record and "frames" in record:
        sizes = (record["width"], record["height"], record["frames"])
        try:
            width, height, frames = (int(one) if isinstance(one, int | float | str) else 0 for one in sizes)
        except ValueError:
            width, height, frames = (0, 0, 0)
        size = (width, height, frames)
        if min(size) < 1:
            raise UserError(f"{where} has a width, height or number of frames that is no positive number: mend it.")
    folder = path.parent
    if wanted is CLIP:
        return TrainingRow(line, None, folder / texts["clip"], texts["caption"], size)
    return TrainingRow(line, folder / texts["source"], folder / texts["target"], texts["instruction"], size)


def probe_row(row: TrainingRow) -> tuple[int, int, int]:
    """Width, height and frames of a row's target, frames no more than its source has. UserError if a file is wrong."""
    target = read_video(row.target)
    first, stop = target.frame_range(*row.target_time)
    frames = stop - first
    if row.source is not None:
        first, stop = read_video(row.source).frame_range(*row.source_time)
        frames = min(frames, stop - first)
    return target.width, target.height, frames


def read_pixels(path: Path | str, width: int, height: int, frames: int, time: Stretch = (None, None)) -> Tensor:
    """The first frames of a stretch at a bucket's size, scaled to cover it and cut around the middle: [3 t h w]."""
    video = read_video(path, cover=(width, height))
    first, stop = video.frame_range(*time)
    if stop - first < frames:
        raise UserError(f"{path} has {stop - first} frames, {frames} are needed.")
    return to_pixels(video.frames(first, first + frames))[0]


def training_length(frames: int) -> int:
    """Frames that a clip is trained at: 16k+1, for clips under 17 frames 4k+1."""
    return (frames - 1) // LENGTHS * LENGTHS + 1 if frames > LENGTHS else frames_down(frames)


def seed_of(*numbers: int | str) -> int:
    """One seed of several numbers or names, each of which matters."""
    return random.Random(" ".join(map(str, numbers))).getrandbits(62)


def generator(*numbers: int | str) -> Generator:
    """A CPU generator seeded by `seed_of` the same."""
    return Generator().manual_seed(seed_of(*numbers))
