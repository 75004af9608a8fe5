"""Ask a vision-language model about pictures: a server (OpenAI-compatible or Gemini-style), a local model, or a script.

    vlm = open_vlm("http://localhost:8000/v1", "Qwen/Qwen2.5-VL-72B-Instruct", cache=Path("answers"))
    frames = frames_for(read_video("clip.mp4"), 4, 448)
    answer_json(vlm.ask(Question(f"Frames of a clip: {IMAGE * 4} Name what moves as JSON: {{...}}", frames)))

An answer is text, or one of four errors: `VlmRefused` (the model will not answer this question), `VlmFailed` (no
whole answer came: the request was not taken, the answer cut off or empty), `VlmUnavailable` (nobody answers, after all
retries), `VlmQuota` (the budget or the quota is spent: stop, and go on another day). What a person must mend (a wrong
key, address or model) is a `UserError`. A long run calls `check_connection(vlm)` first and `ask(vlm, question)` on
the way, which ends the run where no question of that form is answered. Answers and refusals are cached on disk, so
no question is paid for twice; failures are not, so what has been mended is asked again.
"""

from __future__ import annotations

import os
from pathlib import Path

from opensama.values import UserError
from opensama.vlm.answer import BadAnswer, answer_json, number_of, strip_reasoning
from opensama.vlm.client import CachedVlm, ask, ask_twice, check_connection
from opensama.vlm.question import (
    IMAGE,
    Question,
    ScriptedVlm,
    Vlm,
    VlmFailed,
    VlmQuota,
    VlmRefused,
    VlmUnavailable,
)

__all__ = [
    "IMAGE",
    "BadAnswer",
    "CachedVlm",
    "Question",
    "ScriptedVlm",
    "Vlm",
    "VlmFailed",
    "VlmQuota",
    "VlmRefused",
    "VlmUnavailable",
    "answer_json",
    "ask",
    "ask_twice",
    "check_connection",
    "number_of",
    "open_vlm",
    "strip_reasoning",
]


def open_vlm(
    url: str | None = None,
    model: str | None = None,
    *,
    key: str | None = None,
    cache: Path | None = None,
    budget: int | None = None,
    budget_id: str = "",
    retries: int = 5,
    timeout: float = 120.0,
    device: str | None = None,
) -> Vlm:
    """The model at `url` (an OpenAI-compatible server's base address, or a Gemini-style one), else a local one.

    `model` is the server's name of it (may be left out where the server has just one), or a folder or hub id. `key`
    is by default what OPENAI_API_KEY (GEMINI_API_KEY) holds; servers of one's own mostly want none. `cache` is a folder
    for answers, `budget` how many questions may really be asked (cached answers are free; workers that name the same
    `budget_id` and share the cache spend one budget), `retries` how often one is asked again after a failure
    that may pass, `timeout` the seconds that one answer may take. `ask` may be called from threads.
    """
    if budget is not None and budget < 0:
        raise UserError(f"The budget must be a number of questions, 0 or more, not {budget}.")
    if retries < 0 or timeout <= 0:
        raise UserError(f"There must be 0 or more retries and some seconds to answer, not {retries} and {timeout:g}.")
    vlm: Vlm
    if url is not None:
        from opensama.vlm.gemini import GeminiVlm, speaks_gemini
        from opensama.vlm.server import ServerVlm

        if speaks_gemini(url):
            known = os.environ.get("OPENAI_API_KEY")  # which is another provider's
            key = key if key and key != known else os.environ.get("GEMINI_API_KEY")
            vlm = GeminiVlm(url, model, key or "none", retries=retries, timeout=timeout)
            return CachedVlm(vlm, cache, budget, budget_id)
        key = key or os.environ.get("OPENAI_API_KEY") or "none"
        vlm = ServerVlm(url, model, key, retries=retries, timeout=timeout)
    else:
        from opensama.vlm.local import EXAMPLE, LocalVlm

        vlm = LocalVlm(model or EXAMPLE, device=device)
    return CachedVlm(vlm, cache, budget, budget_id)
