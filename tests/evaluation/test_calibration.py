"""The measure itself is held: with the embedded model's autoencoder right answers pass, imitations do not."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from opensama import load
from opensama.evaluation.world import Calibration, calibrate, through
from opensama.evaluation.world.calibration import NAMES, RIGHT, STYLED, imitations
from opensama.world import EDIT_FAMILIES, sample_edit


@pytest.mark.slow
def test_right_answers_pass_and_imitations_do_not():
    coded = through(load("tiny", device="cpu"))
    drawn = calibrate(coded, n=1, seed=3, frames=5, size=64)
    styles = calibrate(coded, n=2, families=("style",), seed=7, frames=5, size=64)
    assert set(drawn.shares()) == {*EDIT_FAMILIES, "all"}
    for found in (drawn, styles):
        for name, (passed, n) in found.shares()["all"].items():
            if name in RIGHT:
                assert passed >= 0.95 * n, found.table()
            else:
                assert passed <= 0.1 * n, found.table()
    assert {"tint", "border", "blurred", "light"} <= set(styles.shares()["all"])


def test_what_imitations_there_are():
    add = dict(imitations(sample_edit(1, "test", "add", 13, 64), random.Random(0)))
    assert set(add) == set(NAMES) - {"one part", *STYLED}
    assert len({tuple(f.flatten().tolist()) for f in add.values()}) == len(add)
    shown = (add["exact"] - add["copy"]).abs().amax(1) > 0.02
    disk = (add["disk"] - add["copy"]).abs().amax(1) > 0.02
    assert int(disk.sum()) == pytest.approx(int(shown.sum()), rel=0.15)
    assert torch.equal(add["blend"], (add["exact"] + add["copy"]) / 2)
    snow = next(s for s in range(99) if sample_edit(s, "test", "style", 1, 32).plan.edited == "snow")
    assert set(STYLED) <= set(dict(imitations(sample_edit(snow, "test", "style", 1, 32), random.Random(0))))
    two = dict(imitations(sample_edit(1, "test", "two", 5, 64), random.Random(0)))
    assert "one part" in two


def test_the_table_and_what_fails():
    found = calibrate(lambda frames: frames, n=1, families=("add",), frames=5, size=64)
    assert found.failures() == []
    assert found.to_dict()["add"]["exact"]["passed"] == 1
    assert "95 % interval" in found.table()
    exact = next(trial for trial in found.trials if trial.name == "exact")
    copy = next(trial for trial in found.trials if trial.name == "copy")
    generous = Calibration([replace(exact, name="disk"), replace(copy, name="exact")])
    assert generous.failures() == [
        "add: disk passes 1 of 1",
        "add: exact passes 0 of 1",
        "all: disk passes 1 of 1",
        "all: exact passes 0 of 1",
    ]
