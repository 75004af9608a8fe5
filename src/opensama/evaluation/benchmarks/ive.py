"""IVEBench: two marks from 1 to 5, joined with what its ten networks measured, for short and long clips apart.

Columns are averaged over the items that have them (-1 means none); marks become (x - 1) / 4 and VTSS (x + 0.05) / 0.15;
a dimension is its columns' weighted mean (VTSS 4, the two marks 3, others 1), the total the mean of the three.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from opensama.evaluation.aggregation import Aggregation, Means, Number, mean_of
from opensama.evaluation.benchmarks.benchmark import Benchmark
from opensama.evaluation.frames_shown import FrameSampling, SourceThenEdit
from opensama.evaluation.items import BenchmarkItem, Fault
from opensama.evaluation.protocols import JudgingProtocol, ReplySettings
from opensama.evaluation.results import Scores
from opensama.evaluation.rubrics import Mark, ScoringRubric, read_bracket
from opensama.evaluation.tabular import locate_source, safe_id, tabular_rows
from opensama.media.frames import evenly_spaced

IVE_DIMENSIONS: dict[str, dict[str, float]] = {
    "quality": {
        "subject_consistency": 1,
        "background_consistency": 1,
        "temporal_flickering": 1,
        "motion_smoothness": 1,
        "vtss": 4,
    },
    "compliance": {
        "overall_semantic_consistency": 1,
        "phrase_semantic_consistency": 1,
        "instruction_satisfaction": 3,
        "quantity_accuracy": 1,
    },
    "fidelity": {"semantic_fidelity": 1, "motion_fidelity": 1, "content_fidelity": 3},
}
"""The three printed dimensions, each with the weights of its columns."""


class IveBench(Benchmark):
    """The short and the long subset, as far as they are there."""

    name = "ive"
    title = "IVEBench"
    metric_columns = tuple(name for weights in IVE_DIMENSIONS.values() for name in weights)

    def read(self, folder: Path) -> tuple[list[BenchmarkItem], list[Fault]]:
        items: list[BenchmarkItem] = []
        faults: list[Fault] = []
        for subset in ("short", "long"):
            table = folder / f"ivebenchdb_prompt_{subset}.json"
            if not table.is_file():
                faults.append(Fault(table.name, "is not there"))
                continue
            for row in tabular_rows(table, ("src_video_name", "edit_prompt")):
                file = str(row["src_video_name"] or "")
                name = safe_id(f"{subset}-{row.get('id') if row.get('id') is not None else PurePosixPath(file).stem}")
                if not str(row.get("category") or "").strip():
                    faults.append(Fault(name, "has no category, so it is left out"))
                    continue
                kept = ("category", "subcategory", "source_prompt", "target_prompt")
                notes = {key: str(row[key]) for key in kept if row.get(key)} | {"subset": subset, "file": file}
                source = locate_source(folder / f"ivebenchdb_mp4_{subset}", file, name, faults)
                items.append(
                    BenchmarkItem(name, str(row["category"]), str(row["edit_prompt"] or ""), source, notes=notes)
                )
        return items, faults

    def edit_names(self, item: BenchmarkItem) -> tuple[str, ...]:
        return (f"{PurePosixPath(item.notes['file']).stem}.mp4",)

    @property
    def protocols(self) -> tuple[JudgingProtocol, ...]:
        sampling = FrameSampling("every fifth frame, at most 20 of each clip", one_frame_in_five, side=426)
        return (
            JudgingProtocol(
                name="ive",
                style_of="IVEBench's two judged metrics",
                presentation=SourceThenEdit(sampling),
                rubrics=lambda item: IVE,
                replies=ReplySettings(temperature=0.0, max_tokens=512),
                derive=dict,
            ),
        )

    @property
    def aggregation(self) -> Aggregation:
        return Aggregation(
            headline="instruction_satisfaction",
            overall=ive_overall,
            group=lambda item: item.notes.get("subset", "all"),
        )

    def file_scores(self, values: Scores) -> Scores:
        """-1 means none."""
        return {name: value for name, value in values.items() if value > -1}


def one_frame_in_five(frames: int, fps: float) -> list[int]:
    """Every fifth frame, at most twenty, evenly spread: 5 a second of clips written at 25."""
    picked = list(range(0, frames, 5))
    return picked if len(picked) <= 20 else evenly_spaced(frames, 20)


def ive_dimensions(means: Mapping[str, Number]) -> dict[str, Number]:
    """The dimensions all of whose columns are there, and the total if all three are."""
    out: dict[str, Number] = {}
    for dimension, weights in IVE_DIMENSIONS.items():
        if weights.keys() <= means.keys():
            columns = [weight * ive_normal(name, means[name]) for name, weight in weights.items()]
            out[dimension] = sum(columns[1:], columns[0]) / sum(weights.values())
    if len(out) == len(IVE_DIMENSIONS):
        out["total"] = mean_of(list(out.values()))
    return out


def ive_normal(name: str, value: Number) -> Number:
    if name in ("instruction_satisfaction", "content_fidelity"):
        return (value - 1) / 4
    return (value + 0.05) / 0.15 if name == "vtss" else value


def ive_overall(means: Means[Number]) -> dict[str, Number]:
    return {f"{group} {name}": value for group in means for name, value in ive_dimensions(means[group]).items()}


IVE = (
    ScoringRubric(
        "ive-instruction",
        "The first video is the original, the second its edit by this instruction: {instruction}\n"
        "How near is the second video to what carrying out the instruction on the first should give? "
        "1: it has nothing to do with it. 2: little of it. 3: somewhat. 4: mostly. 5: perfectly.\n"
        "Answer with the mark in square brackets and then a short explanation, as in: [3] The colour is right, but ...",
        (Mark("instruction_satisfaction", "instruction satisfaction", 1, 5),),
        read_bracket,
    ),
    ScoringRubric(
        "ive-content",
        "The first video is the original, the second its edit by this instruction: {instruction}\n"
        "Apart from what the instruction asks for, how much of the first video is kept in the second? "
        "1: a small part or none. 2: about half. 3: most. 4: nearly all. 5: all, to the detail.\n"
        "Answer with the mark in square brackets and then a short explanation, as in: [3] The street is kept, but ...",
        (Mark("content_fidelity", "content fidelity", 1, 5),),
        read_bracket,
    ),
)
