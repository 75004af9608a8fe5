"""A model behind an OpenAI-compatible server (vLLM, SGLang, llama.cpp, a provider): the only door to `openai`."""

from __future__ import annotations

import base64
import io
import threading
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from opensama.values import UserError
from opensama.vlm.asking import Question, VlmQuota, VlmRefused, whole
from opensama.vlm.patience import PAUSE, Again, check_address, persist

if TYPE_CHECKING:
    import numpy as np
    import openai

JPEG = 95
NO_MONEY = ("insufficient_quota", "billing_hard_limit_reached")


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
            return self._answer(self._send(messages, question))
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

    def _answer(self, reply: Any) -> str:
        choices = getattr(reply, "choices", None)
        if not choices:
            raise self._no_such_server()
        message, ended = choices[0].message, choices[0].finish_reason
        if getattr(message, "refusal", None):
            raise VlmRefused(whole(str(message.refusal)))
        if ended == "content_filter":
            raise VlmRefused("the server's content filter stopped the answer")
        if not (message.content or "").strip():
            raise VlmRefused(f"the answer is empty ({ended})")
        return whole(str(message.content))

    def _judge(self, error: openai.APIStatusError) -> Exception:
        """What to raise: `Again` where another attempt may be of use."""
        status, said = error.status_code, _said(error)
        if status in (401, 403):
            return UserError(f"{self.url} does not accept the key ({said}): set OPENAI_API_KEY to a valid one.")
        if status == 404:
            return self._no_such_model(said)
        if status == 402 or (status == 429 and (error.code in NO_MONEY or error.type in NO_MONEY)):
            return VlmQuota(f"the quota at {self.url} is spent: {said}")
        if status in (408, 409, 425, 429) or status >= 500:
            return Again(f"{status} {said}", crowded=status == 429, wait=_told_to_wait(error))
        return VlmRefused(f"{status} {said}")

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


def _said(error: openai.APIStatusError) -> str:
    body = error.body
    text = body.get("message") if isinstance(body, dict) else None
    return whole(" ".join(str(text or error.message).split())[:300])


def _told_to_wait(error: openai.APIStatusError) -> float | None:
    try:
        return max(0.0, float(error.response.headers["retry-after"]))
    except (KeyError, ValueError):
        return None
