"""Signed webhooks: when a job that named one is over, its object is sent there, as Standard Webhooks has it.

    webhook-id          of the event, the same at every try
    webhook-timestamp   seconds of Unix time, of this try
    webhook-signature   v1,BASE64 of HMAC-SHA256 by the secret over "ID.TIMESTAMP.BODY"

What is to be sent is a row of the queue, written with the job's end: a service that is killed goes on sending. A job
that is deleted is told to nobody. Requests can only name addresses that the operator allows; these are looked up anew
at each try and, unless the operator says so, must be public ones. Redirects are not followed, nothing of the address or
the secret is logged.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import json
import os
import secrets
import socket
import sqlite3
import ssl
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from opensama.apps.jobs.engine import JobEngine
from opensama.apps.jobs.store import Webhook
from opensama.apps.service.application import video_body
from opensama.values import UserError

_PREFIX = "whsec_"
_LOOK = 0.5  # seconds between two looks for what is to be sent
_PAUSES = (5.0, 60.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0)
"""Seconds before the second try and those after it, a tenth more or less; then it is given up."""
_SECONDS = 15.0  # for all of a try
_GONE = 410  # the receiver wants no more of it


class WebhookSender:
    """Sends what is due while it is open, one after the other.

    With `private` also to this machine and its network, and without TLS.
    """

    def __init__(self, engine: JobEngine, secret: bytes, private: bool = False) -> None:
        self.engine, self.store, self._secret, self.private = engine, engine.store, secret, private
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(_LOOK):
            try:
                for webhook in self.store.due_webhooks():
                    if not self._closed.is_set():
                        self._try(webhook)
            except sqlite3.OperationalError as error:  # a full disk: the row is as it was
                print(f"webhooks: {error}", file=sys.stderr, flush=True)

    def _try(self, webhook: Webhook) -> None:
        job = self.store.get(webhook.owner, webhook.job)
        if job is None:
            return
        event = {
            "id": webhook.id, "object": "event", "type": f"video.{job.status}",
            "created_at": int(job.completed_at or 0), "data": video_body(self.engine, job),
        }  # fmt: skip
        body = json.dumps(event, separators=(",", ":")).encode()
        status, said = 0, ""
        try:
            status = post(webhook.url, body, signature(self._secret, webhook.id, int(time.time()), body), self.private)
            said = f"was answered with {status}"
        except (OSError, HTTPException, ValueError) as error:
            said = str(error) if isinstance(error, UserError) else f"could not be sent ({type(error).__name__})"
        if 200 <= status < 300:
            self.store.end_webhook(webhook, "webhooks_sent")
        elif status == _GONE or webhook.tries >= len(_PAUSES):
            self.store.end_webhook(webhook, "webhooks_given_up")
            print(f"The webhook of {job.id} {said}; it is given up.", file=sys.stderr, flush=True)
        else:
            pause = _PAUSES[webhook.tries] * (0.9 + 0.2 * secrets.randbelow(1000) / 1000)
            self.store.delay_webhook(webhook, pause)
            print(f"The webhook of {job.id} {said}; again in {pause:.0f} s.", file=sys.stderr, flush=True)


def signature(secret: bytes, event: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers by which a receiver knows an event for genuine."""
    signed = hmac.new(secret, f"{event}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    said = f"v1,{base64.b64encode(signed).decode()}"
    return {"webhook-id": event, "webhook-timestamp": str(timestamp), "webhook-signature": said}


def secret_in(file: Path) -> bytes:
    """The secret that a file holds, which is made, for its owner's eyes only, where there is none."""
    if not file.exists():
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as out:
            out.write(f"{_PREFIX}{base64.b64encode(secrets.token_bytes(32)).decode()}\n")
    try:
        said = file.read_text().strip()
        if not said.startswith(_PREFIX):
            raise ValueError
        secret = base64.b64decode(said.removeprefix(_PREFIX), validate=True)
    except (OSError, ValueError, binascii.Error):
        secret = b""
    if not 24 <= len(secret) <= 64:
        raise UserError(f"{file} holds no secret: one is {_PREFIX} and the base64 of 24 to 64 bytes; remove the file.")
    return secret


def check_webhooks(addresses: Iterable[str], private: bool) -> tuple[str, ...]:
    """The same addresses. UserError for one that nothing may be sent to."""
    found = tuple(addresses)
    for address in found:
        try:
            parts = urlsplit(address)
            name, _ = parts.hostname, parts.port
        except ValueError:
            raise UserError(f"The webhook {address[:80]!r} is no address.") from None
        if not name or parts.username or parts.fragment or parts.scheme not in ("http", "https"):
            raise UserError(f"The webhook {address[:80]!r} must be an address such as https://example.org/videos.")
        if parts.scheme == "http" and not private:
            raise UserError("A webhook begins with https://; add --webhook-private for http in your own network.")
        try:
            number = ipaddress.ip_address(name)
        except ValueError:  # a name, which is looked up when it is sent to
            continue
        if not private and not is_public(number):
            raise UserError(_private(name))
    return found


def is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an address is one of the open net, also where it is one of IPv4 in the dress of IPv6."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is not None:
            return is_public(inner)
        if address in ipaddress.ip_network("64:ff9b::/96"):
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return address.is_global and not address.is_multicast


def post(address: str, body: bytes, headers: Mapping[str, str], private: bool) -> int:
    """The status of the answer. UserError where the address leads to where nothing may be sent."""
    parts = urlsplit(address)
    name, secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    found = [one[4][0] for one in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)]
    numbers = [str(number).partition("%")[0] for number in found]
    if not private and not all(is_public(ipaddress.ip_address(number)) for number in numbers):
        raise UserError(_private(name))
    plain = socket.create_connection((numbers[0], port), _SECONDS)  # the one that was looked at, not the name again
    connection = HTTPConnection(name, port)
    watched = plain.dup()  # of which TLS takes nothing away
    timer = threading.Timer(_SECONDS, _cut, [watched])
    timer.start()
    try:
        connection.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=name) if secure else plain
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        more = {"Content-Type": "application/json", "User-Agent": "OpenSAMA", "Connection": "close"}
        connection.request("POST", target, body, {**more, **headers})
        return connection.getresponse().status
    finally:
        timer.cancel()
        connection.close()
        plain.close()
        watched.close()


def _cut(connection: socket.socket) -> None:
    """Ends a try that comes to no end, whatever drips in."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _private(name: str) -> str:
    return f"The webhook's address {name} is of this machine or its network; --webhook-private allows these."
