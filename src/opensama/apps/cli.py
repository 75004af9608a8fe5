"""The command `opensama`: which commands there are, and how each of them ends.

Exit codes: 0 done · 2 something the person can mend, one sentence on stderr · 130 interrupted, 143 told to end; then
nothing half-written stays. Only `cyclopts` is imported here, a command's own module when called, so `opensama --help`
answers at once.
"""

from __future__ import annotations

import errno
import gc
import io
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import NoReturn

from cyclopts import App, CycloptsError, MissingArgumentError

from opensama import __version__
from opensama.apps.openmp import choose_wait_policy
from opensama.apps.options import as_options
from opensama.apps.progress import Display, duration
from opensama.runtime import DISK_FULL, rank
from opensama.values import UserError

USER_ERROR = 2
INTERRUPTED = 130
TERMINATED = 143
_LONG = 10.0  # seconds: a command that took longer says how long

app = App(
    name="opensama",
    help="Edit a video by saying what to change.",
    help_epilogue="Every command explains itself with --help.",
    version=__version__,
    print_error=False,
    exit_on_error=False,
    verbose=False,
    suppress_keyboard_interrupt=False,
    result_action="return_value",
)

app.command("opensama.apps.edit:edit_command", name="edit", help="Edit a video by an instruction.", sort_key=0)
app.command("opensama.apps.batch:batch_command", name="batch", help="Make a table of edits.", sort_key=1)
app.command(
    "opensama.apps.inspect:inspect_command", name="inspect", help="How a file was edited, and that again.", sort_key=1
)
app.command("opensama.apps.web:web_command", name="web", help="Edit in a browser.", sort_key=1)
app.command("opensama.apps.serve:serve_command", name="serve", help="Serve edits over HTTP.", sort_key=1)
app.command("opensama.apps.demo:demo", name="demo", help="Edit a drawn clip on this machine and show it.", sort_key=1)
app.command("opensama.apps.models:app", name="models", help="The models: list, explain, convert.", sort_key=2)
app.command("opensama.apps.evaluate:app", name="evaluate", help="Measure how well a model edits.", sort_key=3)
app.command("opensama.apps.train:app", name="train", help="Train a model.", sort_key=4)
app.command("opensama.apps.data:app", name="data", help="Training data: bring published datasets in.", sort_key=5)
app.command("opensama.apps.curate:app", name="curate", help="Make training data of raw videos.", sort_key=5)
app.command("opensama.apps.reproduce:reproduce", name="reproduce", help="Test the papers' claims in small.", sort_key=5)
app.command("opensama.apps.gallery:gallery", name="gallery", help="A page of edits to look at.", sort_key=5)
app.command("opensama.apps.world:app", name="world", help="The drawn world: look at it.", sort_key=6)
app.command("opensama.apps.bench:bench", name="bench", help="How long an edit's parts take here.", sort_key=7)
app.command("opensama.apps.doctor:doctor", name="doctor", help="What is installed and what will run here.", sort_key=7)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; `arguments` default to the process's own, which then ends."""
    if arguments is not None:
        return _run(arguments)
    signal.signal(signal.SIGTERM, _end)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name may hold bytes that are no text
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return _run(sys.argv[1:])
    finally:
        gc.freeze()  # or Python looks through all that the libraries made once more as it ends, which takes seconds


def _run(arguments: Sequence[str]) -> int:
    if any("\0" in argument for argument in arguments):  # which a process of its own cannot be given
        return complain("An argument holds a null character, which neither names of files nor texts may have.")
    choose_wait_policy()
    if not sys.stderr.isatty():  # the libraries' own bars are for people who look on
        os.environ.setdefault("TQDM_DISABLE", "1")
    began = time.monotonic()
    try:
        with _quiet_unless_first(arguments):
            result = app(arguments)
        seconds = time.monotonic() - began
        if seconds > _LONG and not rank():
            print(f"total time: {duration(seconds)}", file=sys.stderr)
    except CycloptsError as error:
        return complain(_missing(error) or str(error))
    except UserError as error:
        return complain(str(error))
    except KeyboardInterrupt:
        print("opensama: interrupted; nothing half-written stays", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        sentence = _mendable(error)
        if sentence is None:
            raise
        return complain(sentence)
    return result if isinstance(result, int) else 0


def complain(sentence: str) -> int:
    """Prints what is wrong as one paragraph on stderr; the exit code of a user's error comes out."""
    if not rank() or _joined():
        print("opensama: " + " ".join(as_options(sentence).split()), file=sys.stderr)
    return USER_ERROR


@contextmanager
def _quiet_unless_first(arguments: Sequence[str]) -> Iterator[None]:
    """Of processes that share an edit, the first one alone says how far it is."""
    if not rank() or list(arguments[:1]) != ["edit"]:
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def _joined() -> bool:
    """Whether this process works with others of torchrun: until then, each finds the same mistakes."""
    parallel = sys.modules.get("torch.distributed")
    return parallel is not None and parallel.is_available() and parallel.is_initialized()


def ended(stopped: str, left: int) -> int:
    """The exit code of a run that can go on; where it stopped early, it says why, and what then."""
    if not stopped:
        return 0
    many, them = ("1 is", "it") if left == 1 else (f"{left:,} are", "them")
    return complain(f"stopped: {stopped.rstrip('.')}; {many} left, and the same command goes on with {them}.")


def _missing(error: CycloptsError) -> str:
    """What to say where the words that a command cannot do without were left out; of other errors nothing."""
    if not isinstance(error, MissingArgumentError):
        return ""
    command = " ".join(error.command_chain or ())
    if command == "edit":
        example = 'opensama edit holiday.mp4 "Make the scene look like sunset."'
        return f"A video and, in quotes, what to change are wanted: {example}"
    if command == "train":
        return "Name a recipe, as in `opensama train tiny` or `opensama train sama-14b-stage0`; --help lists them."
    return ""


def _mendable(error: OSError) -> str | None:
    """One sentence for what the disk refuses, or None when it is not the person's to mend."""
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in DISK_FULL:
        return f"The disk is full{where}; free some space, or write elsewhere."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"This may not be read or written{where}; change its permissions, or choose another place."
    if error.errno == errno.ENAMETOOLONG:
        return "A file name is too long; choose a shorter one."
    return None


def _end(*_: object) -> NoReturn:
    """Told to end (SIGTERM): unwinds as an interrupt does, so that no half-written file stays."""
    Display.end_code = TERMINATED
    sys.exit(TERMINATED)


if __name__ == "__main__":
    sys.exit(main())
