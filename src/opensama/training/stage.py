"""What the loop trains: a stage, whose batches come from a source and are read ahead in threads.

class MyStage(TrainingStage):
    def __init__(self, model: nn.Module, source: Source[Batch]):
        super().__init__("mine", BatchLoader(source, device))
    ...
    def step(self, index: int) -> dict[str, Tensor]:
        return {"loss": ... self.loader(index) ...}
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from opensama.data.prefetch import Prefetcher
from opensama.training.devices import pin, to_device

Batch = dict[str, Tensor]
_Read = TypeVar("_Read")


class Source(ABC, Generic[_Read]):
    """Where a stage's batches come from. A batch is a function of the source's seed and its number alone."""

    passes = 1
    """Batches that make a step of the optimizer."""
    workers = 1
    """Threads that read ahead, and as many batches that are kept."""

    def __init__(self) -> None:
        self.skipped: list[tuple[str, str]] = []
        """Samples that could not be read and why; whoever lists them empties it."""

    @abstractmethod
    def read(self, index: int) -> _Read:
        """What a batch is made of, in any thread."""

    @abstractmethod
    def batch(self, index: int, found: _Read) -> Batch:
        """The batch of what was read, in the thread that trains: frozen models encode here."""

    def alone(self, index: int) -> Batch:
        """The same batch, made by this process alone, whoever shares it otherwise."""
        return self.batch(index, self.read(index))


class ReadySource(Source[Batch]):
    """A source whose batches are ready when they are read."""

    def batch(self, index: int, found: Batch) -> Batch:
        return found


class BatchLoader(Generic[_Read]):
    """`loader(index)` is a source's batch on the device; what the next ones are made of is read meanwhile."""

    def __init__(self, source: Source[_Read], device: torch.device):
        self.source, self.device = source, device
        self._prefetch = Prefetcher(lambda index: pin(source.read(index), device), workers=source.workers)

    def __call__(self, index: int) -> Batch:
        return to_device(self.source.batch(index, self._prefetch(index)), self.device)

    def close(self) -> None:
        """Ends the threads; a later call starts new ones."""
        self._prefetch.close()


class BatchHook(Protocol):
    """What is done to a batch on the device, under autocast, before the model sees it. Its modules learn along."""

    def modules(self) -> Mapping[str, nn.Module]: ...

    def __call__(self, batch: Batch) -> Batch:
        """What is added to the batch."""
        ...


class TrainingStage(ABC):
    """What the loop trains: its modules, those parameters of them that require a gradient.

    The losses of a step are a function of the stage's seed, the index, and the process's place among those that read
    data, so a run that was stopped goes on where it was.
    """

    loader: BatchLoader | None

    def __init__(self, name: str, loader: BatchLoader | None = None):
        self.name, self.loader = name, loader
        self.skipped: list[tuple[str, str]] = [] if loader is None else loader.source.skipped
        """Samples that could not be read and why; the loop empties and lists it."""

    @abstractmethod
    def modules(self) -> Mapping[str, nn.Module]:
        """The modules of the stage by name; names of weights in checkpoints begin with these."""

    @abstractmethod
    def step(self, index: int) -> Mapping[str, Tensor]:
        """Losses of one batch, [] each: `loss` is to descend; `tokens` and `flops` are added up, not averaged."""

    def batch(self, index: int) -> Batch:
        """The batch of one step, which is written to disk if its loss is no finite number; empty: nothing to write."""
        return {} if self.loader is None else self.loader.source.alone(index)

    def preview(self, folder: Path) -> None:  # noqa: B027  (most stages have none)
        """Writes samples of fixed prompts; called with the averaged weights in place."""

    def measure(self) -> Mapping[str, float]:
        """Scores by name of the averaged weights, which are in place."""
        return {}

    def close(self) -> None:
        """Ends the stage's threads, however the run ended."""
        if self.loader is not None:
            self.loader.close()
