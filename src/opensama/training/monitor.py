"""What a run says about itself: a line on the screen, a row in `metrics.jsonl`, and trackers on demand.

    Monitor(RUN/STAGE, trackers=("tensorboard",)).log({"step": 10, "loss": 0.5})

The one place where tensorboard, wandb and trackio are imported. MFU is the share of the accelerators' dense bfloat16
peak that the model's own operations (without recomputation) make use of.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import torch

from opensama.values import UserError

TRACKERS = ("tensorboard", "wandb", "trackio")

PEAKS = {  # dense bfloat16 operations a second, as the makers' data sheets give them; the first name that fits counts
    "GB300": 2500e12,
    "GB200": 2500e12,
    "B300": 2250e12,
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H20": 148e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "RTX PRO 6000": 504e12,
    "RTX 5090": 210e12,
    "RTX 4090": 165e12,
    "MI300X": 1307e12,
}


def peak_flops(device: torch.device) -> float | None:
    """Dense bfloat16 operations a second of an accelerator, None where they are not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for known, peak in PEAKS.items() if known in name), None)


def throughput(tokens: float, flops: float, seconds: float, peak: float | None) -> dict[str, float]:
    """`tokens_per_second` and `mfu` (of `peak`, that of all accelerators together), where they can be told."""
    row = {}
    if tokens and seconds > 0:
        row["tokens_per_second"] = round(tokens / seconds, 1)
    if flops and peak and seconds > 0:
        row["mfu"] = round(flops / seconds / peak, 4)
    return row


class Monitor:
    """Rows of a stage. `history` holds those so far; rows after `step`, which will be trained anew, are dropped."""

    def __init__(
        self, folder: Path, step: int = 0, trackers: Sequence[str] = (), settings: Mapping[str, object] | None = None
    ):
        self.file = folder / "metrics.jsonl"
        self.history = [row for row in read_metrics(self.file) if row["step"] <= step]
        self.unwritten: list[str] = []  # lines that found no room on the disk
        self.trackers = [_open(name, folder, dict(settings or {})) for name in trackers]

    def start(self) -> None:
        """Rewrites the file with the rows so far: a run that was killed may have logged steps that are trained anew."""
        temporary = self.file.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in self.history))
        temporary.replace(self.file)

    def log(self, row: Mapping[str, float]) -> None:
        """Appends a row; one that finds no room on the disk waits for the next, since a full disk ends no run."""
        self.history.append(dict(row))
        self.unwritten.append(json.dumps(dict(row)) + "\n")
        size = self.file.stat().st_size if self.file.exists() else 0
        try:
            with self.file.open("a") as file:
                file.write("".join(self.unwritten))
            self.unwritten.clear()
        except OSError:
            with suppress(OSError):
                os.truncate(self.file, size)
        for tracker in self.trackers:
            tracker.log(row)

    def close(self) -> None:
        for tracker in self.trackers:
            tracker.close()


def check_trackers(names: Sequence[str]) -> None:
    """UserError for a tracker that is unknown or not installed."""
    for name in names:
        if name not in TRACKERS:
            raise UserError(f"There is no tracker {name!r}: choose {', '.join(TRACKERS)}.")
        if find_spec(name) is None:
            raise UserError(f"The tracker {name} is not installed; run: {sys.executable} -m pip install {name}")


def read_metrics(file: Path) -> list[dict[str, float]]:
    """The rows of a `metrics.jsonl`; a last line that a kill cut short is left out."""
    rows = []
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


class _TensorBoard:
    def __init__(self, folder: Path, settings: dict[str, object]):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"))
        self.writer.add_text("settings", json.dumps(settings, indent=1, default=str))

    def log(self, row: Mapping[str, float]) -> None:
        for key, value in row.items():
            if key != "step":
                self.writer.add_scalar(key, value, int(row["step"]))

    def close(self) -> None:
        self.writer.close()


class _Run:
    """wandb, or trackio, which has the same calls."""

    def __init__(self, module: ModuleType, folder: Path, settings: dict[str, object]):
        name = f"{folder.parent.name}-{folder.name}"
        own = {"dir": str(folder), "id": name, "resume": "allow"} if module.__name__ == "wandb" else {"resume": "allow"}
        self.run = module.init(project="opensama", name=name, config=settings, **own)

    def log(self, row: Mapping[str, float]) -> None:
        self.run.log({key: value for key, value in row.items() if key != "step"}, step=int(row["step"]))

    def close(self) -> None:
        self.run.finish()


def _open(name: str, folder: Path, settings: dict[str, object]) -> _TensorBoard | _Run:
    try:
        return _TensorBoard(folder, settings) if name == "tensorboard" else _Run(import_module(name), folder, settings)
    except Exception as error:  # not logged in, no network, a version that does not fit: each library has its own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"The tracker {name} could not be opened ({reason}): mend that, or leave it out of trackers."
        ) from error
