"""OpenSAMA: edit a video by saying what to change.

    import opensama
    edited = opensama.edit("holiday.mp4", "Make the scene look like sunset.")  # a Video; frames come when asked
    edited.save("sunset.mp4")                                                  # with the source's sound
    editor = opensama.load("sama-14b")                                         # or keep the model
    edited = editor.edit(opensama.EditRequest("holiday.mp4", "Remove the dog."))

`UserError` is what a person can mend, in one sentence. A request's `progress` is called with `Progress`; it may raise
`Cancelled`.

Nothing heavy is imported until it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opensama.media.video_io import read_video
    from opensama.pipeline.editor import Editor, edit, load
    from opensama.values import Cancelled, EditedVideo, EditRequest, Progress, UserError, Video

__version__ = "0.1.0"
__all__ = [
    "Cancelled",
    "EditRequest",
    "EditedVideo",
    "Editor",
    "Progress",
    "UserError",
    "Video",
    "__version__",
    "edit",
    "load",
    "read_video",
]

_HOME = dict.fromkeys(("Editor", "edit", "load"), "opensama.pipeline.editor")
_HOME |= {"read_video": "opensama.media.video_io"}
_HOME |= dict.fromkeys(("Cancelled", "EditRequest", "EditedVideo", "Progress", "UserError", "Video"), "opensama.values")


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'opensama' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
