"""The whole way with the embedded models: a file with sound and an instruction in, an edited file out, by the CLI."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from opensama.apps.cli import main
from opensama.media.video_io import read_video, write_video
from opensama.values import Video
from opensama.world import sample_edit
from tests import footage
from tests.media.making import add_sound, hear, probe


def keeps_everything_but_the_pictures(source: Path, edited: Path) -> None:
    before, after = probe(source), probe(edited)
    for what in ("stamps", "end", "size", "color", "file_seconds"):
        assert before[what] == after[what], what
    assert hear(source)[0] == hear(edited)[0]
    assert np.array_equal(hear(source)[1], hear(edited)[1])


def test_footage_with_sound_is_edited_and_keeps_time_size_and_sound(tmp_path):
    source = footage.record(tmp_path / "day.mp4", footage.shot(2, 17))
    assert main(["edit", str(source), "Turn the video into night."]) == 0
    edited = tmp_path / "day-edited.mp4"
    keeps_everything_but_the_pictures(source, edited)
    light = [np.mean([f.mean() for f in read_video(path).frames(0, 5)]) for path in (source, edited)]
    assert light[1] < 0.6 * light[0]


@pytest.mark.parametrize("model", ["tiny", "tiny-icve"])
def test_a_drawn_clip_given_sound_is_edited_right(tmp_path, model):
    sample = sample_edit(42, "test", "style", frames=17, size=(144, 192))
    write_video(Video.from_frames(sample.source, 16), tmp_path / "silent.mp4")
    source = add_sound(tmp_path / "silent.mp4", tmp_path / "car.mp4")
    options = ["-o", str(tmp_path / "out.mp4"), "--compare", "--model", model]
    assert main(["edit", str(source), sample.instruction, *options]) == 0
    keeps_everything_but_the_pictures(source, tmp_path / "out.mp4")
    edited = np.stack(list(read_video(tmp_path / "out.mp4").frames())).astype(float)
    wrong, own = (((clip - sample.target) ** 2)[sample.mask].mean() for clip in (edited, sample.source.astype(float)))
    assert wrong < 0.5 * own
    side = read_video(tmp_path / "out-compare.mp4")
    assert side.frame_count == 17
    assert side.width > 2 * 192 - 2
