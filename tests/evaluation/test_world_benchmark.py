"""The world as a benchmark: a perfect editor and a lazy one, the controls, the table, files of others, real clips."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opensama.apps.cli import main as opensama
from opensama.evaluation.benchmarks.benchmark import System
from opensama.evaluation.benchmarks.registry import read_benchmark
from opensama.evaluation.report import standings
from opensama.evaluation.run import Benchmarked, evaluate_benchmark
from opensama.evaluation.world import WorldReport, draw_benchmark, list_clips
from opensama.evaluation.world.answer_key import to_float
from opensama.evaluation.world.clips import first_second
from opensama.evaluation.world.scores import squared_error
from opensama.media.video_io import write_video
from opensama.values import EditRequest, UserError, Video
from opensama.world import CONTROL_FAMILIES, EDIT_FAMILIES, STYLES, apply_style, sample_edit, to_uint8

SMALL: Any = {"frames": 5, "size": 64}
Edit = Callable[[EditRequest], Video]


def answers(*families: str, n: int = 2, size: int = 64) -> dict[str, np.ndarray]:
    """What is right, by what is asked."""
    samples = [sample_edit(f"0-{i}", "test", family, 5, size) for family in families for i in range(n)]
    return {sample.instruction: sample.target for sample in samples}


def evaluate(folder: Path, edit: Edit, **asked: Any) -> Benchmarked:
    draw_benchmark(folder / "drawn", **SMALL, **asked)
    return evaluate_benchmark(read_benchmark("world", folder / "drawn"), [System("mine", edit=edit)], folder)


def report(found: Benchmarked) -> dict[str, Any]:
    return WorldReport.read(found.results["systems"][0]).to_dict()


def test_a_perfect_editor(tmp_path: Path) -> None:
    families = ("replace", "style", "absent")
    right = answers(*families) | answers(*families, size=128)
    small = answers(*families)

    def edit(request: EditRequest) -> Video:
        frames = request.video.array()  # type: ignore[union-attr]
        known = small if frames.shape[1] == 64 else right
        return Video.from_frames(known[request.instruction], fps=16)

    found = evaluate(tmp_path, edit, n=2, families=families)
    figures = report(found)
    assert figures["overall"]["success"] == 1
    assert figures["overall"]["n"] == 4
    assert figures["overall"]["last_minus_first"]["mean"] == 0
    assert set(figures["families"]) == {"replace", "style"}
    assert figures["controls"]["absent"]["success"] == 1
    assert figures["controls"]["copy"]["success"] == 0
    assert figures["controls"]["reconstruction"]["success"] == 1
    (system,) = found.results["systems"]
    groups = system["summary"]["groups"]
    assert {name: group["scores"]["success"]["mean"] for name, group in groups.items()} == dict.fromkeys(families, 1)
    assert system["summary"]["overall"]["success"]["n"] == 4
    shown = {(cell.group, cell.system): cell for cell in standings(found.results) if cell.score == "success"}
    assert shown["over groups", "copy"].control
    assert shown["over groups", "copy"].mean == shown["replace", "black"].mean == 0
    assert shown["over groups", "mine"].rank == "", "one system alone has no rank"
    controls = {name: scores["success"]["mean"] for name, scores in system["summary"]["controls"].items()}
    assert controls == {"copy": 0, "black": 0, "shuffled": 0, "reconstruction": 1}


def test_a_lazy_editor_passes_only_where_nothing_is_asked(tmp_path: Path) -> None:
    found = evaluate(tmp_path, lambda request: request.video, n=1)  # type: ignore[arg-type, return-value]
    figures = json.loads(json.dumps(report(found)))
    assert set(figures["families"]) == set(EDIT_FAMILIES)
    assert figures["overall"]["success"] == 0
    assert set(figures["overall"]["taken_for"]) == {"undone", "source"}
    assert figures["controls"]["absent"]["success"] == 1
    assert figures["controls"]["swapped"]["success"] == 0
    assert figures["families"]["replace"]["kept_full_db"] == 99
    assert figures["families"]["style"]["kept_full_db"] is None
    assert len(found.results["systems"][0]["items"]) == len((*EDIT_FAMILIES, *CONTROL_FAMILIES))
    assert "last third minus first" in found.table()
    told = found.results["systems"][0]["items"][0]["replies"][0]["text"]
    assert "wrong; its thirds look most like" in told


def test_the_control_that_a_copy_passes_never_stands_alone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent"):
        draw_benchmark(tmp_path, n=1, families=("absent",))


def test_what_is_made_is_not_made_again_and_another_editor_makes_it_anew(tmp_path: Path) -> None:
    seen: list[str] = []

    def edit(request: EditRequest) -> Video:
        seen.append(request.instruction)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return request.video  # type: ignore[return-value]

    draw_benchmark(tmp_path / "drawn", n=3, families=("add", "remove"), **SMALL)
    for expected in (4, 4 + 3 + 1):  # the fourth was cut off; the fifth of a family is made at two sizes
        again = [System("mine", edit=edit, identity="one")]
        if expected == 4:
            with pytest.raises(KeyboardInterrupt):
                evaluate_benchmark(read_benchmark("world", tmp_path / "drawn"), again, tmp_path)
        else:
            found = evaluate_benchmark(read_benchmark("world", tmp_path / "drawn"), again, tmp_path)
    assert all(item["state"] == "scored" for item in found.results["systems"][0]["items"])
    count = len(seen)
    same = evaluate_benchmark(read_benchmark("world", tmp_path / "drawn"), again, tmp_path)
    assert len(seen) == count
    assert json.dumps(same.results) == json.dumps(found.results)
    evaluate_benchmark(
        read_benchmark("world", tmp_path / "drawn"), [System("mine", edit=edit, identity="two")], tmp_path
    )
    assert len(seen) == count + 8  # six, and the first of each family at twice the size


def test_files_of_another_system_are_marked_and_what_is_wrong_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command, from `--draw` to the report: somebody edits the drawn files, at another size and with holes."""
    out, theirs = tmp_path / "out", tmp_path / "theirs"
    asked = ["evaluate", "world", "--out", str(out), "-n", "3", "--families", "style,background"]
    assert opensama([*asked, "--draw"]) == 0
    data = read_benchmark("world", out / "drawn")
    items = data.items
    assert (len(items), data.faults) == (6, [])
    theirs.mkdir()
    for item in items:
        target = sample_edit(f"0-{item.notes['number']}", "test", item.task, 17, 128).target
        write_video(Video.from_frames(target.repeat(2, 1).repeat(2, 2), 16), theirs / f"{item.id}.mp4", quality=95)
    (theirs / "style-test-0-0.mp4").unlink()
    (theirs / "style-test-0-1.mp4").write_bytes(b"no video")
    short = sample_edit("0-2", "test", "style", 9, 128).target
    write_video(Video.from_frames(short, 16), theirs / "style-test-0-2.mp4", overwrite=True)
    (theirs / "background-test-0-0.mp4").rename(theirs / "background-0-0.mp4")
    capsys.readouterr()
    assert opensama([*asked, "--edits", str(theirs), "--metrics", "none"]) == 0
    said = capsys.readouterr().out
    (system,) = json.loads((out / "results.json").read_text())["systems"]
    items_by_id = {item["id"]: item for item in system["items"]}
    assert {name: item["state"] for name, item in items_by_id.items() if item["state"] == "scored"} == {
        "background-test-0-1": "scored",
        "background-test-0-2": "scored",
    }
    assert all(item["scores"]["success"] == 1 for item in items_by_id.values() if item["state"] == "scored")
    assert "9 frames, its source 17" in items_by_id["style-test-0-2"]["failure"]
    for reason in ("there is no style-test-0-0.mp4", "style-test-0-1: cannot be read", "did you mean background-test"):
        assert reason in said
    assert system["summary"]["counts"] == {"items": 6, "scored": 2, "failed": 0, "missing": 4}
    assert opensama(["evaluate", "report", str(out)]) == 0
    page = (out / "report.html").read_text()
    assert "reconstruction" in page
    assert "shuffled" in page


def test_squared_error_of_known_outputs() -> None:
    sample = sample_edit(5, "test", "recolor", **SMALL)
    half = ((sample.source.astype(int) + sample.target) // 2).astype(np.uint8)
    outputs = (sample.source, half, sample.target)
    ratios = [squared_error(sample.source, sample.target, output) for output in outputs]
    assert ratios == [pytest.approx(1), pytest.approx(0.25, abs=0.02), 0]


def test_styles_on_real_clips(tmp_path: Path) -> None:
    sample = sample_edit(1, "test", "style", frames=24, size=96)
    (tmp_path / "clips").mkdir()
    write_video(Video.from_frames(sample.source, fps=24), tmp_path / "clips" / "clip.mp4")
    assert [p.name for p in list_clips(tmp_path / "clips")] == ["clip.mp4"]
    clip = first_second(tmp_path / "clips" / "clip.mp4", **SMALL)
    assert clip.shape == (5, 64, 64, 3)

    def stylist(request: EditRequest) -> Video:
        style = max((s for s in STYLES if s in request.instruction), key=len, default="")
        frames = request.video.array()  # type: ignore[union-attr]
        return Video.from_frames(to_uint8(apply_style(style, to_float(frames))) if style else frames, fps=16)

    asked = {"n": 1, "families": ("style",), "clips": list_clips(tmp_path / "clips")}
    figures = report(evaluate(tmp_path, stylist, **asked))
    assert (figures["clips"]["n"], figures["clips"]["success"]) == (len(STYLES), 1)
    lazy = report(evaluate(tmp_path / "lazy", lambda request: request.video, **asked))  # type: ignore[arg-type, return-value]
    assert lazy["clips"]["success"] == 0


def test_a_folder_without_videos(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no video"):
        list_clips(tmp_path)
