"""VACE through diffusers' own pipeline at tiny size: what it sees of a clip, and what comes back."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from opensama.curation.elements import Clip
from opensama.curation.inpainting import Vace, open_inpainter, working_size
from opensama.values import UserError
from tests.curation import tiny_models


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return tiny_models.inpainter(tmp_path_factory.mktemp("vace"))


@pytest.fixture(scope="module")
def vace(folder: Path) -> Vace:
    return Vace(str(folder), device="cpu", steps=2, area=32 * 48)


@pytest.fixture(scope="module")
def clip() -> Clip:
    """Six frames, which are not 4k+1, of odd sides that are larger than what the model works at."""
    return Clip(Path("noise.mp4"), np.random.default_rng(0).integers(0, 256, (6, 51, 71, 3), dtype=np.uint8), 16.0)


@pytest.fixture(scope="module")
def masks() -> np.ndarray:
    out = np.zeros((6, 51, 71), bool)
    out[:, 11:33, 20:41] = True
    return out


@pytest.fixture(scope="module")
def painted(vace: Vace, clip: Clip, masks: np.ndarray) -> np.ndarray:
    return vace.inpaint(clip, masks, "a red ball on a green table", 1)


def test_frames_come_back_as_they_went_in(painted: np.ndarray, clip: Clip) -> None:
    assert painted.shape == clip.frames.shape
    assert painted.dtype == np.uint8
    assert painted.std() > 1


def test_the_same_question_gets_the_same_picture(
    vace: Vace, clip: Clip, masks: np.ndarray, painted: np.ndarray
) -> None:
    assert np.array_equal(vace.inpaint(clip, masks, "a red ball on a green table", 1), painted)
    assert not np.array_equal(vace.inpaint(clip, masks, "nothing else is there", 1), painted)
    assert not np.array_equal(vace.inpaint(clip, masks, "a red ball on a green table", 2), painted)


def test_the_model_sees_nothing_of_what_is_masked(
    vace: Vace, clip: Clip, masks: np.ndarray, painted: np.ndarray
) -> None:
    other = clip.frames.copy()
    other[masks] = 7
    assert np.array_equal(vace.inpaint(replace(clip, frames=other), masks, "a red ball on a green table", 1), painted)


def test_the_model_sees_what_is_not_masked(vace: Vace, clip: Clip, masks: np.ndarray, painted: np.ndarray) -> None:
    other = clip.frames.copy()
    other[~masks] = 7
    again = vace.inpaint(replace(clip, frames=other), masks, "a red ball on a green table", 1)
    assert not np.array_equal(again, painted)


def test_the_mask_tells_the_model_where_to_paint(
    vace: Vace, clip: Clip, masks: np.ndarray, painted: np.ndarray
) -> None:
    grey = clip.frames.copy()
    grey[masks] = 128
    smaller = masks.copy()
    smaller[:, 22:] = False
    again = vace.inpaint(replace(clip, frames=grey), smaller, "a red ball on a green table", 1)
    assert not np.array_equal(again, painted)


def test_it_paints_in_half_precision(folder: Path, clip: Clip, masks: np.ndarray) -> None:
    half = Vace(str(folder), device="cpu", dtype="bfloat16", steps=2, area=32 * 48)
    assert half.inpaint(clip, masks, "a red ball", 1).std() > 1


@given(st.integers(8, 2200), st.integers(8, 2200))
def test_the_working_size_fits_the_model_and_keeps_the_shape(height: int, width: int) -> None:
    rows, columns = working_size(height, width, 480 * 832, 16)
    assert rows % 16 == columns % 16 == 0
    assert rows * columns <= 1.2 * 480 * 832 or min(rows, columns) == 16
    assert min(rows, columns) > 0
    if min(rows, columns) > 160:
        assert abs(np.log(rows / columns * width / height)) < 0.12


def test_what_is_wrong_with_a_model_is_said(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UserError, match="no model folder"):
        open_inpainter("nowhere/at/all").load()
    with pytest.raises(UserError, match="at least one step"):
        open_inpainter("", steps=0)
    part = tmp_path / "part"
    shutil.copytree(folder, part)
    shutil.rmtree(part / "vae")
    with pytest.raises(UserError, match=r"has no vae/\*"):
        Vace(str(part), device="cpu").load()
    shutil.copytree(folder / "text_encoder", part / "vae")
    (part / "vae" / "model.safetensors").rename(part / "vae" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(UserError, match="AutoencoderKLWan"):
        Vace(str(part), device="cpu").load()


def test_nothing_is_loaded_before_it_is_needed() -> None:
    assert "VACE" in open_inpainter("").name
