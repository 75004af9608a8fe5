"""How a long run asks: it greets the model first, and stops where nobody answers any more."""

from __future__ import annotations

from opensama.values import UserError
from opensama.vlm.asking import Question, Vlm, VlmQuota, VlmRefused, VlmUnavailable
from opensama.vlm.remembering import Remembering


def ask(vlm: Vlm, question: Question) -> str:
    """The answer. VlmQuota, which ends a run, also where no other question would be answered either."""
    try:
        return vlm.ask(question)
    except UserError as error:  # a key that has expired, a server with another model: no item's fault
        raise VlmQuota(str(error)) from error
    except VlmUnavailable as error:
        try:
            greet(vlm)
        except UserError:
            raise VlmQuota(str(error)) from error
        raise  # others are answered: it is this question


def greet(vlm: Vlm) -> None:
    """One short question, free of budget and memory. UserError where nobody answers: key, address, model are wrong."""
    inner = vlm.vlm if isinstance(vlm, Remembering) else vlm
    try:
        inner.ask(Question("Say yes.", max_tokens=16))
    except VlmUnavailable as error:
        raise UserError(f"{error}; start the server, or mend its address.") from error
    except (VlmQuota, VlmRefused):
        pass  # somebody is there, and kept answers need no quota
