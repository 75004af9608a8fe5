"""A Ray cluster of two CPUs, for tests; importing the fixture `cluster` makes it the module's.

Its workers are forked from a process that has imported the libraries once, where Ray begins each as a Python of its
own: what it starts in Python's place hands arguments, environment and open files over, and lives as long as the worker.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from opensama.pipeline.batch import OBJECT_STORE
from tests.ranks import from_server

IMPORTED = ["ray.data", "openai", "opensama.pipeline.editor", "opensama.curation.filters"]
HAND_OVER = """#!{python} -IS
import json, os, socket, sys
if os.path.basename(sys.argv[1]) != "default_worker.py":
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
there = socket.socket(socket.AF_UNIX)
there.connect({address!r})
told = json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]).encode()
socket.send_fds(there, [len(told).to_bytes(8, "big")], [0, 1, 2])
there.sendall(told)
there.recv(1)
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a cluster that has begun and goes on, which this process has joined."""
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own
        # where memory is short it ends workers, and begins their work anew
        patch.setenv("RAY_memory_monitor_refresh_ms", "0")
        with workers_server(tmp_path_factory.mktemp("workers")) as python:
            patch.setattr(sys, "executable", str(python))
            there = ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=OBJECT_STORE)
            patch.undo()
            yield there.address_info["gcs_address"]
            assert ray.is_initialized()
            ray.shutdown()


@contextmanager
def workers_server(folder: Path) -> Iterator[Path]:
    """What Ray takes for Python, while the block runs; where forks are not sound, Python."""
    if sys.platform != "linux":
        yield Path(sys.executable)
        return
    address, python = folder / "server", folder / "python"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(address))
        listening.listen(64)
        python.write_text(HAND_OVER.format(python=sys.executable, address=str(address)))
        python.chmod(0o755)
        process = from_server(_fork_workers, listening)
        try:
            yield python
        finally:
            process.kill()
            process.join()


def _fork_workers(listening: socket.socket) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    while True:
        asked, _ = listening.accept()
        length, files, _, _ = socket.recv_fds(asked, 8, 3)
        with asked.makefile("rb") as stream:
            arguments, environment, folder = json.loads(stream.read(int.from_bytes(length, "big")))
        os.environ.clear()
        os.environ.update(environment)
        for module in IMPORTED:  # when the environment is there, in which Ray looks while it is imported
            importlib.import_module(module)
        if os.fork() == 0:
            listening.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            threading.Thread(target=_end_with, args=[asked], daemon=True).start()
            try:
                os.chdir(folder)
                _work(arguments, files)
            finally:
                os._exit(1)
        for end in (asked.detach(), *files):
            os.close(end)


def _work(arguments: list[str], files: Sequence[int]) -> None:
    """The script that the arguments name, with these as its input, output and errors."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(file, mode, closefd=False) for file, mode in enumerate("rww"))
    sys.argv = arguments
    runpy.run_path(sys.argv[0], run_name="__main__")


def _end_with(asked: socket.socket) -> None:
    """Ends this process when the one ends that asked for it."""
    asked.recv(1)
    os.kill(os.getpid(), signal.SIGKILL)
