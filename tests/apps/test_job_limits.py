"""What a file and a job may take: memory and time, each end with its sentence, and nobody else is kept waiting."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from multiprocessing import forkserver

import httpx2 as httpx
import numpy as np
import pytest
from anyio.to_thread import current_default_thread_limiter

from opensama.apps.jobs import engine as engine_module
from opensama.apps.jobs import workers
from opensama.apps.jobs.engine import JobEngine
from opensama.apps.jobs.inspection import PRELOADED, in_a_process, inspect_clip
from opensama.apps.jobs.limits import JobLimits, Owner, Refusal
from opensama.apps.jobs.store import VideoJob
from opensama.apps.service import application
from opensama.apps.service.access import Access
from opensama.apps.service.application import create_app
from opensama.media.video_io import write_video
from opensama.values import Video
from tests.apps.serving import settings_for, wait_for

RED = "Make the ball red."


@pytest.fixture(scope="module")
def video(clip_file) -> bytes:
    return clip_file.read_bytes()


@pytest.mark.parametrize(
    ("function", "given", "seconds", "code", "said"),
    [
        (time.sleep, 60, 0.5, "took_too_long", "took more than 0.5 s"),
        (signal.raise_signal, signal.SIGXCPU, 60, "took_too_long", "took more than 60 s"),  # RLIMIT_CPU's
        (bytearray, 1 << 40, 60, "invalid_media", "wants more than 64 MB"),
        (signal.raise_signal, signal.SIGKILL, 60, "invalid_media", "more memory than there is"),  # the system's, too
        (signal.raise_signal, signal.SIGABRT, 60, "invalid_media", "its decoder broke down"),
    ],
)
def test_each_end_of_a_process_that_looks_at_a_file_has_its_sentence(function, given, seconds, code, said):
    """What is called is the hanging, dying or greedy decoder."""
    with pytest.raises(Refusal, match=said) as refused:
        in_a_process(function, given, seconds=seconds, memory=64)
    assert refused.value.code == code


@pytest.fixture
def small_server(monkeypatch):
    """A server of processes as a service has it: one forked from pytest's own has room that other tests freed, which
    the limit of a process does not count."""
    server = forkserver.ForkServer()
    server.set_forkserver_preload(PRELOADED)
    monkeypatch.setattr(forkserver, "connect_to_new_process", server.connect_to_new_process)
    yield
    server._stop()


@pytest.mark.usefixtures("small_server")
def test_a_large_picture_wants_memory_and_is_not_damaged(tmp_path):
    """FFmpeg finds no room for its threads or, in silence, for a frame; Pillow for the picture. A reader takes all
    three for a broken file."""
    for name, memory in ("threads.mp4", 8), ("frame.mp4", 32), ("picture.png", 8):
        write_video(Video.from_frames(np.zeros((1, 2000, 2000, 3), np.uint8), 8), tmp_path / name)
        with pytest.raises(Refusal, match=f"wants more than {memory} MB to be decoded"):
            inspect_clip(tmp_path, name, JobLimits(inspect_memory=memory))
        assert inspect_clip(tmp_path, name, JobLimits(inspect_memory=400))["width"] == 2000


def test_a_job_has_its_time(folder, video, tmp_path, monkeypatch):
    """One that takes too long ends at its next step; a worker that hangs is ended; another takes the next job."""
    monkeypatch.setattr(workers, "_LOOK", 0.1)
    monkeypatch.setattr(workers, "_LATE", 2)  # a busy machine makes no step late
    settings, owner = settings_for(tmp_path, folder, job_seconds=1), Owner("local")
    with JobEngine(settings, ["cpu"], "forkserver") as engine:

        def edit(**asked) -> VideoJob:
            upload = engine.new_upload()
            upload.next_place("video").write_bytes(video)
            return engine.submit(owner, upload, {"prompt": RED, "anyway": True} | asked)[0]

        long = engine.wait(owner, edit(steps=200, n=4).id, 60)
        assert (long.status, long.error_code) == ("failed", "took_too_long")
        assert long.error.startswith("The edit took more than 1 s")
        hung = edit(steps=200, n=4)
        wait_for(lambda: engine.find(owner, hung.id).stage == "Editing")
        (before,) = engine.workers.pids
        os.kill(before, signal.SIGSTOP)
        hung = engine.wait(owner, hung.id, 60)
        assert (hung.status, hung.error_code, hung.crashes) == ("failed", "took_too_long", 0)
        after = edit(steps=1)
        wait_for(lambda: engine.find(owner, after.id).started_at)
        assert engine.workers.pids != [before]


def test_a_service_answers_while_uploads_wait(video, tmp_path, monkeypatch):
    """Uploads wait for one another in threads of their own, however many they are."""
    monkeypatch.setattr(application, "_LOOKERS", 1)

    async def ask(engine: JobEngine) -> list[int]:
        current_default_thread_limiter().total_tokens = 2
        transport = httpx.ASGITransport(create_app(engine, Access()))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            looks = [engine._looks.acquire() for _ in range(engine_module._LOOKS)]
            sent = [
                asyncio.create_task(client.post("/v1/videos/uploads", files={"video": video[:700]})) for _ in range(3)
            ]
            try:
                await asyncio.sleep(0.2)
                answered = await asyncio.wait_for(client.get("/v1/models"), 10)
            finally:
                engine._looks.release(len(looks))
            return [answered.status_code, *(answer.status_code for answer in await asyncio.gather(*sent))]

    with JobEngine(settings_for(tmp_path, tmp_path), []) as engine:
        assert asyncio.run(ask(engine)) == [200, 400, 400, 400]
