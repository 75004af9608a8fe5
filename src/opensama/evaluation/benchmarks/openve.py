"""OpenVE-Bench: three marks from 1 to 5; means by type, and their unweighted mean, whatever the types' own counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath

from opensama.evaluation.aggregation import Aggregation, Means, Number, macro
from opensama.evaluation.benchmarks.benchmark import Benchmark
from opensama.evaluation.frames_shown import FrameSampling, SourceThenEdit
from opensama.evaluation.items import BenchmarkItem, Fault
from opensama.evaluation.protocols import JudgingProtocol, ReplySettings
from opensama.evaluation.rubrics import Mark, ScoringRubric
from opensama.evaluation.tabular import locate_source, safe_id, tabular_rows
from opensama.media.frames import evenly_spaced


class OpenVeBench(Benchmark):
    """`benchmark_videos.csv`, whose paths begin at the folder itself or above it."""

    name = "openve"
    title = "OpenVE-Bench"

    def read(self, folder: Path) -> tuple[list[BenchmarkItem], list[Fault]]:
        faults: list[Fault] = []
        rows = tabular_rows(folder / "benchmark_videos.csv", ("edited_type", "prompt", "original_video"), faults)
        items: list[BenchmarkItem] = []
        for row in rows:
            said = str(row["original_video"] or "")
            name = safe_id(PurePosixPath(said.replace("\\", "/")).stem)
            source = locate_source(folder, said.replace("\\", "/").removeprefix("OpenVE-Bench/"), name, faults)
            items.append(BenchmarkItem(name, str(row["edited_type"] or ""), str(row["prompt"] or ""), source))
        return items, faults

    @property
    def protocols(self) -> tuple[JudgingProtocol, ...]:
        shown = SourceThenEdit(FrameSampling("one frame a second, 4 to 16 of each clip", each_second))
        short = JudgingProtocol(
            name="openve",
            style_of="OpenVE-Bench, one short rubric for all types",
            presentation=shown,
            rubrics=lambda item: (openve_rubric(item.task, long=False),),
            replies=ReplySettings(max_tokens=4096),
        )
        return short, replace(
            short,
            name="openve-long",
            style_of="OpenVE-Bench, a rubric of its own for each type",
            rubrics=lambda item: (openve_rubric(item.task, long=True),),
            replies=ReplySettings(tries=5, temperature=0.7, max_tokens=4096),
        )

    @property
    def aggregation(self) -> Aggregation:
        return Aggregation(headline="mean", overall=openve_overall)


def each_second(frames: int, fps: float) -> list[int]:
    """One a second, at least four and at most sixteen, evenly spread."""
    return evenly_spaced(frames, min(16, max(4, round(frames / fps))))


OPENVE_FIVE = ("global_style", "background_change", "local_change", "local_remove", "local_add")


def openve_overall(means: Means[Number]) -> dict[str, Number]:
    """The unweighted mean over all types, and over the five that papers print."""
    out = {f"overall of {len(means)} types": macro(means)}
    if len(means) != len(OPENVE_FIVE) and set(OPENVE_FIVE) <= set(means):
        out["overall of the usual 5 types"] = macro(means, of=OPENVE_FIVE)
    return out


_DONE = (
    "1: nothing was changed, or the wrong thing. 2: an attempt that misses most of it. 3: the right thing, with "
    "remains of the old one, with changes nobody asked for, or only for a while. 4: all of it but a small detail. "
    "5: exactly what was asked and nothing more, from the first frame to the last."
)
_SEAMLESS = (
    "1: broken, torn, or flickering all the time. 2: seams and jumps at first glance. 3: edges, colours or sharpness "
    "that do not fit, or a light shimmer. 4: flaws only on a close look. 5: nobody would know that it was edited."
)
_PHYSICS = (
    "1: floats, slides or stands in impossible space. 2: light, shadow or scale plainly wrong. 3: believable, with "
    "shadows, contacts or overlaps that fail now and then. 4: small slips. 5: lit, grounded, covered and moved as the "
    "scene demands."
)
_STYLE_KEPT = (
    "1: another scene. 2: main shapes lost or moved. 3: shapes kept, details or motion altered. 4: nearly all kept. "
    "5: layout, shapes and motion are those of the original."
)
_STEADY = "1: flickers all the time. 2: often. 3: visible changes of look. 4: rare. 5: one steady look throughout."
_STILL_THERE = (
    "1: much of the rest is altered. 2: several other things. 3: some, noticeably. 4: traces. 5: all is as it was."
)
_WELL_MADE = (
    "1: unwatchable. 2: strong artefacts or flicker. 3: visible ones. 4: slight ones. 5: clean and steady throughout."
)
_STYLE_DONE = (
    "1: the look is the old one, or another one. 2: a tint of it. 3: recognisable, but uneven over the picture or over "
    "time. 4: clear, small parts missing. 5: palette, strokes and texture of the style everywhere, all the time."
)

_LETTERS = (
    "Font, size, colour and place as asked, else as before. 1: none of them. 2: one. 3: most, with letters that break "
    "or flicker. 4: all but a trifle. 5: all, sharp and steady throughout."
)

_SHORT = (
    ("Instruction Compliance", _DONE, r"instruction compliance"),
    ("Consistency & Detail Fidelity", _STILL_THERE, r"consistency.{1,5}detail"),
    ("Visual Quality & Stability", _WELL_MADE, r"visual quality"),
)
_LONG = {
    "global_style": (
        ("Style Fidelity", _STYLE_DONE, ""),
        ("Content Preservation", _STYLE_KEPT, ""),
        ("Temporal Stability", _STEADY, ""),
    ),
    "background_change": (
        ("Instruction Compliance", _DONE, ""),
        ("Visual & Temporal Seamlessness", _SEAMLESS, r"seamless"),
        ("Physical Consistency", _PHYSICS, r"physical"),
    ),
    "subtitle_edit": (
        ("Prompt Compliance", "The text must read exactly as asked, letter by letter. " + _DONE, ""),
        ("Attribute Fidelity", _LETTERS, r"attribute"),
        ("Integrity of Unedited Content", _STILL_THERE, r"integrity"),
    ),
    "camera_edit": (
        ("Prompt Compliance", "Shot size, angle and framing must be those asked for. " + _DONE, ""),
        ("Visual Quality & Stability", _WELL_MADE, r"visual quality"),
        ("Consistency & Detail Fidelity", "Scene and subject must stay the same ones. " + _STILL_THERE, r"consistency"),
    ),
    "creative_edit": (
        ("Prompt Compliance", _DONE, ""),
        ("Temporal & Visual Coherence", _SEAMLESS, r"coherence"),
        ("Physical Plausibility & Detail Preservation", _PHYSICS, r"physical"),
    ),
}
_LOCAL = (
    ("Prompt Compliance", _DONE, r"(?:prompt|instruction) compliance"),
    ("Visual Naturalness & Temporal Stability", _SEAMLESS, r"naturalness|seamless"),
    ("Physical & Detail Fidelity", _PHYSICS, r"physical"),
)
_OPENVE_TEXT = """You assess an edited video beside its original. You have seen the original first and the edit second.
The task: {task}. The instruction: {{instruction}}

Give three whole numbers from 1 to 5:
{asked}

The second and the third may not be higher than the first: an edit that was not made cannot be well made.
Say in one line of at most {words} words what you saw, then end with these three lines:
{lines}"""


def openve_rubric(task: str, long: bool) -> ScoringRubric:
    """The rubric of a type: the short form has one for all."""
    rows = _LONG.get(task, _LOCAL) if long else _SHORT
    names = ("compliance", "second", "third")
    marks = tuple(Mark(name, label, 1, 5, pattern) for name, (label, _, pattern) in zip(names, rows, strict=True))
    asked = "\n".join(f"{number}. {label}. {bands}" for number, (label, bands, _) in enumerate(rows, 1))
    lines = "\n".join(f"{mark.label}: <n>" for mark in marks)
    said = task.replace("_", " ") if long else "an edit by instruction"
    words = 30 if task == "global_style" else 20
    text = _OPENVE_TEXT.format(task=said, asked=asked, lines=lines, words=words)
    return ScoringRubric(f"openve-{'long' if long else 'short'}" + f"-{task}" * long, text, marks)
