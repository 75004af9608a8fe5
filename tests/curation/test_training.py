"""What curation writes is what training takes: from videos and edits to a model, by the commands that people type."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from opensama.apps.cli import main
from opensama.data.manifest import Record, iter_records
from opensama.media.video_io import write_video
from opensama.values import Video
from opensama.world import sample_edit
from tests.curation import shots
from tests.curation.server import Asked, ChatServer, pixel_judge
from tests.curation.telling import server_tells

CLIPS = Path(__file__).parents[2].parent / "shared" / "clips"
SEVERAL = ("clothes--", "football--")  # short clips with edits of three methods and of two
real = pytest.mark.skipif(not CLIPS.is_dir(), reason="the real clips (../shared/clips) are not here")


def train(recipe: str, manifest: Path, out: Path, **settings: int) -> int:
    """Trains on videos alone, as small as it goes unless `settings` say otherwise; the exit code."""
    small = {"area": 1536, "images": 0, "videos": 2, "video_batch": 2} | settings
    command = ["train", recipe, "--data", str(manifest), "--out", str(out), "--device", "cpu"]
    command += ["--set", f"optimizer.steps={small.pop('steps', 1)}"]
    return main([*command, *(part for name, value in small.items() for part in ("--set", f"data.{name}={value}"))])


def judge_and_teller(asked: Asked) -> str:
    """Marks for the filter's questions, words for those about two clips."""
    return pixel_judge(asked) if "<mark>" in asked.text else server_tells(asked)


def kept(folder: Path) -> list[Record]:
    return list(iter_records(folder / "manifest.parquet"))


def drawn_edits(folder: Path) -> Path:
    """Two right edits, and two in which nothing was done."""
    rows = []
    for number in range(2):
        sample = sample_edit(number, "train", "recolor", frames=9, size=(96, 128))
        for side in ("source", "target"):
            clip = Video.from_frames(getattr(sample, side), 16)
            write_video(clip, folder / f"{number}-{side}.mp4", quality=95, on_note=lambda note: None)
        row = {"source": f"{number}-source.mp4", "instruction": sample.instruction}
        rows += [row | {"target": f"{number}-{side}.mp4"} for side in ("target", "source")]
    path = folder / "edits.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_edits_that_the_filter_keeps_train(tmp_path: Path) -> None:
    edits = drawn_edits(tmp_path)
    with ChatServer(judge_and_teller) as server:
        ask = ["--vlm-url", server.url, "--turns", "1", "--video-thresholds", "2,6,6,6"]
        assert main(["curate", "filter", str(edits), "--out", str(tmp_path / "good"), *ask]) == 0
    names = [Path(record.target).name for record in kept(tmp_path / "good")]
    assert names == ["0-target.mp4", "1-target.mp4"]
    assert train("tiny-stage1", tmp_path / "good/manifest.parquet", tmp_path / "run") == 0
    assert (tmp_path / "run/model/model_index.json").is_file()


def test_pairs_of_clips_train(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    shots.write(raw / "a.mp4", [shots.shot(1, 20), shots.shot(5, 20)])
    with ChatServer(judge_and_teller) as server:
        rules = ["--frames", "9", "--min-side", "64", "--low-motion", "0", "--high-motion", "9"]
        ask = ["--vlm-url", server.url]
        assert main(["curate", "clips", str(raw), "--out", str(tmp_path / "pairs"), *rules, *ask]) == 0
    assert len(kept(tmp_path / "pairs")) == 2
    assert train("tiny-icve-pretrain", tmp_path / "pairs/manifest.parquet", tmp_path / "run") == 0
    assert (tmp_path / "run/model/model_index.json").is_file()


@pytest.mark.slow
@real
def test_published_edits_and_real_clips_train(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    rows = []
    for item in json.loads((CLIPS / "clips.json").read_text()):
        files = {method: CLIPS / said["file"] for method, said in item["files"].items()}
        source = files.pop("source")
        if not source.name.startswith(SEVERAL):  # methods' edits of one clip are ranked
            continue
        (raw / source.name).symlink_to(source)
        text = {"source": str(source), "instruction": item["instruction"], "task": item["task"]}
        rows += [text | {"target": str(path)} for path in files.values()]
    (tmp_path / "published.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with ChatServer(judge_and_teller) as server:
        curate = partial(_curate, tmp_path, server.url)
        assert curate("clips", "raw", "cut", "--frames", "17") == 0
        assert curate("filter", "published.jsonl", "good", "--turns", "1", "--frames", "4", "--side", "224") == 0
    best = {Path(record.target).name.partition("--")[2] for record in kept(tmp_path / "good")}
    assert 1 <= len(kept(tmp_path / "good")) < len(rows) / 2
    assert best == {"sama.mp4"}, "the others changed the size of the picture, and moved everything in it"
    assert len(kept(tmp_path / "cut")) >= 2
    assert (
        train("tiny-stage1", tmp_path / "good/manifest.parquet", tmp_path / "edits", steps=2, videos=1, video_batch=1)
        == 0
    )
    assert train("tiny-icve-pretrain", tmp_path / "cut/manifest.parquet", tmp_path / "clips", steps=2) == 0


def _curate(folder: Path, url: str, command: str, given: str, out: str, *options: str) -> int:
    return main(["curate", command, str(folder / given), "--out", str(folder / out), "--vlm-url", url, *options])
