"""OpenSAMA: edit a video by saying what to change.

    import opensama
    edited = opensama.edit("holiday.mp4", "Make the scene look like sunset.")     # a Video; frames come when asked
    editor = opensama.load("sama-14b")                                       # or keep the model
    edited = editor.edit(opensama.EditRequest("holiday.mp4", "Remove the dog."))

Nothing heavy is imported until it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opensama.pipeline.editor import edit, load
    from opensama.values import EditRequest, Video

__version__ = "0.1.0"
__all__ = ["EditRequest", "Video", "__version__", "edit", "load"]

_HOME = {
    "edit": "opensama.pipeline.editor",
    "load": "opensama.pipeline.editor",
    "EditRequest": "opensama.values",
    "Video": "opensama.values",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'opensama' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
