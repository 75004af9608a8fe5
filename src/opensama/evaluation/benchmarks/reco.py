"""ReCo-Bench: nine marks from 1 to 10 on eleven pairs of frames side by side.

Each group of an item is the geometric mean of its three marks, g = (s1 s2 s3)^(1/3), and 0 where a mark is missing, no
number, or not above 0; S_EA, S_VN, S_VQ are the arithmetic means of g over a task's items, and
S = (S_EA + S_VN + S_VQ) / 3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from opensama.evaluation.aggregation import Aggregation, mean_of
from opensama.evaluation.benchmarks.benchmark import Benchmark
from opensama.evaluation.frames_shown import FrameSampling, SideBySide
from opensama.evaluation.items import BenchmarkItem, Fault
from opensama.evaluation.protocols import JudgingProtocol, ReplySettings
from opensama.evaluation.rubrics import Mark, ScoringRubric, number_in
from opensama.evaluation.tabular import locate_source, read_text
from opensama.vlm import BadAnswer, answer_json


class RecoBench(Benchmark):
    """`configs/{add,remove,replace,style}.txt` beside `ori_videos/`."""

    name = "reco"
    title = "ReCo-Bench"

    def read(self, folder: Path) -> tuple[list[BenchmarkItem], list[Fault]]:
        items: list[BenchmarkItem] = []
        faults: list[Fault] = []
        for task in RECO_TASKS:
            path = folder / "configs" / f"{task}.txt"
            if not path.is_file():
                faults.append(Fault(f"configs/{task}.txt", "is not there"))
                continue
            for number, line in enumerate(read_text(path).splitlines(), 1):
                if not line.strip() or line.lstrip().startswith("#"):
                    continue
                name = f"{task}-{number:03d}"
                if (parsed := parse_reco_line(line)) is None:
                    faults.append(Fault(f"configs/{task}.txt line {number}", "is not `FILE.mp4: INSTRUCTION`"))
                    continue
                file, instruction, image = parsed
                notes = {"file": file} | ({"reference_image": image} if image else {})
                items.append(
                    BenchmarkItem(
                        name, task, instruction, locate_source(folder / "ori_videos", file, name, faults), notes=notes
                    )
                )
        return items, faults

    def edit_names(self, item: BenchmarkItem) -> tuple[str, ...]:
        """`{source}_{instruction}.mp4`, the instruction cut after 80 characters."""
        said = item.instruction.replace(" ", "_").replace(".", "").replace(",", "").replace(":", " ")
        stem = PurePosixPath(item.notes.get("file", item.id)).stem
        return (f"{stem}_{said[:80]}.mp4",)

    @property
    def protocols(self) -> tuple[JudgingProtocol, ...]:
        sampling = FrameSampling("every (frames // 10)-th pair, 224 rows high, then at least 512", eleven_frames)
        return (
            JudgingProtocol(
                name="reco",
                style_of="ReCo-Bench",
                presentation=SideBySide(sampling),
                rubrics=lambda item: (RECO_STYLE if item.task == "style" else RECO,),
                replies=ReplySettings(tries=10, max_tokens=8192),
                derive=lambda marks: {**marks, **reco_groups(marks)},
                zeros=(
                    *(name for _, names in RECO_GROUPS.values() for name in names),
                    *(name for name, _ in RECO_GROUPS.values()),
                    "S",
                ),
            ),
        )

    @property
    def aggregation(self) -> Aggregation:
        return Aggregation(headline="S")


def eleven_frames(frames: int, fps: float) -> list[int]:
    """Every (frames // 10)-th: 0, 8, ..., 80 of 81."""
    return list(range(0, frames, max(1, frames // 10)))


RECO_TASKS = ("add", "remove", "replace", "style")


def parse_reco_line(line: str) -> tuple[str, str, str] | None:
    """File, instruction and image (or "") of one line; None if it is none. Split at the first colon, then at a `|`."""
    file, colon, rest = line.partition(":")
    instruction, _, image = rest.partition("|")
    return (file.strip(), instruction.strip(), image.strip()) if colon and file.strip() else None


RECO_GROUPS = {
    "edit_accuracy": ("S_EA", ("SA", "SP", "CP")),
    "video_quality": ("S_VQ", ("VF", "TS", "ES")),
    "naturalness": ("S_VN", ("AN", "SN", "MN")),
}
"""The judge's key -> the group's name and the names of its three marks, in the judge's order."""


def geometric_mean(marks: Sequence[object]) -> float:
    """0 where one is missing, no number, or not above 0."""
    good = [m for m in marks if isinstance(m, int | float) and not isinstance(m, bool) and math.isfinite(m) and m > 0]
    return math.prod(good) ** (1 / len(good)) if good and len(good) == len(marks) else 0.0


def reco_groups(marks: Mapping[str, object]) -> dict[str, float]:
    """The three groups and S of one reply's nine marks."""
    groups = {name: geometric_mean([marks.get(mark) for mark in names]) for name, names in RECO_GROUPS.values()}
    return groups | {"S": mean_of(list(groups.values()))}


def read_groups(answer: str, marks: tuple[Mark, ...]) -> dict[str, float]:
    """ReCo-Bench's object: each group's `scores`, three in order. Only the first object of the answer counts."""
    try:
        said = answer_json(answer)
    except BadAnswer:
        said = _first_object(answer)
    found: dict[str, float] = {}
    for key, (_, names) in RECO_GROUPS.items():
        group = said.get(key)
        scores = group.get("scores") if isinstance(group, dict) else None
        if not isinstance(scores, list) or len(scores) != len(names):
            raise BadAnswer(f"the answer has no {len(names)} scores for {key}")
        numbers = [number_in(score) for score in scores]
        if None in numbers:
            raise BadAnswer(f"a score of {key} is no number")
        found |= {name: float(number or 0) for name, number in zip(names, numbers, strict=True)}
    return found


def _first_object(answer: str) -> dict[str, object]:
    depth, begin = 0, answer.find("{")
    for at in range(max(begin, 0), len(answer)):
        depth += {"{": 1, "}": -1}.get(answer[at], 0)
        if depth == 0:
            return answer_json(answer[begin : at + 1])
    raise BadAnswer("the answer has no JSON object")


_RECO_SAID = {
    "SA": "is the very thing done that was asked for, not something like it",
    "SP": "in the right place and to the right extent, no more and no less",
    "CP": "is what the instruction leaves alone as it was",
    "VF": "are single frames sharp and free of artefacts",
    "TS": "are pixels steady from frame to frame, without flicker or drift",
    "ES": "does the edit last through the whole clip, with the same look",
    "AN": "do light, shadow and texture of what is new fit the scene",
    "SN": "are size and proportion believable",
    "MN": "does it move, touch and follow the camera as things do",
}
_RECO_TEXT = """Each picture shows two frames of the same moment side by side: on the left the original video, on the
right its edit. The pictures follow each other in time. Judge the edit in three groups of three marks, each a whole
number from 1 (useless) to 10 (nothing to object to). Be strict: an object that melts, a doubled outline, a colour cast
nobody asked for, or an edit that comes and goes is a bad case and gets 4 or less where it belongs.

{asked}

If the right half is the same as the left in all pictures, nothing was edited: all nine marks are then 0.

Answer with one JSON object and nothing else:
{answer}

instruction: {{instruction}}"""


def _reco(task: str) -> ScoringRubric:
    said = _RECO_SAID | ({"CP": "are layout and shapes those of the original"} if task == "style" else {})
    blocks = [
        f"{key}, in this order:\n" + "\n".join(f"- {name}: {said[name]}?" for name in names)
        for key, (_, names) in RECO_GROUPS.items()
    ]
    answer = ", ".join(f'"{key}": {{"scores": [<n>, <n>, <n>], "reasoning": "<one sentence>"}}' for key in RECO_GROUPS)
    marks = tuple(Mark(name, name, 0, 10) for _, names in RECO_GROUPS.values() for name in names)
    text = _RECO_TEXT.format(asked="\n\n".join(blocks), answer="{" + answer + "}")
    return ScoringRubric(f"reco-{task}" if task == "style" else "reco", text, marks, read_groups)


RECO, RECO_STYLE = _reco(""), _reco("style")
