"""What a CPU cannot show: tensors on a CUDA device. `python -m pytest -m gpu tests/gpu`."""

from __future__ import annotations

import pytest
import torch

from opensama.pretext import PRETEXT_TASKS
from opensama.training.devices import pin
from tests.test_pretext import ALL, clip, seeded

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("name", ALL)
def test_a_seed_gives_the_same_on_a_gpu(name: str) -> None:
    video = clip(17, 9, 11)
    assert torch.equal(PRETEXT_TASKS[name](video.cuda(), seeded(5)).cpu(), PRETEXT_TASKS[name](video, seeded(5)))


def test_batches_are_pinned_for_a_gpu() -> None:
    x = pin({"a": torch.zeros(4), "b": [torch.ones(2)]}, torch.device("cuda"))
    assert x["a"].is_pinned()
    assert x["b"][0].is_pinned()
    assert not pin({"a": torch.zeros(4)}, torch.device("cpu"))["a"].is_pinned()
