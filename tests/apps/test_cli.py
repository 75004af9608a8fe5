"""The command line: what each command writes and says, and how it ends."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from opensama import __version__
from opensama.apps import progress
from opensama.apps.cli import main
from opensama.apps.edit_checks import default_output, parse_box, parse_range
from opensama.apps.openmp import choose_wait_policy
from opensama.media.video_io import read_video
from opensama.models.registry import TINY_ICVE
from opensama.models.weights import TensorFiles
from opensama.recipes.tiny import SMOKE
from opensama.runtime import install_line
from opensama.values import Progress, UserError
from tests.apps.conftest import Run
from tests.media.making import make_video
from tests.media.test_alpha import make_clear
from tests.media.test_span import packets
from tests.ranks import command_from_server

INSTRUCTION = "Make the red ball blue."
GOLDEN = Path(__file__).parents[1] / "golden" / "sama"


# --- edit


def test_edit_writes_beside_the_source(clip: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["edit", str(clip), INSTRUCTION, "--model", str(folder)]) == 0
    written = clip.with_name("clip-edited.mp4")
    out, err = capsys.readouterr()
    assert out.splitlines()[-1].endswith(str(written))
    assert err.startswith(f"Loading {folder} ...\n")
    assert "Editing: 9/9 frames" in err
    source, edited = read_video(clip), read_video(written)
    assert (edited.width, edited.height, edited.timestamps) == (source.width, source.height, source.timestamps)
    assert edited.duration == source.duration
    assert sorted(path.name for path in clip.parent.iterdir()) == ["clip-edited.mp4", "clip.mp4"]


def test_same_seed_same_file_and_another_seed_another(clip: Path, folder: Path) -> None:
    def edited(seed: int, name: str) -> np.ndarray:
        out = clip.with_name(name)
        arguments = ["edit", str(clip), INSTRUCTION, "-o", str(out), "--seed", str(seed), "--no-preserve"]
        assert main([*arguments, "--model", str(folder)]) == 0
        return read_video(out).array()

    first = edited(1, "a.mp4")
    assert (first == edited(1, "b.mp4")).all()
    assert (first != edited(2, "c.mp4")).any()


def test_compare_shows_source_and_result(clip: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = clip.with_name("out.mp4")
    assert main(["edit", str(clip), INSTRUCTION, "-o", str(out), "--compare", "--model", str(folder)]) == 0
    source, edited, both = read_video(clip), read_video(out), read_video(clip.with_name("out-compare.mp4"))
    assert (both.width, both.height, both.frame_count) == (128, 48, 9)
    assert close(both.array()[:, :, :64], source.array())
    assert close(both.array()[:, :, 64:], edited.array())
    assert capsys.readouterr().out.splitlines()[-1].endswith(str(out))


def test_frames_and_box_limit_the_edit(clip: Path, folder: Path) -> None:
    out = clip.with_name("out.mp4")
    where = ["--frames", "2:7", "--box", "0,0,32,48", "--no-preserve", "--quality", "100"]
    assert main(["edit", str(clip), INSTRUCTION, "-o", str(out), *where, "--model", str(folder)]) == 0
    source, edited = read_video(clip).array(), read_video(out).array()
    assert close(edited[:2], source[:2])
    assert close(edited[7:], source[7:])
    assert close(edited[2:7, :, 34:], source[2:7, :, 34:])
    assert not close(edited[2:7, 8:40, :24], source[2:7, 8:40, :24])


def test_a_span_is_named_by_frames_or_times_and_all_else_is_copied(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The result is of the source's kind, and what is not encoded again is the same by hash."""
    source = make_video(tmp_path / "film.mkv", stamps=range(24), options={"g": "6", "preset": "ultrafast", "bf": "0"})
    asked, made = ["edit", str(source), INSTRUCTION, "--model", str(folder), "--overwrite"], []
    for span in (["--frames", "8:11"], ["--from", "0:00.8", "--to", "1.1"]):
        assert main([*asked, *span]) == 0
        assert "Only the frames 8:12 were encoded again; all else is copied from film.mkv." in capsys.readouterr().err
        made.append(packets(tmp_path / "film-edited.mkv"))
    (before,), (after,) = packets(source).values(), made[0].values()
    assert [at for at in before if before[at] != after[at]] == sorted(before)[8:12]
    assert made[0] == made[1]
    assert main([*asked, "--frames", "8:11", "-o", str(tmp_path / "film.mp4")]) == 0
    said = capsys.readouterr().err
    assert said.count("All frames are encoded again, not only the span's: MP4 is another kind of file.") == 1
    assert said.index("All frames") < said.index("Reading")


def test_what_is_transparent_is_said_and_composed(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clear = make_clear(tmp_path / "clear.mov", "qtrle", "argb", count=5)
    arguments = ["edit", str(clear), "Make it red.", "--model", str(folder), "--box", "0,0,32,32"]
    assert main([*arguments, "--background", "lime"]) == 0
    said = capsys.readouterr()
    assert "clear.mov has transparent places, lime in the result" in said.err
    assert close(read_video(tmp_path / "clear-edited.mp4").array()[:, :, 80:], np.array([0, 255, 0]))
    assert main([*arguments, "--alpha", "keep"]) == 0
    kept = read_video(tmp_path / "clear-edited.mov")
    assert kept.transparency is not None
    assert next(kept.transparency.source(0, 1))[:, 80:].max() == 0
    assert "transparent" not in capsys.readouterr().err
    opaque = tmp_path / "opaque.png"
    Image.new("RGB", (64, 48)).save(opaque)
    assert main(["edit", str(opaque), "Make it red.", "--model", str(folder), "--alpha", "keep"]) == 2
    assert "no transparency to keep" in capsys.readouterr().err
    for wish, words in (
        (["--background", "nothing"], "is not a colour"),
        (["--alpha", "maybe"], "flatten or keep"),
        (["--alpha", "keep", "-o", str(tmp_path / "b.mp4")], "cannot hold transparency"),
    ):
        assert main([*arguments, *wish]) == 2
        assert words in capsys.readouterr().err


def test_how_much_changed_is_printed_and_written(clip: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = clip.with_name("edit.json")
    arguments = ["edit", str(clip), INSTRUCTION, "--no-preserve", "--model", str(folder), "--json", str(figures)]
    assert main(arguments) == 0
    said = json.loads(figures.read_text())
    assert 0.5 < said["changed"] <= 1  # weights drawn at random leave nothing as it was
    assert f"{100 * said['changed']:.1f} % of the picture changed" in capsys.readouterr().out
    assert said["unknown_words"] == []
    assert read_video(Path(said["output"])).frame_count == said["frames"] == 9


def test_overwrite_replaces_only_when_told(clip: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = clip.with_name("out.mp4")
    out.write_bytes(b"precious")
    arguments = ["edit", str(clip), INSTRUCTION, "-o", str(out), "--model", str(folder)]
    assert main(arguments) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert out.read_bytes() == b"precious"
    assert main([*arguments, "--overwrite"]) == 0
    assert read_video(out).frame_count == 9


def test_the_source_is_never_overwritten(clip: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = clip.read_bytes()
    assert main(["edit", str(clip), INSTRUCTION, "-o", str(clip), "--overwrite", "--model", str(folder)]) == 2
    assert "source itself" in capsys.readouterr().err
    assert clip.read_bytes() == before


# --- the other commands


def test_demo(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--model", str(folder), "--output", str(tmp_path / "shown")]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert "side-by-side.mp4" in last
    files = ("edited.mp4", "side-by-side.mp4", "side-by-side.png", "source.mp4")
    names = sorted(path.name for path in (tmp_path / "shown").iterdir())
    assert names == [f"{kind}-{file}" for kind in ("recolor", "style") for file in files]
    assert read_video(tmp_path / "shown" / "style-side-by-side.mp4").width == 512


def test_models_list_and_info(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "list"]) == 0
    assert {"tiny", "sama-14b"} <= {line.split()[0] for line in capsys.readouterr().out.splitlines()}
    assert main(["models", "info", "tiny"]) == 0
    said = capsys.readouterr().out
    assert (
        said.index("sometimes right on drawings: remove (33%), background (33%), recolor (25%), style (17%)")
        < said.index("on footage: night, sunset, sepia, fog;")
        < said.index("limits: Most things")
        < said.index("steps: 2")
    )
    assert main(["models", "info", "sama-14b"]) == 0
    assert "syxbb/SAMA-14B" in capsys.readouterr().out
    assert main(["models", "info", str(folder)]) == 0
    assert "window: 17" in capsys.readouterr().out
    assert main(["models", "info", "sama14b"]) == 2
    assert "did you mean 'sama-14b'?" in capsys.readouterr().err


def test_models_convert_goes_both_ways(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, sizes = GOLDEN / "checkpoint.safetensors", GOLDEN / "config.json"
    ours, back = tmp_path / "transformer", tmp_path / "back.safetensors"
    assert main(["models", "convert", str(weights), str(ours), "--family", "sama", "--config", str(sizes)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(str(ours))
    assert (ours / "config.json").is_file()
    assert main(["models", "convert", str(ours), str(back), "--to", "released"]) == 0
    before, after = TensorFiles(weights), TensorFiles(back)
    assert {n: i.shape for n, i in before.infos.items()} == {n: i.shape for n, i in after.infos.items()}
    assert all((before.tensor(name) == after.tensor(name)).all() for name in before.infos)
    assert main(["models", "convert", str(ours), str(back), "--to", "released"]) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_evaluate_world_prints_and_writes(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = tmp_path / "world.json"
    asked = ["-n", "1", "--families", "text", "--json", str(figures), "--out", str(tmp_path / "out")]
    assert main(["evaluate", "world", "--model", str(folder), *asked]) == 0
    out = capsys.readouterr().out
    assert "reconstruction" in out
    assert out.splitlines()[-1].endswith(str(figures))
    report = json.loads(figures.read_text())
    assert report["overall"]["success"] == 0, "weights drawn at random"
    assert report["controls"]["copy"]["success"] == 0
    assert {"overall", "families", "controls"} <= report.keys()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--resume"], "no run to go on with"),
        (["--set", "images.minuets=3"], "images.minuets=3"),
        (["--set", "width=128", "images.minuets=3"], "images.minuets=3"),
        (["--set", "images.minutes=soon"], "images.minutes: "),
        (["--set", "width=100"], "multiple of 64"),
        (["--minutes", "-1"], "positive"),
        (["--recipe", "huge"], "choose tiny"),
        (["--config", "none.yaml"], "no file none.yaml"),
        (["--start-from", "none"], "no model folder"),
        (["--recipe", "core"], "name its folder with --start-from"),
        (["--recipe", "decoder"], "name its folder with --start-from"),
        (["--start-from", str(TINY_ICVE.folder)], "is no SAMA model"),
    ],
)
def test_train_says_what_is_wrong(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "tiny", "--out", str(tmp_path / "run"), *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_train_keeps_a_run_that_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    SMOKE.save(tmp_path / "config.yaml")
    assert main(["train", "tiny", "--out", str(tmp_path)]) == 2
    assert "--resume" in capsys.readouterr().err


def test_doctor_is_not_ready_where_no_clip_can_be_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Installed is not enough: a version of PyAV that does not fit would fail only when somebody edits."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    assert main(["doctor"]) == 2
    said = capsys.readouterr().out
    assert "a clip of ten frames could not be written and read" in said
    assert "'av" in said.splitlines()[-1]
    assert "ready: opensama demo" not in said


def test_doctor_says_what_runs(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor"])
    out = capsys.readouterr().out
    assert "`" not in out, "options stand as they are given here"
    for word in ("torch", "device:", "GB free", "tiny:", "sama-14b:"):
        assert word in out
    assert "web" not in {line.split()[1].rstrip(":") for line in out.splitlines() if line.startswith("  extra ")}
    assert code == 0
    assert "ready: opensama demo" in out.splitlines()


def test_doctor_predicts_what_a_model_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--model", "tiny", "--memory", "1GB"]) == 0
    first, _, *rows = capsys.readouterr().out.splitlines()
    assert first == "tiny: 17 frames of 176x96 in float32; megabytes, predicted"
    on_gpu = {row[:45].strip(): float(row[45:].split()[1]) for row in rows if row.startswith("  --offload")}
    assert on_gpu["--offload group"] < on_gpu["--offload model"] < on_gpu["--offload none"] < 60
    assert rows[-1].startswith("chosen for 1 GB of a GPU and ")
    assert rows[-1].endswith(" of this computer: --offload none")
    assert main(["doctor", "--memory", "1GB"]) == 2
    assert "name one with --model" in capsys.readouterr().err


def test_an_extra_is_installed_from_where_the_package_came(monkeypatch: pytest.MonkeyPatch) -> None:
    class Installed:
        def __init__(self, said: str | None):
            self.read_text = lambda name: said

    def line(said: str | None) -> str:
        monkeypatch.setattr("importlib.metadata.distribution", lambda name: Installed(said))
        return install_line("cluster").removeprefix(f"{sys.executable} -m pip install ")

    clone = '{"url": "file:///srv/a%20b/sama", "dir_info": {"editable": true}}'
    assert line(clone) == "--editable '/srv/a b/sama[cluster]'"
    assert line(None) == "'opensama[cluster]'"
    sources = Path(progress.__file__).parents[1].rglob("*.py")
    assert not [path for path in sources if "pip install 'opensama[" in path.read_text()], "it is in no index yet"


# --- how a command ends (processes of their own)


def test_version_and_streams(opensama: Run, tmp_path: Path) -> None:
    assert opensama("--version").stdout.strip() == __version__
    failed = opensama("edit", tmp_path / "none.mp4", INSTRUCTION)
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr.startswith("opensama: There is no file")
    assert len(failed.stderr.splitlines()) == 1


def test_a_process_ends_without_a_last_look_through_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which takes seconds once PyTorch and diffusers are loaded."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(sys, "argv", ["opensama", "--version"])
    try:
        assert main() == 0
        assert gc.get_freeze_count() > 10_000
    finally:
        gc.unfreeze()
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["edit"], "A video and"),
        (["edit", "a.mp4"], "in quotes"),
        (["edit", "a.mp4", "x", "--steps", "many"], "--steps"),
        (["edit", "a.mp4", "x", "--stepz", "3"], "Did you mean --steps?"),
        (["edti"], 'Did you mean "edit"?'),
        (["edit", "a.mp4", "x", "y"], 'quotes: opensama edit a.mp4 "x y"'),
        (["edit", "a.mp4", "Make it night.", "b.mp4"], '--out: opensama edit a.mp4 "Make it night." --out b.mp4'),
        (["edit", "a.mp4", "x", "--model", "sama-14b", "--weights", __file__], "does not end in .safetensors"),
        (["data", "import", __file__], "opensama data import table"),
        (["train", "tiny", "--recipe", "nope"], "no recipe 'nope'; choose tiny, "),
        (["models", "convert", "a", "b", "--family", "icve9"], "no family 'icve9': choose bernini, icve, sama"),
    ],
)
def test_wrong_arguments_are_said_in_a_sentence(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert said in err


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_leaves_nothing(
    clip: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory, sent: int, code: int
) -> None:
    said = tmp_path_factory.mktemp("said") / "err"
    said.touch()
    command = ["edit", clip, INSTRUCTION, "--steps", "1000", "--model", folder]
    # a job in the background of a script ignores Ctrl-C, and so would what it starts
    heeds = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    process = command_from_server(command, said.with_name("out"), said, heeds)
    while "Editing" not in said.read_text():
        assert process.is_alive()
        time.sleep(0.02)
    os.kill(process.pid, sent)
    process.join(60)
    assert process.exitcode == code
    assert "Traceback" not in said.read_text()
    assert [path.name for path in clip.parent.iterdir()] == ["clip.mp4"]


def test_an_end_that_a_callback_swallows_comes_at_the_next_report() -> None:
    """As Python does with what a signal's handler raises within a destructor."""
    program = """if True:
        import os, signal, sys
        from opensama.apps.cli import _end
        from opensama.apps.progress import Display
        from opensama.values import Progress

        class Dying:
            def __del__(self):
                os.kill(os.getpid(), signal.SIGTERM)

        signal.signal(signal.SIGTERM, _end)
        del [Dying()][0]
        print("goes on")
        Display()(Progress("Editing", 1, 2))
        print("and on")"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (143, "goes on\n")


def test_reader_that_stops_reading_is_no_error() -> None:
    command = f"{sys.executable} -m opensama.apps.cli models info sama-14b | head -n 1; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


# --- parts


def test_parse_range() -> None:
    assert parse_range("2:7", 9) == (2, 7)
    assert parse_range(":7", 9) == (0, 7)
    assert parse_range("2:", 9) == (2, 9)
    assert parse_range(":", 9) == (0, 9)
    for text in ("", "5", "7:2", "-1:3", "0:10", "a:b", "1:2:3", "0.5:2"):
        with pytest.raises(UserError):
            parse_range(text, 9)


def test_parse_box() -> None:
    assert parse_box("1,2, 30,40") == (1, 2, 30, 40)
    for text in ("", "1,2,3", "1,2,3,4,5", "a,b,c,d", "1.5,2,3,4"):
        with pytest.raises(UserError):
            parse_box(text)


def test_default_output(tmp_path: Path) -> None:
    assert default_output(Path("a/holiday.mov")) == Path("a/holiday-edited.mp4")
    assert default_output(tmp_path) == tmp_path.with_name(f"{tmp_path.name}-edited.mp4")


def test_progress_in_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.Display() as show:
        for done in range(1, 101):
            show(Progress("Editing", done, 100, float(done), "frames"))
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "Editing: 4/100 frames",
        "Editing: 10/100 frames, about 1 min 30 s left",
        "Editing: 100/100 frames",
    ]
    assert progress.progress_line(Progress("Editing", 50, 100, 1.0, "%")) == "Editing: 50 %"
    assert [progress.duration(s) for s in (0.32, 59.4, 61, 7500)] == ["0.3 s", "59 s", "1 min 1 s", "2 h 5 min"]


COURSES = {  # seconds that each of the things done took, and how many frames each of them is
    "even": ([1.0] * 60, 1),
    "the first warms up": ([8.0] + [1.0] * 59, 1),
    "unlike": ([(1.0, 0.6, 1.5, 0.9)[i % 4] for i in range(60)], 1),
    "in windows": ([6.0] + [4.0] * 19, 17),
}


@pytest.mark.parametrize("course", COURSES)
def test_after_a_tenth_of_the_time_an_estimate_is_within_a_third(course: str) -> None:
    seconds, size = COURSES[course]
    estimate, spent, checked = progress.TimeLeft(), 0.0, 0
    for done, took in enumerate(seconds, 1):
        spent += took
        told = estimate(Progress("Editing", done * size, len(seconds) * size, spent))
        left = sum(seconds) - spent
        if spent > 0.1 * sum(seconds) and told is not None:
            checked += 1
            assert told == pytest.approx(left, rel=1 / 3, abs=1.0)
    assert checked >= 0.8 * len(seconds)


def test_waiting_threads_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(**own: str) -> dict[str, str]:
        choose_wait_policy(own)
        return own

    assert chosen() == {}, "PyTorch is loaded: what is set now nobody reads"
    monkeypatch.delitem(sys.modules, "torch")
    assert chosen() == {"OMP_WAIT_POLICY": "passive"}
    for own in ({"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "7"}, {"KMP_BLOCKTIME": "0"}):
        assert chosen(**own) == own


def close(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two clips differ by no more than encoding explains."""
    return float(np.abs(a.astype(float) - b).mean()) < 6
