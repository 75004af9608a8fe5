"""Gemini-style servers: a real HTTP server on this machine."""

from __future__ import annotations

import json

import numpy as np
import pytest

from opensama.values import UserError
from opensama.vlm import IMAGE, CachedVlm, Question, VlmFailed, VlmQuota, VlmRefused, VlmUnavailable, open_vlm
from opensama.vlm.gemini import GeminiVlm, speaks_gemini
from tests.curation.server import Asked
from tests.evaluation.gemini_server import GeminiServer

QUICK = 0.005  # seconds of the first back-off


def sees(asked: Asked) -> str:
    return json.dumps({"light": [round(float(image.mean())) for image in asked.images], "text": asked.text})


def model(server: GeminiServer, key: str = "k", name: str = "gemini-test") -> GeminiVlm:
    return GeminiVlm(server.url, name, key, retries=2, back_off=QUICK)


def picture(value: int) -> np.ndarray:
    return np.full((20, 30, 3), value, np.uint8)


def test_pictures_arrive_where_the_text_shows_them() -> None:
    question = Question(f"First {IMAGE} then {IMAGE}.", (picture(30), picture(200)), "Be brief.", 77, 0.5)
    with GeminiServer(sees) as server:
        assert json.loads(model(server).ask(question)) == {"light": [30, 200], "text": "First  then ."}
        (asked,) = server.asked
    assert [type(part) for part in asked.parts] == [str, np.ndarray, str, np.ndarray, str]
    assert asked.system == "Be brief."
    assert asked.body["generationConfig"] == {"temperature": 0.5, "maxOutputTokens": 77}


def test_addresses() -> None:
    assert speaks_gemini("https://generativelanguage.googleapis.com/v1beta/")
    assert not speaks_gemini("https://generativelanguage.googleapis.com/v1beta/openai")
    assert not speaks_gemini("http://localhost:8000/v1")


def test_opened_by_its_address_with_its_own_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "for another house")
    monkeypatch.setenv("GEMINI_API_KEY", "k")
    with GeminiServer(sees) as server:
        vlm = open_vlm(server.url, "gemini-test", key="for another house")
        assert isinstance(vlm, CachedVlm)
        assert json.loads(vlm.ask(Question("Well?")))["text"] == "Well?"


def test_what_passes_is_tried_again_and_what_does_not_is_said() -> None:
    busy = 503, {"error": {"message": "overloaded"}}
    with GeminiServer(sees) as server:
        server.replies += [busy, (429, {"error": {"message": "slow", "details": [{"retryDelay": "0.01s"}]}})]
        assert model(server).ask(Question("Well?"))
        server.replies += [busy] * 3
        with pytest.raises(VlmUnavailable, match="overloaded"):
            model(server).ask(Question("Well?"))
        server.replies += [(429, {"error": {"message": "slow"}})] * 3
        with pytest.raises(VlmQuota, match="limits the rate"):
            model(server).ask(Question("Well?"))
        server.replies.append((429, {"error": {"message": "exceeded your quota, check billing"}}))
        with pytest.raises(VlmQuota, match="spent"):
            model(server).ask(Question("Well?"))
        for content in (
            {"promptFeedback": {"blockReason": "SAFETY"}},
            {"candidates": [{"finishReason": "SAFETY"}]},
        ):
            server.replies.append((200, content))
            with pytest.raises(VlmRefused):
                model(server).ask(Question("Well?"))
        cut = {"parts": [{"text": '{"mark": '}]}
        for status, content, said in (
            (200, {"candidates": [{"finishReason": "MAX_TOKENS", "content": {}}]}, "cut off at 512 tokens"),
            (200, {"candidates": [{"finishReason": "MAX_TOKENS", "content": cut}]}, "cut off at 512 tokens"),
            (200, {"candidates": [{"finishReason": "STOP", "content": {}}]}, "answered nothing"),
            (200, {"candidates": [{"finishReason": "OTHER"}]}, "OTHER"),
            (400, {"error": {"message": "too many images"}}, "too many images"),
        ):
            server.replies.append((status, content))
            with pytest.raises(VlmFailed, match=said):
                model(server).ask(Question("Well?"))
        server.replies.append((200, {"hello": "world"}))
        with pytest.raises(UserError, match="does not speak"):
            model(server).ask(Question("Well?"))
        with pytest.raises(UserError, match="GEMINI_API_KEY"):
            model(server, key="wrong").ask(Question("Well?"))
        with pytest.raises(UserError, match="no model 'other'"):
            model(server, name="other").ask(Question("Well?"))
