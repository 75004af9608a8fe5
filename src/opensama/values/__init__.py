"""The values that cross the house: videos, shapes and edit requests. They check themselves and compute.

Importing this package costs nothing; numpy is loaded when frames are.
"""

from opensama.values.progress import Cancelled, Progress, UserError, counted, how_many, nearest
from opensama.values.record import EditRecord, MadeWith, NamedFile
from opensama.values.request import MAX_EDITS, MAX_INSTRUCTION, EditRequest, SubEdit
from opensama.values.shapes import frames_down, frames_up
from opensama.values.video import ColorInfo, EditedVideo, Span, Transparency, Video, background_color, frame_rate

__all__ = [
    "MAX_EDITS",
    "MAX_INSTRUCTION",
    "Cancelled",
    "ColorInfo",
    "EditRecord",
    "EditRequest",
    "EditedVideo",
    "MadeWith",
    "NamedFile",
    "Progress",
    "Span",
    "SubEdit",
    "Transparency",
    "UserError",
    "Video",
    "background_color",
    "counted",
    "frame_rate",
    "frames_down",
    "frames_up",
    "how_many",
    "nearest",
]
