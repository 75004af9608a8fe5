"""The routes: each reads its request, asks the engine, and answers in the form that the OpenAI client knows.

Whatever waits (the database, looking at an upload) does so in a thread, long waits in threads of their own kind; the
loop only moves bytes.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Annotated, Literal, Protocol, TypeVar, cast

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Header, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from opensama import __version__
from opensama.apps.jobs.engine import JobEngine
from opensama.apps.jobs.limits import Owner, Refusal
from opensama.apps.jobs.renditions import Rendition
from opensama.apps.jobs.store import VideoJob
from opensama.apps.jobs.words import chosen_settings, edits_of
from opensama.apps.records import JobResult
from opensama.apps.service.access import OPEN, Access, Gate, problem
from opensama.apps.service.bodies import read_body, take_named_files
from opensama.apps.service.metrics import metrics_text
from opensama.apps.service.page import add_page
from opensama.apps.service.schema import (
    DeletedVideo,
    ErrorBody,
    HealthBody,
    ModelBody,
    ModelList,
    OutputDetail,
    VideoBody,
    VideoList,
    request_body,
    upload_body,
)
from opensama.pipeline.room import free_bytes
from opensama.runtime import DISK_FULL
from opensama.values import UserError

_STATUS = {
    "not_found": 404, "not_ready": 404, "edit_failed": 422, "idempotency_conflict": 422, "queue_full": 429,
    "server_full": 503, "disk_full": 507, "too_large": 413,
}  # fmt: skip
"""HTTP's numbers for refusals; of others 400."""
_LOOK, _ALIVE = 0.2, 10.0  # seconds between two looks at a job that is watched, and between two signs of life
_MOST_ID = 80  # characters
_LOOKERS = 16  # threads that wait for files to be looked at; others answer all else meanwhile
_TYPES = {".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/quicktime", ".mkv": "video/x-matroska",
          ".webm": "video/webm", ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg",
          ".webp": "image/webp"}  # fmt: skip
_REFUSALS: dict[int | str, dict[str, object]] = {
    code: {"model": ErrorBody, "description": words}
    for code, words in {
        400: "What was asked cannot be done; the sentence says how to mend it.", 401: "No key, or an unknown one.",
        403: "Asked by a page of another site.", 404: "There is none.", 413: "Too large.",
        422: "The edit failed, or a key was used twice.", 429: "Too many requests or jobs.", 503: "The queue is full.",
        507: "The disk is full.",
    }.items()
}  # fmt: skip
_VARIANTS = r"^(video|thumbnail|spritesheet|strip|preview|compare|source|source-preview|\d{1,2})$"
T = TypeVar("T")


class Looking(Protocol):
    """Calls a function that looks at files in a thread that nothing else waits for."""

    def __call__(self, function: Callable[[], T], /) -> Awaitable[T]: ...


JobId = Annotated[str, Path(max_length=_MOST_ID)]
Key = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=200)]


def create_app(engine: JobEngine, access: Access, page: bool = False) -> Gate:
    """The service over an engine that is open, and with `page` the page for people, too."""
    app = FastAPI(
        title="OpenSAMA",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        responses=_REFUSALS,
        redirect_slashes=False,
    )
    gate = Gate(app, access, engine.limits, {})
    _handle_errors(app)
    looking = cast(Looking, partial(to_thread.run_sync, limiter=CapacityLimiter(_LOOKERS)))
    _add_videos(app, engine, looking)
    _add_results(app, engine, looking)
    _add_service(app, engine, gate)
    if page:
        gate.opened = (*OPEN, *add_page(app, engine, access))
    described = app.openapi

    def openapi() -> dict[str, object]:
        schema = described()
        if access.keys:
            schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            schema["security"] = [{"key": []}]
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
    return gate


def _add_videos(app: FastAPI, engine: JobEngine, looking: Looking) -> None:
    """Jobs made, looked up, followed and deleted."""

    async def create(request: Request, key: str | None, remixed: str | None = None) -> JSONResponse:
        owner = _owner(request)
        await run_in_threadpool(engine.check_room, owner, _content_length(request))
        if remixed is not None:
            await run_in_threadpool(engine.find, owner, remixed)
        with engine.new_upload() as upload:
            values = await read_body(request, upload)

            def submit() -> VideoJob:
                if remixed is not None:
                    engine.take(upload, "video", owner, remixed)
                source = take_named_files(values, upload, owner) or remixed
                return engine.submit(owner, upload, values, idempotency_key=key, remixed_from=source)[0]

            job = await looking(submit)
            return await run_in_threadpool(_answer, engine, job)

    @app.post("/v1/videos/edits", response_model=VideoBody, tags=["videos"], openapi_extra=request_body("video"))
    async def edit_video(request: Request, key: Key = None) -> Response:
        """Edit a video by an instruction."""
        return await create(request, key)

    @app.post("/v1/videos", response_model=VideoBody, tags=["videos"], openapi_extra=request_body("input_reference"))
    async def create_video(request: Request, key: Key = None) -> Response:
        """The same, with the source as `input_reference` or `video_reference`."""
        return await create(request, key)

    @app.post(
        "/v1/videos/{video_id}/remix", response_model=VideoBody, tags=["videos"], openapi_extra=request_body(None)
    )
    async def remix_video(request: Request, video_id: JobId, key: Key = None) -> Response:
        """Edit the result of a finished job further."""
        return await create(request, key, video_id)

    @app.post("/v1/videos/uploads", response_model=VideoBody, tags=["videos"], openapi_extra=upload_body())
    async def upload_video(request: Request) -> Response:
        """Keep a video to edit it several times: a job without an instruction, completed as it comes, whose result it
        is."""
        owner = _owner(request)
        await run_in_threadpool(engine.check_room, owner, _content_length(request))
        with engine.new_upload() as upload:
            if values := await read_body(request, upload):
                raise UserError(f"An upload has no settings, such as {next(iter(values))[:40]}: give them to the edit.")
            return _answer(engine, await looking(lambda: engine.keep(owner, upload)))

    @app.get("/v1/videos", response_model=VideoList, tags=["videos"])
    def list_videos(
        request: Request,
        after: Annotated[str | None, Query(max_length=_MOST_ID)] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        order: Literal["asc", "desc"] = "desc",
    ) -> Response:
        """Your jobs, the newest first."""
        owner = _owner(request)
        begin = engine.find(owner, after) if after else None
        found = engine.store.page(owner.name, begin, limit + 1, order == "desc")
        data = [video_body(engine, job) for job in found[:limit]]
        ids = [one["id"] for one in data] or [None]
        more = len(found) > limit
        return JSONResponse({"object": "list", "data": data, "first_id": ids[0], "last_id": ids[-1], "has_more": more})

    @app.get("/v1/videos/{video_id}", response_model=VideoBody, tags=["videos"])
    def get_video(request: Request, video_id: JobId) -> Response:
        """A job as it is now."""
        return _answer(engine, engine.find(_owner(request), video_id))

    @app.delete("/v1/videos/{video_id}", response_model=DeletedVideo, tags=["videos"])
    def delete_video(request: Request, video_id: JobId) -> Response:
        """End the job if it runs, and remove it with its files."""
        engine.delete(_owner(request), video_id)
        return JSONResponse({"id": video_id, "object": "video.deleted", "deleted": True})

    events: dict[int | str, dict[str, object]] = {
        200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}
    }

    @app.get("/v1/videos/{video_id}/events", tags=["videos"], response_class=StreamingResponse, responses=events)
    async def video_events(request: Request, video_id: JobId) -> Response:
        """What becomes of a job, as server-sent events named by its status: the job's JSON whenever it changes."""
        owner = _owner(request)
        await run_in_threadpool(engine.find, owner, video_id)
        return StreamingResponse(_events(engine, owner, video_id), media_type="text/event-stream")


def _add_results(app: FastAPI, engine: JobEngine, looking: Looking) -> None:
    binary = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in dict.fromkeys(_TYPES.values())}
    ranged: dict[int | str, dict[str, object]] = {
        200: {"content": binary}, 206: {"content": binary, "description": "The bytes that were asked for."},
        416: {"description": "No such bytes."},
    }  # fmt: skip

    @app.get("/v1/videos/{video_id}/content", tags=["videos"], response_class=FileResponse, responses=ranged)
    async def video_content(
        request: Request,
        video_id: JobId,
        variant: Annotated[str, Query(pattern=_VARIANTS)] = "video",
        index: Annotated[int, Query(ge=0, le=99)] = 0,
    ) -> Response:
        """The result, or what it is shown by: a thumbnail, a sheet or a strip of frames, source and result side by
        side, a `preview` that every browser plays; or the source, and its preview.

        A number as variant is the output of that number; `index` chooses it for the others.
        """
        job = await run_in_threadpool(engine.find, _owner(request), video_id)
        if variant.isdigit():
            variant, index = "video", int(variant)
        kind = cast(Rendition, variant.removeprefix("source-"))
        if variant in ("source", "video"):
            path = engine.source(job) if variant == "source" else engine.result(job, index)
        elif variant.startswith("source"):
            path = await looking(lambda: engine.source(job, kind))
        else:
            path = await looking(lambda: engine.result(job, index, kind))
        if not path.exists():
            raise Refusal("not_found", f"The files of {job.id} have expired.")
        name = f"{job.id}-{variant}-{index}{path.suffix}"
        return FileResponse(path, media_type=_TYPES.get(path.suffix, "application/octet-stream"), filename=name)


def _add_service(app: FastAPI, engine: JobEngine, gate: Gate) -> None:
    begun = int(time.time())
    models = [
        {"id": name, "object": "model", "created": begun, "owned_by": "opensama"} for name in engine.settings.models
    ]

    @app.get("/v1/models", response_model=ModelList, tags=["models"])
    def list_models() -> Response:
        """The models that may be asked for, the default first."""
        return JSONResponse({"object": "list", "data": models})

    @app.get("/v1/models/{name}", response_model=ModelBody, tags=["models"])
    def get_model(name: JobId) -> Response:
        """One of them."""
        found = [model for model in models if model["id"] == name]
        if not found:
            raise Refusal("not_found", f"There is no model {name!r} here.")
        return JSONResponse(found[0])

    @app.get("/healthz", response_model=HealthBody, tags=["service"])
    def health() -> Response:
        """Whether jobs are taken in and worked at."""
        workers = len(engine.workers.pids)
        return JSONResponse({"status": "ok" if workers else "no worker", "workers": workers}, 200 if workers else 503)

    @app.get("/metrics", tags=["service"], response_class=PlainTextResponse)
    def metrics() -> Response:
        """Figures for Prometheus."""
        free = free_bytes(engine.settings.folder)
        text = metrics_text(engine.store.figures(), gate.answered, len(engine.workers.pids), free)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")


async def _events(engine: JobEngine, owner: Owner, video_id: str) -> AsyncIterator[str]:
    said, last = "", time.monotonic()
    yield "retry: 1000\n\n"
    while True:
        try:
            job = await run_in_threadpool(engine.find, owner, video_id)
        except Refusal:
            yield f"event: deleted\ndata: {json.dumps({'id': video_id, 'deleted': True})}\n\n"
            return
        text = json.dumps(await run_in_threadpool(video_body, engine, job))
        if text != said:
            said, last = text, time.monotonic()
            yield f"event: {job.status}\ndata: {text}\n\n"
        elif time.monotonic() - last > _ALIVE:
            last = time.monotonic()
            yield ": still here\n\n"
        if job.is_over:
            return
        await asyncio.sleep(_LOOK)


def video_body(engine: JobEngine, job: VideoJob) -> dict[str, object]:
    """A job as clients know it."""
    media = job.media
    result: JobResult = job.result or {"outputs": [], "notes": [*job.asked["notes"], *media["notes"]]}
    place = engine.store.place_in_queue(job) if job.status == "queued" else None
    return {
        "id": job.id, "object": "video", "model": job.model, "status": job.status, "progress": job.progress,
        "created_at": int(job.created_at), "completed_at": _second(job.completed_at),
        "expires_at": _second(job.expires_at), "prompt": job.asked["prompt"], "seconds": f"{media['seconds']:g}",
        "size": f"{media['width']}x{media['height']}",
        "error": {"code": job.error_code, "message": job.error} if job.status == "failed" else None,
        "remixed_from_video_id": job.remixed_from, "stage": job.stage, "queue_position": place,
        "num_outputs": job.outputs, "frames": media["frames"], "fps": media["fps"],
        "seed": job.asked["settings"]["seed"],
        "settings": chosen_settings(job.asked), "edits": edits_of(job.asked, job.status, job.stage),
        "outputs": [{name: one.get(name) for name in OutputDetail.model_fields} for one in result["outputs"]],
        "notes": result["notes"],
    }  # fmt: skip


def _second(at: float | None) -> int | None:
    return None if at is None else int(at)


def _answer(engine: JobEngine, job: VideoJob) -> JSONResponse:
    body = video_body(engine, job)
    before = body["queue_position"] if isinstance(body["queue_position"], int) else 0
    wait = {"queued": min(5000, 500 * (1 + before)), "in_progress": 500}.get(job.status)
    return JSONResponse(body, headers={"openai-poll-after-ms": str(wait)} if wait else None)


def _owner(request: Request) -> Owner:
    return cast(Owner, request.state.owner)


def _content_length(request: Request) -> int:
    length = request.headers.get("content-length", "0")
    return int(length) if length.isascii() and length.isdigit() and len(length) < 16 else 0


def _handle_errors(app: FastAPI) -> None:
    """Every error in the one form, with one sentence."""

    @app.exception_handler(UserError)
    def refused(request: Request, error: Exception) -> Response:
        code = error.code if isinstance(error, Refusal) else "invalid_value"
        status = _STATUS.get(code, 400)
        later = {"Retry-After": "5"} if status in (429, 503, 507) else None
        return problem(status, code, str(error), later)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: Exception) -> Response:
        first = cast(RequestValidationError, error).errors()[0]
        name = str(first["loc"][-1])
        return problem(400, "invalid_value", f"{name}: {first['msg']}.")

    @app.exception_handler(HTTPException)
    def unknown(request: Request, error: Exception) -> Response:
        status = cast(HTTPException, error).status_code
        if status == 404:
            return problem(404, "not_found", "There is nothing at this address.")
        if status != 405:
            return problem(status, "invalid_value", str(cast(HTTPException, error).detail))
        here = [one for one in app.routes if one.matches(request.scope)[0] is not Match.NONE]
        taken = sorted({method for one in here for method in getattr(one, "methods", ())})
        said = f"This address takes {', '.join(taken)}, not {request.method[:20]}."
        return problem(405, "method_not_allowed", said, {"Allow": ", ".join(taken)})

    @app.exception_handler(ClientDisconnect)
    def gone(request: Request, error: Exception) -> Response:
        return problem(400, "invalid_value", "The request was not finished.")  # which nobody reads

    @app.exception_handler(OSError)
    @app.exception_handler(sqlite3.OperationalError)
    def full(request: Request, error: Exception) -> Response:
        if getattr(error, "errno", None) in DISK_FULL or "disk is full" in str(error):
            return problem(507, "disk_full", "The service's disk is full; try again later.", {"Retry-After": "5"})
        raise error

    @app.exception_handler(Exception)
    def broken(request: Request, error: Exception) -> Response:
        return problem(500, "internal_error", "The service failed at this; its log says more.")
