"""What an edit will need is predicted, what fits is chosen, and where memory is full all the same the next is tried."""

from __future__ import annotations

import ctypes
import itertools
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

import opensama
from opensama.models.convert import FILE_LAYOUTS, convert_to_file, load_released
from opensama.models.families import find_family
from opensama.models.float8 import keep_float8, matrices
from opensama.models.gguf_files import GgufRows
from opensama.models.registry import find
from opensama.pipeline import memory_plans
from opensama.pipeline.memory import back_to_computer, place_on_device
from opensama.pipeline.memory_plans import PLANS, MemoryPlan, largest_size, plans_for, plans_that_fit
from opensama.pipeline.peaks import PeakMemory, edit_memory, peak_of_step
from opensama.pipeline.room import weighed
from opensama.values import EditRequest, UserError, Video
from tests.pipeline.test_memory import ASK, clone
from tests.ranks import answer_of

CUDA = torch.device("cuda")


@pytest.fixture
def video(picture) -> Video:
    return Video.from_frames(picture(5, 32, 48), 25)


@pytest.fixture(scope="module")
def sama():
    return edit_memory(find("sama-14b"), torch.bfloat16)


def test_what_the_large_model_needs(sama):
    """Gigabytes on the device at 81 frames of 832x480: a change that raises one has to say so here."""
    found = {plan.options: (round(plan.resident(sama) / 1e9, 1), round(plan.peak(sama) / 1e9, 1)) for plan in PLANS}
    assert found == {
        "`offload=none`": (40.5, 49.0),
        "`offload=none`, `vae_tiling=True`": (40.5, 48.7),
        "`offload=model`": (28.6, 36.7),
        "`offload=model`, `vae_tiling=True`": (28.6, 36.7),
        "`offload=group`": (2.9, 10.0),
        "`offload=group`, `vae_tiling=True`": (2.9, 10.0),
        "`offload=model`, `float8=True`": (14.6, 22.7),
        "`offload=model`, `vae_tiling=True`, `float8=True`": (14.6, 22.7),
        "`offload=group`, `vae_tiling=True`, `float8=True`": (2.9, 9.3),
        "`offload=disk`, `vae_tiling=True`": (2.9, 10.0),
    }


def test_what_is_chosen_for_a_card(sama):
    """The quickest that fits; weights are rounded, or go into files, only where the computer's memory is short."""

    def first(device: float, host: float) -> MemoryPlan | None:
        return next(iter(plans_that_fit(sama, device * 1e9, host * 1e9)), None)

    group = MemoryPlan("group")
    cards = {8: None, 12: group, 16: group, 24: group, 48: MemoryPlan("model"), 80: MemoryPlan(), 141: MemoryPlan()}
    assert {card: first(card, 64) for card in cards} == cards
    assert first(24, 32) == MemoryPlan("group", vae_tiling=True, float8=True)
    assert first(32, 32) == MemoryPlan("model", float8=True)


@pytest.mark.parametrize(
    ("kind", "bits", "peaks"),
    [
        ("Q8_0", 8.5, {"none": 35.8, "model": 23.6, "group": 9.4}),
        ("Q4_0", 4.5, {"none": 28.8, "model": 16.6, "group": 9.0}),
    ],
)
def test_what_the_large_model_needs_in_a_gguf_file(kind, bits, peaks):
    entry = find("sama-14b")
    assert entry.edit is not None
    entry = replace(entry, edit=replace(entry.edit, packed=kind, bits=bits))
    need = edit_memory(entry, torch.bfloat16)
    assert {offload: round(MemoryPlan(offload).peak(need) / 1e9, 1) for offload in peaks} == peaks
    chosen = {card: next(iter(plans_that_fit(need, card * 1e9, 64e9)), None) for card in (8, 12, 16, 24, 48, 80, 141)}
    group, none = MemoryPlan("group"), MemoryPlan()
    middle = MemoryPlan("model") if bits < 5 else group
    assert chosen == {8: None, 12: group, 16: group, 24: middle, 48: none, 80: none, 141: none}


@pytest.fixture
def ample(monkeypatch):
    """A computer with 64 GB of memory."""
    monkeypatch.setattr(memory_plans, "memory_of_computer", lambda: 64 * 10**9)


def test_a_plan_is_named_or_found(ample):
    entry = find("sama-14b")
    found = plans_for(entry, CUDA, torch.bfloat16, memory="60GB")
    assert found[0] == MemoryPlan()
    assert plans_for(entry, CUDA, torch.bfloat16, memory="60 GB", vae_tiling=True)[0] == MemoryPlan(vae_tiling=True)
    assert plans_for(entry, CUDA, torch.bfloat16, offload="disk") == [MemoryPlan("disk")]
    tiny = plans_for(find("tiny"), torch.device("cpu"), torch.float32)
    assert [plan.offload for plan in tiny] == ["none", "disk"]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"memory": "lots"}, "'lots' is no amount of memory: write gigabytes, such as 12GB"),
        ({"memory": "0GB"}, "is no amount of memory"),
        ({"memory": "12GB", "offload": "group"}, "leave it or `offload` away"),
        ({"memory": "6GB"}, r"sama-14b needs 10\.\d GB of the GPU's memory at the least .*, and 6\.0 GB are there"),
    ],
)
def test_what_cannot_be_planned(ample, settings, sentence):
    with pytest.raises(UserError, match=sentence):
        plans_for(find("sama-14b"), CUDA, torch.bfloat16, **settings)


def test_a_computer_without_room_for_what_waits(monkeypatch):
    monkeypatch.setattr(memory_plans, "memory_of_computer", lambda: 16 * 10**9)
    with pytest.raises(UserError, match=r"needs 26\.5 GB of the computer's memory at the least, and it has 16\.0 GB"):
        plans_for(find("sama-14b"), CUDA, torch.bfloat16, memory="24GB")


def test_a_cpu_takes_no_budget():
    with pytest.raises(UserError, match="leave it away on cpu"):
        opensama.load("tiny", device="cpu", memory="12GB")


def test_tensors_are_counted_while_they_live():
    weight = torch.nn.Linear(1000, 1000, bias=False)
    x = torch.zeros(10, 1000)
    with torch.no_grad(), PeakMemory(weight) as memory:
        y = weight(x)
        z = y.view(100, 100)
        del y
        assert memory.now == 40_000  # z is y's memory
        z = z * 2
        assert (memory.now, memory.peak) == (40_000, 80_000)


SIZES = {
    "num_attention_heads": 6, "attention_head_dim": 64, "ffn_dim": 1536, "num_layers": 1, "text_dim": 64,
    "freq_dim": 64, "semantic_dim": 32, "semantic_hidden": 32,
}  # fmt: skip
GRID = (2, 64, 64)  # latents: 4,096 tokens


WIDE = SIZES | {"num_attention_heads": 12, "ffn_dim": 12288}
SMALL = (1, 16, 32)  # 256 tokens: what a matrix becomes when its layer computes is the most


def keep_blocks(model: Any, quantization: str) -> None:
    """Makes a model keep its matrices as GGUF's blocks, where they fill some."""
    kind = gguf.GGMLQuantizationType[quantization]
    for name in matrices(model):
        linear = model.get_submodule(name)
        if linear.in_features % 32 == 0:
            blocks = gguf.quants.quantize(linear.weight.detach().numpy(), kind)
            GgufRows(torch.from_numpy(blocks), kind).fill(linear, torch.float32)


def measured_peak(sizes: dict[str, int], grid: tuple[int, int, int], kind: str) -> int:
    """Bytes by which a process grows in a forward pass of a model; attention as on a GPU."""
    ctypes.CDLL(None).mallopt(-3, 2**16)  # M_MMAP_THRESHOLD: what is freed is given back at once
    torch.set_num_threads(1)
    model = find_family("sama").transformer(**sizes).eval()
    model.set_attention_backend("native")
    if kind == "float8":
        keep_float8(model)
    elif kind:
        keep_blocks(model, kind)

    def run(t: int, h: int, w: int) -> None:
        latents = torch.zeros(1, 16, t, h, w)
        batch = {"noisy": latents, "source": latents.clone(), "sigma": torch.ones(1), "text": torch.zeros(1, 32, 64)}
        model(**find_family("sama").condition(batch | {"noisy_semantic": torch.zeros(1, 65, 32)}), return_dict=False)

    def grown(name: str) -> int:
        found = re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())
        assert found
        return int(found[1]) * 1024

    with torch.no_grad():
        run(1, 4, 4)  # what is made once is made
        before = grown("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        run(*grid)
    return grown("VmHWM") - before


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads peaks from Linux's /proc")
@pytest.mark.parametrize(
    ("sizes", "grid", "kind"),
    [
        (SIZES, GRID, ""),
        *((WIDE, SMALL, kind) for kind in ("float8", "Q8_0", "Q5_1", "Q4_0")),
    ],
)
def test_a_forward_pass_needs_what_was_predicted(sizes, grid, kind):
    predicted = peak_of_step(find_family("sama"), sizes, grid, 32, torch.float32, kind)
    assert answer_of(measured_peak, sizes, grid, kind) == pytest.approx(predicted, rel=0.1)


@pytest.mark.parametrize(
    ("layout", "kind", "bits"),
    [("fp8", "float8", 8), ("gguf", "Q8_0", 8.5), ("gguf", "Q4_0", 4.5), ("comfyui", "", 32)],
)
def test_weights_take_what_was_predicted(tmp_path, layout, kind, bits):
    """Of a file in few bits they take these, whatever the number type of the edit."""
    find_family("sama").transformer(**SIZES).save_pretrained(tmp_path / "model")
    file = tmp_path / f"weights{FILE_LAYOUTS[layout]}"
    convert_to_file(tmp_path / "model", file, layout, quantization=kind if layout == "gguf" else "q8_0")
    entry = weighed(find(file))
    assert entry.edit is not None
    assert (entry.edit.packed, entry.edit.bits) == (kind, bits)
    need = edit_memory(entry, torch.float32, frames=5, size=(64, 64))
    model = load_released(file, dtype=torch.float32, packed=True)
    assert need.transformer == pytest.approx(sum(p.nbytes for p in model.parameters()), rel=0.01)
    assert need.block == pytest.approx(sum(p.nbytes for p in model.blocks.parameters()), rel=0.01)
    assert (need.float8 is None) == bool(kind)
    if need.float8 is not None:
        keep_float8(model)
        assert need.float8.transformer == pytest.approx(sum(p.nbytes for p in model.parameters()), rel=0.01)


def test_full_memory_goes_on_with_the_next_plan(folder, video, monkeypatch):
    plain = opensama.load(folder, device="cpu").edit(EditRequest(video, ASK)).array()
    said: list[str] = []
    editor = opensama.load(folder, device="cpu", notice=said.append)
    full = iter([True, True])

    def twice(module: Any, args: Any) -> None:
        if next(full, False):
            raise torch.OutOfMemoryError("CUDA out of memory.")

    editor.pipeline.transformer.register_forward_pre_hook(twice)  # once more without the text encoder, and then
    assert np.array_equal(editor.edit(EditRequest(video, ASK)).array(), plain)
    assert said[-1] == "The memory of cpu is full with `offload=none`: going on with `offload=disk`."
    assert editor.offload == "disk"
    assert np.array_equal(editor.edit(EditRequest(video, ASK)).array(), plain)


def test_weights_move_from_any_place_to_any_other(pipe, picture):
    clip = torch.from_numpy(picture(5, 32, 32)).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    settings: dict[str, Any] = {"seed": 0, "num_inference_steps": 1, "guidance_scale": 1.0}
    plain, twin = pipe(clip, ASK, **settings).frames, clone(pipe)
    for offload in ("group", "none", "model", "group", "model", "none", "disk"):
        place_on_device(twin, torch.device("cpu"), offload)
        np.testing.assert_allclose(twin(clip, ASK, **settings).frames, plain, atol=2e-5, err_msg=offload)
        if offload != "disk":
            back_to_computer(twin)
    with pytest.raises(ValueError, match="do not come back"):
        back_to_computer(twin)


def test_weights_in_8_bits(pipe, bernini, picture):
    """Near to the plain edit, and the same wherever they lie; matrices take a byte a number."""
    clip = torch.from_numpy(picture(5, 32, 32)).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    for whole, offloads in ((pipe, ("none", "model", "group", "disk")), (bernini, ("none", "group"))):
        settings: dict[str, Any] = {"seed": 0, "num_inference_steps": 1}
        plain, found = whole(clip, ASK, **settings).frames, []
        for offload in offloads:
            twin = clone(whole)
            place_on_device(twin, torch.device("cpu"), offload, float8=True)
            found.append(twin(clip, ASK, **settings).frames)
            assert twin.transformer.blocks[0].attn1.to_q.weight.dtype == torch.float8_e4m3fn
            assert twin.transformer.dtype == torch.float32
            assert twin.transformer.scale_shift_table.dtype == torch.float32
        for one, other in itertools.pairwise(found):
            np.testing.assert_allclose(one, other, atol=2e-5)
        assert 0 < np.abs(found[0] - plain).mean() < 0.02


def test_blocks_of_a_gguf_file_lie_wherever_weights_do(pipe, picture):
    clip = torch.from_numpy(picture(5, 32, 32)).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    settings: dict[str, Any] = {"seed": 0, "num_inference_steps": 1, "guidance_scale": 1.0}
    found = []
    for offload in ("none", "model", "group", "disk"):
        twin = clone(pipe)
        keep_blocks(twin.transformer, "Q8_0")
        assert twin.transformer.blocks[0].ffn.net[2].weight.dtype == torch.uint8
        place_on_device(twin, torch.device("cpu"), offload)
        found.append(twin(clip, ASK, **settings).frames)
    for one, other in itertools.pairwise(found):
        np.testing.assert_allclose(one, other, atol=2e-5)
    assert 0 < np.abs(found[0] - pipe(clip, ASK, **settings).frames).mean() < 0.005


def test_a_size_that_fits_is_named():
    """81 frames of 832x480 need more than 8 GB, however weights lie."""
    found = largest_size(find("sama-14b"), torch.bfloat16, 8e9, 64e9)
    assert found == (512, (384, 672), MemoryPlan("group", vae_tiling=True, float8=True))
