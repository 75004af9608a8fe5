"""How a long run asks: it greets the model first, and stops where nobody answers any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opensama.values import UserError
from opensama.vlm.asking import Question, Vlm, VlmFailed, VlmQuota, VlmRefused, VlmUnavailable
from opensama.vlm.remembering import Remembering

if TYPE_CHECKING:
    import numpy as np


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
    except VlmFailed as error:
        if not _answers(vlm, question):
            raise VlmQuota(f"no such question is answered ({error}): mend the server or the settings") from error
        raise


def greet(vlm: Vlm) -> None:
    """One short question, free of budget and memory. UserError where nobody answers: key, address, model are wrong."""
    try:
        _behind(vlm).ask(Question("Say yes.", max_tokens=16))
    except VlmUnavailable as error:
        raise UserError(f"{error}; start the server, or mend its address.") from error
    except (VlmQuota, VlmRefused, VlmFailed):
        pass  # somebody is there, and kept answers need no quota


def _behind(vlm: Vlm) -> Vlm:
    return vlm.vlm if isinstance(vlm, Remembering) else vlm


def _answers(vlm: Vlm, question: Question) -> bool:
    """Whether an easy question of the same form is answered: as many pictures, as large, as many tokens."""
    images = tuple(_nothing_special(*image.shape[:2]) for image in question.images)
    try:
        _behind(vlm).ask(Question("Say yes.", images, question.system, question.max_tokens, question.temperature))
    except VlmRefused:
        return True
    except (VlmFailed, VlmUnavailable, VlmQuota, UserError):
        return False
    return True


def _nothing_special(height: int, width: int) -> np.ndarray:
    """A picture of soft spots, whose file is about as large as a photograph's."""
    import numpy as np
    from PIL import Image

    small = np.random.default_rng(0).integers(0, 256, (-(-height // 4), -(-width // 4), 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))
