"""One training loop, on one process or many: a budget in steps or minutes, checkpoints that resume, averaged weights.

A stage (`stage.py`) names its modules and answers `step(index) -> losses`. On disk are safetensors and JSON:

    RUN/STAGE/step-00000120/       a whole checkpoint: weights, their average, buffers, moments, random states
    RUN/STAGE/metrics.jsonl        rows of losses
    RUN/STAGE/scores.jsonl         rows of what the stage measures of the averaged weights
    RUN/STAGE/state.json           the same, with step and seconds, as of the last checkpoint; for people
    RUN/STAGE/skipped.jsonl        samples that could not be read, each once
    RUN/STAGE/nonfinite.jsonl      steps that were left out because their loss or gradient was no finite number
    RUN/STAGE/nan-00000007-0.safetensors   the batches of the first of them, and of the last where they end the run
    RUN/STAGE/changes.jsonl        settings that were changed when the run went on

With a budget of steps, a run that was killed and goes on ends with the bits of one that was not. With a budget of
minutes the learning rate follows the clock. The rate rises over the first part of the budget (`warmup`) and falls
linearly to zero over the last (`decay`).
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from math import inf, isfinite
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from opensama.runtime import whole_file
from opensama.training import checkpoint
from opensama.training.devices import check_inputs, count_compilations, describe_machine, stage_device
from opensama.training.ema import Average
from opensama.training.monitor import Monitor, check_trackers, peak_flops, read_metrics, throughput
from opensama.training.optim import NonFiniteSteps, SpikeFilter, clip_gradients, learning_rate_factor, make_optimizers
from opensama.training.stage import TrainingStage
from opensama.values import UserError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoopConfig:
    """How one stage is trained: for `minutes` over all resumptions, or `steps`, whichever is first.

    Minutes are those of steps, scores, previews and checkpoints.
    """

    minutes: float = inf
    lr: float = 1e-3
    muon: float = 0.0  # learning rate of the matrices inside blocks, under Muon; 0 leaves them to AdamW
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    clip: float = 1.0
    decay: float = 0.35
    warmup: float = 0.02
    ema: float = 0.999
    ema_warmup: float = inf  # steps before which the average forgets quicker, see `ema.py`
    save_every: float = 120.0  # seconds
    log_every: float = 15.0  # seconds
    steps: int | None = None
    accumulate: int = 1  # batches a step
    skip_loss: float | None = None  # leaves out a step whose loss is so many times the median of the last hundred
    skip_norm: float | None = None  # the same of the gradient's norm
    spike_after: int = 100  # steps before which none is left out
    nonfinite: int = 10  # steps in a row without a finite loss and gradient, which end the run
    keep: int = 2  # checkpoints
    preview_every: int | None = None  # steps
    measure_every: float = 0.0  # seconds; 0: never
    trackers: tuple[str, ...] = ()


@dataclass
class _Progress:
    """Where a stage stands."""

    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


COUNTED = ("tokens", "flops")
BROKEN_KEPT = 3  # steps without a finite loss whose batches are written


class Trainer:
    """Runs one stage. After `run`, the modules hold the averaged weights.

    `settings` and `data` (what the run was made with, and a fingerprint of its data set) are kept in the checkpoints;
    who goes on with others is told which fields differ, those that begin with one of `free` apart: their change is
    said and logged. `context` processes share one batch (context parallelism).
    """

    def __init__(
        self,
        stage: TrainingStage,
        config: LoopConfig,
        out: Path,
        *,
        settings: Mapping[str, object] | None = None,
        data: Mapping[str, object] | None = None,
        free: Sequence[str] = (),
        context: int = 1,
    ):
        if config.minutes == inf and config.steps is None:
            raise UserError("A stage needs a budget: set minutes or steps.")
        self.world, self.rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
        self.stage, self.config, self.context = stage, config, context
        self.settings, self.data, self.free = dict(settings or {}), dict(data or {}), tuple(free)
        check_trackers(config.trackers)
        self.out = out / stage.name
        self.weights = {
            f"{m}.{name}": p
            for m, module in stage.modules().items()
            for name, p in module.named_parameters()
            if p.requires_grad
        }
        whole = [name for name, p in self.weights.items() if not isinstance(p, DTensor)]
        if self.world > 1 and whole:
            raise ValueError(f"{whole[0]} would differ between processes: parallelise the stage's modules first")
        self.names = {p: name for name, p in self.weights.items()}
        self.device = stage_device(stage)
        self.optimizers = make_optimizers(
            self.weights, lr=config.lr, muon=config.muon, betas=config.betas, weight_decay=config.weight_decay
        )
        self.rates = [[group["lr"] for group in o.param_groups] for o in self.optimizers]
        self.out.mkdir(parents=True, exist_ok=True)
        self.average = Average(self.weights, config.ema, config.ema_warmup, stage.modules())
        self.nonfinite = NonFiniteSteps(config.nonfinite)
        self.spikes = SpikeFilter(config.skip_loss, config.skip_norm, config.spike_after)
        self.progress = _Progress()
        self.skipped: set[str] = set()
        self.kept: int | None = None  # the step of the last checkpoint
        self.resume()
        self.begun = self.progress.step  # in whose step it is looked where the inputs lie

    @property
    def finished(self) -> bool:
        return self.done >= 1

    @property
    def done(self) -> float:
        """Share of the budget that is used, 1 when the stage is over."""
        limit = self.config.steps
        by_clock = self.progress.seconds / (60 * self.config.minutes) if self.config.minutes > 0 else 1.0
        return by_clock if limit is None else max(by_clock, self.progress.step / limit)

    def run(self) -> _Progress:
        """Trains until the budget is used; the modules then hold the averaged weights."""
        try:
            return self._run()
        finally:
            self.stage.close()

    def _run(self) -> _Progress:
        config, progress = self.config, self.progress
        settings = vars(config) | self.settings
        monitor = Monitor(self.out, progress.step, config.trackers, settings) if self.rank == 0 else None
        if monitor:
            monitor.start()
            progress.history = monitor.history
        if not self.finished:
            checkpoint.check_space(self.out, self.size, config.keep)
        saved = logged = progress.seconds
        measured = progress.seconds if progress.step else -inf
        sums: dict[str, float] = {}
        count = 0
        while not self.finished:
            if config.measure_every and progress.seconds - measured > config.measure_every:
                logged += self.timed(self.measure)
                measured = progress.seconds
            values = self.step()
            for key, value in values.items():
                sums[key] = sums.get(key, 0.0) + value
            count += bool(values)
            now = progress.seconds
            if count and (now - logged > config.log_every or self.finished):
                self.log(monitor, {k: v if k in COUNTED else v / count for k, v in sums.items()}, now - logged)
                sums, count, logged = {}, 0, now
            if now - saved > config.save_every and not self.finished:
                try:
                    logged += self.timed(self.save)
                except checkpoint.CheckpointError as error:  # room may be made while training goes on
                    _log.info(f"{error} Training goes on and tries again.")
                saved = now
            if config.preview_every and (progress.step % config.preview_every == 0 or self.finished):
                logged += self.timed(self.preview)
        if progress.step != self.kept:
            self.save()
        self.average.write_back()
        if config.measure_every and measured < progress.seconds:
            self.measure()
        if monitor:
            monitor.close()
        return progress

    def timed(self, work: Callable[[], None]) -> float:
        """Does what is not a step, such as saving, within the budget; its seconds come out."""
        began = time.monotonic()
        work()
        seconds = self.synchronized(time.monotonic() - began)
        self.progress.seconds += seconds
        return seconds

    def step(self) -> dict[str, float]:
        """One update of the weights; the losses, averaged over batches and processes, and the gradient's norm.

        A step whose loss or gradient is no finite number changes nothing; nothing comes out.
        """
        config, progress = self.config, self.progress
        began = time.monotonic()
        for optimizer, highest in zip(self.optimizers, self.rates, strict=True):
            for group, lr in zip(optimizer.param_groups, highest, strict=True):
                group["lr"] = lr * learning_rate_factor(self.done, config.decay, config.warmup)
        batches = []
        for i in range(config.accumulate):
            with check_inputs(self.stage, self.device) if progress.step == self.begun else nullcontext():
                losses = dict(self.stage.step(progress.step * config.accumulate + i))
            (losses["loss"] / config.accumulate).backward()
            batches.append({key: torch.as_tensor(v).detach().float().to(self.device) for key, v in losses.items()})
        norm = clip_gradients(self.weights, config.clip)
        values = self.shared(batches, norm)
        broken = self.nonfinite(values)
        left_out = broken or self.spikes(progress.step, values)
        for optimizer in self.optimizers:
            if not left_out:
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if not left_out:
            self.average.update(progress.step)
        if broken:
            self.log_nonfinite(batches, values)
        progress.step += 1
        progress.seconds += self.synchronized(time.monotonic() - began)
        self.log_skipped()
        if self.nonfinite.too_many:
            self.save()
            raise UserError(
                f"{self.nonfinite.row} steps of {self.stage.name} in a row gave a loss or gradient that is no finite "
                f"number, the last of them step {progress.step - 1}: look at the batches in {self.out} "
                f"(nan-*.safetensors), or go on with a lower learning rate; the weights before are saved."
            )
        return {} if broken else values

    def shared(self, batches: list[dict[str, Tensor]], norm: Tensor) -> dict[str, float]:
        """Means over batches and processes (of what is counted: sums), the same numbers on every process."""
        keys = list(batches[0])
        rows = torch.stack([torch.stack([losses[key] for key in keys]) for losses in batches]).mean(0)
        if self.world > 1:
            dist.all_reduce(rows)
            rows = rows / self.world
        values = dict(zip(keys, rows.tolist(), strict=True))
        for key in COUNTED:
            if key in values:
                values[key] *= len(batches) * self.world / self.context
        return values | {"norm": float(norm)}

    def synchronized(self, seconds: float) -> float:
        """The first process's seconds, so that all of them save, log and end together."""
        if self.world == 1:
            return seconds
        shared = torch.tensor(seconds, device=self.device)
        dist.broadcast(shared, 0)
        return float(shared)

    def log_nonfinite(self, batches: list[dict[str, Tensor]], values: Mapping[str, float]) -> None:
        """Lists a step that was left out, and writes the batches of the first few, and of the last that is borne."""
        step, found = self.progress.step, self.nonfinite
        if self.rank == 0:
            row = {"step": step, "loss": str(values["loss"]), "norm": str(values["norm"])}
            _append(self.out / "nonfinite.jsonl", row)
        _log.info(f"{self.stage.name}: step {step} gave a loss or gradient that is no finite number and was left out")
        if not (found.count <= BROKEN_KEPT or found.too_many):
            return
        broken = [i for i, losses in enumerate(batches) if not isfinite(float(losses["loss"]))]
        for i in broken or range(len(batches)):
            index = step * self.config.accumulate + i
            if tensors := {key: v.contiguous().clone() for key, v in self.stage.batch(index).items()}:
                save_file(tensors, self.out / f"nan-{index:08d}-{self.rank}.safetensors")

    def log(self, monitor: Monitor | None, means: Mapping[str, float], seconds: float) -> None:
        """Writes a row of means since the last one, and says it."""
        progress, config = self.progress, self.config
        peak = peak_flops(self.device)
        row: dict[str, float] = {"step": progress.step, "minutes": round(progress.seconds / 60, 2)}
        row |= {key: round(value, 5) for key, value in means.items() if key not in COUNTED}
        row |= throughput(means.get("tokens", 0), means.get("flops", 0), seconds, peak and peak * self.world)
        row |= {"spikes": self.spikes.skipped} if self.spikes.skipped else {}
        row |= {"nonfinite": self.nonfinite.count} if self.nonfinite.count else {}
        row |= {"compiled": compiled} if (compiled := count_compilations()) else {}
        row |= {"skipped": len(self.skipped)} if self.skipped else {}
        if monitor is None:
            return
        monitor.log(row)
        left = 60 * config.minutes - progress.seconds
        if config.steps is not None:
            left = min(left, (config.steps - progress.step) * progress.seconds / progress.step)
        text = "  ".join(f"{key} {value:g}" for key, value in row.items())
        _log.info(f"{self.stage.name}: {text}  left {max(0.0, left) / 60:.1f} min")

    def log_skipped(self) -> None:
        """Lists samples that the stage could not read, each once."""
        found = self.stage.skipped
        while found:  # threads that read may add to it
            sample, reason = found.pop(0)
            if sample not in self.skipped:
                self.skipped.add(sample)
                _append(self.out / "skipped.jsonl", {"sample": sample, "reason": reason})

    def preview(self) -> None:
        with self.average.swapped_in():
            self.stage.preview(self.out / f"preview-{self.progress.step:08d}")

    def measure(self) -> None:
        """Adds a row of the stage's scores to scores.jsonl."""
        with self.average.swapped_in():
            scores = self.stage.measure()
        if self.rank or not scores:
            return
        row = {"step": self.progress.step, "minutes": round(self.progress.seconds / 60, 2)}
        row |= {key: round(value, 5) for key, value in scores.items()}
        path = self.out / "scores.jsonl"
        rows = [earlier for earlier in read_metrics(path) if earlier["step"] < row["step"]]  # a kill undid some
        with whole_file(path) as part:
            part.write_text("".join(json.dumps(r) + "\n" for r in [*rows, row]))
        _log.info(f"{self.stage.name}: scores {row}")

    @property
    def size(self) -> int:
        """Bytes of one checkpoint: weights, average, and one or two moments of each."""
        copies = {p: 4 if isinstance(o, torch.optim.AdamW) else 3 for o in self.optimizers for p in _parameters(o)}
        return sum(n * p.numel() * p.element_size() for p, n in copies.items())

    def save(self) -> None:
        """Writes a checkpoint of this step, and for people a summary. CheckpointError where it has no room."""
        tensors = {name: p.detach() for name, p in self.weights.items()}
        tensors |= self.averaged()
        for optimizer in self.optimizers:
            for p, moments in optimizer.state.items():
                tensors |= {f"optimizer.{self.names[p]}.{k}": v for k, v in moments.items()}  # type: ignore[index]
        state = {
            "step": self.progress.step,
            "seconds": self.progress.seconds,
            "spikes": self.spikes.state(),
            "nonfinite": self.nonfinite.count,
            "settings": self.settings,
            "data": self.data,
            "machine": describe_machine(self.device),
        }
        own = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            own["cuda"] = torch.cuda.get_rng_state(self.device)
        checkpoint.save_checkpoint(self.out, self.progress.step, tensors, state, own=own, keep=self.config.keep)
        self.kept = self.progress.step
        if self.rank == 0:
            summary = self.out / "state.tmp"
            with suppress(OSError):  # the disk may be full now; the checkpoint is whole
                summary.write_text(json.dumps(vars(self.progress), indent=1))
                summary.replace(self.out / checkpoint.STATE)

    def averaged(self) -> dict[str, Tensor]:
        """A checkpoint's `ema.` tensors: averaged weights, and the modules' buffers, which a model needs as much."""
        buffers = {
            f"{m}.{name}": tensor
            for m, module in self.stage.modules().items()
            for name, tensor in module.state_dict(keep_vars=True).items()
            if not isinstance(tensor, nn.Parameter)
        }
        return {f"ema.{name}": tensor for name, tensor in (self.average.tensors | buffers).items()}

    def resume(self) -> None:
        """Goes on from the last whole checkpoint, if there is one. UserError if it is of other settings or data."""
        listed = self.out / "skipped.jsonl"
        if listed.exists():
            self.skipped = {json.loads(line)["sample"] for line in listed.read_text().splitlines() if line[-1:] == "}"}
        path = checkpoint.latest_checkpoint(self.out)
        if path is None:
            return
        state = checkpoint.read_state(path)
        for what, now in {"settings": self.settings, "data": self.data}.items():
            changed = checkpoint.differences(state[what], now)
            fields = [field for field in changed if not (what == "settings" and field.startswith(self.free))]
            if fields:
                raise UserError(
                    f"The run in {self.out} was begun with other {what} ({'; '.join(fields[:5])}): "
                    f"go on with those, or choose another folder."
                )
            for change in changed:
                _log.info(f"{self.stage.name}: from step {state['step']} on {change}")
            if changed and self.rank == 0:
                _append(self.out / "changes.jsonl", {"step": state["step"], "changes": changed})
        begun, here = state["machine"], describe_machine(self.device)
        if begun != here:
            _log.info(
                f"{self.stage.name}: begun on {begun}, goes on on {here}: its bits may differ from those of a run that "
                "stayed there."
            )
        tensors = {name: p.detach() for name, p in self.weights.items()}
        tensors |= self.averaged()
        tensors |= self.allocate_moments(path)
        checkpoint.load_checkpoint(path, tensors)
        own = path / f"own-{self.rank}.safetensors"
        if own.exists():
            generators = load_file(own)
            torch.set_rng_state(generators["cpu"])
            if "cuda" in generators and self.device.type == "cuda":
                torch.cuda.set_rng_state(generators["cuda"], self.device)
        self.spikes.restore(state["spikes"])
        self.nonfinite.count = state["nonfinite"]
        self.progress = _Progress(state["step"], state["seconds"])
        self.kept = self.progress.step

    def allocate_moments(self, path: Path) -> dict[str, Tensor]:
        """Room in the optimizers for what a checkpoint holds of them, by name."""
        room: dict[str, Tensor] = {}
        known = checkpoint.read_tensor_infos(path)
        for optimizer in self.optimizers:
            for p in _parameters(optimizer):
                prefix = f"optimizer.{self.names[p]}."
                keys = {k: k.removeprefix(prefix) for k in known if k.startswith(prefix)}
                keys = {k: key for k, key in keys.items() if "." not in key}
                own = {k: torch.zeros(()) if key == "step" else torch.zeros_like(p.detach()) for k, key in keys.items()}
                if keys:
                    optimizer.state[p] = {keys[k]: v for k, v in own.items()}
                room |= own
        return room


def _append(file: Path, row: Mapping[str, object]) -> None:
    """A line more; a disk that is full now ends no run."""
    with suppress(OSError), file.open("a") as lines:
        lines.write(json.dumps(row) + "\n")


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]
