"""A model behind a Gemini-style server: `models/NAME:generateContent`, pictures inline, the key in a header.

The address ends in the version, as https://generativelanguage.googleapis.com/v1beta does; the same host's `/openai`
address speaks chat completions and is asked as any other server. The key is in GEMINI_API_KEY.
"""

from __future__ import annotations

import contextlib
import json
import re
from typing import TYPE_CHECKING

from opensama.values import UserError
from opensama.vlm.answer import check_answer, replace_surrogates
from opensama.vlm.client import RemoteVlm, TransientError, jpeg_base64, retry_after
from opensama.vlm.question import Question, VlmFailed, VlmRefused

if TYPE_CHECKING:
    from urllib.error import HTTPError

ADDRESS = re.compile(r"/v\d+(?:alpha|beta)\d*/?$")
STOPPED = ("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY", "LANGUAGE")
"""Reasons to end that are verdicts on what was asked."""
RETRY_DELAY = re.compile(r'"retryDelay":\s*"(\d+(?:\.\d+)?)s"')


def speaks_gemini(url: str) -> bool:
    """Whether an address is one of this kind: its last part is a version such as v1beta."""
    return ADDRESS.search(url) is not None


class GeminiVlm(RemoteVlm):
    """`generateContent` with frames as images."""

    protocol = "Gemini's generateContent"
    key_variable = "GEMINI_API_KEY"

    def _model_name(self, model: str | None) -> str:
        if not model:
            raise UserError(f"Say which model of {self.url} is to be asked, such as gemini-2.5-pro.")
        return model.removeprefix("models/")

    def _attempt(self, question: Question) -> str:
        from http.client import HTTPException
        from urllib.error import HTTPError
        from urllib.request import Request, urlopen

        headers = {"Content-Type": "application/json", "x-goog-api-key": self._key}
        body = json.dumps(body_of(question)).encode()
        request = Request(f"{self.url}/models/{self.name}:generateContent", body, headers)
        try:
            with urlopen(request, timeout=self.timeout) as response:
                text = response.read().decode("utf-8", "replace")
        except HTTPError as error:
            with error:
                raise self._status_error(error) from error
        except (OSError, HTTPException) as error:  # time-outs, too
            raise TransientError(str(error) or type(error).__name__) from error
        return self._answer(text, question.max_tokens)

    def _answer(self, body: str, limit: int) -> str:
        try:
            reply = json.loads(body)
            blocked = (reply.get("promptFeedback") or {}).get("blockReason")
            candidates = reply.get("candidates") or []
            if not candidates and not blocked and "usageMetadata" not in reply:
                raise self._no_such_server()
            ended = candidates[0].get("finishReason", "") if candidates else ""
            parts = (candidates[0].get("content") or {}).get("parts") or [] if candidates else []
            text = "".join(part.get("text", "") for part in parts if not part.get("thought"))
        except (ValueError, AttributeError, TypeError) as error:
            if isinstance(error, UserError):
                raise
            raise self._no_such_server() from error
        if blocked or ended in STOPPED:
            raise VlmRefused(f"the server stopped the answer ({blocked or ended})")
        if ended not in ("STOP", "MAX_TOKENS", ""):
            raise VlmFailed(f"the server stopped the answer ({ended})", replace_surrogates(text))
        return check_answer(text, cut=ended == "MAX_TOKENS", limit=limit, ended=ended or "no candidate")

    def _status_error(self, error: HTTPError) -> Exception:
        from http.client import HTTPException

        said, body = str(error.reason or error.code), ""
        with contextlib.suppress(OSError, HTTPException, ValueError, AttributeError):  # not what Gemini says
            body = error.read().decode("utf-8", "replace")
            told = json.loads(body).get("error") or {}
            said = replace_surrogates(" ".join(str(told.get("message") or said).split())[:300])
        wait = RETRY_DELAY.search(body)
        return self._error_of(
            error.code,
            said,
            bad_key="API key" in said,
            quota=re.search(r"billing|per day|PerDay", body) is not None,
            retry_after=float(wait[1]) if wait else retry_after(error.headers.get("retry-after")),
        )

    def _no_such_model(self, said: str) -> UserError:
        return UserError(f"{self.url} has no model {self.name!r} ({said}): check the address and the name.")


def body_of(question: Question) -> dict[str, object]:
    """The question as Gemini's contents, images inline where the text shows them."""
    parts: list[dict[str, object]] = []
    for part in question.parts():
        if isinstance(part, str):
            parts.append({"text": part})
        else:
            parts.append({"inlineData": {"mimeType": "image/jpeg", "data": jpeg_base64(part)}})
    settings = {"temperature": question.temperature, "maxOutputTokens": question.max_tokens}
    system = {"systemInstruction": {"parts": [{"text": question.system}]}} if question.system else {}
    return {"contents": [{"role": "user", "parts": parts}], "generationConfig": settings, **system}
