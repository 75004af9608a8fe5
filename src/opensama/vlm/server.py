"""A model behind an OpenAI-compatible server (vLLM, SGLang, llama.cpp, a provider): the only door to `openai`."""

from __future__ import annotations

import re
from functools import cache, cached_property
from typing import TYPE_CHECKING

from opensama.runtime import install_line
from opensama.values import UserError
from opensama.vlm.answer import check_answer, replace_surrogates
from opensama.vlm.client import RemoteVlm, TransientError, jpeg_base64, retry_after
from opensama.vlm.question import Question, VlmFailed, VlmRefused

if TYPE_CHECKING:
    import openai
    from openai.types.chat import ChatCompletion

NO_QUOTA = ("insufficient_quota", "billing_hard_limit_reached")
CONTENT = re.compile(  # how providers say that a request was stopped for what it shows
    r"content[_ ]?(filter|policy|management)|moderation|safety|data_?inspection|inappropriate|sensitive", re.IGNORECASE
)
KEY = re.compile(r"api[ _-]?key", re.IGNORECASE)
REASONING = ("reasoning_content", "reasoning")  # fields in which servers put what comes before an answer


@cache
def _first_client() -> openai.OpenAI:
    """Whose connections all clients of the process share: each that makes its own reads all certificates anew."""
    import openai

    return openai.OpenAI(base_url="http://localhost/v1", api_key="none", max_retries=0)


class ServerVlm(RemoteVlm):
    """Chat completions with frames as images."""

    protocol = "OpenAI's chat completions"
    key_variable = "OPENAI_API_KEY"
    _unsupported: frozenset[str] = frozenset()  # settings that this model does not take

    @cached_property
    def _client(self) -> openai.OpenAI:
        try:
            first = _first_client()
        except ImportError as error:
            raise UserError(f"Asking a server needs the openai client; run: {install_line('curate')}") from error
        return first.with_options(base_url=self.url, api_key=self._key, timeout=self.timeout)

    def _attempt(self, question: Question) -> str:
        import openai

        try:
            return self._answer(self._send(messages_of(question), question), question.max_tokens)
        except openai.APIStatusError as error:
            raise self._status_error(error) from error
        except openai.APIConnectionError as error:  # time-outs, too
            failure = f"{error} ({error.__cause__})" if error.__cause__ else str(error)
            raise TransientError(failure) from error
        except (openai.APIResponseValidationError, ValueError) as error:
            raise self._no_such_server() from error

    def _send(self, messages: list[dict[str, object]], question: Question) -> ChatCompletion:
        import openai

        settings = {"max_tokens": question.max_tokens, "temperature": question.temperature}
        if "max_tokens" in self._unsupported:  # newer OpenAI models know it by another name only
            settings["max_completion_tokens"] = settings["max_tokens"]
        for name in self._unsupported:
            settings.pop(name, None)
        try:
            return self._client.chat.completions.create(model=self.name, messages=messages, **settings)
        except openai.BadRequestError as error:
            unknown = {"max_tokens", "temperature"} & {str(error.param)} & settings.keys()
            if not unknown:
                raise
            self._unsupported |= unknown
            return self._send(messages, question)

    def _answer(self, reply: ChatCompletion, limit: int) -> str:
        choices = getattr(reply, "choices", None)
        choice = choices[0] if choices else None
        if error := getattr(choice, "error", None) or getattr(reply, "error", None):  # of gateways, with status 200
            said = error if isinstance(error, dict) else {"message": str(error)}
            status = said.get("code")
            raise self._body_error(status if isinstance(status, int) else 500, said, _words(said), None)
        if choice is None:
            if getattr(reply, "object", None) == "chat.completion":
                raise VlmFailed("the model answered nothing (no choice)")
            raise self._no_such_server()
        message, ended = choice.message, str(choice.finish_reason)
        if refusal := getattr(message, "refusal", None):
            raise VlmRefused(replace_surrogates(str(refusal)))
        if ended == "content_filter":
            raise VlmRefused("the server's content filter stopped the answer")
        text = _text(getattr(message, "content", None))
        if not text.strip() and (field := next((name for name in REASONING if getattr(message, name, None)), "")):
            ended += f", all of it in {field}"
        return check_answer(text, cut=choice.finish_reason == "length", limit=limit, ended=ended)

    def _status_error(self, error: openai.APIStatusError) -> Exception:
        body = error.body if isinstance(error.body, dict) else {}
        said = _words(body) or _short(error.body if isinstance(error.body, str) else error.message)
        return self._body_error(error.status_code, body, said, retry_after(error.response.headers.get("retry-after")))

    def _body_error(self, status: int, body: dict[str, object], said: str, wait: float | None) -> Exception:
        """See `_error_of`; VlmRefused for what a content filter stopped."""
        named = {str(body.get(name)) for name in ("code", "type")}
        bad_key = KEY.search(said) is not None
        if status in (400, 403, 422) and not bad_key and any(CONTENT.search(words) for words in (*named, said)):
            return VlmRefused(f"{status} {said}")
        return self._error_of(status, said, bad_key=bad_key, quota=bool(named & set(NO_QUOTA)), retry_after=wait)

    def _models(self) -> list[str]:
        return [str(model.id) for model in self._client.models.list().data]

    def _model_name(self, model: str | None) -> str:
        self._client  # noqa: B018 - tells now that the client is not installed
        if model:
            return model
        import openai

        models: list[str] = []
        try:
            models = self._models()
        except openai.APIConnectionError as error:
            said = f" ({error.__cause__})" if error.__cause__ else ""
            raise UserError(f"{self.url} does not answer{said}: start the server, or mend its address.") from error
        except openai.APIStatusError as error:
            if error.status_code in (401, 403):
                raise self._status_error(error) from error
        except (openai.OpenAIError, ValueError, AttributeError, TypeError):
            pass  # it may answer all the same, once it is told which model
        if len(models) != 1:
            held = f"it has {', '.join(models[:20])}" if models else "it names none"
            raise UserError(f"Say which model of {self.url} is to be asked ({held}).")
        return models[0]

    def _no_such_model(self, said: str) -> UserError:
        import openai

        try:
            models = self._models()
        except (openai.OpenAIError, ValueError, AttributeError, TypeError):
            models = []
        if models and self.name not in models:
            return UserError(f"{self.url} has no model {self.name!r}: it has {', '.join(models[:20])}.")
        if not models:
            return self._no_such_server()
        return UserError(f"{self.url} does not take questions for {self.name!r}: {said}.")

    def _no_such_server(self) -> UserError:
        hint = "" if self.url.endswith("/v1") else "; the address mostly ends in /v1"
        return UserError(f"{self.url} does not speak {self.protocol}: check the address{hint}.")


def messages_of(question: Question) -> list[dict[str, object]]:
    """The question as chat messages, images as data URLs where the text shows them."""
    content = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{jpeg_base64(part)}"}}
        for part in question.parts()
    ]
    system: list[dict[str, object]] = [{"role": "system", "content": question.system}] if question.system else []
    return [*system, {"role": "user", "content": content}]


def _text(content: object) -> str:
    """What a message says: text, or the texts of its parts; parts that think or hold files say nothing."""
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict) and part.get("type") in ("text", "output_text")]
        return "".join(str(part.get("text") or "") for part in parts)
    return str(content or "")


def _words(body: dict[str, object]) -> str:
    """The message of an error's body, as OpenAI, vLLM and SGLang, FastAPI, LM Studio and Ollama write it."""
    said = next((body[name] for name in ("message", "detail", "error") if body.get(name)), "")
    return _short(str(said))


def _short(said: str) -> str:
    return replace_surrogates(" ".join(said.split())[:300])
