"""EditVerseBench: three marks from 0 to 3 on three or four pairs of frames; an item is the mean of their sums."""

from __future__ import annotations

import re
from pathlib import Path

from opensama.evaluation.aggregation import Aggregation
from opensama.evaluation.benchmarks.benchmark import Benchmark
from opensama.evaluation.frames_shown import FrameByFrame, FrameSampling
from opensama.evaluation.items import BenchmarkItem, Fault
from opensama.evaluation.protocols import JudgingProtocol, ReplySettings
from opensama.evaluation.results import Scores
from opensama.evaluation.rubrics import Mark, ScoringRubric
from opensama.evaluation.tabular import locate_source, safe_id, tabular_rows


class EditVerseBench(Benchmark):
    """`test.json`: sources are looked for where it says and, beside results, as `ID/video1.mp4`."""

    name = "editverse"
    title = "EditVerseBench"
    not_edits = ("video1.mp4",)
    metric_columns = (
        "clip_temporal_consistency",
        "dino_temporal_consistency",
        "frame_text_alignment",
        "pick_score",
        "video_text_alignment",
        "editing_vlm_evaluation",
    )

    def read(self, folder: Path) -> tuple[list[BenchmarkItem], list[Fault]]:
        table = folder / "test.json"
        items: list[BenchmarkItem] = []
        faults: list[Fault] = []
        for number, row in enumerate(tabular_rows(table, ("<text>",))):
            name = safe_id(row.get("key") or number)
            said = str(row.get("<video1>") or "")
            beside = folder / name / "video1.mp4"
            source = beside if beside.is_file() else locate_source(folder, said, name, faults)
            text = re.sub(r"\s*<video1>\s*", " ", str(row["<text>"] or "")).strip()
            kept = ("direction", "source_prompt", "target_prompt")
            notes = {key: str(row[key]) for key in kept if row.get(key)}
            items.append(BenchmarkItem(name, str(row.get("type") or ""), text, source, notes=notes))
        return items, faults

    def edit_names(self, item: BenchmarkItem) -> tuple[str, ...]:
        return (f"{item.id}/generate.mp4",)

    def file_scores(self, values: Scores) -> Scores:
        """The temporal metrics are published times 100."""
        return {name: 100 * x if "temporal" in name and x <= 1 else x for name, x in values.items()}

    @property
    def protocols(self) -> tuple[JudgingProtocol, ...]:
        return (
            JudgingProtocol(
                name="editverse",
                style_of="EditVerseBench's judged metric",
                presentation=FrameByFrame(
                    FrameSampling("every (frames // 3)-th pair of the shorter clip's", third_frames)
                ),
                rubrics=lambda item: (EDITVERSE,),
                replies=ReplySettings(tries=5, temperature=0.0, max_tokens=1024),
                derive=lambda marks: {**marks, "total": sum(marks.values())},
            ),
        )

    @property
    def aggregation(self) -> Aggregation:
        return Aggregation(headline="total", group=lambda item: "all")


def third_frames(frames: int, fps: float) -> list[int]:
    """Every (frames // 3)-th: three frames, or four where their number does not divide by three."""
    return list(range(0, frames, max(1, frames // 3)))


EDITVERSE = ScoringRubric(
    "editverse",
    "The first picture is a frame before an edit, the second the same frame after it. The instruction: {instruction}\n"
    "Give three whole numbers from 0 (failed) over 1 (poor) and 2 (good) to 3 (perfect):\n"
    "- prompt following: is what was asked for done?\n- edit quality: is the edit clean, without artefacts?\n"
    "- background consistency: is what should stay the same?\n"
    'Answer with one JSON object: {"prompt following": <n>, "edit quality": <n>, "background consistency": <n>, '
    '"reason": "<one sentence>"}',
    (
        Mark("following", "prompt following", 0, 3, r"prompt.follow|following"),
        Mark("quality", "edit quality", 0, 3, r"edit.quality"),
        Mark("background", "background consistency", 0, 3, r"background"),
    ),
)
