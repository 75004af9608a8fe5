"""Broken files and impossible wishes, one row each: the arguments, and what the command line says about them.

    python -m tests.apps.bad_input docs/bad-input.md     # the table for people (`make docs` runs this)

The rows are run for real, in this process where that is enough, in one of their own where the process itself must be
limited (no permission, no space). `test_bad_input.py` holds each row to its exit code and to one sentence.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
from PIL import Image

from opensama.apps.cli import main as opensama
from opensama.media.video_io import write_video
from opensama.training.config import SamaConfig
from opensama.values import Video
from tests.apps import bad_batch, bad_curation, bad_requests
from tests.curation.server import ChatServer
from tests.data import making
from tests.evaluation.benchmarks import make_vie
from tests.media.broken import CORPUS, broken_in_the_middle
from tests.ranks import command_from_server

INSTRUCTION, TWO = "Make the ball red.", "Make the ball red and remove the box."
GOLDEN = Path(__file__).parents[1] / "golden" / "sama"
PAGE = """# Broken files and impossible wishes

Made by `make docs`: each case was run, and this is what the command line said about it. It exits with 2 and leaves no
output file; where a row says that it works, it exits with 0. What is wrong with a training run is said before its first
step and before its folder is made; only a disk that fills up comes later, and then the run goes on with `--resume`.
What the service says about requests is in [bad-requests.md](bad-requests.md).

"""


def split(at: Place, instruction: str, *options: str) -> list[str]:
    return at.edit("clip.mp4", "--split", "rules", *options, instruction=instruction)


@dataclass(frozen=True)
class Place:
    """What the rows work with: a folder of files, and a model's folder."""

    files: Path
    model: Path

    def edit(self, video: str = "clip.mp4", *options: str, instruction: str = INSTRUCTION) -> list[str]:
        chosen = () if "--model" in options else ("--model", str(self.model))
        return ["edit", str(self.files / video), instruction, *options, *chosen]

    def several(self, *videos: str, out: str) -> list[str]:
        """Arguments that edit several files into one place."""
        found = [str(self.files / video) for video in videos]
        return ["edit", *found, INSTRUCTION, "-o", str(self.files / out), "--model", str(self.model)]

    def train(self, *options: str, recipe: str = "sama-14b-stage0", config: str = "small.yaml") -> list[str]:
        """Arguments that train at the smallest size; `options` that are no options are settings."""
        given = [part for option in options for part in (["--set", option] if "=" in option else [option])]
        chosen = [] if "--resume" in options else ["--config", str(self.files / config)]
        out = [] if "--out" in options else ["--out", str(self.files / "new")]
        return ["train", recipe, *chosen, *out, "--device", "cpu", *given]

    def data(self, command: str, manifest: str, out: str, *options: str) -> list[str]:
        """Arguments of another command about data."""
        return ["data", command, str(self.files / manifest), "--out", str(self.files / out), *options]

    def bring(self, name: str, folder: str, *options: str) -> list[str]:
        """Arguments that import a dataset."""
        return ["data", "import", name, str(self.files / folder), "--out", f"{self.files}/brought.parquet", *options]

    def evaluate(self, benchmark: str = "vie", *options: str, data: str = "bench") -> list[str]:
        """Arguments that score the edits in a folder; no judge is asked again."""
        edits = [] if {"--edits", "--model"} & {*options} else ["--edits", str(self.files / "edits")]
        out = [] if "--out" in options else ["--out", str(self.files / "scored")]
        where = [] if benchmark == "world" else ["--data", str(self.files / data)]
        asked = [
            part for option in options for part in (option.format(files=self.files, refusing=refusing(), down=DOWN),)
        ]
        return ["evaluate", benchmark, *where, *out, *edits, *asked]

    def go_on(self, *options: str, run: str = "run", recipe: str = "sama-14b-stage0") -> list[str]:
        """Arguments that go on with a run that is there."""
        return self.train("--resume", "--out", str(self.files / run), *options, recipe=recipe)


@dataclass(frozen=True)
class Row:
    """One case. `limit` is Python run first in a process of the row's own; `leaves` a run to go on with afterwards."""

    what: str
    arguments: Callable[[Place], list[str]]
    code: int = 2
    limit: str = ""
    leaves: str = ""


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


@cache
def refusing() -> str:
    """A judge on this machine that wants a key which nobody has."""
    return ChatServer(key="another").__enter__().url


DOWN = "http://127.0.0.1:9/v1"  # where nobody listens

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
    Row("a picture to a picture", lambda at: at.edit("still.png", "-o", str(at.files / "still.jpg")), code=0),
    Row("a video to a picture", lambda at: at.edit("clip.mp4", "-o", str(at.files / "x.png"))),
    Row("an address", lambda at: ["edit", "https://example.com/a.mp4", INSTRUCTION]),
    Row("the instruction before the video", lambda at: ["edit", INSTRUCTION, f"{at.files}/clip.mp4"]),
    Row("an instruction without quotes", lambda at: ["edit", f"{at.files}/clip.mp4", *INSTRUCTION.split()]),
    Row("no instruction", lambda at: ["edit", f"{at.files}/clip.mp4"]),
    Row("two videos and no instruction", lambda at: ["edit", f"{at.files}/clip.mp4", f"{at.files}/one.mp4"]),
    Row("several videos into one file", lambda at: at.several("clip.mp4", "one.mp4", out="x.mp4")),
    Row("several videos of one name", lambda at: at.several("clip.mp4", "data/../clip.mp4", out="new")),
    Row("several videos that are not there", lambda at: at.several("nowhere.mp4", "none.mp4", out="new")),
    Row("a codec that is none", lambda at: at.edit("clip.mp4", "-o", str(at.files / "x.mp4"), "--codec", "h265")),
    Row(
        "a codec of another kind of file",
        lambda at: at.edit("clip.mp4", "-o", str(at.files / "x.webm"), "--codec", "prores"),
    ),
    Row("a quality beyond 100", lambda at: at.edit("clip.mp4", "--quality", "120")),
    Row("an unknown model", lambda at: at.edit("clip.mp4", "--model", "tinny")),
    Row("a folder that is no model", lambda at: at.edit("clip.mp4", "--model", str(at.files / "empty"))),
    Row("a model folder with files missing", lambda at: at.edit("clip.mp4", "--model", str(at.files / "partial"))),
    Row("a model folder with damaged weights", lambda at: at.edit("clip.mp4", "--model", str(at.files / "damaged"))),
    Row(
        "released weights that are not there",
        lambda at: at.edit("clip.mp4", "--model", "sama-14b", "--weights", str(at.files / "empty")),
    ),
    Row(
        "released weights of something else",
        lambda at: at.edit(
            *("clip.mp4", "--model", "sama-14b", "--base", f"{at.files}/base"),
            *("--weights", f"{GOLDEN}/expected.safetensors"),
        ),
    ),
    Row("a LoRA of something else", lambda at: at.edit("clip.mp4", "--lora", f"{GOLDEN}/expected.safetensors")),
    Row(
        "weights of something else", lambda at: ["models", "convert", f"{GOLDEN}/expected.safetensors", f"{at.files}/x"]
    ),
    Row("weights that are no weights", lambda at: ["models", "convert", f"{at.files}/clip.mp4", f"{at.files}/x"]),
    Row("the output exists", lambda at: at.edit("clip.mp4", "-o", str(at.files / "taken.mp4"))),
    Row("the output is the source", lambda at: at.edit("clip.mp4", "-o", str(at.files / "clip.mp4"), "--overwrite")),
    Row("the output's folder is not there", lambda at: at.edit("clip.mp4", "-o", str(at.files / "nowhere" / "x.mp4"))),
    Row("the output's ending is not written", lambda at: at.edit("clip.mp4", "-o", str(at.files / "x.avi"))),
    Row(
        "the folder is not writable",
        lambda at: at.edit("clip.mp4", "-o", str(at.files / "locked" / "x.mp4")),
        limit=NOBODY,
    ),
    Row("the disk is full", lambda at: at.edit("noise.mp4", "-o", str(at.files / "x.mp4")), limit=FULL),
    Row("frames outside the video", lambda at: at.edit("clip.mp4", "--frames", "5:500")),
    Row("a record that is none", lambda at: at.edit("clip.mp4", "--record", "all")),
    Row("a certificate without its key", lambda at: at.edit("clip.mp4", "--credentials", "--certificate", "a.pem")),
    Row(
        "a certificate that is none",
        lambda at: at.edit(
            "clip.mp4",
            "--credentials",
            "--certificate",
            f"{at.files}/clip.mp4",
            "--certificate-key",
            f"{at.files}/clip.mp4",
        ),
    ),
    Row("an edit to repeat that is none", lambda at: ["inspect", str(at.files / "clip.mp4"), "--repeat"]),
    Row("to inspect what is no video", lambda at: ["inspect", str(at.files / "taken.mp4")]),
    Row("frames that are no range", lambda at: at.edit("clip.mp4", "--frames", "all")),
    Row("times outside the video", lambda at: at.edit("clip.mp4", "--from", "00:41:10", "--to", "00:41:14")),
    Row("times backwards", lambda at: at.edit("clip.mp4", "--from", "0.5", "--to", "0.25")),
    Row("a time that is none", lambda at: at.edit("clip.mp4", "--from", "soon")),
    Row("frames and times", lambda at: at.edit("clip.mp4", "--frames", "0:2", "--to", "0.25")),
    Row("a box outside the picture", lambda at: at.edit("clip.mp4", "--box", "0,0,500,500")),
    Row("a box that is no box", lambda at: at.edit("clip.mp4", "--box", "big")),
    Row("a mask and a box", lambda at: at.edit("clip.mp4", "--box", "0,0,9,9", "--mask", str(at.files / "black.png"))),
    Row(
        "a picture for a model that takes none",
        lambda at: at.edit("clip.mp4", "--model", "sama-14b", "--reference", "a.png"),
    ),
    Row(
        "a size at which a model is known to fail",
        lambda at: at.edit("clip.mp4", "--model", "bernini-1.3b", "--size", "256"),
    ),
    Row(
        "a model's own frame rate and no pixels of the source",
        lambda at: at.edit("clip.mp4", "--model-fps", "16", "--no-preserve"),
    ),
    Row("a server that rewrites nothing", lambda at: at.edit("clip.mp4", "--enhance", bad_curation.chatty())),
    Row("a rewriting server that wants another key", lambda at: at.edit("clip.mp4", "--enhance", refusing())),
    Row("an edit of several that is empty", lambda at: split(at, "Remove the ball;; add snow.")),
    Row("twenty edits in one instruction", lambda at: split(at, 20 * "Add snow. ")),
    Row("a region for an edit that is not there", lambda at: split(at, TWO, "--region", "3:0,0,9,9")),
    Row("a region for the second of one edit", lambda at: split(at, INSTRUCTION, "--region", "2:0,0,9,9")),
    Row("a region that is none", lambda at: split(at, TWO, "--region", "0,0,9,9")),
    Row("two regions for one edit", lambda at: split(at, TWO, "--region", "1:0,0,9,9", "--region", "1:0,0,9,8")),
    Row("an edit's box outside the picture", lambda at: split(at, TWO, "--region", "2:0,0,500,500")),
    Row("an edit's mask that is not there", lambda at: split(at, TWO, "--region", f"2:{at.files / 'none.png'}")),
    Row("a region without a split", lambda at: at.edit("clip.mp4", "--region", "1:0,0,9,9")),
    Row("one pass without a split", lambda at: at.edit("clip.mp4", "--one-pass")),
    Row("a split that is none", lambda at: at.edit("clip.mp4", "--split", "commas")),
    Row("a server that splits nothing", lambda at: at.edit("clip.mp4", "--split", bad_curation.chatty())),
    Row("a task of another model", lambda at: at.edit("clip.mp4", "--model", "sama-14b", "--task", "mv2v")),
    Row("a mask that is not there", lambda at: at.edit("clip.mp4", "--mask", str(at.files / "none.png"))),
    Row("a mask that is black", lambda at: at.edit("clip.mp4", "--mask", str(at.files / "black.png"))),
    Row("a mask of another shape", lambda at: at.edit("clip.mp4", "--mask", str(at.files / "tall.png"))),
    Row("no steps", lambda at: at.edit("clip.mp4", "--steps", "0")),
    Row("a speed that is none", lambda at: at.edit("clip.mp4", "--speed", "turbo")),
    Row("a size beyond reason", lambda at: at.edit("clip.mp4", "--size", "100000")),
    Row("a device that is not here", lambda at: at.edit("clip.mp4", "--device", "abacus")),
    Row("a number type that is none", lambda at: at.edit("clip.mp4", "--dtype", "int4")),
    Row("an offload that is none", lambda at: at.edit("clip.mp4", "--offload", "ram")),
    Row("an amount of memory that is none", lambda at: at.edit("clip.mp4", "--memory", "lots")),
    Row("a GPU's memory on a CPU", lambda at: at.edit("clip.mp4", "--memory", "12GB", "--device", "cpu")),
    Row("a GPU's memory beside an offload", lambda at: at.edit("clip.mp4", "--memory", "12GB", "--offload", "group")),
    Row("doctor: memory for no model", lambda at: ["doctor", "--memory", "12GB"]),
    Row("bench: a clip of no frame", lambda at: ["bench", "--frames", "0"]),
    Row("bench: a peer that there is none of", lambda at: ["bench", "--against", "pytorch"]),
    Row("a LoRA that is not there", lambda at: at.edit("clip.mp4", "--lora", "none.safetensors:0.5")),
    Row("a LoRA whose scale is no number", lambda at: at.edit("clip.mp4", "--lora", f"{at.files / 'clip.mp4'}:much")),
    Row("an option that does not exist", lambda at: at.edit("clip.mp4", "--stepz", "3")),
    Row("a word where a number belongs", lambda at: at.edit("clip.mp4", "--seed", "lucky")),
    *(Row(*row) for row in bad_batch.ROWS),
    *(Row(*row) for row in bad_requests.COMMANDS),
    # evaluation
    Row("an unknown benchmark", lambda at: ["evaluate", "davis", "--data", f"{at.files}/bench"]),
    Row("a benchmark that is not there", lambda at: at.evaluate(data="nowhere")),
    Row("a benchmark's folder that is empty", lambda at: at.evaluate(data="empty")),
    Row("a folder that is another benchmark", lambda at: at.evaluate("openve")),
    Row("clips of which none is a source", lambda at: at.evaluate("clips", data="empty")),
    Row("nothing to score", lambda at: at.evaluate()[:-2]),
    Row("edits that are not there", lambda at: at.evaluate("vie", "--edits", "{files}/nowhere")),
    Row("two systems of one name", lambda at: at.evaluate("vie", "--edits", "a={files}/edits", "--edits", "a={files}")),
    Row("a model to score that there is not", lambda at: at.evaluate("vie", "--model", "tinny")),
    Row("a judge that is down", lambda at: at.evaluate("vie", "--judge-url", "{down}", "--retries", "0")),
    Row("a judge that wants another key", lambda at: at.evaluate("vie", "--judge-url", "{refusing}")),
    Row("a judge's address that is none", lambda at: at.evaluate("vie", "--judge-url", "localhost")),
    Row("a judge of which there is no folder", lambda at: at.evaluate("vie", "--judge-model", "{files}/nowhere")),
    Row("a judge that is no language model", lambda at: at.evaluate("vie", "--judge-model", "{files}/empty")),
    Row("replies that are not there", lambda at: at.evaluate("vie", "--judge-replies", "{files}/none.jsonl")),
    Row("replies that are damaged", lambda at: at.evaluate("vie", "--judge-replies", "{files}/torn.jsonl")),
    Row("replies without an item", lambda at: at.evaluate("vie", "--judge-replies", "{files}/half.jsonl")),
    Row("two judges at once", lambda at: at.evaluate("vie", "--judge-replies", "x", "--judge-url", "{refusing}")),
    Row("an unknown metric", lambda at: at.evaluate("vie", "--metrics", "beauty")),
    Row("a protocol of another benchmark", lambda at: at.evaluate("vie", "--protocol", "openve-long")),
    Row("a rubric that is not there", lambda at: at.evaluate("vie", "--rubric", "{files}/none.txt")),
    Row("a metric file where none belongs", lambda at: at.evaluate("vie", "--metric-file", "{files}/clip.mp4")),
    Row("a task that it has not", lambda at: at.evaluate("vie", "--tasks", "fly")),
    Row("no passes", lambda at: at.evaluate("vie", "--passes", "0")),
    Row("no items", lambda at: at.evaluate("vie", "-n", "0")),
    Row("a second judge's results that are not there", lambda at: at.evaluate("vie", "--agreement", "{files}/empty")),
    Row("results in a file's place", lambda at: at.evaluate("vie", "--out", "{files}/clip.mp4")),
    Row(
        "results of a model in a file's place",
        lambda at: at.evaluate("vie", "--model", str(at.model), "--out", f"{at.files}/clip.mp4"),
    ),
    Row(
        "a task that it has not, for a model", lambda at: at.evaluate("vie", "--model", str(at.model), "--tasks", "fly")
    ),
    Row("an unknown family of the world", lambda at: at.evaluate("world", "--families", "fly")),
    Row("only what a copy of the source passes", lambda at: at.evaluate("world", "--families", "absent")),
    Row("no edits of the world", lambda at: at.evaluate("world", "-n", "0")),
    Row("a page about results that are not there", lambda at: ["evaluate", "report", f"{at.files}/empty"]),
    Row("a page about results that are none", lambda at: ["evaluate", "report", f"{at.files}/bench/vie.json"]),
    Row("votes on results that are not there", lambda at: ["evaluate", "vote", f"{at.files}/empty"]),
    Row("an edit measured without its source", lambda at: ["evaluate", "metrics", f"{at.files}/clip.mp4"]),
    Row("a broken edit measured", lambda at: ["evaluate", "metrics", f"{at.files}/clip.mp4", f"{at.files}/taken.mp4"]),
    # training
    Row("no recipe", lambda at: ["train", "--data", "x.jsonl"]),
    Row("a table where a manifest is wanted", lambda at: at.train("--data", str(at.files / "table.csv"))),
    Row("an unknown recipe", lambda at: at.train(recipe="sama-14b-stage3")),
    Row("a setting that does not exist", lambda at: at.train("optimiser.lr=1")),
    Row("a setting that does not exist, in a file", lambda at: at.train(config="mistyped.yaml")),
    Row("a settings file that is no YAML", lambda at: at.train(config="broken.yaml")),
    Row("a word where a setting is a number", lambda at: at.train("optimizer.lr=fast")),
    Row("a setting out of its range", lambda at: at.train("optimizer.betas=[0.9, 1.5]")),
    Row("a number of frames that no clip has", lambda at: at.train("data.frames=80")),
    Row("sides that the model does not take", lambda at: at.train("data.multiple=24")),
    Row("a batch that does not divide", lambda at: at.train("data.image_batch=3")),
    Row("an unknown pretext task", lambda at: at.train("data.pretext={cub: 1}")),
    Row("a layer that does not exist", lambda at: at.train("lora.targets=[to_x]")),
    Row("an unknown tracker", lambda at: at.train("trackers=[paper]")),
    Row("no data", lambda at: at.train("data.manifest=null")),
    Row("data that is not there", lambda at: at.train("--data", str(at.files / "none.jsonl"))),
    Row("data with a column missing", lambda at: at.train("--data", str(at.files / "half.jsonl"))),
    Row("data without videos", lambda at: at.train("--data", str(at.files / "data" / "images.jsonl"))),
    Row("latents that are not there", lambda at: at.train(f"data.latents={at.files}/empty")),
    Row("a base model that is not there", lambda at: at.train("model.base=nowhere")),
    Row("a base model that is none", lambda at: at.train(f"model.base={at.files}/data")),
    Row(
        "weights to begin from that are not there",
        lambda at: at.train("model.start=sama", "model.weights=no.safetensors"),
    ),
    Row("a second stage without the first one's weights", lambda at: at.train("model.start=sama")),
    Row("plain clips where edits alone are learnt from", lambda at: at.train("data.clips=false")),
    Row("weights that would not be read", lambda at: at.train("model.weights=no.safetensors")),
    Row("an image encoder that is none", lambda at: at.train(f"semantic.encoder={at.files}/base")),
    Row("more GPUs in the mesh than there are", lambda at: at.train("mesh.shard=8")),
    Row("too few GPUs to share a sample", lambda at: at.train("mesh.context=2")),
    Row("a run's folder that is a file", lambda at: at.train("--out", f"{at.files}/clip.mp4")),
    Row("a folder that holds a run", lambda at: at.train("--out", f"{at.files}/run")),
    Row("a run to go on with that is not there", lambda at: at.go_on(run="empty")),
    Row("a run to go on with of another recipe", lambda at: at.go_on(recipe="sama-14b-stage1")),
    Row("a checkpoint of other settings", lambda at: at.go_on("loss.shift=3", "semantic.anchors=1")),
    Row("a run to go on with on other data", lambda at: at.go_on("--data", f"{at.files}/data/longer.jsonl")),
    Row("a damaged checkpoint", lambda at: at.go_on(run="cut")),
    Row("the disk is full while a model is trained", lambda at: at.train("--out", f"{at.files}/full"), 2, FULL, "full"),
    Row("and there is room again", lambda at: at.go_on(run="full"), code=0),
    # data
    Row("a manifest that was cut off", lambda at: at.train("--data", f"{at.files}/cut.parquet")),
    Row("an unknown dataset", lambda at: at.bring("dito", "data")),
    Row("a dataset that is not there", lambda at: at.bring("ditto", "nowhere")),
    Row("a dataset without its tables", lambda at: at.bring("reco", "empty")),
    Row("a table of which no row can be used", lambda at: at.bring("table", "half.jsonl")),
    Row("a table whose columns mean nothing", lambda at: at.bring("table", "half.jsonl", "--column", "source=before")),
    Row("a Git LFS pointer in place of a table", lambda at: at.bring("table", "pointer.parquet")),
    Row("a dialect of CSV that is none", lambda at: at.bring("table", "half.jsonl", "--csv-dialect", "sprak")),
    Row("an unknown task", lambda at: at.bring("table", "half.jsonl", "--task", "shrink")),
    Row("a page about a manifest that is not there", lambda at: at.data("show", "none.parquet", "x.html")),
    Row("a page about a table that is no manifest", lambda at: at.data("show", "table.csv", "x.html")),
    Row("a page about a damaged manifest", lambda at: at.data("show", "cut.parquet", "x.html")),
    Row("a page that is to be no page", lambda at: at.data("show", "data/data.jsonl", "x.pdf")),
    Row("more samples than a page holds", lambda at: at.data("show", "data/data.jsonl", "x.html", "--number", "999")),
    Row("shards in a folder that holds something", lambda at: at.data("shard", "data/data.jsonl", "data")),
    Row("shards of no size", lambda at: at.data("shard", "data/data.jsonl", "shards", "--megabytes", "0")),
    *(Row(*row) for row in bad_curation.ROWS),
    Row("a video in a tar that was cut off", lambda at: at.edit("cut.tar/a.mp4", "-o", f"{at.files}/x.mp4")),
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
    prepare_training(at)
    prepare_benchmark(at)


def prepare_benchmark(at: Place) -> None:
    """A benchmark of one item, an edit of it, and replies that were cut off."""
    make_vie(at.files / "bench", ["add"])
    (at.files / "edits").mkdir()
    (at.files / "edits" / "v0_edited.mp4").write_bytes((at.files / "bench" / "sources" / "0.mp4").read_bytes())
    (at.files / "torn.jsonl").write_text('{"item": "v0", "reply": ')


def prepare_training(at: Place) -> None:
    """A base model, data and settings, and a run of one step, whole and with a checkpoint that was cut."""
    for name in ("base", "data"):
        (at.files / name).mkdir()
    data = making.save_manifest(at.files / "data")
    settings = making.tiny_settings(making.save_base(at.files / "base"), data)
    settings["optimizer"] |= {"steps": 1}
    good = at.files / "small.yaml"
    SamaConfig(**settings).save(good)
    good.with_name("mistyped.yaml").write_text(good.read_text().replace("text_dropout:", "text_drop:"))
    good.with_name("broken.yaml").write_text("model: [")
    rows = data.read_text().splitlines(keepends=True)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123456789\n"
    good.with_name("table.csv").write_text("before,after,text\na.mp4,b.mp4,Make it red.\n")
    good.with_name("pointer.parquet").write_text(pointer)
    data.with_name("longer.jsonl").write_text("".join([*rows, rows[0]]))
    data.with_name("images.jsonl").write_text("".join(rows[3:]))
    good.with_name("cut.parquet").write_bytes(b"PAR1 and no more")
    with tarfile.open(good.with_name("cut.tar"), "w") as tar:
        tar.add(data.with_name("a.mp4"), "a.mp4")
    good.with_name("cut.tar").write_bytes(good.with_name("cut.tar").read_bytes()[:2000])
    good.with_name("half.jsonl").write_text('{"source": "data/a.mp4", "target": "data/b.mp4"}\n')
    with contextlib.redirect_stdout(io.StringIO()):
        assert opensama(at.train("--out", str(at.files / "run"))) == 0
    bad_curation.prepare(at.files)
    copy_model(at.files / "run", at.files / "cut", cut="sama-14b-stage0/step-00000001/weights.safetensors")


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
    """The same in a process that is limited before the command begins."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = command_from_server(arguments, out, err, limit)
        process.join()
        assert process.exitcode is not None
        return Outcome(process.exitcode, out.read_text(), err.read_text())


def shown(text: str, at: Place) -> str:
    """A sentence or an argument as a person would see it: without the folders of this run."""
    folders = [f"{at.files}/{make.__name__}/" for make in (*(make for make, _ in CORPUS), broken_in_the_middle)]
    for folder in (*folders, f"{at.files}/", f"{GOLDEN}/"):
        text = text.replace(folder, "")
    text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:8000", text)
    return re.sub(r"[0-9.e+]+ GB are free", "... GB are free", text).replace("|", "\\|")


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
