"""On Ray a batch, a service and curation give what they give without it. One cluster for all: it is slow to begin."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections import Counter
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from tempfile import gettempdir

import numpy as np
import pytest
from PIL import Image

from opensama.apps.cli import main
from opensama.apps.jobs.remote import EditActor
from opensama.apps.jobs.store import JobStore
from opensama.curation.filters import filter_manifest
from opensama.curation.graph import run_graph
from opensama.data.manifest import iter_records
from opensama.media.video_io import write_video
from opensama.pipeline.batch import by_ray, share_of
from opensama.values import Video
from opensama.vlm import open_vlm
from tests.apps.serving import serving, settings_for
from tests.apps.test_batch import until
from tests.cluster import cluster
from tests.curation import steps
from tests.curation.server import ChatServer
from tests.curation.test_filters import asking, pairs
from tests.curation.test_graph import counts
from tests.pipeline.conftest import moving_picture
from tests.pipeline.dying import DyingWorker
from tests.ranks import from_server

__all__ = ["cluster", "pairs"]
RED, BOTH = "Make the ball red.", "Make the ball red and make the square blue."
pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("cluster"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray", "ignore::FutureWarning:ray"),
]


def test_a_batch_on_ray_is_the_batch_of_one_process(clip: Path, folder: Path) -> None:
    """Files byte for byte, records but for the seconds, manifest; what is done is not made again."""
    films = clip.parent
    write_video(Video.from_frames(moving_picture()[:5], 8), films / "short.mp4")
    (films / "broken.mp4").write_bytes(b"no video at all, whatever it is called")
    rows = [
        {"video": "clip.mp4", "instruction": RED, "out": "a.mp4", "seed": 3, "frames": "2:7"},
        {"video": "clip.mp4", "instruction": RED, "compare": True},
        {"video": "short.mp4", "instruction": RED, "box": "0,0,500,9"},
        {"video": "broken.mp4", "instruction": RED},
    ]
    (films / "jobs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["batch", str(films / "jobs.jsonl"), "--model", str(folder), "--steps", "2", "--anyway", "--out"]
    here, there = films / "here", films / "there"
    assert main([*command, str(here)]) == 2
    for _ in range(2):
        assert main([*command, str(there), "--ray"]) == 2
    names = {path.name for path in here.iterdir() if path.is_file()}
    assert names == {path.name for path in there.iterdir() if path.is_file()}
    assert {"a.mp4", "clip-edited.mp4", "clip-edited-compare.mp4", "manifest.parquet"} <= names
    assert all(
        (here / name).read_bytes() == (there / name).read_bytes() for name in names - {"results.jsonl", "report.json"}
    )
    assert untimed(there / "results.jsonl") == untimed(here / "results.jsonl")
    ends = [json.loads(line)["outcome"] for line in (there / "state" / "edits.jsonl").read_text().splitlines()]
    assert Counter(ends) == {"begun": 3, "done": 2, "failed": 2}
    assert {path.name for path in (there / "state").iterdir()} == {"edits.jsonl", "lock", "table.json"}


def untimed(results: Path) -> list[dict[str, object]]:
    return [{**json.loads(line), "seconds": 0} for line in results.read_text().splitlines()]


def test_an_actor_that_dies_loses_only_its_item(tmp_path: Path) -> None:
    """Which is tried again by another, and given up in the end; the others are each made once."""
    (tmp_path / "tries").mkdir()
    worker = partial(DyingWorker, tmp_path / "tries")
    share = share_of(None, on_gpu=True)
    assert dict(by_ray(worker, [0, 1, 2, 4], share, tmp_path, tries=2)) == {0: 0, 1: None, 2: 4, 3: 16}
    assert Counter(path.name[0] for path in (tmp_path / "tries").iterdir()) == {"0": 1, "1": 2, "2": 1, "4": 1}


def test_a_service_on_ray(clip: Path, folder: Path, tmp_path: Path) -> None:
    """An edit is the one of the command; one that is deleted ends at its next step, and leaves the actor to others; one
    whose actor is killed waits for the next, which removes what was left of it: no file stays on a node."""
    out, source = tmp_path / "alone.mp4", clip.rename(clip.with_name("source.mp4"))  # as the service calls it
    Image.fromarray(np.pad(np.full((20, 20), 255, np.uint8), ((0, 28), (0, 44)))).save(mask := tmp_path / "mask-2.png")
    asked = {"preserve": "false", "size": 64}
    options = ["--steps", "6", "--no-preserve", "--size", "64", "--split", "rules", "--region", f"2:{mask}", "--anyway"]
    assert main(["edit", str(source), BOTH, "--out", str(out), "--model", str(folder), *options]) == 0
    with serving(settings_for(tmp_path / "service", folder), "alice", share=share_of(1, on_gpu=True)) as service:
        two = asked | {"prompt": BOTH, "steps": 6, "split": "rules", "anyway": "true"}
        files = {"video": source.read_bytes(), "mask-2": mask.read_bytes()}
        job = service.of("alice").post("/v1/videos/edits", data=two, files=files).raise_for_status().json()["id"]
        long = service.edit(source.read_bytes(), **asked | {"steps": 200})["id"]
        assert service.finished(job)["status"] == "completed"
        assert service.content(job) == out.read_bytes()
        until(lambda: service.job(long)["progress"] > 8, pause=0.2)
        service.of("alice").delete(f"/v1/videos/{long}").raise_for_status()
        killed = service.edit(source.read_bytes(), **asked | {"steps": 200})["id"]
        until(lambda: service.job(killed)["progress"] > 8, pause=0.2)
        assert not service.engine.store.files(long).exists()
        (pid,) = service.engine.workers.pids
        (mine,) = Path(gettempdir()).glob(f"opensama-worker-{pid}-*")
        assert [path.name for path in mine.glob("job/source*")] == ["source.mp4"]
        service.kill_worker()
        until(lambda: service.job(killed)["status"] == "queued", pause=0.2)
        until(lambda: not mine.exists() and service.engine.workers.pids not in ([], [pid]), pause=0.2)
        (pid,) = service.engine.workers.pids
    assert not [*Path(gettempdir()).glob(f"opensama-worker-{pid}-*")]
    with closing(JobStore(tmp_path / "service")) as store:
        assert (waiting := store.get("alice", killed)) is not None
        assert waiting.status in ("queued", "in_progress")


def test_an_actor_that_ends_leaves_no_file_that_comes_meanwhile(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    actor = EditActor(settings_for(tmp_path, folder), str(Path.cwd()))
    place, remove = actor.folder.parent, os.rmdir
    actor.put("source.mp4", b"a film")
    came = []

    def one_more(path: str, **how: int) -> None:
        with suppress(FileNotFoundError):
            came.append("before the folder is gone")
            actor.put("late.mp4", b"a film")
        remove(path, **how)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", one_more)
        actor.close()
    assert came
    assert not [*place.parent.glob(f"{place.name}*")]


def test_an_actor_removes_what_killed_ones_left_and_nothing_of_others(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole folders, emptied ones, and ones of which only a part is gone."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    settings = settings_for(tmp_path, folder)
    alive = EditActor(settings, str(Path.cwd()))
    alive.put("source.mp4", b"a film")
    for name in ("opensama-worker-7-a/job", "opensama-worker-8-b", "opensama-worker-9-c-gone/job"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "opensama-worker-7-a" / "job" / "source.mp4").write_bytes(b"a film")
    second = EditActor(settings, str(Path.cwd()))
    places = {alive.folder.parent, second.folder.parent}
    assert {*tmp_path.glob("opensama-worker-*")} == places
    assert alive.get("source.mp4", 0) == b"a film"
    alive.close()
    second.close()
    assert not [*tmp_path.glob("opensama-worker-*")]


# --- curation


def run_marking(out: Path, count: int, environment: dict[str, str]) -> None:
    os.environ |= environment
    run_graph(steps.marking(out, seconds=0.3), steps.items(count), out, runner="ray")


def marks(out: Path) -> Counter[str]:
    """How often each part of an item was done."""
    return Counter(path.stem for path in (out / "marks").iterdir())


def marks_at_rest(out: Path) -> Counter[str]:
    """The same, when a worker of a run that was killed does nothing any more."""
    found, deadline = marks(out), time.monotonic() + 1.0
    while time.monotonic() < deadline:
        time.sleep(0.05)
        if (now := marks(out)) != found:
            found, deadline = now, time.monotonic() + 1.0
    return found


def test_a_curation_killed_on_ray_does_what_is_missing(cluster: str, tmp_path: Path) -> None:
    """What was done not again; in the end all is as one process makes it."""
    out, whole, count = tmp_path / "out", tmp_path / "whole", 16
    for folder in (out, whole):
        (folder / "marks").mkdir(parents=True)
    here = run_graph(steps.marking(whole), steps.items(count), whole)

    def done() -> list[str]:
        lines = [line for path in (out / "state").glob("*.jsonl") for line in path.read_text().splitlines(True)]
        return [record["id"] for line in lines if line.endswith("\n") for record in json.loads(line)["records"]]

    process = from_server(run_marking, out, count, os.environ | {"RAY_ADDRESS": cluster})
    deadline = time.monotonic() + 300
    while len(done()) < 4:
        assert process.is_alive()
        assert time.monotonic() < deadline, "the run did not begin"
        time.sleep(0.02)
    process.kill()
    process.join()
    before, once = marks_at_rest(out), done()
    assert {before[name] for name in once} == {1}
    assert len(once) < sum(marks(whole).values())  # it was killed in the middle
    there = run_graph(steps.marking(out, seconds=0.3), steps.items(count), out, runner="ray")
    after = marks(out)
    assert after.keys() == marks(whole).keys()  # all of them,
    assert {after[name] for name in once} == {1}  # what was done not again,
    assert all(after[name] - before[name] == 1 for name in after.keys() - set(once))  # and the rest just once
    for name in ("manifest.parquet", "failed.jsonl"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    assert counts(there) == counts(here)
    assert sum(stage.failed for stage in there.stages) == 1
    assert {int(state.name.split("-")[0]) for state in (out / "states").iterdir()} - {os.getpid()}, "done elsewhere"


def test_workers_of_a_filter_spend_one_budget(pairs: Path, tmp_path: Path) -> None:
    """What they leave is done here, and it is as if all were done here."""
    cache = tmp_path / "answers"
    with ChatServer() as server:
        # Nine questions a pair: with 41, one of five is whole however the workers share them, and four at most.
        vlm = partial(open_vlm, server.url, cache=cache, budget=41, budget_id="one run")
        report = filter_manifest(pairs, tmp_path / "ray", vlm, runner="ray")
        assert "budget of 41" in report.stopped
        assert 1 <= report.kept + report.refused <= 4
        assert len(server.questions) == 41
        report = filter_manifest(pairs, tmp_path / "ray", asking(server, cache))
        assert (report.stopped, report.left, len(server.questions)) == ("", 0, 45)
        filter_manifest(pairs, tmp_path / "here", asking(server))
    for name in ("manifest.parquet", "refused.parquet"):
        assert list(iter_records(tmp_path / "ray" / name)) == list(iter_records(tmp_path / "here" / name))
