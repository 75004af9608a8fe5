"""VIE-Bench: three marks from 1 to 10, a fourth where there is a reference picture; plain means by task.

No layout was published, so any table with an instruction and a source is read.
"""

from __future__ import annotations

from pathlib import Path

from opensama.evaluation.aggregation import Aggregation
from opensama.evaluation.benchmarks.benchmark import Benchmark
from opensama.evaluation.frames_shown import FrameSampling, SourceThenEdit
from opensama.evaluation.items import BenchmarkItem, Fault
from opensama.evaluation.protocols import JudgingProtocol
from opensama.evaluation.rubrics import Mark, ScoringRubric
from opensama.evaluation.tabular import (
    ID_COLUMNS,
    INSTRUCTION_COLUMNS,
    SOURCE_COLUMNS,
    TASK_COLUMNS,
    first_value,
    locate_source,
    safe_id,
    tabular_rows,
)
from opensama.media.frames import evenly_spaced
from opensama.values import UserError


class VieBench(Benchmark):
    """Every row of the folder's .json, .jsonl and .csv tables."""

    name = "vie"
    title = "VIE-Bench"

    def read(self, folder: Path) -> tuple[list[BenchmarkItem], list[Fault]]:
        tables = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".json", ".jsonl", ".csv"))
        items: list[BenchmarkItem] = []
        faults: list[Fault] = []
        for table in tables:
            for number, row in enumerate(tabular_rows(table, faults=faults)):
                if not any(name in row for name in INSTRUCTION_COLUMNS):
                    faults.append(
                        Fault(f"{table.name} {number}", f"has none of the columns {', '.join(INSTRUCTION_COLUMNS)}")
                    )
                    continue
                name = safe_id(
                    first_value(row, ID_COLUMNS)
                    or (f"{number:03d}" if len(tables) == 1 else f"{table.stem}-{number:03d}")
                )
                notes = {}
                if image := first_value(row, REFERENCE_COLUMNS):
                    path = locate_source(folder, image, name, faults)
                    notes = {"reference_image": str(path)} if path else {}
                source = locate_source(folder, first_value(row, SOURCE_COLUMNS), name, faults)
                task = vie_task(first_value(row, TASK_COLUMNS) or table.stem)
                items.append(BenchmarkItem(name, task, first_value(row, INSTRUCTION_COLUMNS), source, notes=notes))
        if not tables:
            raise UserError(f"{folder} has no .json, .jsonl or .csv that lists what to edit.")
        return items, faults

    @property
    def protocols(self) -> tuple[JudgingProtocol, ...]:
        return (VIE_PROTOCOL,)

    @property
    def aggregation(self) -> Aggregation:
        return Aggregation(headline="mean", group=vie_group)


REFERENCE_COLUMNS = ("reference_image", "ref_image", "ref_img", "reference", "image")


def vie_group(item: BenchmarkItem) -> str:
    """Published tables put swap and colour together, and style and tone."""
    merged = {"swap": "swap/change", "color": "swap/change", "style": "style/tone", "tone": "style/tone"}
    return merged.get(item.task, item.task)


def vie_task(said: str) -> str:
    """A row's task in one of nine words."""
    word = said.lower()
    if "ref" in word:
        return "ref-add" if "add" in word or "insert" in word else "ref-swap"
    for task, marks in VIE_TASKS.items():
        if any(mark in word for mark in marks):
            return task
    return word.strip()


VIE_TASKS = {
    "color": ("colo",),
    "tone": ("tone", "weather"),
    "style": ("style", "styli"),
    "swap": ("swap", "replace", "change"),
    "remove": ("remov", "delet", "eras"),
    "add": ("add", "insert"),
    "hybrid": ("hybrid", "mixed"),
}


_VIE = (
    Mark("instruct", "instruct follow score (1-10)", 1, 10, r"instruct.{0,12}follow"),
    Mark("preservation", "preservation score (1-10)", 1, 10, r"preserv"),
    Mark("quality", "quality score (1-10)", 1, 10, r"quality"),
)
_VIE_LIKE = Mark("similarity", "similarity score (1-10)", 1, 10, r"similar")
_VIE_TEXT = """You rate how well a video was edited by an instruction. You have seen, in this order, {order}.

The instruction: {{instruction}}

Give each of these a whole number from 1 to 10; 1 to 3 means not met, 4 to 6 met in part, 7 to 10 met in full or nearly.
- instruct follow: is exactly what was asked for done, all of it, and nothing else instead?
- preservation: is everything that the instruction leaves alone as it was in the first video, in place and in motion?
- quality: does the second video look real and pleasing, its parts joined without seams, flicker or smears?{more}

Answer with one JSON object and nothing else:
{{"instruction": "<the instruction>", {marks}, "reason": "<what decided the marks>"}}"""


def _vie(order: str, more: str, marks: tuple[Mark, ...], name: str) -> ScoringRubric:
    asked = ", ".join(f'"{mark.label}": <n>' for mark in marks)
    return ScoringRubric(name, _VIE_TEXT.format(order=order, more=more, marks=asked), marks)


VIE = _vie("the original video and the edited video", "", _VIE, "vie")
VIE_REFERENCE = _vie(
    "a reference picture, the original video and the edited video",
    "\n- similarity: is the thing that came in the very one of the reference picture, in shape, colour and detail?",
    (*_VIE, _VIE_LIKE),
    "vie-reference",
)

VIE_PROTOCOL = JudgingProtocol(
    name="vie",
    style_of="VIE-Bench",
    presentation=SourceThenEdit(
        FrameSampling("8 frames of each clip, evenly spread", lambda frames, fps: evenly_spaced(frames, 8))
    ),
    rubrics=lambda item: (VIE_REFERENCE if "reference_image" in item.notes else VIE,),
)
