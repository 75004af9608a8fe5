"""The loop: a stopped run goes on to the same weights as one that was not."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from math import inf, isfinite

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from opensama.training.ema import Average
from opensama.training.loop import LoopConfig, Trainer
from opensama.training.monitor import read_metrics, throughput
from opensama.training.optim import SpikeFilter, learning_rate_factor
from opensama.training.stage import TrainingStage
from opensama.values import UserError


class Line(TrainingStage):
    """Fits y = 3 x; data is a function of the step."""

    def __init__(self):
        super().__init__("line")
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
    return LoopConfig(lr=0.05, steps=steps, decay=0.0, warmup=0.0, ema=0.5)


def test_two_and_two_steps_are_four(tmp_path):
    whole = Line()
    Trainer(whole, config(4), tmp_path / "whole").run()
    first = Line()
    Trainer(first, config(2), tmp_path / "parts").run()
    second = Line()
    trainer = Trainer(second, config(4), tmp_path / "parts")
    assert trainer.progress.step == 2
    trainer.run()
    assert whole.seen == first.seen + second.seen == [0, 1, 2, 3]
    torch.testing.assert_close(whole.model.state_dict(), second.model.state_dict(), atol=0, rtol=0)


def test_it_learns_and_its_average_is_left_in_the_model(tmp_path):
    stage = Line()
    raw: list[float] = []
    stage.model.register_forward_pre_hook(lambda model, _: raw.append(model.weight.item()))
    progress = Trainer(stage, replace(config(200), log_every=-1), tmp_path).run()
    assert progress.history[-1]["loss"] < 1e-3 * progress.history[0]["loss"]
    assert stage.model.weight.item() == pytest.approx(3, abs=0.2)
    trainer = Trainer(Line(), config(200), tmp_path)
    assert stage.model.weight.item() == trainer.average.tensors["model.weight"].item()
    assert trainer.stage.model.weight.item() != stage.model.weight.item(), raw[-1]


def test_a_finished_run_is_not_trained_again(tmp_path):
    Trainer(Line(), config(3), tmp_path).run()
    stage = Line()
    Trainer(stage, config(3), tmp_path).run()
    assert stage.seen == []


class Broken(Line):
    """Some batches have a loss that is no number; `batch` says which one it was."""

    def __init__(self, *broken: int, by: float = float("nan")):
        super().__init__()
        self.broken, self.by = broken, by

    def batch(self, index):
        return {"x": torch.full((2,), float(index))}

    def step(self, index):
        losses = super().step(index)
        return {"loss": losses["loss"] * self.by} if index in self.broken else losses


@pytest.mark.parametrize("by", [float("nan"), float("inf")])
def test_steps_without_a_finite_loss_are_left_out_counted_and_listed(tmp_path, by, caplog):
    caplog.set_level("INFO")
    stage = Broken(3, by=by)
    trainer = Trainer(stage, replace(config(6), accumulate=2, log_every=-1), tmp_path)
    assert trainer.step().keys() == {"loss", "norm"}
    before = {name: p.detach().clone() for name, p in trainer.weights.items()}
    averaged = trainer.average.tensors["model.weight"].clone()
    assert trainer.step() == {}
    torch.testing.assert_close({name: p.detach() for name, p in trainer.weights.items()}, before, atol=0, rtol=0)
    assert torch.equal(trainer.average.tensors["model.weight"], averaged)
    progress = trainer.run()
    assert progress.step == 6
    assert progress.history[-1]["nonfinite"] == 1
    assert all(isfinite(row["loss"]) for row in progress.history)
    listed = [json.loads(line) for line in (tmp_path / "line" / "nonfinite.jsonl").read_text().splitlines()]
    assert [row["step"] for row in listed] == [1]
    saved = load_file(tmp_path / "line" / "nan-00000003-0.safetensors")
    assert saved["x"].tolist() == [3, 3]
    assert "step 1 gave a loss or gradient that is no finite number and was left out" in caplog.text


def test_too_many_in_a_row_end_the_run_which_goes_on_behind_them(tmp_path):
    stage = Broken(1, 3, 4, 5)
    with pytest.raises(
        UserError, match=r"3 steps of line in a row gave .* the last of them step 5.*a lower learning rate"
    ):
        Trainer(stage, replace(config(8), nonfinite=3), tmp_path).run()
    assert stage.seen == [0, 1, 2, 3, 4, 5]
    kept = sorted(path.name for path in (tmp_path / "line").glob("nan-*"))
    assert kept == [f"nan-{i:08d}-0.safetensors" for i in (1, 3, 4, 5)]
    again = Broken(6)
    trainer = Trainer(again, replace(config(8), nonfinite=3), tmp_path)
    trainer.run()
    assert again.seen == [6, 7], "what broke it is not met again"
    assert trainer.nonfinite.count == 5
    assert all(torch.isfinite(p).all() for p in again.model.parameters())


def test_settings_that_are_free_change_and_are_logged(tmp_path, caplog):
    def settings(**optimizer):
        return {"settings": {"optimizer": {"lr": 0.05, "clip": 1.0} | optimizer, "loss": {"shift": 5}}}

    Trainer(Line(), config(2), tmp_path, **settings(), free=("optimizer.",)).run()
    caplog.set_level("INFO")
    changed = replace(config(4), lr=0.01)
    trainer = Trainer(Line(), changed, tmp_path, **settings(lr=0.01), free=("optimizer.",))
    assert caplog.messages == ["line: from step 2 on optimizer.lr is 0.01, was 0.05"]
    (row,) = [json.loads(line) for line in (tmp_path / "line" / "changes.jsonl").read_text().splitlines()]
    assert row == {"step": 2, "changes": ["optimizer.lr is 0.01, was 0.05"]}
    trainer.step()
    assert {group["lr"] for o in trainer.optimizers for group in o.param_groups} == {0.01}
    other = {"settings": {"optimizer": {"lr": 0.05, "clip": 1.0}, "loss": {"shift": 3}}}
    with pytest.raises(UserError, match=r"other settings \(loss.shift is 3, was 5\)"):
        Trainer(Line(), config(4), tmp_path, **other, free=("optimizer.",))


def test_the_average_reaches_its_decay_after_the_warm_up():
    weight = nn.Parameter(torch.zeros(()))
    kept = []
    for warmup in (0, 100, inf):
        average = Average({"w": weight}, 0.9998, warmup)
        for step in (0, 99, 100, 19_999):
            average.tensors["w"] = torch.ones((), dtype=torch.float64)
            weight.data = torch.zeros((), dtype=torch.float64)
            average.update(step)
            kept.append(average.tensors["w"].item())
    plain, throughout = [0.9998] * 4, [1 / 10, 100 / 109, 101 / 110, 20_000 / 20_009]
    assert kept == pytest.approx([*plain, 1 / 10, 100 / 109, 0.9998, 0.9998, *throughout], abs=1e-6)


def test_accumulated_batches_are_one_larger_batch(tmp_path):
    class Double(Line):
        def step(self, index):
            parts = [Line.step(self, 2 * index + i)["loss"] for i in range(2)]
            return {"loss": sum(parts) / 2}

    models = []
    for stage, batches in ((Line(), 2), (Double(), 1)):
        Trainer(stage, replace(config(5), accumulate=batches), tmp_path / str(batches)).run()
        models.append(stage.model.state_dict())
    torch.testing.assert_close(*models)


def test_spikes_are_left_out_and_counted(tmp_path, caplog):
    class Spiky(Line):
        def step(self, index):
            losses = super().step(index)
            return {"loss": losses["loss"] * (1e6 if index == 110 else 1)}

    caplog.set_level("INFO")
    settings = replace(config(120), lr=1e-4, skip_loss=50.0)
    progress = Trainer(Spiky(), settings, tmp_path).run()
    assert progress.history[-1]["spikes"] == 1
    assert "spikes 1" in caplog.messages[-1]
    spikes = SpikeFilter(None, 3.0, after=2, window=5)
    assert [spikes(i, {"loss": 0.0, "norm": n}) for i, n in enumerate([9, 1, 1, 4, 1, 10])] == [0, 0, 0, 1, 0, 1]
    assert not any([spikes(9, {"loss": 0.0, "norm": 10.0}) for _ in range(9)][4:]), "what lasts is no spike"


def test_samples_that_cannot_be_read_are_counted_and_listed_once(tmp_path):
    class Gappy(Line):
        def __init__(self):
            super().__init__()
            self.skipped = []

        def step(self, index):
            self.skipped.append((f"clip-{index % 2}.mp4", "truncated"))
            return super().step(index)

    progress = Trainer(Gappy(), config(4), tmp_path).run()
    assert progress.history[-1]["skipped"] == 2
    rows = [json.loads(line) for line in (tmp_path / "line" / "skipped.jsonl").read_text().splitlines()]
    assert rows == [{"sample": f"clip-{i}.mp4", "reason": "truncated"} for i in range(2)]
    Trainer(Gappy(), config(8), tmp_path).run()
    assert len((tmp_path / "line" / "skipped.jsonl").read_text().splitlines()) == 2


def test_tokens_a_second_are_on_the_line(tmp_path, caplog):
    class Counted(Line):
        def step(self, index):
            return super().step(index) | {"tokens": torch.tensor(16), "flops": torch.tensor(1e9)}

    caplog.set_level("INFO")
    progress = Trainer(Counted(), config(5), tmp_path).run()
    row = progress.history[-1]
    assert row["tokens_per_second"] == pytest.approx(5 * 16 / progress.seconds, rel=0.01)
    assert "tokens_per_second" in caplog.messages[-1]
    assert "tokens" not in row
    assert throughput(1000, 5e12, 10, 1e12) == {"tokens_per_second": 100, "mfu": 0.5}


def test_rows_are_kept_and_those_trained_anew_are_dropped(tmp_path):
    settings = replace(config(4), log_every=-1)
    Trainer(Line(), settings, tmp_path).run()
    rows = read_metrics(tmp_path / "line" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    with (tmp_path / "line" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "loss": 1}\n{"step": 6, "lo')
    progress = Trainer(Line(), replace(settings, steps=6), tmp_path).run()
    assert [row["step"] for row in progress.history] == [1, 2, 3, 4, 5, 6]
    assert read_metrics(tmp_path / "line" / "metrics.jsonl") == progress.history
    assert json.loads((tmp_path / "line" / "state.json").read_text())["history"] == progress.history


def test_trackers_are_opened_on_demand(tmp_path):
    with pytest.raises(UserError, match="choose tensorboard, wandb, trackio"):
        Trainer(Line(), replace(config(1), trackers=("paper",)), tmp_path).run()
    named = replace(config(1), trackers=("tensorboard",))
    if importlib.util.find_spec("tensorboard"):
        Trainer(Line(), named, tmp_path).run()
        assert list((tmp_path / "line" / "tensorboard").iterdir())
    else:
        with pytest.raises(UserError, match=r"tensorboard is not installed; run: .* -m pip install tensorboard"):
            Trainer(Line(), named, tmp_path).run()


def test_previews_show_the_average_and_leave_the_weights(tmp_path):
    class Shown(Line):
        def __init__(self):
            super().__init__()
            self.shown = []

        def preview(self, folder):
            self.shown.append((folder.name, self.model.weight.item()))

    stage = Shown()
    trainer = Trainer(stage, replace(config(4), preview_every=2), tmp_path)
    trainer.run()
    assert [name for name, _ in stage.shown] == ["preview-00000002", "preview-00000004"]
    assert stage.shown[-1][1] == stage.model.weight.item() == trainer.average.tensors["model.weight"].item()
    plain = Line()
    Trainer(plain, config(4), tmp_path / "plain").run()
    assert plain.model.weight.item() == stage.model.weight.item()


def test_a_stage_needs_a_budget(tmp_path):
    with pytest.raises(UserError, match="minutes or steps"):
        Trainer(Line(), LoopConfig(), tmp_path)


def test_impossible_betas_are_said_before_a_folder_is_made(tmp_path):
    with pytest.raises(UserError, match=r"betas must be numbers from 0 to below 1, not 0.9, 1.5"):
        Trainer(Line(), replace(config(1), betas=(0.9, 1.5)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_budget_is_wall_clock_time(tmp_path, monkeypatch):
    """By a clock that goes on by two seconds a step and stands still otherwise."""
    now = 100.0

    class Slow(Line):
        def step(self, index):
            nonlocal now
            now += 2.0
            return super().step(index)

    monkeypatch.setattr("time.monotonic", lambda: now)
    stage = Slow()
    progress = Trainer(stage, LoopConfig(minutes=0.15, ema=0.5), tmp_path).run()
    assert (progress.seconds, stage.seen) == (10, [0, 1, 2, 3, 4])


def test_the_rate_rises_holds_and_falls():
    assert learning_rate_factor(0.01, 0.5) == pytest.approx(0.5)
    assert learning_rate_factor(0.3, 0.5) == 1
    assert learning_rate_factor(0.75, 0.5) == pytest.approx(0.5)
    assert learning_rate_factor(1.0, 0.5) == 0
    assert learning_rate_factor(0.5, 0.0) == 1
