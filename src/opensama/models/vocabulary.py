"""Which words of an instruction a model of few words does not know, said before anything is loaded."""

from __future__ import annotations

from pathlib import Path

from opensama.models.registry import find, unknown_words
from opensama.values import UserError


def check_words(model: str | Path, instruction: str, anyway: bool = False) -> None:
    """UserError that names words which the model has never been taught, unless `anyway`."""
    unknown = unknown_words(find(model), instruction)
    if unknown and not anyway:
        listed = ", ".join(repr(word) for word in unknown[:5])
        raise UserError(
            f"The model {model} has never been taught {listed}{' and others' if unknown[5:] else ''}, so nothing was "
            f"edited: say it in words that it knows (`opensama models info {model}` names their list), choose a larger "
            f"model, or add --anyway."
        )
