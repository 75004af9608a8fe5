"""An edit that is killed at any point goes on where it was, and comes out bit for bit as one in one piece."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import opensama
from opensama.apps.cli import main
from opensama.media.video_io import write_video
from opensama.pipeline import part_store
from opensama.pipeline.editor import Editor
from opensama.pipeline.part_store import FolderStore
from opensama.pipeline.unfinished import Unfinished
from opensama.values import Cancelled, EditRequest, Progress, UserError, Video
from tests.pipeline.conftest import moving_picture
from tests.ranks import from_server

ASK = "Make the ball blue."


class Killed(Exception):
    """What a test ends an edit by."""


@pytest.fixture(scope="module", params=["sama", "bernini"])
def editor(request, folder, bernini_folder) -> Editor:
    """Euler with semantic tokens; UniPC, which remembers steps, with two transformers."""
    return opensama.load({"sama": folder, "bernini": bernini_folder}[request.param], device="cpu")


@pytest.fixture
def asked(picture) -> EditRequest:
    """Four windows, of which two go into a part."""
    return EditRequest(Video.from_frames(picture(40, 32, 32), 25), ASK, steps=3, guidance=2.0, preserve=False)


@pytest.fixture
def two_at_once(editor, monkeypatch) -> None:
    monkeypatch.setattr(type(editor.pipeline), "windows_at_once", lambda self, latents: 2)


def test_killed_at_every_write_it_comes_out_the_same(editor, asked, two_at_once, tmp_path, monkeypatch):
    whole = editor.edit(asked).array()
    write, written = FolderStore._write, list[tuple[str, int, int]]()

    def write_one_and_die(self, kind, start, step, values):
        if died:
            raise Killed
        write(self, kind, start, step, values)
        if kind != "source":
            written.append((kind, start, step))
            died.append(True)

    monkeypatch.setattr(FolderStore, "_write", write_one_and_die)
    notes = list[str]()
    for _ in range(40):
        died = list[bool]()
        try:
            with Unfinished(tmp_path / "out.mp4", notes.append, worth=0.0) as unfinished:
                edited = editor.edit(asked, unfinished)
                assert np.array_equal(edited.array(), whole)
            break
        except Killed:
            assert list(tmp_path.iterdir())
    steps = [at for step in range(3) for at in (("velocity", step), ("state", step + 1))]
    assert written == [(kind, start, step) for kind, step in steps for start in (0, 2)]  # nothing twice
    assert any("after 2 of 3 steps" in note for note in notes)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("editor", ["sama"], indirect=True)
def test_windows_of_a_folder_are_those_of_memory(editor, asked, tmp_path):
    """With the source kept, too, which a preserving edit decodes."""
    asked = replace(asked, preserve=True)
    with Unfinished(tmp_path / "out.mp4") as unfinished:
        kept = editor.edit(asked, unfinished).array()
    assert np.array_equal(kept, editor.edit(asked).array())


@pytest.fixture
def broken_off(editor, asked, two_at_once, tmp_path) -> EditRequest:
    """An edit that ended while its first step was made."""

    def stop(progress: Progress) -> None:
        if progress.stage == "Editing":
            raise Killed

    with pytest.raises(Killed), Unfinished(tmp_path / "out.mp4", print, worth=0.0) as unfinished:
        editor.edit(replace(asked, progress=stop), unfinished)
    return asked


def said(editor: Editor, request: EditRequest, out: Path) -> str:
    notes = list[str]()
    with Unfinished(out, notes.append) as unfinished:
        editor.edit(request, unfinished)
    return "\n".join(notes)


@pytest.mark.parametrize("editor", ["sama"], indirect=True)
class TestWhatIsSaid:
    def test_another_source_or_setting_begins_anew_and_leaves_the_old(self, editor, broken_off, tmp_path, picture):
        other = Video.from_frames(255 - picture(40, 32, 32), 25)
        assert "had another source, so this one begins anew" in said(
            editor, replace(broken_off, video=other), tmp_path / "out.mp4"
        )
        assert "had another setting, so" in said(editor, replace(broken_off, seed=1), tmp_path / "out.mp4")
        assert "had another setting, so" in said(
            editor, replace(broken_off, instruction="Remove it."), tmp_path / "out.mp4"
        )
        for name in ("other.mp4", "\N{SLIGHTLY SMILING FACE}" * 62 + ".mp4"):
            assert said(editor, broken_off, tmp_path / name) == ""
        assert len(list(tmp_path.iterdir())) == 1
        assert "broken off after 0 of 3 steps" in said(editor, broken_off, tmp_path / "out.mp4")
        assert not list(tmp_path.iterdir())

    def test_the_words_are_not_kept(self, broken_off, tmp_path):
        (about,) = tmp_path.glob("*/about.json")
        assert set(about.read_text().split('"')[1::4]) == {"source", "setting", "model"}
        assert "ball" not in about.read_text()

    def test_two_processes_do_not_work_on_one(self, editor, broken_off, tmp_path):
        with Unfinished(tmp_path / "out.mp4", print) as unfinished:
            editor.edit(broken_off, unfinished)
            with pytest.raises(UserError, match=r"Another process makes .*out\.mp4 by this edit now"):
                said(editor, broken_off, tmp_path / "out.mp4")

    def test_what_is_damaged_is_made_anew(self, editor, broken_off, tmp_path):
        for path in tmp_path.glob("*/velocity*"):
            path.write_bytes(path.read_bytes()[:100])
        assert "is damaged, and it begins anew" in said(editor, broken_off, tmp_path / "out.mp4")

    def test_without_room_it_is_kept_in_memory(self, editor, asked, tmp_path, monkeypatch):
        monkeypatch.setattr("opensama.pipeline.unfinished.free_bytes", lambda folder: 10)
        assert "0.0 GB are free: it is kept in memory" in said(editor, asked, tmp_path / "out.mp4")

    def test_a_disk_that_fills_up_is_a_sentence(self, editor, asked, tmp_path, monkeypatch):
        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(part_store.os, "fsync", full)
            with pytest.raises(UserError, match=r"The disk is full, and what is done .* the same command goes on"):
                said(editor, asked, tmp_path / "out.mp4")

    @pytest.mark.parametrize(("error", "worth"), [(Killed, 60.0), (Cancelled, 0.0)])
    def test_one_that_was_ended_early_or_by_its_owner_leaves_nothing(self, editor, asked, tmp_path, error, worth):
        def stop(progress: Progress) -> None:
            if progress.stage == "Decoding":
                raise error

        with pytest.raises(error), Unfinished(tmp_path / "out.mp4", print, worth) as unfinished:
            editor.edit(replace(asked, progress=stop), unfinished)
        assert not list(tmp_path.iterdir())


def _edit_and_die(folder: Path, clip: Path, out: Path) -> None:
    """`opensama edit`, killed while its second step is made."""
    put = FolderStore.put

    def put_or_die(self, kind, start, step, values):
        put(self, kind, start, step, values)
        if (kind, step) == ("velocity", 1):
            os.kill(os.getpid(), signal.SIGKILL)

    FolderStore.put = put_or_die  # type: ignore[method-assign]
    main(_command(folder, clip, out))


def _command(folder: Path, clip: Path, out: Path) -> list[str]:
    return ["edit", str(clip), ASK, "-m", str(folder), "--steps", "3", "--device", "cpu", "-o", str(out)]


def test_the_same_command_after_a_kill(folder, tmp_path, capfd):
    clip, out, whole = (tmp_path / name for name in ("clip.mp4", "out.mp4", "whole.mp4"))
    write_video(Video.from_frames(moving_picture(21, 32, 48), 25), clip)
    killed = from_server(_edit_and_die, folder, clip, out)
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert not out.exists()
    assert len(list(tmp_path.glob("out.mp4.unfinished-*/velocity-*"))) == 1
    capfd.readouterr()
    assert main(_command(folder, clip, out)) == 0
    assert "Going on with this edit, which was broken off after 1 of 3 steps." in "".join(capfd.readouterr())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "out.mp4"]
    assert main(_command(folder, clip, whole)) == 0
    assert out.read_bytes() == whole.read_bytes()
