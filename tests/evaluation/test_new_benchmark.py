"""A benchmark that nobody has heard of is one class in one file: it is read, judged, averaged, printed and shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from opensama.apps.cli import main as opensama
from opensama.evaluation.aggregation import Aggregation, plain_overall
from opensama.evaluation.benchmarks.benchmark import Benchmark, System, read_benchmark_items
from opensama.evaluation.frames_shown import FrameByFrame, FrameSampling
from opensama.evaluation.items import BenchmarkItem, Fault
from opensama.evaluation.judge import VlmJudge
from opensama.evaluation.protocols import JudgingProtocol
from opensama.evaluation.rubrics import Mark, ScoringRubric, read_bracket
from opensama.evaluation.run import evaluate_benchmark
from opensama.evaluation.tabular import locate_source
from opensama.vlm import Question, ScriptedVlm
from tests.evaluation.benchmarks import clip, darker, save


class NightBench(Benchmark):
    """Clips that are to become night: `clips.txt` names one a line, behind the place where it was filmed."""

    name = "night"
    title = "NightBench"

    def read(self, folder: Path) -> tuple[list[BenchmarkItem], list[Fault]]:
        faults: list[Fault] = []
        items = []
        for line in (folder / "clips.txt").read_text().splitlines():
            place, _, file = line.partition(" ")
            source = locate_source(folder, file, file, faults)
            items.append(BenchmarkItem(Path(file).stem, place, "Make it night.", source))
        return items, faults

    @property
    def protocols(self) -> tuple[JudgingProtocol, ...]:
        rubric = ScoringRubric("night", "How dark is the second?", (Mark("dark", "dark", 0, 9),), read_bracket)
        first = FrameByFrame(FrameSampling("the first frame", lambda frames, fps: [0]))
        return (JudgingProtocol("night", "NightBench", first, lambda item: (rubric,), derive=dict),)

    @property
    def aggregation(self) -> Aggregation:
        return Aggregation(headline="dark", overall=plain_overall)


def test_a_benchmark_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index, share in enumerate((0.2, 0.4, 0.9)):
        save(clip(index), tmp_path / "data" / f"{index}.mp4")
        save(darker(clip(index), share), tmp_path / "edits" / f"{index}_edited.mp4")
    (tmp_path / "data" / "clips.txt").write_text("street 0.mp4\nstreet 1.mp4\nbeach 2.mp4\nbeach 3.mp4\n")

    def darkness(question: Question) -> str:
        before, after = question.images
        return f"[{10 * (1 - after.mean() / before.mean()):.0f}] by its light."

    bench = NightBench()
    judge = VlmJudge(ScriptedVlm(darkness), bench.protocol())
    data = read_benchmark_items(bench, tmp_path / "data")
    found = evaluate_benchmark(data, [System("s", edits=tmp_path / "edits")], tmp_path / "out", judge=judge)
    (system,) = found.results["systems"]
    groups = {name: group["scores"]["dark"]["mean"] for name, group in system["summary"]["groups"].items()}
    assert groups == {"street": 3, "beach": 9}
    assert system["summary"]["overall"]["dark"]["mean"] == 6
    assert [(fault["where"], fault["reason"]) for fault in found.results["faults"]] == [
        ("3.mp4", "its source is not there: 3.mp4")
    ]
    assert "NightBench, judged by scripted" in found.table()
    assert "Items whose files are missing or broken are left out." in found.table()
    assert opensama(["evaluate", "report", str(tmp_path / "out")]) == 0
    assert "NightBench" in (tmp_path / "out" / "report.html").read_text()
    capsys.readouterr()
