"""One training loop: a budget in wall-clock minutes, checkpoints that resume, an average of the weights.

A stage names its trainable modules and answers `step(index) -> losses`; data is a function of the step's number, so a
run that was stopped goes on exactly where it was. Everything on disk is safetensors and JSON:

    RUN/STAGE/state.json            step, seconds used, history of losses
    RUN/STAGE/weights.safetensors   trained weights, their average under `ema.`, the moments under `optimizer.`

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
    muon: float = 0.0  # learning rate of the matrices inside blocks, under Muon; 0 leaves them to AdamW
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


def _optimizers(weights: Mapping[str, nn.Parameter], config: LoopConfig) -> list[torch.optim.Optimizer]:
    """AdamW; for the matrices of transformer blocks Muon (Jordan et al., 2024), where a rate for it is given."""
    inner = {name: p for name, p in weights.items() if ".block" in name and "relative" not in name and p.ndim == 2}
    matrices = list(inner.values()) if config.muon else []
    chosen = set(map(id, matrices))
    rest = [p for p in weights.values() if id(p) not in chosen]
    adam = torch.optim.AdamW(
        [
            {"params": [p for p in rest if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=config.lr,
        betas=config.betas,
    )
    if not matrices:
        return [adam]
    decay = config.weight_decay
    return [adam, torch.optim.Muon(matrices, lr=config.muon, weight_decay=decay, adjust_lr_fn="match_rms_adamw")]


class Trainer:
    """Runs one stage. After `run`, the modules hold the averaged weights."""

    def __init__(self, stage: Stage, config: LoopConfig, out: Path, say: Callable[[str], None] = print):
        self.stage, self.config, self.say = stage, config, say
        self.out = out / stage.name
        self.out.mkdir(parents=True, exist_ok=True)
        self.weights = {
            f"{m}.{name}": p
            for m, module in stage.modules().items()
            for name, p in module.named_parameters()
            if p.requires_grad
        }
        self.names = {p: name for name, p in self.weights.items()}
        self.optimizers = _optimizers(self.weights, config)
        self.rates = [[group["lr"] for group in o.param_groups] for o in self.optimizers]
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
            prefix = f"optimizer.{name}."
            state = {k.removeprefix(prefix): t.to(p.device) for k, t in tensors.items() if k.startswith(prefix)}
            if state:
                owner = next(o for o in self.optimizers if any(p is q for g in o.param_groups for q in g["params"]))
                owner.state[p] = state | {"step": torch.tensor(float(saved["step"]))}
        self.progress = Progress(saved["step"], saved["seconds"], saved["history"])

    def save(self) -> None:
        tensors = {name: p.detach().contiguous() for name, p in self.weights.items()}
        tensors |= {f"ema.{name}": p.contiguous() for name, p in self.average.items()}
        for optimizer in self.optimizers:
            for p, state in optimizer.state.items():
                moments = {k: v for k, v in state.items() if k != "step"}
                tensors |= {f"optimizer.{self.names[p]}.{k}": v.contiguous() for k, v in moments.items()}
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
            for optimizer, highest in zip(self.optimizers, self.rates, strict=True):
                for group, lr in zip(optimizer.param_groups, highest, strict=True):
                    group["lr"] = lr * rate(done, config.decay, config.warmup)
            losses = self.stage.step(progress.step)
            losses["loss"].backward()
            norm = nn.utils.clip_grad_norm_(self.weights.values(), config.clip)
            for optimizer in self.optimizers:
                if torch.isfinite(norm):
                    optimizer.step()
                optimizer.zero_grad(set_to_none=True)
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
