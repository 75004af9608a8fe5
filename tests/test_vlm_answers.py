"""What servers say in place of an answer: a verdict is kept, a fault of the set-up ends the run and leaves nothing."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from opensama.curation.filters import filter_manifest
from opensama.data.manifest import Record, write_manifest
from opensama.evaluation.benchmarks.vie import VIE_PROTOCOL
from opensama.evaluation.items import BenchmarkItem
from opensama.evaluation.judge import VlmJudge
from opensama.values import UserError
from opensama.vlm import (
    BadAnswer,
    CachedVlm,
    Question,
    VlmFailed,
    VlmQuota,
    answer_json,
    ask,
    number_of,
)
from opensama.vlm.client import retry_after
from opensama.vlm.server import ServerVlm
from tests.curation.server import Asked, Body, ChatServer, Ended, Fault, pixel_judge

QUICK = 0.005  # seconds of the first back-off


def vlm_at(server: ChatServer, cache: Path | None = None) -> CachedVlm:
    return CachedVlm(ServerVlm(server.url, "pixels", retries=1, back_off=QUICK), cache)


def one_image(asked: Asked) -> str | Fault:
    """A server that was started for one picture a question."""
    return Fault(400, "at most 1 image may be given") if len(asked.images) > 1 else pixel_judge(asked)


# --- answers as models write them


@pytest.mark.parametrize(
    "text",
    [
        '<think>\nA draft: {"mark": 5}\n</think>\n\n{"mark": 9}',
        '<think>\nA draft: {"mark": 5} and {"mark": 6}\n</think>\n\n{"mark": 9}',
        'Perhaps {"mark": 3}? No.\n</think>\n\n{"mark": 9}',
        '<|begin_of_box|>{"mark": 9}<|end_of_box|>',
        'Draft: {"mark": 4}\n\nFinal answer:\n```json\n{"mark": 9}\n```',
        'Draft: {"mark": 4}\n\n**Final Answer**: {"mark": 9}',
        'So {"mark": 9}, as I said: {"mark": 9}',
        "{'mark': 9}",
        '{"mark": 9,}',
    ],
)
def test_the_mark_is_the_last_word_not_the_draft(text):
    assert answer_json(text) == {"mark": 9}


@pytest.mark.parametrize(
    "text",
    ['<think>It may be {"mark": 5}', '<think>{"mark": 5}</think> I would rather not say.', '{"mark": 5} or {"mark": 6}',
     "{'mark': open('x')}", "{1, 2}", "{'mark': {2, 3}}"],
)  # fmt: skip
def test_thoughts_and_drafts_are_no_answer(text):
    with pytest.raises(BadAnswer):
        answer_json(text)


def test_marks_in_words():
    assert [number_of(value) for value in (9, "9", "9/10", " 8.5 / 10", "7 out of 10")] == [9, 9, 9, 8.5, 7]
    assert [number_of(value) for value in ("9/5", "nine", None, True, [9], "")] == [None] * 6


# --- what a server sends


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (Ended([{"type": "text", "text": "yes"}]), "yes"),
        (Ended([{"type": "thinking", "thinking": [{"text": "hm"}]}, {"type": "text", "text": "yes"}]), "yes"),
        (Ended([{"type": "text", "text": "y"}, {"type": "text", "text": "es"}]), "yes"),
        (Ended("yes", more={"reasoning_content": "hm"}), "yes"),
        (Ended('{"a": 1} and then on and on', "length"), '{"a": 1} and then on and on'),
        (Ended("[4] The colour is right, but", "length"), "[4] The colour is right, but"),
    ],
)  # fmt: skip
def test_answers_in_other_shapes_are_read(answer, text):
    with ChatServer(lambda asked: answer) as server:
        assert vlm_at(server).ask(Question("Well?")) == text


NOTHING = {"id": "1", "object": "chat.completion", "created": 0, "model": "pixels"}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Ended(None), "answered nothing"),
        (Ended("  \n"), "answered nothing"),
        (Ended([]), "answered nothing"),
        (Ended("<think>and so on"), "answered nothing"),
        (Ended(None, more={"reasoning_content": '{"a": 1}'}), "all of it in reasoning_content"),
        (Ended(None, "length", more={"reasoning": "thinking"}), "cut off at 512 tokens"),
        (Ended('{"a": ', "length"), "cut off at 512 tokens"),
        (Ended('<think>a draft {"a": 1}', "length"), "cut off at 512 tokens"),
        (Body(NOTHING | {"choices": [{"index": 0, "message": None, "finish_reason": "stop"}]}), "answered nothing"),
        (Body(NOTHING | {"choices": []}), "answered nothing"),
        (Fault(400, "the request is longer than the context of 4096"), "400 the request is longer"),
        (Fault(413, "too large"), "413 too large"),
        (Body({"object": "error", "message": "only one picture", "code": 400}, 400), "400 only one picture"),
        (Body({"detail": "no such field"}, 422), "422 no such field"),
        (Body({"error": "the model has no eyes"}, 400), "400 the model has no eyes"),
        (Body({"error": {"message": "no endpoint takes pictures", "code": 400}}), "400 no endpoint takes pictures"),
    ],
)  # fmt: skip
def test_what_is_no_verdict_is_not_kept(answer, reason, tmp_path):
    answers = [answer]
    with ChatServer(lambda asked: answers[0]) as server:
        vlm = vlm_at(server, tmp_path)
        with pytest.raises(VlmFailed, match=reason):
            vlm.ask(Question("Well?"))
        answers[0] = "yes"
        assert vlm.ask(Question("Well?")) == "yes", "asked again, since nothing was kept"
        assert len(server.asked) == 2


def test_faults_of_gateways_and_paths():
    busy = Body({"error": {"message": "upstream is busy", "code": 502}})
    with ChatServer(lambda asked: "yes") as server:
        server.faults.append(busy)
        assert vlm_at(server).ask(Question("Well?")) == "yes", "tried again"
        for status, words in ((405, "does not speak"), (400, "set OPENAI_API_KEY")):
            server.faults.append(Fault(status, "API key not valid"))
            with pytest.raises(UserError, match=words):
                vlm_at(server).ask(Question("Well?"))


def test_a_date_to_wait_for():
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    assert 85 < retry_after(date) <= 90
    assert retry_after(format_datetime(datetime.now(UTC) - timedelta(hours=1), usegmt=True)) == 0
    assert retry_after("1.5") == 1.5
    assert retry_after("soon") is retry_after(None) is None
    with ChatServer(lambda asked: "yes") as server:
        date = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)  # whole seconds: at least one
        server.faults.append(Fault(429, "slow down", headers=(("Retry-After", date),)))
        began = time.monotonic()
        assert vlm_at(server).ask(Question("Well?")) == "yes"
        assert time.monotonic() - began > 0.9
        server.faults.append(Fault(429, "tomorrow", headers=(("Retry-After", "86400"),)))
        with pytest.raises(VlmQuota, match="come back in 86,400 s: 429 tomorrow"):
            vlm_at(server).ask(Question("Well?"))


# --- the item's fault or the set-up's


def picture(value: int) -> np.ndarray:
    return np.full((40, 64, 3), value, np.uint8)


def test_a_fault_of_the_set_up_ends_the_run_and_one_of_an_item_does_not():
    two = Question("Compare.", (picture(10), picture(20)))
    with ChatServer(one_image) as server, pytest.raises(VlmQuota, match="at most 1 image may be given"):
        ask(vlm_at(server), two)
    with ChatServer(lambda asked: Fault(400, "odd") if "Compare" in asked.text else "yes") as server:
        with pytest.raises(VlmFailed, match="odd"):
            ask(vlm_at(server), two)
        easy = server.asked[-1]
        assert [image.shape for image in easy.images] == [(40, 64, 3)] * 2, "asked for the same form"
        assert easy.body["max_tokens"] == two.max_tokens
    with (
        ChatServer(lambda asked: Ended(None, "length")) as server,
        pytest.raises(VlmQuota, match="cut off at 7 tokens"),
    ):
        ask(vlm_at(server), Question("Well?", max_tokens=7))


def pictures(folder: Path) -> Path:
    for name, value in (("a", 60), ("b", 200)):
        Image.fromarray(np.full((40, 64, 3), value, np.uint8)).save(folder / f"{name}.png")
    rows = [
        Record(f"r{i}", "pair", "b.png", "a.png", instruction=f"Make it bright {i}.", media="image") for i in range(3)
    ]
    write_manifest(folder / "pairs.parquet", rows)
    return folder / "pairs.parquet"


def test_a_filter_stops_keeps_nothing_and_goes_on_when_the_server_is_mended(tmp_path):
    manifest, out = pictures(tmp_path), tmp_path / "out"
    with ChatServer(one_image) as server:
        opened = partial(vlm_at, server, tmp_path / "answers")
        report = filter_manifest(manifest, out, opened, workers=1)
        assert "at most 1 image may be given" in report.stopped
        assert (report.left, report.unscored) == (3, {})
        server.answer = lambda asked: Fault(400, "odd") if "bright 1" in asked.text else pixel_judge(asked)
        report = filter_manifest(manifest, out, opened, workers=1)
        assert (report.stopped, report.left, report.unscored) == ("", 0, {"no whole answer came": 1})
        assert report.kept + report.refused == 2
        server.answer = pixel_judge
        assert filter_manifest(manifest, out, opened, workers=1).unscored == {}


def test_a_judge_keeps_no_item_as_failed_that_it_was_not_asked_about(tmp_path):
    pictures(tmp_path)
    item = BenchmarkItem("one", "recolor", "Make it bright.", tmp_path / "a.png")
    with ChatServer(one_image) as server, pytest.raises(VlmQuota, match="at most 1 image"):
        VlmJudge(vlm_at(server, tmp_path), VIE_PROTOCOL).judge(item, tmp_path / "b.png")
    odd = lambda asked: "yes" if "yes" in asked.text else Fault(400, "odd")  # noqa: E731
    with ChatServer(odd) as server:
        judged = VlmJudge(vlm_at(server, tmp_path), VIE_PROTOCOL).judge(item, tmp_path / "b.png")
    assert (judged.state, judged.again) == ("failed", True)
    assert "odd" in (judged.failure or "")
