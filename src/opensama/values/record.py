"""What an edit says of itself, as the edited file tells it; see `media/video_io/edit_record.py`."""

from __future__ import annotations

from typing import Required, TypedDict


class NamedFile(TypedDict, total=False):
    """A file by its name without its folder, and its SHA-256; `name` is empty for what was an array."""

    name: Required[str]
    sha256: str


class NamedLora(TypedDict):
    """A LoRA by its file's name, the scale it had, and its SHA-256; None for one that is too large to be read."""

    name: str
    scale: float
    sha256: str | None


class MadeWith(TypedDict, total=False):
    """Of a loaded model: number type, the SHA-256 of its files of weights, LoRAs."""

    dtype: str
    weights: dict[str, str | None]
    loras: list[NamedLora]
    float8: bool


class ModelRecord(MadeWith, total=False):
    """The same, and what the model is asked for by."""

    name: str


class EditRecord(TypedDict, total=False):
    """An edit: settings by the names that the command has them under, those at their defaults left out."""

    opensama: str
    model: Required[ModelRecord]
    device: str
    instruction: str
    settings: Required[dict[str, object]]
    source: NamedFile
    shows: str
    """What the video shows, where it is not the whole edit."""
