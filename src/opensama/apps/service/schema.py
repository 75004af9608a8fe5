"""What the service takes and gives, for the OpenAPI description: fields beyond OpenAI's are this service's own."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from opensama.apps.jobs.engine import EDIT_MASKS
from opensama.apps.jobs.words import SETTINGS

Status = Literal["queued", "in_progress", "completed", "failed"]


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(BaseModel):
    error: ErrorDetail


class JobError(BaseModel):
    code: str
    message: str


class EditDetail(BaseModel):
    """One of several edits that an instruction was split into."""

    instruction: str
    box: list[int] | None
    status: Status


class EditFigures(BaseModel):
    """What one of them did to an output."""

    instruction: str
    changed: float | None = Field(description="Share of the picture, of its box, that changed; null in one pass.")
    box: list[int] | None = None


class OutputDetail(BaseModel):
    """One output of a finished job."""

    seed: int
    frames: int
    seconds: float = Field(description="Seconds that the edit took, writing included.")
    changed: float = Field(description="Share of the picture, of the mask or box, that changed visibly.")
    unknown_words: list[str]
    edits: list[EditFigures] | None = Field(description="Of a split instruction, what each edit changed.")
    kept: float | None = Field(description="Share of the whole picture that looks as it did.")
    kept_db: float | None = Field(description="PSNR of that part against the source, in dB, of the file; at most 99.")


class VideoBody(BaseModel):
    """A job."""

    id: str
    object: Literal["video"]
    model: str
    status: Status
    progress: int = Field(ge=0, le=100, description="Percent; 100 only when the result is there.")
    created_at: int
    completed_at: int | None
    expires_at: int | None
    prompt: str
    seconds: str = Field(description="Of the clip, as a number in text.")
    size: str = Field(description="Of the clip, as 1280x720.")
    error: JobError | None
    remixed_from_video_id: str | None
    stage: str = Field(description="What the worker is at.")
    queue_position: int | None = Field(description="Jobs before this one, while it waits.")
    num_outputs: int
    frames: int
    fps: float
    seed: int
    settings: dict[str, Any] = Field(description="What was chosen beside model, prompt and seed.")
    edits: list[EditDetail] = Field(description="Of a split instruction, in the order in which they are made.")
    outputs: list[OutputDetail]
    notes: list[str] = Field(description="What a person should know: what was left out, what the model cannot do.")


class VideoList(BaseModel):
    object: Literal["list"]
    data: list[VideoBody]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedVideo(BaseModel):
    id: str
    object: Literal["video.deleted"]
    deleted: bool


class ModelBody(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[ModelBody]


class HealthBody(BaseModel):
    status: Literal["ok", "no worker"]
    workers: int


_ANY_FILE: dict[str, object] = {"type": "string", "format": "binary"}
_NUMBER_OR_TEXT: dict[str, object] = {"type": ["number", "string"]}
_KINDS: dict[str, dict[str, object]] = {
    "seed": {"type": ["integer", "string"]}, "steps": {"type": ["integer", "string"]}, "guidance": _NUMBER_OR_TEXT,
    "shift": _NUMBER_OR_TEXT, "source_guidance": _NUMBER_OR_TEXT, "model_fps": _NUMBER_OR_TEXT,
    "quality": _NUMBER_OR_TEXT, "size": {"type": ["integer", "string"]}, "preserve": {"type": ["boolean", "string"]},
    "even": {"type": ["boolean", "string"]}, "box": {"type": ["string", "array"], "items": {"type": "integer"}},
    "frames": {"type": ["string", "array"], "items": {"type": "integer"}},
    "split": {"type": "string", "enum": ["off", "rules"], "description": "Take several edits in one prompt apart."},
    "one_pass": {"type": ["boolean", "string"]},
    "regions": {"type": ["string", "array"], "items": {"type": "string"}, "description": "N:X,Y,W,H for the Nth edit."},
}  # fmt: skip
_SETTINGS: dict[str, dict[str, object]] = {name: _KINDS.get(name, {"type": "string"}) for name in SETTINGS}
_SETTINGS |= {
    "prompt": {"type": "string", "minLength": 1, "pattern": r"\S", "description": "What to change."},
    "model": {"type": "string"},
    "n": {"type": ["integer", "string"], "description": "Variants, whose seeds follow one another."},
    "anyway": {"type": ["boolean", "string"], "description": "Edit, though the model does not know all words."},
    "webhook": {"type": "string", "description": "Told when the job is over: an address that the operator allows."},
    "extra_body": {"type": ["object", "string"], "description": "Any of these, as JSON."},
}  # fmt: skip
_NAMED: dict[str, object] = {
    "oneOf": [
        {"type": "string", "description": "A data address, or the id of a finished video."},
        {"type": "object", "properties": {"id": {"type": "string"}, "url": {"type": "string"}}},
    ]
}


def request_body(source: str | None) -> dict[str, object]:
    """The description of a request's body: a form with files, or JSON; `source` is what the video is called."""
    files = {source: _ANY_FILE} if source else {}
    named = {source: _NAMED} if source else {}
    need = ["prompt", *files]
    beside = dict.fromkeys(("mask", *EDIT_MASKS), _ANY_FILE) | {"references": {"type": "array", "items": _ANY_FILE}}
    beside_named = dict.fromkeys(("mask", *EDIT_MASKS), _NAMED) | {"references": {"type": "array", "items": _NAMED}}
    form = {"type": "object", "required": need, "properties": _SETTINGS | files | beside}
    said = {"type": "object", "required": need, "properties": _SETTINGS | named | beside_named}
    content = {"multipart/form-data": {"schema": form}, "application/json": {"schema": said}}
    return {"requestBody": {"required": True, "content": content}}


def upload_body() -> dict[str, object]:
    """The description of an upload's body: a form with the file `video`."""
    form = {"type": "object", "required": ["video"], "properties": {"video": _ANY_FILE}}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}}}
