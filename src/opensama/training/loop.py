"""One training loop: a budget in wall-clock minutes, checkpoints that resume, an average of the weights.

A stage names its trainable modules and answers `step(index) -> losses`; data is a function of the step's number, so a
run that was stopped goes on exactly where it was. Everything on disk is safetensors and JSON:

    RUN/STAGE/state.json            step, seconds used, history of losses
    RUN/STAGE/weights.safetensors   trained weights, their average under `ema.`, the optimizer's moments under `adam.`

The learning rate rises over the first 2 % of the budget and falls linearly to zero over the last part (`decay`).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


class Stage(Protocol):
    """What the loop trains."""

    name: str

    def modules(self) -> Mapping[str, nn.Module]: ...

    def step(self, index: int) -> Mapping[str, Tensor]:
        """Losses of one batch; `loss` is the one to descend."""
        ...


@dataclass(frozen=True)
class LoopConfig:
    """How one stage is trained. `minutes` counts training time over all resumptions."""

    minutes: float
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    clip: float = 1.0
    decay: float = 0.35
    warmup: float = 0.02
    ema: float = 0.999
    save_every: float = 120.0
    log_every: float = 15.0
    max_steps: int | None = None


@dataclass
class Progress:
    """Where a stage stands."""

    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary)
    os.replace(temporary, path)


def rate(progress: float, decay: float, warmup: float = 0.02) -> float:
    """Share of the full learning rate at `progress` in 0..1."""
    return max(0.0, min(1.0, progress / warmup if warmup else 1.0, (1 - progress) / decay if decay else 1.0))


class Trainer:
    """Runs one stage. After `run`, the modules hold the averaged weights."""

    def __init__(self, stage: Stage, config: LoopConfig, out: Path, say: Callable[[str], None] = print):
        self.stage, self.config, self.say = stage, config, say
        self.out = out / stage.name
        self.out.mkdir(parents=True, exist_ok=True)
        self.weights = {
            f"{m}.{name}": p for m, module in stage.modules().items() for name, p in module.named_parameters()
        }
        decayed = [p for p in self.weights.values() if p.ndim > 1]
        others = [p for p in self.weights.values() if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=config.lr,
            betas=config.betas,
        )
        self.average = {name: p.detach().clone() for name, p in self.weights.items()}
        self.progress = Progress()
        self.resume()

    @property
    def finished(self) -> bool:
        limit = self.config.max_steps
        return self.progress.seconds >= 60 * self.config.minutes or (limit is not None and self.progress.step >= limit)

    def resume(self) -> None:
        state = self.out / "state.json"
        if not state.exists():
            return
        saved = json.loads(state.read_text())
        tensors = load_file(self.out / "weights.safetensors")
        for name, p in self.weights.items():
            with torch.no_grad():
                p.copy_(tensors[name])
            self.average[name].copy_(tensors[f"ema.{name}"])
            if f"adam.{name}.exp_avg" in tensors:
                self.optimizer.state[p] = {
                    "step": torch.tensor(float(saved["step"])),
                    **{k: tensors[f"adam.{name}.{k}"].to(p.device) for k in ("exp_avg", "exp_avg_sq")},
                }
        self.progress = Progress(saved["step"], saved["seconds"], saved["history"])

    def save(self) -> None:
        tensors = {name: p.detach().contiguous() for name, p in self.weights.items()}
        tensors |= {f"ema.{name}": p.contiguous() for name, p in self.average.items()}
        for name, p in self.weights.items():
            for key in ("exp_avg", "exp_avg_sq"):
                if p in self.optimizer.state:
                    tensors[f"adam.{name}.{key}"] = self.optimizer.state[p][key].contiguous()
        _write(self.out / "weights.safetensors", tensors)
        temporary = self.out / "state.tmp"
        temporary.write_text(json.dumps(vars(self.progress), indent=1))
        os.replace(temporary, self.out / "state.json")

    def run(self) -> Progress:
        config, progress = self.config, self.progress
        total = 60 * config.minutes
        saved = logged = time.monotonic()
        sums: dict[str, float] = {}
        count = 0
        while not self.finished:
            began = time.monotonic()
            done = progress.seconds / total
            if config.max_steps is not None:
                done = max(done, progress.step / config.max_steps)
            for group in self.optimizer.param_groups:
                group["lr"] = config.lr * rate(done, config.decay, config.warmup)
            losses = self.stage.step(progress.step)
            losses["loss"].backward()
            norm = nn.utils.clip_grad_norm_(self.weights.values(), config.clip)
            if torch.isfinite(norm):
                self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            keep = min(config.ema, (1 + progress.step) / (10 + progress.step))
            with torch.no_grad():
                torch._foreach_lerp_(list(self.average.values()), [p.detach() for p in self.weights.values()], 1 - keep)
            progress.step += 1
            now = time.monotonic()
            progress.seconds += now - began
            for key, value in {**losses, "norm": norm}.items():
                sums[key] = sums.get(key, 0.0) + float(value.detach())
            count += 1
            if now - logged > config.log_every or self.finished:
                row = {"step": progress.step, "minutes": round(progress.seconds / 60, 2)}
                row |= {k: round(v / count, 5) for k, v in sums.items()}
                progress.history.append(row)
                left = max(0.0, total - progress.seconds) / 60
                self.say(
                    f"{self.stage.name}: " + "  ".join(f"{k} {v:g}" for k, v in row.items()) + f"  left {left:.1f} min"
                )
                sums, count, logged = {}, 0, now
            if now - saved > config.save_every:
                self.save()
                saved = time.monotonic()
        self.save()
        with torch.no_grad():
            for name, p in self.weights.items():
                p.copy_(self.average[name])
        return progress
