"""The run over families: a perfect editor and a lazy one, the controls, the table, and real clips."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from opensama.evaluation.world import evaluate_clips, evaluate_world, list_clips
from opensama.evaluation.world.clips import first_second
from opensama.evaluation.world.scores import squared_error
from opensama.media.video_io import write_video
from opensama.values import EditRequest, UserError, Video
from opensama.world import CONTROLS, FAMILIES, STYLES, apply_style, sample_edit, to_uint8

SMALL = {"frames": 5, "size": 64}


def same(frames):
    return frames


def test_a_perfect_editor():
    families = ("replace", "style", "absent")
    answers = {}
    for family in families:
        for i in range(2):
            sample = sample_edit(f"0-{i}", "test", family, **SMALL)
            answers[sample.instruction] = sample.target
    report = evaluate_world(
        lambda request: Video.from_frames(answers[request.instruction], fps=16),
        same, n=2, families=families, full_every=0, **SMALL,
    ).to_dict()  # fmt: skip
    assert report["overall"]["success"] == 1
    assert report["overall"]["n"] == 4
    assert report["overall"]["last_minus_first"]["mean"] == 0
    assert set(report["families"]) == {"replace", "style"}
    assert report["controls"]["absent"]["success"] == 1
    assert report["controls"]["copy"]["success"] == 0
    assert report["controls"]["reconstruction"]["success"] == 1


def test_a_lazy_editor_passes_only_where_nothing_is_asked():
    seen = []
    report = evaluate_world(
        lambda request: request.video, same, n=1, full_every=1, keep=lambda *pair: seen.append(pair),
        progress=lambda done, total: seen.append((done, total)), **SMALL,
    )  # fmt: skip
    found = json.loads(json.dumps(report.to_dict()))
    assert set(found["families"]) == set(FAMILIES)
    assert found["overall"]["success"] == 0
    assert set(found["overall"]["taken_for"]) == {"undone", "source"}
    assert found["controls"]["absent"]["success"] == 1
    assert found["controls"]["swapped"]["success"] == 0
    assert found["families"]["replace"]["kept_full_db"] == 99
    assert found["families"]["style"]["kept_full_db"] is None
    assert len(seen) == 2 * len((*FAMILIES, *CONTROLS))
    assert "last third minus first" in report.table()


def test_the_control_that_a_copy_passes_never_stands_alone():
    with pytest.raises(UserError, match="absent"):
        evaluate_world(lambda request: request.video, same, n=1, families=("absent",), **SMALL)


def test_squared_error_of_known_outputs():
    sample = sample_edit(5, "test", "recolor", **SMALL)
    half = ((sample.source.astype(int) + sample.target) // 2).astype(np.uint8)
    outputs = (sample.source, half, sample.target)
    ratios = [squared_error(sample.source, sample.target, output) for output in outputs]
    assert ratios == [pytest.approx(1), pytest.approx(0.25, abs=0.02), 0]


def test_styles_on_real_clips(tmp_path: Path):
    sample = sample_edit(1, "test", "style", frames=24, size=96)
    write_video(Video.from_frames(sample.source, fps=24), tmp_path / "clip.mp4")
    assert [p.name for p in list_clips(tmp_path)] == ["clip.mp4"]
    clip = first_second(tmp_path / "clip.mp4", **SMALL)
    assert clip.shape == (5, 64, 64, 3)

    def stylist(request: EditRequest) -> Video:
        style = max((s for s in STYLES if s in request.instruction), key=len, default="")
        frames = np.stack(list(request.video.frames()))
        tensor = to_uint8(apply_style(style, _float(frames))) if style else frames
        return Video.from_frames(tensor, fps=16)

    rows = evaluate_clips(stylist, same, tmp_path, **SMALL)
    assert len(rows) == len(STYLES)
    assert all(r.success for r in rows)
    lazy = evaluate_clips(lambda request: request.video, same, tmp_path, limit=3, **SMALL)
    assert [r.success for r in lazy] == [False] * 3


def test_a_folder_without_videos(tmp_path: Path):
    with pytest.raises(UserError, match="no video"):
        list_clips(tmp_path)


def _float(frames: np.ndarray):
    from opensama.evaluation.world.key import to_float

    return to_float(frames)
