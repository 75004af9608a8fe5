"""Which words of an instruction a model of few words does not know, said before anything is loaded."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from opensama.models.registry import find, known_words_of, unknown_words
from opensama.values import UserError

_POLITE = ("please", "kindly", "could", "can", "would", "will", "you", "thanks")
_ENDINGS = "y|s|es|ed|er|ing|ish"  # of a word that is made from a known one


def check_words(model: str | Path, instruction: str, anyway: bool = False) -> None:
    """UserError that names words which the model has never been taught, unless `anyway`."""
    unknown = unknown_words(find(model), instruction)
    if unknown and not anyway:
        known = known_words_of(find(model))
        listed = ", ".join(f"{word!r}{_hint(word, known)}" for word in unknown[:5])
        raise UserError(
            f"The model {model} has never been taught {listed}{' and others' if unknown[5:] else ''}, so nothing was "
            f"edited: say it in words that it knows (`opensama models info {model}` names their list), choose a larger "
            f"model, or add `anyway=True`."
        )


def without_politeness(model: str | Path, instruction: str) -> tuple[str, tuple[str, ...]]:
    """The instruction without words of politeness that a model of few words does not know, and which these are.

    Such a model has never read them and would not pass over them. In quotation marks they stay, and so does all that a
    model of free text is asked.
    """
    parts = re.split(r'(["\u201c\u201d])', instruction)
    polite = tuple(word for word in unknown_words(find(model), " ".join(parts[::4])) if word in _POLITE)
    if not polite or len(parts) % 4 != 1:  # an odd number of quotation marks: nobody knows what is quoted
        return instruction, ()
    for i in range(0, len(parts), 4):
        parts[i] = re.sub(rf"\b(?:{'|'.join(polite)})\b,?\s*", "", parts[i], flags=re.IGNORECASE)
    text = re.sub(r"[\s,]+(?=[.!?]*$)", "", "".join(parts)).strip()
    text = re.sub(r"\?$", ".", text)
    if not re.search(r"\w", text):
        return instruction, ()
    return text[:1].upper() + text[1:], polite


def politeness_note(model: str | Path, left_out: tuple[str, ...]) -> str:
    """One sentence about words that were left out of an instruction; nothing where none were."""
    return f"Left out, since {model} has never been taught them: {', '.join(left_out)}." if left_out else ""


def _hint(word: str, known: frozenset[str]) -> str:
    """` (fog?)` behind `foggy`: the known word that it is made from, or is a slip of the keys away from."""
    stems = [
        one
        for one in known
        if len(one) > 2 and re.fullmatch(rf"{re.escape(one)}{re.escape(one[-1])}?(?:{_ENDINGS})", word)
    ]
    near = [max(stems, key=len)] if stems else difflib.get_close_matches(word, sorted(known), 1, 0.85)
    return f" ({near[0]}?)" if near else ""
