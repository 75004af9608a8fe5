"""`opensama evaluate vote`: people judge, too: two edits of one source, nobody told whose, keys to say which is better.

The page is served to this machine only. Clips are encoded anew at one height and addressed by numbers, so
that neither a file's name nor its properties tell who made it; nothing that a browser sends is ever taken for a path.
A vote is a line of votes.jsonl: the last line of a voter on a pair counts, so that a vote can be taken back.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

from cyclopts import Parameter

from opensama.apps.options import HOW_MANY
from opensama.values import UserError, how_many

if TYPE_CHECKING:
    from opensama.evaluation.results import Results

BODY = 2000  # bytes of a vote
HEIGHT, SECONDS, RATE, QUALITY = 320, 8.0, 24, 75  # of a clip
CLIP_BYTES, KEPT = 8_000_000, 24  # of a clip; clips that are kept encoded


@dataclass(frozen=True)
class _Edit:
    """One system's edit of an item."""

    system: str
    instruction: str
    source: Path
    file: Path


@dataclass(frozen=True)
class VotePair:
    """What one person is shown: files, and whose they are, which is not told."""

    item: str
    instruction: str
    left: str
    right: str
    files: Mapping[str, Path]  # source, left, right


def vote(
    out: Path,
    /,
    *,
    voter: str = "",
    port: int = 8765,
    seed: int = 0,
    number: Annotated[int | None, HOW_MANY] = None,
    tally_only: Annotated[bool, Parameter(name=["--tally"], negative=())] = False,
) -> None:
    """Serve a page on which people vote between two systems' edits; rank the systems by the votes.

    Pairs are blind and shuffled; keys: left, right, and down for a tie. Votes are kept in OUT/votes.jsonl, and the same
    command goes on with the pairs that are left. Ctrl-C ends it and prints the ranks: Bradley-Terry strengths with
    95 % intervals, and how well people agree with the judge.

    Parameters
    ----------
    out
        The folder in which results.json lies.
    voter
        Who votes: each person's votes are kept apart.
    port
        Of the page, on this machine only. 0 takes a free one.
    seed
        Another order and other sides.
    number
        At most so many pairs.
    tally_only
        Print the ranks by the votes so far, and serve nothing.
    """
    from opensama.evaluation.results import read_results
    from opensama.evaluation.votes import VOTE_FILE, tally_votes

    results = read_results(out)
    folder = out if out.is_dir() else out.parent
    if tally_only:
        print(tally_votes(results, folder).lines())
        return
    if not 0 <= port < 65536:
        raise UserError(f"A port is a number from 0 to 65535, not {port}.")
    if number is not None and number < 1:
        raise UserError(f"The number of pairs must be at least 1, not {number}.")
    if len(voter) > 100:
        raise UserError("The voter's name is longer than 100 letters: choose a shorter one.")
    session = VoteSession(find_pairs(results, folder, f"{seed}:{voter}", number), folder / VOTE_FILE, voter)
    try:
        server = serve(session, port)
    except OSError as error:
        raise UserError(f"Port {port} cannot be used ({error.strerror}): choose another with --port.") from error
    address = f"http://127.0.0.1:{server.server_port}/"
    pairs = how_many(len(session.pairs), "pair")
    print(f"{pairs}, {session.done} done; Ctrl-C ends. Vote on:\n{address}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    finally:
        server.server_close()
    print(tally_votes(results, folder).lines())


def find_pairs(results: Results, folder: Path, seed: str, limit: int | None = None) -> list[VotePair]:
    """Every two systems' edits of every item, shuffled, sides by lot; the same for the same seed."""
    if len(results["systems"]) < 2:
        raise UserError("Votes compare two systems, and there is one: score two in one run (--edits, given again).")
    found: dict[str, list[_Edit]] = {}
    for system in results["systems"]:
        for item in system["items"]:
            if (source := item["source"]) and (edited := item["edited"]) and (folder / edited).exists():
                shown = _Edit(system["name"], item["instruction"], folder / source, folder / edited)
                found.setdefault(item["id"], []).append(shown)
    lot = random.Random(seed)
    pairs = []
    for name, edits in found.items():
        for one, two in combinations(edits, 2):
            left, right = (one, two) if lot.random() < 0.5 else (two, one)
            files = {"source": left.source, "left": left.file, "right": right.file}
            pairs.append(VotePair(name, left.instruction, left.system, right.system, files))
    if not pairs:
        raise UserError(
            f"No item in {folder} has edits of two systems whose files are there: keep them in their place."
        )
    lot.shuffle(pairs)
    return pairs[:limit]


@dataclass
class VoteSession:
    """The pairs, what was voted on them, and the clips that were asked for last."""

    pairs: list[VotePair]
    file: Path
    voter: str = ""
    votes: dict[int, str] = field(default_factory=dict)
    _order: list[int] = field(default_factory=list)
    _clips: OrderedDict[tuple[int, str], bytes] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _encoding: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        from opensama.evaluation.votes import VOTE_SHARES, read_votes

        places = {(pair.item, frozenset((pair.left, pair.right))): i for i, pair in enumerate(self.pairs)}
        for row in read_votes(self.file):
            place = places.get((row["item"], frozenset((row["left"], row["right"]))))
            if place is None or row["voter"] != self.voter:
                continue
            self.votes.pop(place, None)
            if row["vote"] in VOTE_SHARES:
                turned = row["left"] != self.pairs[place].left
                self.votes[place] = (
                    {"left": "right", "right": "left"}.get(row["vote"], "tie") if turned else row["vote"]
                )

    @property
    def done(self) -> int:
        return len(self.votes)

    def next(self) -> dict[str, object]:
        """The first pair without a vote, as the page is told."""
        with self._lock:
            place = next((i for i in range(len(self.pairs)) if i not in self.votes), None)
            said: dict[str, object] = {"total": len(self.pairs), "done": self.done, "back": bool(self._order)}
            if place is not None:
                said |= {"pair": place, "instruction": self.pairs[place].instruction}
            return said

    def keep(self, place: int, answer: str) -> None:
        """Writes a vote down; it is on the disk when this comes back."""
        from opensama.evaluation.votes import VOTE_SHARES

        pair = self.pairs[place]
        row = {"item": pair.item, "left": pair.left, "right": pair.right, "vote": answer, "voter": self.voter}
        line = json.dumps(row | {"time": time.strftime("%Y-%m-%dT%H:%M:%S")}, ensure_ascii=True) + "\n"
        with self._lock:
            with self.file.open("ab+") as file:
                if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                    file.write(b"\n")  # a line that was cut off stays alone
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
            self.votes.pop(place, None)
            if answer in VOTE_SHARES:
                self.votes[place] = answer
                self._order.append(place)

    def back(self) -> None:
        """Takes back the last vote of this session."""
        if self._order:
            self.keep(self._order.pop(), "none")

    def clip(self, place: int, side: str) -> bytes:
        """A clip as a small MP4 without a trace of its maker. UserError where it cannot be read."""
        from opensama.media.pages import clip_excerpt, video_url

        key = (place, side)
        with self._encoding:
            if key not in self._clips:
                import base64

                video = clip_excerpt(self.pairs[place].files[side], HEIGHT, SECONDS, RATE)
                data = base64.b64decode(video_url(video, QUALITY).partition(",")[2])
                if len(data) > CLIP_BYTES:
                    raise UserError("The clip is too large to show, even small.")
                self._clips[key] = data
                while len(self._clips) > KEPT:
                    self._clips.popitem(last=False)
            return self._clips[key]


# --- the server


def serve(session: VoteSession, port: int) -> ThreadingHTTPServer:
    """A server bound to this machine; `serve_forever` runs it."""
    server = _VoteServer(("127.0.0.1", port), _Handler)
    server.session = session
    return server


class _VoteServer(ThreadingHTTPServer):
    session: VoteSession


class _Handler(BaseHTTPRequestHandler):
    """GET /, /next, /clip/HOW_MANY/SIDE; POST /vote, /back. Only from pages of this server, on this machine."""

    server_version, sys_version = "opensama", ""
    timeout = 30
    server: _VoteServer

    @property
    def session(self) -> VoteSession:
        return self.server.session

    def do_GET(self) -> None:
        if not self._ours():
            return
        path = urlsplit(self.path).path
        if path == "/":
            self._page()
        elif path == "/next":
            self._json(self.session.next())
        elif path.startswith("/clip/"):
            self._clip(path.split("/")[2:])
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "There is nothing here.")

    def do_POST(self) -> None:
        if not self._ours(writes=True):
            return
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit() or len(length) > 9:
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "Say how long the vote is.")
        elif int(length) > BODY:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"A vote has at most {BODY} bytes.")
        else:
            self._vote(self.rfile.read(int(length)))

    def _vote(self, body: bytes) -> None:
        from opensama.evaluation.votes import VOTE_SHARES

        try:
            said = json.loads(body)
            if self.path == "/back":
                self.session.back()
            else:
                place, answer = said["pair"], said["vote"]
                if self.path != "/vote" or type(place) is not int or answer not in VOTE_SHARES:
                    raise ValueError("no such vote")
                if not 0 <= place < len(self.session.pairs):
                    raise ValueError("no such pair")
                self.session.keep(place, answer)
        except (ValueError, KeyError, TypeError, RecursionError):
            self._refuse(HTTPStatus.BAD_REQUEST, 'A vote is {"pair": HOW_MANY, "vote": "left", "right" or "tie"}.')
        except OSError as error:
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, f"The vote could not be kept: {error.strerror}.")
        else:
            self._json(self.session.next())

    def _clip(self, parts: Sequence[str]) -> None:
        place, side = parts if len(parts) == 2 else ("", "")
        known = place in map(str, range(len(self.session.pairs))) and side in ("source", "left", "right")
        if not known:
            self._refuse(HTTPStatus.NOT_FOUND, "There is no such clip.")
            return
        try:
            data = self.session.clip(int(place), side)
        except (UserError, OSError, ValueError):  # the reason may hold the file's name
            self._refuse(HTTPStatus.UNPROCESSABLE_ENTITY, "This clip cannot be read.")
        else:
            self._send(HTTPStatus.OK, "video/mp4", data)

    def _page(self) -> None:
        from opensama.media.pages import fill_page

        nonce = secrets.token_urlsafe(16)
        text = fill_page("vote.html", "opensama.apps", title="Which edit is better?", nonce=nonce)
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; connect-src 'self'; "
            "media-src blob:; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        self._send(HTTPStatus.OK, "text/html; charset=utf-8", text.encode(), {"Content-Security-Policy": policy})

    def _ours(self, writes: bool = False) -> bool:
        """Whether a request comes from this server's page: other sites may not vote, nor another name lead here."""
        hosts = {f"{name}:{self.server.server_port}" for name in ("127.0.0.1", "localhost")}
        origin = self.headers.get("Origin")
        good = self.headers.get("Host", "") in hosts and (origin is None or origin in {f"http://{h}" for h in hosts})
        if writes:
            good = good and self.headers.get_content_type() == "application/json"
        if not good:
            self._refuse(HTTPStatus.FORBIDDEN, "Only the page of this server may ask.")
        return good

    def _json(self, value: object) -> None:
        self._send(HTTPStatus.OK, "application/json", json.dumps(value).encode())

    def _refuse(self, status: HTTPStatus, sentence: str) -> None:
        self.close_connection = True
        self._send(status, "text/plain; charset=utf-8", sentence.encode())

    def _send(self, status: HTTPStatus, kind: str, body: bytes, more: Mapping[str, str] | None = None) -> None:
        headers = {"Content-Type": kind, "Content-Length": str(len(body)), "Cache-Control": "no-store"}
        headers |= {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
        try:
            self.send_response(status)
            for name, value in {**headers, **(more or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """The terminal stays for what a person is told."""
