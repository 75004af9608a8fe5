"""The walk of a newcomer: the commands that README and docs/ show, in their order and as they stand there.

That each one parses is tests/test_docs.py's to hold. Here those are run that need nothing but what is in the
repository: on drawn clips under the names that the pages use, with the embedded model. What they name and do not bring
(released weights, published datasets, servers, GPUs, hours) is answered by a sentence instead.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from opensama.apps.cli import main
from opensama.data.manifest import Record, write_manifest
from opensama.media.video_io import read_video, write_video
from opensama.values import Video
from opensama.world import sample_edit
from tests.test_docs import PAGES, commands

WALKED = ("README.md", "edit.md", "models.md", "data.md", "curate.md", "train.md", "tutorials.md")
MADE = {  # what a command of the pages writes, without the options that change how and not what
    'opensama edit holiday.mp4 "Make the scene look like sunset."': "holiday-edited.mp4",
    'opensama edit holiday.mp4 "Make the scene look like sunset." --frames 0:2 --out span.mp4': "span.mp4",
    'opensama edit a.mp4 b.mov "Make the ball red."': "b-edited.mp4",
    'opensama edit films "Make the ball red." --out edited': "edited/one-edited.mp4",
    "opensama data show openve.parquet --out openve.html": "openve.html",
    "opensama data shard openve.parquet --out openve-shards --megabytes 1000": "openve-shards/manifest.parquet",
}
REFUSED = {  # what is not here, and the word of the sentence that says so
    "edit film.mp4": "There is no file film.mp4",
    'with a dog." --model sama-14b': "would fit here|could not be downloaded|--weights",
    "sama_14b_ema.safetensors my-transformer": "There is no file or folder",
    "data import ditto": "There is no folder Ditto-1M",
    "data import openve": "There is no folder OpenVE-3M",
    "curate clips VIDEOS": "There is no folder VIDEOS",
    "curate filter pairs.parquet": "pairs.parquet",
    "train RECIPE": "There is no manifest .*manifest.parquet",
}


def walk() -> list[str]:
    """The pages' commands in order, each once, begun with the plain name of the program."""
    pages = {page.name: page for page in PAGES}
    found = [re.sub(r"^\S*opensama ", "opensama ", line) for name in WALKED for line in commands(pages[name])]
    return list(dict.fromkeys(found))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with drawn clips under the names that the pages use."""
    folder = tmp_path_factory.mktemp("walk")
    (folder / "films").mkdir()
    drawn = sample_edit(3, "test", "recolor", frames=3, size=(64, 96)).source
    for name in ("holiday.mp4", "a.mp4", "b.mov", "films/one.mp4"):
        write_video(Video.from_frames(drawn, 16), folder / name)
    return folder


def bring_openve(folder: Path) -> None:
    """What the import of the dataset would have written."""
    pair = Record("one", "pair", target=str(folder / "a.mp4"), source=str(folder / "b.mov"), instruction="Make it red.")
    write_manifest(folder / "openve.parquet", [pair], {})


def test_what_the_walk_names_is_still_on_the_pages() -> None:
    lines = walk()
    assert {*MADE} <= {*lines}
    for part in REFUSED:
        assert any(part in line for line in lines), part


def test_newcomer_gets_what_the_pages_promise(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    ran = []
    for line in walk():
        refused = next((words for part, words in REFUSED.items() if part in line), None)
        if line not in MADE and refused is None:
            continue
        arguments = shlex.split(line)[1:]
        code = main(arguments)
        said = capsys.readouterr()
        if refused is not None:
            assert code == 2, line
            assert re.search(refused, said.err), (line, said.err)
            if "data import openve" in line:
                bring_openve(place)
        else:
            assert code == 0, (line, said.err)
        if line in MADE:
            assert (place / MADE[line]).stat().st_size > 0, line
        ran.append(line)
    assert len(ran) >= len(MADE) + len(REFUSED)
    assert read_video(place / "holiday-edited.mp4").frame_count == 3
