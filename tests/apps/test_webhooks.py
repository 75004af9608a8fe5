"""Webhooks: signed as others verify them, sent again, after a restart too, and never to where they must not go."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from opensama.apps.edit_settings import EditSettings
from opensama.apps.jobs.engine import JobEngine
from opensama.apps.jobs.limits import JobLimits, Owner
from opensama.apps.jobs.store import JobStore, NewJob, VideoJob
from opensama.apps.jobs.words import read_wish
from opensama.apps.service import webhooks
from opensama.apps.service.webhooks import WebhookSender
from opensama.values import UserError
from tests.apps.serving import settings_for, wait_for

RED = "Make the ball red."


class Receiver(BaseHTTPRequestHandler):
    """Keeps what it is sent, and answers with what the test has laid out."""

    answers: ClassVar[list[int]]
    got: ClassVar[list[tuple[str, dict[str, str], bytes]]]

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.got.append((self.path, dict(self.headers), body))
        self.send_response(self.answers.pop(0) if self.answers else 200)
        self.send_header("Location", "/elsewhere")
        self.end_headers()

    do_GET = do_POST  # a redirect that is followed would come as one

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[str]:
    """The address of one at this machine."""
    Receiver.answers, Receiver.got = [], []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hook?token=s3cret"
    server.shutdown()
    thread.join()
    server.server_close()


def finished_jobs(store: JobStore, webhook: str) -> list[VideoJob]:
    """One that is done, one that has failed, one that was deleted when it was done."""
    media = {"notes": [], "width": 64, "height": 48, "seconds": 1, "frames": 9, "fps": 8}
    asked = {"n": 1, "prompt": RED, "notes": [], "settings": asdict(EditSettings()), "webhook": webhook}
    jobs = []
    for _ in range(3):
        new = NewJob(store.new_folder(), "a", "1", asked, media, "f")
        store.add(new, Owner("me"), JobLimits())
        jobs.append(store.claim(0, "a", "1"))
    assert store.finish(jobs[0], {"outputs": [], "notes": []}, 60)
    assert store.fail(jobs[1], "edit_failed", "It cannot be.", 60)
    assert store.finish(jobs[2], {"outputs": [], "notes": []}, 60)
    assert store.delete("me", jobs[2].id)
    return jobs


def test_a_webhook_is_signed_tried_again_and_survives_a_restart(tmp_path, receiver, monkeypatch, capfd):
    monkeypatch.setattr(webhooks, "_LOOK", 0.02)
    monkeypatch.setattr(webhooks, "_PAUSES", (0.3, 0.3))
    settings, secret = settings_for(tmp_path, tmp_path), webhooks.secret_in(tmp_path / "secret")
    assert webhooks.secret_in(tmp_path / "secret") == secret
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    Receiver.answers[:] = [500, 302]
    with JobEngine(settings, []) as engine:
        done, failed, _ = finished_jobs(engine.store, receiver)
        with WebhookSender(engine, secret, private=True):
            wait_for(lambda: len(Receiver.got) == 2)
    with JobEngine(settings, []) as engine, WebhookSender(engine, secret, private=True):
        wait_for(lambda: engine.store.figures()["webhooks_sent"] == 2)
        assert not engine.store.due_webhooks()
    sent = [json.loads(body) for _, _, body in Receiver.got]
    assert len({one["id"] for one in sent}) == 2  # of each event, at both tries
    sent.sort(key=lambda one: one["type"])
    told = [(one["type"], one["data"]["id"]) for one in sent]
    assert told == 2 * [("video.completed", done.id)] + 2 * [("video.failed", failed.id)]
    assert sent[3]["data"]["error"] == {"code": "edit_failed", "message": "It cannot be."}
    assert {path for path, _, _ in Receiver.got} == {"/hook?token=s3cret"}

    import openai

    with openai.OpenAI(api_key="none", webhook_secret=(tmp_path / "secret").read_text().strip()) as client:
        for _, headers, body in Receiver.got:
            client.webhooks.verify_signature(body, headers)
        with pytest.raises(openai.InvalidWebhookSignatureError):
            client.webhooks.verify_signature(body + b" ", headers)
    said = capfd.readouterr().err
    assert "was answered with 302; again in 0 s" in said
    assert "s3cret" not in said
    assert base64.b64encode(secret).decode() not in said


def test_a_webhook_that_nobody_takes_is_given_up(tmp_path, receiver, monkeypatch, capfd):
    """After the last try, at 410, and where its name leads to this machine though that was not allowed."""
    monkeypatch.setattr(webhooks, "_LOOK", 0.02)
    monkeypatch.setattr(webhooks, "_PAUSES", (0.01,))
    Receiver.answers[:] = [500, 410, 500]
    with JobEngine(settings_for(tmp_path, tmp_path), []) as engine:
        with WebhookSender(engine, bytes(32), private=True):
            finished_jobs(engine.store, receiver)
            wait_for(lambda: engine.store.figures()["webhooks_given_up"] == 2)
        assert len(Receiver.got) == 3
        with WebhookSender(engine, bytes(32)):
            finished_jobs(engine.store, receiver.replace("127.0.0.1", "localhost"))
            wait_for(lambda: engine.store.figures()["webhooks_given_up"] == 4)
    assert len(Receiver.got) == 3
    assert "localhost is of this machine or its network" in capfd.readouterr().err


@pytest.mark.parametrize("name", [
    "127.0.0.1", "[::1]", "10.1.2.3", "169.254.169.254", "192.168.0.9", "[fe80::1]", "[::ffff:127.0.0.1]", "[fc00::1]",
    "[64:ff9b::a00:1]", "[2002:7f00:1::]", "0.0.0.0", "224.0.0.1",
])  # fmt: skip
def test_a_webhook_to_this_network_must_be_allowed(name):
    with pytest.raises(UserError, match="is of this machine or its network"):
        webhooks.check_webhooks([f"https://{name}/x"], False)
    assert webhooks.check_webhooks([f"http://{name}/x"], True) == (f"http://{name}/x",)
    assert webhooks.check_webhooks(["https://93.184.215.14/x", "https://[2606:2800:21f::1]:8443/"], False)


def test_a_request_names_a_webhook_that_is_allowed():
    asked, allowed = {"prompt": RED, "anyway": "1", "webhook": "https://a.example/x"}, ("https://a.example/x",)
    wish = read_wish(asked, {"small": "tiny"}, JobLimits(), False, allowed)
    assert wish.asked("source.mp4", None, [], [])["webhook"] == "https://a.example/x"
    with pytest.raises(UserError, match="The webhook is not one that this service sends to"):
        read_wish(asked | {"webhook": "https://a.example/y"}, {"small": "tiny"}, JobLimits(), False, allowed)
