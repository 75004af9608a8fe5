"""A model behind an OpenAI-compatible server (vLLM, SGLang, llama.cpp, a provider): the only door to `openai`."""

from __future__ import annotations

import base64
import io
import re
import threading
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from opensama.values import UserError
from opensama.vlm.asking import Question, VlmFailed, VlmQuota, VlmRefused, finished, whole
from opensama.vlm.patience import PAUSE, Again, check_address, persist, told_to_wait

if TYPE_CHECKING:
    import numpy as np
    import openai

JPEG = 95
NO_MONEY = ("insufficient_quota", "billing_hard_limit_reached")
CONTENT = re.compile(  # how providers say that a request was stopped for what it shows
    r"content[_ ]?(filter|policy|management)|moderation|safety|data_?inspection|inappropriate|sensitive", re.IGNORECASE
)
KEY = re.compile(r"api[ _-]?key", re.IGNORECASE)
THOUGHTS = ("reasoning_content", "reasoning")  # fields in which servers put what comes before an answer


class ServerVlm:
    """Chat completions with frames as images. See `open_vlm`; `pause` is the first back-off in seconds."""

    def __init__(
        self,
        url: str,
        model: str | None,
        key: str = "none",
        *,
        retries: int = 5,
        timeout: float = 120.0,
        pause: float = PAUSE,
    ) -> None:
        check_address(url)
        try:
            import openai
        except ImportError as error:
            raise UserError("Asking a server needs the openai client: pip install 'opensama[curate]'.") from error
        self.url, self.retries, self.pause = url, retries, pause
        self._client = openai.OpenAI(base_url=url, api_key=key, timeout=timeout, max_retries=0)
        self._dropped: frozenset[str] = frozenset()  # settings that this model does not take
        self._lock = threading.Lock()
        self.name = model or self._only_model()

    def ask(self, question: Question) -> str:
        messages = messages_of(question)
        return persist(lambda: self._attempt(messages, question), self.url, self.retries, self.pause)

    def _attempt(self, messages: list[dict[str, Any]], question: Question) -> str:
        import openai

        try:
            return self._answer(self._send(messages, question), question.max_tokens)
        except openai.APIStatusError as error:
            raise self._judge(error) from error
        except openai.APIConnectionError as error:  # time-outs, too
            failure = f"{error} ({error.__cause__})" if error.__cause__ else str(error)
            raise Again(failure) from error
        except (openai.APIResponseValidationError, ValueError) as error:
            raise self._no_such_server() from error

    def _send(self, messages: list[dict[str, Any]], question: Question) -> Any:
        import openai

        settings = {"max_tokens": question.max_tokens, "temperature": question.temperature}
        if "max_tokens" in self._dropped:  # newer OpenAI models know it by another name only
            settings["max_completion_tokens"] = settings["max_tokens"]
        for name in self._dropped:
            settings.pop(name, None)
        try:
            create: Any = self._client.chat.completions.create
            return create(model=self.name, messages=messages, **settings)
        except openai.BadRequestError as error:
            unknown = {"max_tokens", "temperature"} & {str(error.param)} & settings.keys()
            if not unknown:
                raise
            with self._lock:
                self._dropped |= unknown
            return self._send(messages, question)

    def _answer(self, reply: Any, limit: int) -> str:
        choices = getattr(reply, "choices", None)
        choice = choices[0] if choices else None
        if error := getattr(choice, "error", None) or getattr(reply, "error", None):  # of gateways, with status 200
            said = error if isinstance(error, dict) else {"message": str(error)}
            status = said.get("code")
            raise self._verdict(status if isinstance(status, int) else 500, said, _words(said), None)
        if choice is None:
            if getattr(reply, "object", None) == "chat.completion":
                raise VlmFailed("the model answered nothing (no choice)")
            raise self._no_such_server()
        message, ended = choice.message, str(choice.finish_reason)
        if refusal := getattr(message, "refusal", None):
            raise VlmRefused(whole(str(refusal)))
        if ended == "content_filter":
            raise VlmRefused("the server's content filter stopped the answer")
        text = _text(getattr(message, "content", None))
        if not text.strip() and (field := next((name for name in THOUGHTS if getattr(message, name, None)), "")):
            ended += f", all of it in {field}"
        return finished(text, cut=choice.finish_reason == "length", limit=limit, ended=ended)

    def _judge(self, error: openai.APIStatusError) -> Exception:
        body = error.body if isinstance(error.body, dict) else {}
        said = _words(body) or _short(error.body if isinstance(error.body, str) else error.message)
        return self._verdict(error.status_code, body, said, told_to_wait(error.response.headers))

    def _verdict(self, status: int, body: dict[str, Any], said: str, wait: float | None) -> Exception:
        """What to raise: `Again` where another attempt may be of use, VlmRefused for what a filter stopped."""
        named = {str(body.get(name)) for name in ("code", "type")}
        filtered = status in (400, 403, 422) and any(CONTENT.search(words) for words in (*named, said))
        if filtered and not KEY.search(said):
            return VlmRefused(f"{status} {said}")
        if status in (401, 403) or (status == 400 and KEY.search(said)):
            return UserError(f"{self.url} does not accept the key ({said}): set OPENAI_API_KEY to a valid one.")
        if status == 404:
            return self._no_such_model(said)
        if status in (301, 302, 303, 307, 308, 405, 410):
            return self._no_such_server()
        if status == 402 or (status == 429 and named & set(NO_MONEY)):
            return VlmQuota(f"the quota at {self.url} is spent: {said}")
        if status in (408, 409, 425, 429) or status >= 500:
            return Again(f"{status} {said}", crowded=status == 429, wait=wait)
        return VlmFailed(f"{status} {said}")

    def _models(self) -> list[str]:
        import openai

        try:
            return [str(model.id) for model in self._client.models.list().data]
        except (openai.OpenAIError, ValueError, AttributeError, TypeError):
            return []

    def _only_model(self) -> str:
        import openai

        models: list[str] = []
        try:
            models = [str(model.id) for model in self._client.models.list().data]
        except openai.APIConnectionError as error:
            said = f" ({error.__cause__})" if error.__cause__ else ""
            raise UserError(f"{self.url} does not answer{said}: start the server, or mend its address.") from error
        except openai.APIStatusError as error:
            if error.status_code in (401, 403):
                raise self._judge(error) from error
        except (openai.OpenAIError, ValueError, AttributeError, TypeError):
            pass  # it may answer all the same, once it is told which model
        if len(models) != 1:
            held = f"it has {', '.join(models[:20])}" if models else "it names none"
            raise UserError(f"Say which model of {self.url} is to be asked ({held}).")
        return models[0]

    def _no_such_model(self, said: str) -> UserError:
        models = self._models()
        if models and self.name not in models:
            return UserError(f"{self.url} has no model {self.name!r}: it has {', '.join(models[:20])}.")
        if not models:
            return self._no_such_server()
        return UserError(f"{self.url} does not take questions for {self.name!r}: {said}.")

    def _no_such_server(self) -> UserError:
        hint = "" if self.url.rstrip("/").endswith("/v1") else "; the address mostly ends in /v1"
        return UserError(f"{self.url} does not speak OpenAI's chat completions: check the address{hint}.")


def messages_of(question: Question) -> list[dict[str, Any]]:
    """The question as chat messages, images as data URLs where the text shows them."""
    content = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image_url", "image_url": {"url": data_url(part)}}
        for part in question.parts()
    ]
    system = [{"role": "system", "content": question.system}] if question.system else []
    return [*system, {"role": "user", "content": content}]


def data_url(image: np.ndarray) -> str:
    """The image as a JPEG in an address."""
    return _jpeg_url(image.tobytes(), image.shape[1], image.shape[0])


@lru_cache(256)  # the questions about a pair show the same frames again and again
def _jpeg_url(pixels: bytes, width: int, height: int) -> str:
    from PIL import Image

    out = io.BytesIO()
    Image.frombytes("RGB", (width, height), pixels).save(out, "JPEG", quality=JPEG, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()


def _text(content: object) -> str:
    """What a message says: text, or the texts of its parts; parts that think or hold files say nothing."""
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict) and part.get("type") in ("text", "output_text")]
        return "".join(str(part.get("text") or "") for part in parts)
    return str(content or "")


def _words(body: dict[str, Any]) -> str:
    """The message of an error's body, as OpenAI, vLLM and SGLang, FastAPI, LM Studio and Ollama write it."""
    said = next((body[name] for name in ("message", "detail", "error") if body.get(name)), "")
    return _short(str(said))


def _short(said: str) -> str:
    return whole(" ".join(said.split())[:300])
