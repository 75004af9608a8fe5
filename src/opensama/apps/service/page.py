"""The page of `opensama web`: its files, what it must know, and by what a browser is known.

The page is a client of `/v1/videos` like any other; nothing here edits. Without API keys a browser gets a cookie of
chance, and is an owner of its own; with keys a person signs in with one. The page may load from this server alone.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from importlib.resources import files

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse

from opensama import __version__
from opensama.apps.jobs.engine import JobEngine
from opensama.apps.jobs.limits import Refusal
from opensama.apps.service.access import COOKIE, Access, cookie_of, is_browser, problem
from opensama.values import MAX_INSTRUCTION

_STATIC = dict.fromkeys(("web.js", "work.js", "compare.js", "region.js", "edits.js", "avi.js"), "text/javascript")
_STATIC |= {"sample.mp4": "video/mp4"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; connect-src 'self'; media-src 'self' blob:; "
    "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_KEY = 1000  # bytes
_MONTH = 30 * 24 * 3600
EXAMPLES = {
    "style": ("Make the scene look like sunset.", "Put the scene in fog.", "Let the video look like night.",
              "Give the video a sepia look.", "Make the video black and white."),
    "color": ("Make the bird blue.", "Make the flower yellow."),
    "remove": ("Remove the bird.", "Erase the red flower."),
    "replace": ("Replace the bird with a fish.", "Replace the flower with a tree."),
    "add": ("Add a red ball on the left.", "Put a hat on the bird."),
    "background": ("Change the background to the sea.", "Replace the background with a city."),
    "text": ('Add the text "hello" at the top.', 'Put the word "summer" at the bottom.'),
    "hide": ("Pixelate the bird.", "Cover the flower with a mosaic."),
}  # fmt: skip
"""Instructions by kind, in words that the embedded model knows; those of things fit the sample clip."""


def add_page(app: FastAPI, engine: JobEngine, access: Access) -> Iterable[str]:
    """Adds the page's routes; out come the paths that are answered without a key."""
    from opensama.media.pages import fill_page

    html = fill_page("static/web.html", "opensama.apps.service", title="OpenSAMA", version=__version__)

    @app.get("/", include_in_schema=False)
    def page(request: Request) -> Response:
        """The page; a browser that comes for the first time gets its cookie."""
        answer = HTMLResponse(html, headers={"Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer"})
        if not access.keys and not is_browser(cookie_of(request.headers)):
            _remember(request, answer, secrets.token_urlsafe(32))
        return answer

    @app.post("/page/session", include_in_schema=False)
    async def sign_in(request: Request) -> Response:
        """Keeps an API key, which is the request's body, in a cookie that no script reads."""
        key = (await _short_text(request)).strip()
        if not access.keys or access.owner_of(f"Bearer {key}") is None:
            return problem(401, "invalid_api_key", "This is no API key of this service; ask whoever runs it for one.")
        answer = JSONResponse({"signed_in": True})
        _remember(request, answer, key)
        return answer

    @app.delete("/page/session", include_in_schema=False)
    def sign_out(request: Request) -> Response:
        answer = JSONResponse({"signed_in": False})
        answer.delete_cookie(COOKIE)
        return answer

    @app.get("/page/facts", include_in_schema=False)
    def facts() -> Response:
        """What may be chosen, and how much."""
        limits = engine.limits
        models = [_model_facts(name, given) for name, given in engine.settings.models.items()]
        most = {"outputs": limits.max_outputs, "steps": limits.max_steps, "megabytes": limits.max_upload,
                "seconds": limits.max_seconds, "hours": limits.keep_hours}  # fmt: skip
        return JSONResponse({"models": models, "most": most, "examples": EXAMPLES, "keys": bool(access.keys)})

    @app.post("/page/edits", include_in_schema=False)
    async def edits(request: Request) -> Response:
        """The edits that the rules find in an instruction, which is the request's body."""
        from opensama.pipeline.split_rules import split_by_rules

        return JSONResponse({"edits": split_by_rules(await _short_text(request, 4 * MAX_INSTRUCTION))})

    for name, kind in _STATIC.items():
        data = files("opensama.apps.service").joinpath("static", name).read_bytes()
        app.add_api_route(f"/page/{name}", _sender(data, kind), include_in_schema=False)
    return ("/", "/page/session", *(f"/page/{name}" for name in _STATIC))


async def _short_text(request: Request, most: int = _KEY) -> str:
    """A body that anybody may send, and therefore a short one."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise Refusal("too_large", f"{'A key' if most == _KEY else 'An instruction'} has at most {most} bytes.")
    return body.decode("utf-8", "replace")


def _sender(data: bytes, kind: str) -> Callable[[], Response]:
    return lambda: Response(data, media_type=kind)


def _remember(request: Request, answer: Response, cookie: str) -> None:
    secure = request.url.scheme == "https"
    answer.set_cookie(COOKIE, cookie, max_age=_MONTH, httponly=True, samesite="lax", secure=secure)


def _model_facts(name: str, given: str) -> dict[str, object]:
    """A model as the page offers it: how many steps it takes by itself, and whether it knows few words."""
    from opensama.models.families import find_family
    from opensama.models.registry import find, known_words_of

    entry = find(given)
    return {
        "name": name, "steps": entry.defaults.steps, "few_words": bool(known_words_of(entry)),
        "references": find_family(entry.family).takes_references,
    }  # fmt: skip
