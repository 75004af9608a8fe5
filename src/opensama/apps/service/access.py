"""Who may ask: API keys, of which only hashes are known, rates, and pages of other sites, which may not.

Keys stand in a file, one a line, with limits of their own where these differ:

    alice 5e884898da28047151d0e56f8dc6292773603d0d6aabbd62a11ef721d1542d8 queue=5 rate=60
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import secrets
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from opensama.apps.jobs.limits import JobLimits, Owner
from opensama.values import UserError

OPEN = ("/healthz",)
"""Answered without a key."""
COOKIE = "opensama"
"""By which a browser is known: a key, or, where there are none, what it was given."""
_TOKEN = re.compile(r"[\w-]{43}")
_LINE = re.compile(r"(?P<name>[\w.@-]{1,64})[\s:]+(?P<hash>[0-9a-fA-F]{64})(?P<limits>(?:\s+(?:queue|rate)=\d{1,9})*)")
_LOCAL = Owner("local")


@dataclass
class Access:
    """The keys by their hashes; without any, everybody on this machine is one owner, but each browser of the page."""

    keys: dict[bytes, Owner] = field(default_factory=dict)

    @classmethod
    def of(cls, file: Path | None, given: Iterable[str] = ()) -> Access:
        """The keys of a file, and those given as NAME:HASH. UserError for a line that is none."""
        lines = [("What --key gives", line) for line in given]
        if file is not None:
            try:
                lines += [(f"{file}, line {n}", line) for n, line in enumerate(file.read_text().splitlines(), 1)]
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"The keys {file} cannot be read ({getattr(error, 'strerror', 'no text')}).") from None
        access = cls()
        for place, line in lines:
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            found = _LINE.fullmatch(line.strip())
            if found is None:
                raise UserError(f"{place} is no key: write NAME SHA256, and after it queue=N or rate=N.")
            limits = {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", found["limits"])}
            if 0 in limits.values():
                raise UserError(f"{place}: a limit of 0 shuts {found['name']} out; remove the line for that.")
            access.keys[bytes.fromhex(found["hash"])] = Owner(found["name"], **limits)
        if file is not None and not access.keys:
            raise UserError(f"{file} holds no key; --new-key NAME adds one.")
        return access

    def owner_of(self, authorization: str, cookie: str = "") -> Owner | None:
        """Whose key a header holds, or, without that header, a browser's cookie."""
        if not self.keys:
            known = is_browser(cookie) and not authorization
            return Owner(f"browser-{_hash(cookie).hex()[:32]}") if known else _LOCAL
        kind, _, key = authorization.partition(" ")
        if not authorization:
            kind, key = "bearer", cookie
        return self.keys.get(_hash(key.strip())) if kind.lower() == "bearer" else None


def new_key(file: Path, name: str) -> str:
    """A key for somebody, whose hash is added to the file: what is returned is kept nowhere."""
    key = f"osk-{secrets.token_urlsafe(32)}"
    line = f"{name} {_hash(key).hex()}"
    if _LINE.fullmatch(line) is None:
        raise UserError(f"A key's name has letters, digits and . @ _ -, at most 64, not {name[:70]!r}.")
    before = file.read_text() if file.exists() else ""
    if re.search(rf"^{re.escape(name)}[\s:]", before, re.MULTILINE):
        raise UserError(f"{file} has a key for {name}; remove that line first, or choose another name.")
    with file.open("a") as out:
        out.write(f"{'' if before.endswith(chr(10)) or not before else chr(10)}{line}\n")
    file.chmod(0o600)
    return key


def is_browser(cookie: str) -> bool:
    """Whether a cookie is one that the page gives where there are no keys."""
    return _TOKEN.fullmatch(cookie) is not None


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own, which no other reaches."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_rest(scope: Scope, headers: Headers) -> bool:
    """Whether a player asks for more of a file that it has begun: with the first piece it is one request."""
    asks = headers.get("range", "bytes=0-")
    return scope["method"] == "GET" and scope["path"].endswith("/content") and not asks.startswith("bytes=0-")


def cookie_of(headers: Headers) -> str:
    """The page's cookie, empty where there is none."""
    return cookie_parser(headers.get("cookie", "")).get(COOKIE, "")


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def problem(status: int, code: str, sentence: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An error in the form that clients know."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    body = {"error": {"message": sentence, "type": kind, "param": None, "code": code}}
    return JSONResponse(body, status, headers)


@dataclass
class Gate:
    """Lets a request pass to `app` with its owner, counts it, and answers those that may not ask."""

    app: ASGIApp
    access: Access
    limits: JobLimits
    answered: dict[int, int]
    """How many requests got which status."""
    opened: Collection[str] = OPEN
    """Paths that are answered without a key; of these `/` also to who follows a link of another site."""
    _spent: dict[str, tuple[float, float]] = field(default_factory=dict)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                status = message["status"]
                self.answered[status] = self.answered.get(status, 0) + 1
                headers = MutableHeaders(scope=message)
                headers["X-Content-Type-Options"] = "nosniff"
                headers.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        await (refusal or self.app)(scope, receive, sending)

    def _refusal(self, scope: Scope, headers: Headers) -> JSONResponse | None:
        """The answer to who may not ask; nobody's is None, and the owner stands in the scope."""
        host, origin = headers.get("host", ""), headers.get("origin")
        try:
            name = urlsplit(f"//{host}").hostname or ""
            foreign = origin is not None and urlsplit(origin).netloc != host
        except ValueError:
            name, foreign = "", True
        follows = scope["path"] == "/" and headers.get("sec-fetch-dest") == "document" and scope["method"] == "GET"
        if foreign or (not follows and headers.get("sec-fetch-site", "none") not in ("none", "same-origin")):
            return problem(403, "foreign_origin", "Pages of other sites may not ask this service.")
        if not self.access.keys and not is_loopback(name):
            return problem(403, "foreign_host", "This service answers to the names of this machine only.")
        if scope["path"] in self.opened:
            return None
        owner = self.access.owner_of(headers.get("authorization", ""), cookie_of(headers))
        if owner is None:
            said = "Give an API key of this service, in the header Authorization: Bearer KEY."
            return problem(401, "invalid_api_key", said, {"WWW-Authenticate": "Bearer"})
        scope.setdefault("state", {})["owner"] = owner
        wait = 0.0 if _is_rest(scope, headers) else self._wait(owner)
        if wait > 0:
            said = f"Too many requests: {owner.rate or self.limits.rate} a minute may be; wait {wait:.0f} s."
            return problem(429, "too_many_requests", said, {"Retry-After": str(int(wait) + 1)})
        return None

    def _wait(self, owner: Owner) -> float:
        """Seconds until the owner may ask again; 0 now, and one request is spent. A minute's worth may come at once."""
        most, now = float(owner.rate or self.limits.rate), time.monotonic()
        left, at = self._spent.get(owner.name, (most, now))
        left = min(most, left + (now - at) * most / 60)
        if left < 1:
            self._spent[owner.name] = left, now
            return (1 - left) * 60 / most
        self._spent[owner.name] = left - 1, now
        return 0.0
