"""uvicorn around the application, on a socket that is bound before a model is loaded."""

from __future__ import annotations

import logging
import os
import socket

import uvicorn

from opensama.apps.jobs.engine import JobEngine
from opensama.apps.service.access import Access
from opensama.apps.service.application import create_app
from opensama.values import UserError

_CONNECTIONS = 512


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket at that address; port 0 takes a free one. UserError where it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise UserError(f"{host} port {port} cannot be used ({why}): choose others with --host and --port.") from None


def server_for(engine: JobEngine, access: Access, page: bool = False) -> uvicorn.Server:
    """A server whose `run(sockets=[...])` serves until `should_exit`."""
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # the sender is told of a damaged form
    config = uvicorn.Config(
        create_app(engine, access, page), lifespan="off", ws="none", log_level="warning", access_log=False,
        server_header=False, limit_concurrency=_CONNECTIONS, timeout_graceful_shutdown=3, timeout_keep_alive=15,
    )  # fmt: skip
    return uvicorn.Server(config)
