"""Checkpoints: whole or not there, whatever happens while they are written; refused where they are of another run."""

from __future__ import annotations

import re
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from opensama.training.checkpoint import (
    differences,
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    read_state,
    save_checkpoint,
)
from opensama.training.loop import LoopConfig, Trainer
from opensama.values import UserError
from tests.ranks import from_server
from tests.training.killed import STEPS, STEPS_OF_TWO, in_a_file, kill_one, kill_two, train
from tests.training.test_loop import Line, config


def tensors(value: float = 1.0) -> dict[str, torch.Tensor]:
    return {"a.weight": torch.full((3, 4), value), "scale": torch.tensor(value), "half": torch.ones(2).bfloat16()}


def said_of(kill: Callable[[Path, int], None], folder: Path) -> list[str]:
    """Lines of a run in `folder`/killed that is killed, without torch's own."""
    said = folder / "said"
    process = from_server(in_a_file, kill, folder / "killed", 1, said)
    process.join(900)
    assert process.exitcode == 0, said.read_text()
    return [line for line in said.read_text().splitlines() if re.match("from|killed|ended|finished", line)]


@pytest.mark.slow
def test_killed_ten_times_it_ends_with_the_bits_of_an_unbroken_run(tmp_path):
    lines = said_of(kill_one, tmp_path)
    assert lines.pop() == "finished 0"
    assert [line.split()[0] for line in lines] == ["killed"] * 10
    assert sum(line.endswith("writing") for line in lines) >= 3
    train(tmp_path / "whole", save_every=1e9)
    ends = [tmp_path / run / "noisy" / f"step-{STEPS:08d}" for run in ("killed", "whole")]
    for file in ("weights.safetensors", "own-0.safetensors"):
        killed, whole = (load_file(end / file) for end in ends)
        assert killed.keys() == whole.keys()
        assert all(torch.equal(killed[name], whole[name]) for name in whole)
    assert read_state(ends[0])["spikes"] == read_state(ends[1])["spikes"]
    assert read_state(ends[0])["spikes"]["skipped"] > 0


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="needs gloo")
@pytest.mark.slow
def test_two_processes_killed_four_times_end_with_the_bits_of_an_unbroken_run(tmp_path):
    """Sharded weights, moments and averages, and each process's own random state; a kill may take one process first."""
    lines = said_of(kill_two, tmp_path)
    begins = [int(line.removeprefix("from ")) for line in lines if line.startswith("from ")]
    ends = [line.split("; ") for line in lines if not line.startswith("from ")]
    kills, whole = ends[:4], ends[4:]
    assert whole == [["ended 0"] * 2] * 2, lines
    for taken, (*processes, _, _) in zip([(0, 1), (1,), (0, 1), (0,)], kills, strict=True):
        assert all(processes[rank] == "killed" for rank in taken)
        assert "ended 0" not in processes, "who is left does not go on alone"
    assert [state for *_, state, _ in kills[2:]] == ["writing"] * 2
    assert begins == [0, *(int(name.removeprefix("step-")) for *_, name in kills), 0]
    assert begins[:5] == sorted(set(begins[:5])), "each run comes further"

    first, second = (tmp_path / run / "noisy" / f"step-{STEPS_OF_TWO:08d}" for run in ("killed", "whole"))
    files = [path.name for path in sorted(first.glob("*.safetensors"))]
    assert files == [path.name for path in sorted(second.glob("*.safetensors"))]
    assert files[:2] == ["own-0.safetensors", "own-1.safetensors"]
    assert len(files) == 4
    for file in files:
        broken, unbroken = (load_file(end / file) for end in (first, second))
        assert broken.keys() == unbroken.keys()
        assert all(torch.equal(broken[name], unbroken[name]) for name in unbroken)
    assert broken["ema.model.blocks.0.weight"].shape == (128, 256), "half of it"
    assert read_state(first)["spikes"] == read_state(second)["spikes"]
    assert read_state(first)["spikes"]["skipped"] > 0
    assert not torch.equal(*(load_file(first / f"own-{rank}.safetensors")["cpu"] for rank in (0, 1)))


def test_what_is_saved_is_loaded_and_the_last_are_kept(tmp_path):
    for step in (1, 2, 30):
        path = save_checkpoint(tmp_path, step, tensors(float(step)), {"step": step}, keep=2)
    assert [p.name for p in list_checkpoints(tmp_path)] == ["step-00000002", "step-00000030"]
    assert latest_checkpoint(tmp_path) == path
    found = {name: torch.zeros_like(t) for name, t in tensors().items()}
    load_checkpoint(path, found)
    torch.testing.assert_close(found, tensors(30.0), rtol=0, atol=0)


def test_a_half_written_one_is_never_picked_up_and_goes_away(tmp_path):
    whole = save_checkpoint(tmp_path, 1, tensors(), {"step": 1})
    half = tmp_path / "step-00000002.partial"
    shutil.copytree(whole, half)
    assert latest_checkpoint(tmp_path) == whole
    save_checkpoint(tmp_path, 3, tensors(), {"step": 3})
    assert not half.exists()


def test_a_full_disk_loses_nothing(tmp_path):
    large = {"a": torch.zeros(1_000_000)}
    whole = save_checkpoint(tmp_path, 1, large, {"step": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"step 2 could not be written .* needs 0.004 GB, .* are free"):
            save_checkpoint(tmp_path, 2, large, {"step": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert latest_checkpoint(tmp_path) == whole
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


def test_a_disk_that_is_too_small_is_told_before_the_first_step(tmp_path):
    class Huge(Line):
        def __init__(self):
            super().__init__()
            self.model, self.seen = torch.nn.Linear(10**9, 10**6, device="meta"), []

    stage = Huge()
    trainer = Trainer.__new__(Trainer)  # nobody has a petabyte of memory either: only its size is asked for
    trainer.__init__(stage, LoopConfig(steps=1), tmp_path)
    with pytest.raises(UserError, match="too full: its checkpoints need"):
        trainer.run()
    assert not stage.seen


@pytest.mark.parametrize("what", ["settings", "data"])
def test_another_runs_settings_or_data_are_named(tmp_path, what):
    before = {"model": {"width": 8, "heads": 2}, "files": ["a", "b"]}
    Trainer(Line(), config(1), tmp_path, **{what: before}).run()
    Trainer(Line(), config(1), tmp_path, **{what: before})
    other = {"model": {"width": 16, "heads": 2}, "files": ("a", "b"), "more": 1}
    with pytest.raises(UserError, match=rf"other {what} \(model.width is 16, was 8; more is 1, was 'absent'\)"):
        Trainer(Line(), config(2), tmp_path, **{what: other})


def test_another_models_checkpoint_is_refused(tmp_path):
    class Wider(Line):
        def __init__(self):
            super().__init__()
            self.model = torch.nn.Linear(2, 1)

    Trainer(Line(), config(1), tmp_path).run()
    with pytest.raises(UserError, match=r"another model: model.weight is \[1, 1\] instead of \[1, 2\]"):
        Trainer(Wider(), config(2), tmp_path)


@pytest.mark.parametrize("file", ["state.json", "weights.safetensors"])
def test_a_damaged_checkpoint_is_named(tmp_path, file):
    Trainer(Line(), config(1), tmp_path).run()
    path = latest_checkpoint(tmp_path / "line")
    (path / file).write_bytes((path / file).read_bytes()[:20])
    with pytest.raises(UserError, match="step-00000001 is damaged"):
        Trainer(Line(), config(2), tmp_path)


@pytest.mark.parametrize("text", ["{}", "[1]", '"step"'])
def test_a_state_that_says_nothing_is_named(tmp_path, text):
    path = save_checkpoint(tmp_path, 1, tensors(), {"step": 1})
    (path / "state.json").write_text(text)
    with pytest.raises(UserError, match="step-00000001 is damaged"):
        read_state(path)


def test_a_checkpoint_that_was_not_copied_whole_is_named(tmp_path):
    """A shard that is not there would leave its part of the weights as they were, without a word."""
    path = save_checkpoint(tmp_path, 1, tensors(), {"step": 1})
    (path / "own-0.safetensors").unlink()
    with pytest.raises(UserError, match=r"step-00000001 is damaged \(own-0.safetensors is missing\): remove it"):
        load_checkpoint(path, tensors())


@given(
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 2)),
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 2)),
)
def test_differences_name_just_what_differs(before, now):
    named = {line.split()[0] for line in differences({"x": before}, {"x": now})}
    assert named == {f"x.{key}" for key in "abc" if before.get(key) != now.get(key)}
