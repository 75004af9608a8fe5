"""The world as a benchmark among the others: a folder of drawn clips, and a judge that knows every exact answer.

    draw_benchmark(folder, n=12)                        # ID.mp4 of each source, and world.json
    system = System("tiny", edit=editor.edit, through=through(editor))
    evaluate_benchmark(read_benchmark("world", folder), [system], out)

A model edits the drawn frames themselves, and these edits are marked before they become files. Anybody else edits the
files, and their files are marked. Beside each edit the same key marks a copy of the source, black, the source's frames
shuffled, and the exact answer through the model's autoencoder (`reconstruction`), the most that can be reached.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import cycle, islice
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor

from opensama.evaluation.aggregation import Aggregation, plain_overall
from opensama.evaluation.benchmarks.benchmark import Benchmark, MadeEdit, System
from opensama.evaluation.items import BenchmarkItem, Fault
from opensama.evaluation.judge import Judge, Judged, JudgingMethod, Reply
from opensama.evaluation.metrics.measuring import SHUFFLE
from opensama.evaluation.results import Scores, SystemResult
from opensama.evaluation.tabular import locate_source, tabular_rows
from opensama.evaluation.world.answer_key import CALM, AnswerKey, Frames, Through, grown, in_words, psnr, to_float
from opensama.evaluation.world.clips import ask_for, first_second, style_key
from opensama.evaluation.world.report import Edit, WorldReport, edit_frames
from opensama.evaluation.world.scores import ItemScore, answer_key, item_score, squared_error
from opensama.media.frames import eight_bit
from opensama.media.video_io import read_video, write_video
from opensama.runtime import whole_file
from opensama.values import Progress, UserError, Video, counted
from opensama.world import CONTROL_FAMILIES, STYLES, TIERS, TierName, apply_style, plan_edit, sample_edit, to_uint8
from opensama.world.edit_samples import changed_mask
from opensama.world.scenes import FPS

FULL = 4
_QUALITY = 95  # of the files: drawings have hard edges
SHAPE = 0.02  # by how much an edit's shape may differ from its source's


def draw_benchmark(
    folder: Path,
    *,
    split: Literal["train", "test"] = "test",
    n: int = 12,
    seed: int = 0,
    tier: TierName = "full",
    families: Sequence[str] | None = None,
    clips: Sequence[Path] = (),
    styles: int = len(STYLES),
    frames: int = 17,
    size: int = 128,
    progress: Callable[[Progress], None] | None = None,
) -> None:
    """Draws `n` sources of each family into the folder, families in turn, and lists them in world.json.

    By default those of the tier, and the controls. So many `styles`, by default all, are also asked of the first second
    of each of the `clips`, each time the next ones. What is there already is not drawn again. Raises UserError where
    only the control that a copy passes is asked for.
    """
    families = (*TIERS[tier].families, *CONTROL_FAMILIES) if families is None else families
    if set(families) <= {"absent"}:
        raise UserError("A copy of the source passes the family absent: ask for at least one family of edits, too.")
    about: dict[str, str | int] = {"frames": frames, "size": size}
    which: dict[str, str | int] = {} if tier == "full" else {"tier": tier}
    prefix, rows = "" if tier == "full" else f"{tier}-", list[dict[str, str | int]]()
    for i in range(n * len(families)):
        family, number = families[i % len(families)], i // len(families)
        text = plan_edit(f"{seed}-{number}", split, family, tier=tier).instruction
        named = {"id": f"{prefix}{family}-{split}-{seed}-{number}", "task": family, "instruction": text}
        rows.append(named | about | {"split": split, "seed": seed, "number": number} | which)
    rng, each = random.Random(seed), cycle(STYLES)
    for path in clips:
        for style in islice(each, styles):
            named = {
                "id": f"{path.stem}-{style.replace(' ', '-')}",
                "task": "clips",
                "instruction": ask_for(rng, style),
            }
            rows.append(named | about | {"clip": str(path.absolute()), "style": style})
    folder.mkdir(parents=True, exist_ok=True)
    for listed in counted(rows, "Drawing", progress):
        file = folder / f"{listed['id']}.mp4"
        if not file.exists():
            source = _task(tuple(sorted((key, str(value)) for key, value in listed.items()))).source
            write_video(Video.from_frames(source, FPS), file, quality=_QUALITY, on_note=lambda note: None)
    with whole_file(folder / "world.json") as temporary:
        temporary.write_text(json.dumps(rows, indent=1) + "\n")


class WorldBench(Benchmark):
    """`world.json`, as `draw_benchmark` writes it; all but id, task, instruction are notes."""

    name = "world"
    title = "The drawn world"

    def __init__(self, full: int | None = FULL) -> None:
        """`full`: every so many edits of a family are also made at twice the size."""
        self.full = full

    def read(self, folder: Path) -> tuple[list[BenchmarkItem], list[Fault]]:
        faults: list[Fault] = []
        items = []
        for asked in tabular_rows(folder / "world.json", ("id", "task", "instruction")):
            name, task, text = (str(asked.pop(key)) for key in ("id", "task", "instruction"))
            source = locate_source(folder, f"{name}.mp4", name, faults)
            items.append(BenchmarkItem(name, task, text, source, {key: str(value) for key, value in asked.items()}))
        return items, faults

    @property
    def aggregation(self) -> Aggregation:
        return Aggregation(
            headline="success",
            overall=plain_overall,
            aside=("absent", "swapped", "clips"),
            shares=("success", "first third", "last third"),
        )

    def edit_names(self, item: BenchmarkItem) -> tuple[str, ...]:
        return (f"{item.id}.mp4",)

    def judge(self, system: System, asked: Judge | None) -> AnswerKeys:
        return AnswerKeys(system.through or same)

    def make_edit(self, system: System, item: BenchmarkItem, path: Path, seed: int) -> MadeEdit:
        """Edits the item's own frames and marks them before they are written."""
        assert system.edit is not None
        task = _of(item)
        began = time.monotonic()
        output = edit_frames(system.edit, task.source, task.instruction, seed)
        seconds = time.monotonic() - began
        full = None
        if self.full and "number" in item.notes and int(item.notes["number"]) % self.full == 0:
            full = _kept_at_full_size(system.edit, item, seed)
        judged = self.judge(system, None).judge_frames(item, output, seconds, full)
        write_video(Video.from_frames(output, FPS), path, overwrite=True, on_note=lambda note: None)
        return MadeEdit(seconds, judged)

    def system_table(self, system: SystemResult) -> str | None:
        return WorldReport.read(system).table() if any(item.get("details") for item in system["items"]) else None

    def answers(self, folder: Path, sources: Iterable[str | None]) -> Mapping[str, Video]:
        return _Answers(folder, sources)


def same(frames: Tensor) -> Tensor:
    return frames


@dataclass(frozen=True)
class AnswerKeys:
    """Judges edits of the world. `through` is the model's autoencoder there and back; frames as they are without."""

    through: Through = same
    name: str = "the world's answer key"

    @property
    def method(self) -> JudgingMethod:
        policy = "Items whose files are missing, broken or of another length or shape are left out."
        return JudgingMethod("world", "", "the first and last of four in each third", policy)

    def digest(self, item: BenchmarkItem) -> str:
        return self.name

    def judge(self, item: BenchmarkItem, edited: Path, system: str = "") -> Judged:
        """Marks somebody's file: as many frames as the source has, in its shape, whatever their size."""
        task = _of(item)
        frames, height, width = task.source.shape[:3]
        try:
            found = read_video(edited)
            if found.frame_count != frames:
                raise UserError(f"it has {found.frame_count} frames, its source {frames}: each is held to its answer")
            if abs(found.width * height / (found.height * width) - 1) > SHAPE:
                raise UserError(f"it is {found.width}x{found.height}, its source {width}x{height}: another shape")
            output = read_video(edited, cover=(width, height)).array()
        except (UserError, OSError) as error:
            return Judged("missing", None, " ".join(str(error).split()))
        return self.judge_frames(item, eight_bit(output))

    def judge_frames(
        self, item: BenchmarkItem, output: Frames, seconds: float = 0.0, kept_full: float | None = None
    ) -> Judged:
        """How `output` [t h w 3] came out, and the controls, on all edits but those that a copy passes."""
        task = _of(item)
        key = task.key(self.through)
        mine = task.mark(output, key, seconds, kept_full)
        others: dict[str, ItemScore] = {}
        if task.family != "absent":
            black = np.zeros_like(task.source)
            shuffled = task.source[_shuffled(len(task.source))]
            exact = to_uint8(self.through(key.answer[None])[0])
            shown = {"copy": task.source, "black": black, "shuffled": shuffled, "reconstruction": exact}
            others = {name: task.mark(frames, key) for name, frames in shown.items()}
        scores = _scores(mine)
        reply = Reply(0, 0, "", _told(mine), scores)
        controls = {name: _scores(score) | _metrics(score) for name, score in others.items()}
        details: dict[str, object] = {name: asdict(score) for name, score in {"edit": mine, **others}.items()}
        return Judged("scored", scores, None, (reply,), metrics=_metrics(mine), controls=controls, details=details)


class _Answers(Mapping[str, Video]):
    """The exact answers to items of a folder that `draw_benchmark` wrote, each drawn when it is asked for."""

    def __init__(self, folder: Path, sources: Iterable[str | None]) -> None:
        lists = {(folder / source).parent / "world.json" for source in sources if source}
        rows = [row for file in sorted(lists) if file.is_file() for row in json.loads(file.read_text("utf-8"))]
        self._listed: dict[str, dict[str, object]] = {str(item_score["id"]): item_score for item_score in rows}

    def __getitem__(self, name: str) -> Video:
        about = tuple(sorted((key, str(value)) for key, value in self._listed[name].items()))
        return Video.from_frames(_task(about).answer, FPS)

    def __iter__(self) -> Iterator[str]:
        return iter(self._listed)

    def __len__(self) -> int:
        return len(self._listed)


@dataclass(frozen=True)
class _Task:
    """An edit to make, with its exact answer [t h w 3]."""

    family: str
    instruction: str
    edited: str
    source: Frames
    answer: Frames
    key: Callable[[Through], AnswerKey]

    def mark(self, output: Frames, key: AnswerKey, seconds: float = 0.0, full: float | None = None) -> ItemScore:
        ratio = squared_error(self.source, self.answer, output)
        return item_score(self.family, self.instruction, self.edited, key.judge(output), ratio, seconds, full)


def _of(item: BenchmarkItem) -> _Task:
    about = item.notes | {"id": item.id, "task": item.task, "instruction": item.instruction}
    return _task(tuple(sorted(about.items())))


@lru_cache(maxsize=1)
def _task(about: tuple[tuple[str, str], ...]) -> _Task:
    said = dict(about)
    try:
        frames, size = int(said["frames"]), int(said["size"])
        if "style" not in said:
            name, family = f"{said['seed']}-{said['number']}", said["task"]
            split, tier = said["split"], said.get("tier", "full")
            sample = sample_edit(name, split, family, frames, size, tier)  # type: ignore[arg-type]
            return _Task(
                family, said["instruction"], sample.plan.edited, sample.source, sample.target,
                lambda through: answer_key(sample, through),
            )  # fmt: skip
        path, style = Path(said["clip"]), said["style"]
    except (KeyError, ValueError) as error:
        raise UserError(f"world.json says of {said['id']} what no drawing has ({error!r}): draw it anew.") from error
    source = first_second(path, frames, size)
    answer = to_uint8(apply_style(style, to_float(source)))
    return _Task(
        "clips", said["instruction"], f"{path.name}: {style}", source, answer,
        lambda through: style_key(source, style, through),
    )  # fmt: skip


def _kept_at_full_size(edit: Edit, item: BenchmarkItem, seed: int) -> float | None:
    """PSNR of what should stay at twice the model's size, with `preserve`; None where everything changes."""
    large = item.notes | {"size": str(2 * int(item.notes["size"]))}
    about = large | {"id": item.id, "task": item.task, "instruction": item.instruction}
    task = _task.__wrapped__(tuple(sorted(about.items())))
    source, answer = to_float(task.source), to_float(task.answer)
    still = ~grown(changed_mask(source, answer)[:, 0], 2 * CALM)
    if still.float().mean() < 0.01:
        return None
    return psnr(to_float(edit_frames(edit, task.source, task.instruction, seed, preserve=True)), source, still)


def _shuffled(count: int) -> list[int]:
    """The frames of every eight in another order."""
    return [start + i for start in range(0, count, len(SHUFFLE)) for i in SHUFFLE if start + i < count]


def _scores(score: ItemScore) -> Scores:
    """What is better the higher it is; `kept` only where something is to be kept."""
    found = {"success": float(score.success)}
    if score.parts:
        found["parts"] = float(np.mean([part["right"] for part in score.parts]))
    found |= {"first third": float(score.thirds[0]), "last third": float(score.thirds[-1])}
    found |= {"kept dB": score.kept} if score.kept < 99 else {}
    return found | ({} if score.kept_full is None else {"kept full dB": score.kept_full})


def _metrics(score: ItemScore) -> Scores:
    return {"error": min(score.ratio, 10.0), **score.probes}


def _told(score: ItemScore) -> str:
    """The marks in words."""
    lines = []
    for part in score.parts:
        like = ", ".join(map(in_words, part["nearest"] if len(set(part["nearest"])) > 1 else part["nearest"][:1]))
        how = "right" if part["right"] else f"wrong; its thirds look most like: {like}"
        lines.append(f"{part['family']}, {part['edited']}: {how} (lead {part['lead']:.2f}, 0.25 is needed)")
    if score.kept < 99:
        lines.append(f"what should stay: {score.kept:.1f} dB")
    if not score.success and all(part["right"] for part in score.parts):
        lines.append("what should stay was not kept in every third")
    return "\n".join(lines)
