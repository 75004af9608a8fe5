"""The loop: a stopped run goes on to the same weights as one that was not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from opensama.training.loop import LoopConfig, Trainer, rate


class Line:
    """Fits y = 3 x; data is a function of the step."""

    name = "line"

    def __init__(self):
        torch.manual_seed(0)
        self.model = nn.Linear(1, 1)
        self.seen: list[int] = []

    def modules(self):
        return {"model": self.model}

    def step(self, index):
        self.seen.append(index)
        x = torch.randn(16, 1, generator=torch.Generator().manual_seed(index))
        return {"loss": (self.model(x) - 3 * x).square().mean()}


def config(steps):
    """Without warm-up or decay in sight, so that the rate is the same however long the run is."""
    return LoopConfig(minutes=1e9, lr=0.05, max_steps=steps, decay=0.0, warmup=0.0, ema=0.5)


def quiet(_):
    pass


def test_two_and_two_steps_are_four(tmp_path):
    whole = Line()
    Trainer(whole, config(4), tmp_path / "whole", quiet).run()
    first = Line()
    Trainer(first, config(2), tmp_path / "parts", quiet).run()
    second = Line()
    trainer = Trainer(second, config(4), tmp_path / "parts", quiet)
    assert trainer.progress.step == 2
    trainer.run()
    assert whole.seen == first.seen + second.seen == [0, 1, 2, 3]
    torch.testing.assert_close(whole.model.state_dict(), second.model.state_dict(), atol=1e-6, rtol=0)


def test_it_learns_and_its_average_is_left_in_the_model(tmp_path):
    stage = Line()
    progress = Trainer(stage, config(200), tmp_path, quiet).run()
    assert stage.model.weight.item() == pytest.approx(3, abs=0.2)
    assert progress.history[-1]["loss"] < progress.history[0]["loss"] + 1e-6


def test_a_finished_run_is_not_trained_again(tmp_path):
    Trainer(Line(), config(3), tmp_path, quiet).run()
    stage = Line()
    Trainer(stage, config(3), tmp_path, quiet).run()
    assert stage.seen == []


def test_a_step_that_is_not_finite_is_skipped(tmp_path):
    class Broken(Line):
        def step(self, index):
            losses = super().step(index)
            return {"loss": losses["loss"] * float("nan")} if index == 1 else losses

    stage = Broken()
    Trainer(stage, config(3), tmp_path, quiet).run()
    assert all(torch.isfinite(p).all() for p in stage.model.parameters())


def test_the_budget_is_wall_clock_time(tmp_path):
    stage = Line()
    progress = Trainer(stage, LoopConfig(minutes=0.005, ema=0.5), tmp_path, quiet).run()
    assert 0.3 <= progress.seconds < 20
    assert stage.seen


def test_the_rate_rises_holds_and_falls():
    assert rate(0.01, 0.5) == pytest.approx(0.5)
    assert rate(0.3, 0.5) == 1
    assert rate(0.75, 0.5) == pytest.approx(0.5)
    assert rate(1.0, 0.5) == 0
    assert rate(0.5, 0.0) == 1
