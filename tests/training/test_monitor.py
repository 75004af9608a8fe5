"""What a run says about itself: rows that survive a full disk, trackers that are there before anything begins."""

from __future__ import annotations

import resource
import sys
import types
from dataclasses import replace

import pytest

from opensama.training.loop import Trainer
from opensama.training.monitor import Monitor, check_trackers, read_metrics
from opensama.values import UserError
from tests.training.test_loop import Line, config


def test_a_row_that_finds_no_room_is_written_with_the_next(tmp_path):
    monitor = Monitor(tmp_path)
    monitor.log({"step": 1, "loss": 0.5})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30, limits[1]))
    try:
        monitor.log({"step": 2, "loss": 0.25})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 0.5}], "no row is half there"
    monitor.log({"step": 3, "loss": 0.125})
    assert read_metrics(tmp_path / "metrics.jsonl") == monitor.history
    assert [row["step"] for row in monitor.history] == [1, 2, 3]


@pytest.mark.parametrize(
    ("names", "sentence"),
    [(("paper",), "no tracker 'paper': choose tensorboard, wandb, trackio"), (("trackio",), "pip install")],
)
def test_a_tracker_that_is_not_there_is_said_before_a_folder_is_made(names, sentence, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.path", [])  # nothing is installed
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    with pytest.raises(UserError, match=sentence):
        Trainer(Line(), replace(config(1), trackers=names), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_tracker_that_cannot_be_opened_is_said(tmp_path, monkeypatch):
    """Such as wandb where nobody has logged in: its own errors are of its own kinds."""

    class UsageError(Exception):
        pass

    def init(**_: object) -> None:
        raise UsageError("api_key not configured (no-tty).\ncall wandb.login")

    library = types.ModuleType("wandb")
    library.__spec__ = types.SimpleNamespace(name="wandb")  # type: ignore[assignment]
    library.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", library)
    check_trackers(("wandb",))
    with pytest.raises(UserError, match=r"wandb could not be opened \(api_key not configured \(no-tty\).\): mend that"):
        Monitor(tmp_path, trackers=("wandb",))
