"""Broken files and impossible wishes, one row each: the arguments, and what the command line says about them.

    python -m tests.apps.bad_input docs/bad-input.md     # the table for people (`make docs` runs this)

The rows are run for real, in this process where that is enough, in one of their own where the process itself must be
limited (no permission, no space). `test_bad_input.py` holds each row to its exit code and to one sentence.
"""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from opensama.apps.cli import main as opensama
from opensama.media.video_io import write_video
from opensama.values import Video
from tests.media.broken import CORPUS, broken_in_the_middle

INSTRUCTION = "Make the ball red."
GOLDEN = Path(__file__).parents[1] / "golden" / "sama"
PAGE = """# Broken files and impossible wishes

Made by `make docs`: each case was run, and this is what the command line said about it. It exits with 2 and leaves no
output file; where a row says that the edit works, it exits with 0.

"""


@dataclass(frozen=True)
class Place:
    """What the rows work with: a folder of files, and a model's folder."""

    files: Path
    model: Path

    def edit(self, video: str = "clip.mp4", *options: str, instruction: str = INSTRUCTION) -> list[str]:
        chosen = () if "--model" in options else ("--model", str(self.model))
        return ["edit", str(self.files / video), instruction, *options, *chosen]


@dataclass(frozen=True)
class Row:
    """One case. `limit` is Python run first in a process of the row's own."""

    what: str
    arguments: Callable[[Place], list[str]]
    code: int = 2
    limit: str = ""


@dataclass(frozen=True)
class Outcome:
    """How a row ended."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """What was said: the last line of the stream that speaks to people."""
        lines = (self.err if self.code else self.out).strip().splitlines()
        return lines[-1].removeprefix("opensama: ") if lines else ""


def broken(at: Place, make: Callable[[Path], Path]) -> list[str]:
    """Arguments that edit a file of the corpus, which is made in a folder of its own."""
    folder = at.files / make.__name__
    folder.mkdir()
    path = make(folder)
    return at.edit(str(path.relative_to(at.files)))


def convert(source: Path, at: Place) -> list[str]:
    """Arguments that convert a file of weights."""
    return ["models", "convert", str(source), str(at.files / "converted")]


# A person who owns nothing here, and a disk with no room: 20,000 bytes a file.
NOBODY = "import os; os.geteuid() or os.setuid(65534)"
FULL = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))"

ROWS = [
    *(Row(make.__name__.replace("_", " "), partial(broken, make=make)) for make, _ in CORPUS),
    Row("broken in the middle", partial(broken, make=broken_in_the_middle)),
    Row("one frame", lambda at: at.edit("one.mp4", "-o", f"{at.files}/one-out.mp4"), code=0),
    Row("2x2 pixels", lambda at: at.edit("dot.mp4", "-o", f"{at.files}/dot-out.mp4"), code=0),
    Row("an empty instruction", lambda at: at.edit(instruction="  ")),
    Row("an instruction of 10,000 characters", lambda at: at.edit(instruction="word " * 2000)),
    Row("one picture", lambda at: at.edit("still.png", "-o", str(at.files / "still.mp4")), code=0),
    Row("an unknown model", lambda at: at.edit("clip.mp4", "--model", "tinny")),
    Row("a folder that is no model", lambda at: at.edit("clip.mp4", "--model", str(at.files / "empty"))),
    Row("a model folder with files missing", lambda at: at.edit("clip.mp4", "--model", str(at.files / "partial"))),
    Row("a model folder with damaged weights", lambda at: at.edit("clip.mp4", "--model", str(at.files / "damaged"))),
    Row(
        "released weights that are not there",
        lambda at: at.edit("clip.mp4", "--model", "sama-14b", "--weights", str(at.files / "empty")),
    ),
    Row(
        "weights of something else", lambda at: ["models", "convert", f"{GOLDEN}/expected.safetensors", f"{at.files}/x"]
    ),
    Row("weights that are no weights", lambda at: ["models", "convert", f"{at.files}/clip.mp4", f"{at.files}/x"]),
    Row("the output exists", lambda at: at.edit("clip.mp4", "-o", str(at.files / "taken.mp4"))),
    Row("the output is the source", lambda at: at.edit("clip.mp4", "-o", str(at.files / "clip.mp4"), "--overwrite")),
    Row("the output's folder is not there", lambda at: at.edit("clip.mp4", "-o", str(at.files / "nowhere" / "x.mp4"))),
    Row("the output is no MP4", lambda at: at.edit("clip.mp4", "-o", str(at.files / "x.avi"))),
    Row(
        "the folder is not writable",
        lambda at: at.edit("clip.mp4", "-o", str(at.files / "locked" / "x.mp4")),
        limit=NOBODY,
    ),
    Row("the disk is full", lambda at: at.edit("noise.mp4", "-o", str(at.files / "x.mp4")), limit=FULL),
    Row("frames outside the video", lambda at: at.edit("clip.mp4", "--frames", "5:500")),
    Row("frames that are no range", lambda at: at.edit("clip.mp4", "--frames", "all")),
    Row("a box outside the picture", lambda at: at.edit("clip.mp4", "--box", "0,0,500,500")),
    Row("a box that is no box", lambda at: at.edit("clip.mp4", "--box", "big")),
    Row("a mask and a box", lambda at: at.edit("clip.mp4", "--box", "0,0,9,9", "--mask", str(at.files / "black.png"))),
    Row("a mask that is not there", lambda at: at.edit("clip.mp4", "--mask", str(at.files / "none.png"))),
    Row("a mask that is black", lambda at: at.edit("clip.mp4", "--mask", str(at.files / "black.png"))),
    Row("a mask of another shape", lambda at: at.edit("clip.mp4", "--mask", str(at.files / "tall.png"))),
    Row("no steps", lambda at: at.edit("clip.mp4", "--steps", "0")),
    Row("a size beyond reason", lambda at: at.edit("clip.mp4", "--size", "100000")),
    Row("a device that is not here", lambda at: at.edit("clip.mp4", "--device", "abacus")),
    Row("an option that does not exist", lambda at: at.edit("clip.mp4", "--stepz", "3")),
    Row("a word where a number belongs", lambda at: at.edit("clip.mp4", "--seed", "lucky")),
]


def prepare(at: Place) -> None:
    """Makes the files that the rows name."""
    rng = np.random.default_rng(0)
    write_video(Video.from_frames(rng.integers(0, 255, (5, 48, 64, 3), np.uint8), 8), at.files / "clip.mp4")
    write_video(Video.from_frames(rng.integers(0, 255, (9, 120, 160, 3), np.uint8), 8), at.files / "noise.mp4")
    write_video(Video.from_frames(rng.integers(0, 255, (1, 48, 64, 3), np.uint8), 8), at.files / "one.mp4")
    write_video(Video.from_frames(rng.integers(0, 255, (5, 2, 2, 3), np.uint8), 8), at.files / "dot.mp4")
    (at.files / "taken.mp4").write_bytes(b"here before")
    for name in ("empty", "locked"):
        (at.files / name).mkdir()
    (at.files / "locked").chmod(0o555)
    for name, size in {"black": (64, 48), "tall": (48, 64)}.items():
        Image.new("RGB", size).save(at.files / f"{name}.png")
    Image.new("RGB", (64, 48), "red").save(at.files / "still.png")
    copy_model(at.model, at.files / "partial", without="vae")
    copy_model(at.model, at.files / "damaged", cut="transformer/diffusion_pytorch_model.safetensors")


def save_model(folder: Path) -> None:
    """A pipeline of random weights at the smallest size."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    from opensama.pipeline.sama import SamaPipeline
    from tests.pipeline import conftest as small

    SamaPipeline(
        tokenizer=small.tiny_tokenizer(),
        text_encoder=small.tiny_text_encoder(),
        vae=small.tiny_vae(),
        transformer=small.tiny_transformer(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        defaults=small.DEFAULTS.to_dict(),
    ).save_pretrained(folder)


def copy_model(model: Path, to: Path, *, without: str = "", cut: str = "") -> None:
    """A model's folder again, without one part or with one file cut in half."""
    for path in sorted(model.rglob("*")):
        name = path.relative_to(model)
        if path.is_dir() or (without and name.parts[0] == without):
            continue
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        data = path.read_bytes()
        (to / name).write_bytes(data[: len(data) // 2] if name.as_posix() == cut else data)


def run(row: Row, arguments: list[str]) -> Outcome:
    """Runs a row for real; `arguments` are those it made, with the files they name."""
    if row.limit:
        return run_apart(arguments, row.limit)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = opensama(arguments)
    return Outcome(code, out.getvalue(), err.getvalue())


def run_apart(arguments: list[str], limit: str) -> Outcome:
    """The same in a process that is limited before the command begins; what it imports late is imported before."""
    code = (
        "import sys, opensama.apps.edit, opensama.media.video_io.writing, opensama.models.registry, opensama.apps.cli\n"
        f"{limit}\nsys.exit(opensama.apps.cli.main(sys.argv[1:]))"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    return Outcome(done.returncode, done.stdout, done.stderr)


def shown(text: str, at: Place) -> str:
    """A sentence or an argument as a person would see it: without the folders of this run."""
    folders = [f"{at.files}/{make.__name__}/" for make in (*(make for make, _ in CORPUS), broken_in_the_middle)]
    for folder in (*folders, f"{at.files}/", f"{GOLDEN}/"):
        text = text.replace(folder, "")
    return text.replace("|", "\\|")


def page(at: Place, outcomes: list[Outcome]) -> str:
    """The rows' outcomes as the page for people."""
    lines = [PAGE + "| what | what is said |\n|---|---|"]
    for row, outcome in zip(ROWS, outcomes, strict=True):
        said = "works" if outcome.code == 0 else shown(outcome.sentence, at)
        lines.append(f"| {row.what} | {said} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        at = Place(Path(name) / "files", Path(name) / "model")
        for folder in (Path(name), at.files, at.model):
            folder.mkdir(exist_ok=True)
            folder.chmod(0o755)
        save_model(at.model)
        prepare(at)
        text = page(at, [run(row, row.arguments(at)) for row in ROWS])
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(text)
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
