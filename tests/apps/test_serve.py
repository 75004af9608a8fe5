"""`opensama serve`: the OpenAI client and raw requests against the running service; what is killed, lost or refused."""

from __future__ import annotations

import base64
import io
import json
import re
import socket
import time
import warnings
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import httpx2 as httpx
import numpy as np
import pytest
from PIL import Image

from benchmarks.fuzz import Fuzzer
from opensama.apps.cli import main
from opensama.apps.edit_settings import EditSettings
from opensama.apps.jobs import engine as engine_module
from opensama.apps.jobs.engine import JobEngine
from opensama.apps.jobs.limits import JobLimits, Owner, Refusal
from opensama.apps.jobs.store import OVERTAKEN, JobStore, NewJob, VideoJob
from opensama.apps.jobs.words import NO_SETTINGS, SETTINGS, read_wish
from opensama.apps.jobs.worker import WorkerSettings
from opensama.media.video_io import read_video
from opensama.values import UserError
from tests.apps import bad_requests
from tests.apps.serving import Service, serving, settings_for, wait_for
from tests.ranks import command_from_server, from_server

PAGE = Path(__file__).parents[2] / "docs" / "bad-requests.md"
RED, BLUE = "Make the ball red.", "Make the ball blue."


@pytest.fixture(scope="module")
def service(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    settings = settings_for(tmp_path_factory.mktemp("service"), folder, **bad_requests.LIMITS)
    with serving(settings, "alice", "bob", "carol queue=1", "dave rate=2") as running:
        yield running


@pytest.fixture(scope="module")
def video(clip_file: Path) -> bytes:
    return clip_file.read_bytes()


def as_address(data: bytes) -> str:
    return "data:application/octet-stream;base64," + base64.b64encode(data).decode()


def test_the_openai_client(service, video, clip, folder):
    """All that it can ask, with settings beyond its own; the result is the file that the command writes."""
    import openai

    out, clip = clip.with_name("alone.mp4"), clip.rename(clip.with_name("source.mp4"))  # as the service calls it
    chosen = ["--seed", "3", "--steps", "2", "--box", "8,8,40,30", "--no-preserve", "--anyway"]
    assert main(["edit", str(clip), RED, "--out", str(out), "--model", str(folder), *chosen]) == 0
    extra = {"seed": 3, "num_inference_steps": 2, "box": [8, 8, 40, 30], "preserve": False, "anyway": True}
    with warnings.catch_warnings(), openai.OpenAI(base_url=f"{service.url}/v1", api_key="key-alice") as client:
        warnings.simplefilter("ignore", DeprecationWarning)
        videos = client.videos
        made = videos.edit(video=("../../evil.mp4", video, "video/mp4"), prompt=RED, extra_body=extra)
        assert (made.object, made.status, made.size, made.seconds) == ("video", "queued", "64x48", "1.125")
        done = videos.poll(made.id)
        assert (done.status, done.progress, done.error) == ("completed", 100, None)
        assert done.expires_at - done.completed_at == 24 * 3600
        assert videos.download_content(made.id).read() == out.read_bytes()
        created = videos.create_and_poll(
            prompt=BLUE, input_reference=("a.mp4", video), seconds="4", size="720x1280", extra_body={"anyway": True}
        )
        assert created.size == "64x48"
        assert len(created.notes) >= 2
        assert "seconds was left out" in created.notes[0]
        again = videos.poll(videos.remix(made.id, prompt=BLUE, extra_body={"anyway": True}).id)
        assert again.remixed_from_video_id == made.id
        assert [one.id for one in videos.list(limit=2)][:3] == [again.id, created.id, made.id]  # two pages
        assert [one.id for one in client.models.list()] == ["model"]
        assert videos.delete(made.id).deleted
        with pytest.raises(openai.NotFoundError, match="There is no video"):
            videos.retrieve(made.id)
        assert videos.download_content(again.id).read()  # its source was its own


def test_raw_requests(service, video, folder, tmp_path):
    """JSON and forms mean the same; what a job is shown by; events; several outputs."""
    alice, short = service.of("alice"), {"prompt": RED, "anyway": True, "steps": 1}
    forms = [
        {"prompt": RED, "anyway": "1", "steps": "1", "extra_body": '{"seed": 5, "box": [8, 8, 40, 30]}'},
        {"prompt": RED, "anyway": "1", "steps": "1", "seed": "5", "box[]": ["8", "8", "40", "30"]},
    ]
    said = [
        alice.post("/v1/videos/edits", data=forms[0], files={"video": video}),
        alice.post("/v1/videos", data=forms[1], files={"video_reference": video}),
        alice.post("/v1/videos", json=short | {"seed": 5, "box": "8,8,40,30", "video": {"url": as_address(video)}}),
        alice.post("/v1/videos", data=forms[1] | {"video_reference": json.dumps({"video_url": as_address(video)})}),
        alice.post("/v1/videos", data=forms[1] | {"input_reference[url]": as_address(video)}),
    ]
    ids = [answer.raise_for_status().json()["id"] for answer in said]
    assert int(said[0].headers["openai-poll-after-ms"]) > 0
    kept = [service.engine.find(Owner("alice"), one) for one in ids]
    wanted = kept[0].asked["settings"]
    assert (wanted["seed"], wanted["box"], wanted["steps"]) == (5, "8,8,40,30", 1)
    assert all((one.asked["settings"], one.asked["source"]) == (wanted, "source.mp4") for one in kept)
    for one in ids[1:]:
        assert (service.engine.store.files(one) / "source.mp4").read_bytes() == video
        alice.delete(f"/v1/videos/{one}").raise_for_status()
    assert service.finished(ids[0])["status"] == "completed"
    assert service.content(ids[0]) != video

    with_mask = short | {"video": {"id": ids[0]}, "n": 2, "seed": 7, "span": "0:4", "steps": 1, "preserve": False}
    mask = io.BytesIO()
    Image.fromarray(np.pad(np.full((20, 20), 255, np.uint8), ((0, 28), (0, 44)))).save(mask, "PNG")
    job = alice.post("/v1/videos/edits", json=with_mask | {"mask": as_address(mask.getvalue())}).json()
    lines = list(service.lines(job["id"]))
    events = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    told = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert set(events) <= {"queued", "in_progress", "completed"}
    assert events[-1] == told[-1]["status"] == "completed"
    progress = [one["progress"] for one in told]
    assert progress == sorted(progress)
    assert max(progress[:-1]) <= 99
    done = alice.get(f"/v1/videos/{job['id']}").json()
    assert done["remixed_from_video_id"] == ids[0]
    assert [one["seed"] for one in done["outputs"]] == [7, 8]
    outputs = [service.content(job["id"], variant="video"), service.content(job["id"], variant="1")]
    assert outputs[0] != outputs[1]
    (tmp_path / "first.mp4").write_bytes(outputs[0])
    before = tmp_path / "before.mp4"
    before.write_bytes(service.content(ids[0]))
    off = np.abs(read_video(tmp_path / "first.mp4").array().astype(int) - read_video(before).array()).mean(-1)
    assert off[:4, :16, :16].mean() > 4 * off[:, 30:, 30:].mean()  # where the mask is, in the span
    assert off[:4, :16, :16].mean() > 4 * off[4:].mean()

    sizes = {}
    for kind in ("thumbnail", "spritesheet"):
        with Image.open(io.BytesIO(service.content(job["id"], variant=kind, index=1))) as picture:
            sizes[kind] = picture.format, picture.size
    assert sizes == {"thumbnail": ("WEBP", (64, 48)), "spritesheet": ("JPEG", (3 * 64 + 8, 3 * 48 + 8))}
    (tmp_path / "pair.mp4").write_bytes(service.content(job["id"], variant="compare"))
    pair = read_video(tmp_path / "pair.mp4")
    assert (pair.width, pair.height, pair.frame_count) == (128, 48, 9)
    part = alice.get(f"/v1/videos/{job['id']}/content", headers={"Range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, b"ftyp")

    assert service.of("").get("/healthz").json() == {"status": "ok", "workers": 1}
    assert alice.get("/v1/models/model").json()["object"] == "model"
    figures = dict(re.findall(r"^(\S+) (\S+)$", alice.get("/metrics").text, re.MULTILINE))
    assert int(figures["opensama_completed_total"]) >= 2
    assert int(figures['opensama_jobs{status="queued"}']) == 0
    assert float(figures["opensama_edit_seconds_total"]) > 0
    described = alice.get("/openapi.json").json()["paths"]
    assert {"/v1/videos/edits", "/v1/videos/{video_id}/remix", "/v1/videos/{video_id}/events"} <= described.keys()


def test_a_key_makes_one_job_and_owners_are_apart(service, video):
    alice, bob = service.of("alice"), service.of("bob")
    asked = {"data": {"prompt": RED, "anyway": "true"}, "files": {"video": video}}
    once = {"headers": {"Idempotency-Key": "k1"}} | asked
    first = alice.post("/v1/videos/edits", **once).json()
    assert alice.post("/v1/videos/edits", **once).json()["id"] == first["id"]
    other = alice.post("/v1/videos/edits", **once | {"data": {"prompt": BLUE, "anyway": "true"}})
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_conflict")
    own = bob.post("/v1/videos/edits", **once).json()
    assert own["id"] != first["id"]
    service.finished(first["id"])
    for method, address in [
        ("GET", ""), ("GET", "/content"), ("GET", "/events"), ("DELETE", ""), ("POST", "/remix"),
    ]:  # fmt: skip
        answer = bob.request(method, f"/v1/videos/{first['id']}{address}", json={"prompt": BLUE})
        assert answer.status_code == 404, (method, address)
    stolen = bob.post("/v1/videos/edits", json={"prompt": RED, "video": {"id": first["id"]}})
    assert stolen.status_code == 404
    assert [one["id"] for one in bob.get("/v1/videos").json()["data"]] == [own["id"]]
    assert bob.get("/v1/videos", params={"after": first["id"]}).status_code == 404
    assert service.content(first["id"])


def test_what_cannot_be_done_is_one_sentence(service, video):
    """Each refusal has its status, its code and the sentence of the page; nothing of it stays, no path is told."""
    files, told = service.engine.settings.folder / "files", []
    kept = set(files.iterdir())
    for row, answer in bad_requests.answers(service, video):
        assert (answer.status_code, answer.json()["error"]["code"]) == (row.status, row.code), (row.what, answer.text)
        told.append((row, bad_requests.sentence_of(answer.text)))
        assert told[-1][1].endswith((".", "?", ")")), row.what
        assert str(service.engine.settings.folder) not in answer.text
        assert "access-control-allow-origin" not in answer.headers
    assert set(files.iterdir()) == kept
    assert PAGE.read_text() == bad_requests.page(told), "docs/bad-requests.md is stale: run `make docs`"


def test_damaged_files_and_odd_requests_are_answered(service):
    """A few of those that `benchmarks/fuzz.py` sends by the thousand."""
    sender = Fuzzer(service.url, seed=2, key="key-alice")
    files = service.engine.settings.folder / "files"
    kept = len(list(files.iterdir()))
    for number in range(20):
        sender.send(number)
    assert not sender.faults
    assert sender.counts["request"] >= 5
    assert sender.counts["past the demuxer"] > 0.3 * sender.counts["media"] > 3
    for video_id in {job["id"] for job in service.of("alice").get("/v1/videos").json()["data"][:1]}:
        service.of("alice").delete(f"/v1/videos/{video_id}")
    assert len(list(files.iterdir())) <= kept


def test_limits(service, video, monkeypatch):
    """Of a queue, a rate and the disk; a sender who goes away leaves nothing."""
    service.edit(video, "carol", steps="200")
    answer = service.edit(video, "carol", status=429)
    assert answer["error"]["code"] == "queue_full"
    dave = service.of("dave")
    late = [dave.get("/v1/models") for _ in range(3)][-1]
    assert (late.status_code, late.json()["error"]["code"]) == (429, "too_many_requests")
    assert int(late.headers["Retry-After"]) <= 31
    with monkeypatch.context() as patch:
        patch.setattr(service.engine, "limits", replace(service.engine.limits, free_disk=10**9))
        assert service.edit(video, status=507)["error"]["code"] == "disk_full"

    files = service.engine.settings.folder / "files"
    before = set(files.iterdir())
    with socket.create_connection(("127.0.0.1", int(service.url.rpartition(":")[2]))) as client:
        head = (
            "POST /v1/videos/edits HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer key-alice\r\n"
            "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 99999\r\n\r\n"
            '--b\r\nContent-Disposition: form-data; name="video"; filename="a.mp4"\r\n\r\n'
        )
        client.sendall(head.encode() + video[:500])
        arrived = wait_for(lambda: [place for place in files.iterdir() if place not in before and any(place.iterdir())])
    wait_for(lambda: not arrived[0].exists())
    assert set(files.iterdir()) <= before


def editing(service: Service, video_id: str, owner: str = "alice") -> dict:
    """The job when a step of it is done."""

    def begun():
        job = service.of(owner).get(f"/v1/videos/{video_id}").json()
        return job if job["stage"] == "Editing" or job["status"] == "completed" else None

    job = wait_for(begun)
    assert job["status"] == "in_progress"
    return job


def test_a_killed_worker_loses_nothing_and_a_deleted_job_stops(service, video):
    """The job that was running goes on at its step, to the same bytes; one that is deleted lets the next one begin."""
    whole = service.edit(video, steps="30", seed="4")
    waiting = service.edit(video, steps="1")
    expected = service.content(service.finished(whole["id"])["id"])
    job = service.edit(video, steps="30", seed="4")
    service.finished(waiting["id"])
    for _ in range(2):
        editing(service, job["id"])
        service.kill_worker()
        wait_for(lambda: service.of("alice").get(f"/v1/videos/{job['id']}").json()["status"] == "queued")
    done = service.finished(job["id"])
    assert (done["status"], done["error"]) == ("completed", None)
    assert service.content(job["id"]) == expected
    assert any(re.search(r"Going on .* after \d+ of 30 steps", note) for note in done["notes"])
    assert not list(service.engine.store.files(job["id"]).glob("*unfinished*"))

    long = service.edit(video, steps="30", n="4")
    editing(service, long["id"])
    after = service.edit(video, steps="1")
    place = service.engine.store.files(long["id"])
    assert place.exists()
    assert service.of("alice").delete(f"/v1/videos/{long['id']}").json()["deleted"]
    assert service.of("alice").get(f"/v1/videos/{long['id']}").status_code == 404
    wait_for(lambda: not place.exists(), 20)  # at its next step
    assert service.finished(after["id"])["status"] == "completed"


def open_engine(settings: WorkerSettings) -> None:
    """A service that is killed."""
    with JobEngine(settings, ["cpu"], "fork"):
        time.sleep(600)


def test_a_killed_service_goes_on_where_it_was(folder, video, tmp_path, monkeypatch):
    """Of a finished, a running and a waiting job the first is kept and the others are made; nothing is left about."""
    settings, owner = settings_for(tmp_path, folder), Owner("local")
    monkeypatch.setattr(engine_module, "_HANDOVER", 0)

    def states(store):
        return [job.status for job in store.page(owner.name, None, 9, descending=False)]

    with JobEngine(settings, [], "forkserver") as engine:
        for steps in ("1", "30", "1"):
            upload = engine.new_upload()
            upload.next_place("video").write_bytes(video)
            engine.submit(owner, upload, {"prompt": RED, "steps": steps, "anyway": True})
        assert states(engine.store) == ["queued"] * 3
        with pytest.raises(UserError, match="Another service works in"), JobEngine(settings, []):
            pass
    monkeypatch.undo()
    watching = JobStore(tmp_path)
    killed = from_server(open_engine, settings)
    try:
        wait_for(lambda: states(watching) == ["completed", "in_progress", "queued"], 60)
    finally:
        killed.kill()
        killed.join()
    first = watching.page(owner.name, None, 9, descending=False)[0]
    result = watching.files(first.id) / "result-0.mp4"
    made = result.stat().st_mtime_ns
    orphan = watching.new_folder()
    watching.close()
    with JobEngine(settings, ["cpu"], "forkserver") as engine:
        jobs = engine.store.page(owner.name, None, 9, descending=False)
        assert [engine.wait(owner, job.id, 60).status for job in jobs] == ["completed"] * 3
        assert result.stat().st_mtime_ns == made
        assert not engine.store.files(orphan).exists()
        assert engine.store.figures()["requeued"] == 1
        with pytest.raises(Refusal, match="has the outputs 0 to 0"):
            engine.result(jobs[0], 1)


# --- the queue without a worker


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    opened = JobStore(tmp_path)
    yield opened
    opened.close()


def add(store: JobStore, model: str = "a", shape: str = "1", owner: str = "me") -> VideoJob:
    asked = {"n": 1, "prompt": RED, "notes": [], "settings": {}}
    new = NewJob(store.new_folder(), model, shape, asked, {"notes": []}, "f")
    return store.add(new, Owner(owner, queue=99), JobLimits())[0]


def test_jobs_are_taken_by_model_and_shape_and_none_waits_for_ever(store):
    first, other = add(store, "b"), add(store, "a", "2")
    alike = [add(store, "a", "1") for _ in range(OVERTAKEN + 5)]
    taken = []
    while (job := store.claim(0, "a", "1")) is not None:
        taken.append(job.id)
        store.finish(job, {}, 60)
    expected = [job.id for job in alike]
    assert taken == [*expected[:OVERTAKEN], first.id, other.id, *expected[OVERTAKEN:]]


def test_a_job_that_ends_its_worker_is_given_up_and_what_is_old_goes(store):
    job, running = add(store), add(store)
    for _ in range(3):
        assert store.claim(0, "a", "1").id == job.id
        store.release(0, 3, 60)
    failed = store.get("me", job.id)
    assert (failed.status, failed.error_code) == ("failed", "worker_ended")
    held = store.claim(0, "a", "1")
    assert held.id == running.id
    store.release(None, 3, 60)  # a service that begins: no fault of the job's
    assert store.get("me", running.id).crashes == 0
    held = store.claim(0, "a", "1")
    assert store.finish(held, {}, 0)
    assert not store.fail(held, "late", "Too late.", 60)  # once over, it stays as it is
    time.sleep(0.01)
    assert store.expire() == 1
    assert store.get("me", running.id) is None
    assert not store.files(running.id).exists()
    assert store.files(job.id).exists()


# --- the command


def test_the_command_serves_and_ends(folder, tmp_path, capsys):
    keys = tmp_path / "keys"
    assert main(["serve", "--keys", str(keys), "--new-key", "alice"]) == 0
    key = capsys.readouterr().out.strip()
    assert key not in keys.read_text()
    out, err = tmp_path / "out", tmp_path / "err"
    given = ["--folder", tmp_path / "queue", "--port", "0", "--model", folder, "--keys", keys, "--device", "cpu"]
    process = command_from_server(["serve", *given], out, err)
    try:
        url = wait_for(lambda: out.exists() and re.search(r"http://127\.0\.0\.1:\d+", out.read_text()))[0]
        with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
            assert client.get("/v1/models").status_code == 401
            found = client.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).json()["data"]
            assert [one["id"] for one in found] == [folder.name]
    finally:
        process.terminate()
        process.join(20)
    assert process.exitcode == 143, err.read_text()
    assert key not in out.read_text() + err.read_text()


def test_words_that_a_model_does_not_know_are_named():
    asked = {"prompt": "Please make it foggy.", "size": "720x1280", "seconds": "4"}
    with pytest.raises(UserError, match=r"never been taught .*'foggy' \(fog\?\)"):
        read_wish(asked, {"small": "tiny"}, JobLimits(), False)
    wish = read_wish(asked | {"anyway": "true"}, {"small": "tiny"}, JobLimits(), False)
    assert (wish.model, wish.prompt, len(wish.notes)) == ("small", "Make it foggy.", 3)


def test_each_setting_of_an_edit_is_open_to_requests_or_closed_on_purpose():
    """`enhance` would have the service send its key to an address of somebody else's."""
    assert sorted([*SETTINGS, *NO_SETTINGS]) == sorted(one.name for one in fields(EditSettings))
    with pytest.raises(UserError, match="There is no setting 'enhance'"):
        read_wish({"prompt": RED, "enhance": "http://127.0.0.1/v1"}, {"small": "tiny"}, JobLimits(), False)
