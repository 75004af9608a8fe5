"""Back to full size: untouched pixels are the source's own, changed ones are the edit's, with the source's detail."""

from __future__ import annotations

import resource

import numpy as np
import pytest
import torch
from torch.nn import functional

from opensama.pipeline import preserve
from opensama.pipeline.buckets import Placement
from opensama.pipeline.preserve import ChangeCounter, Compositor, FrameBuffer, PreserveSettings, change, luminance
from opensama.values import UserError

HEIGHT, WIDTH, FRAMES = 270, 480, 3


def scene(height: int = HEIGHT, width: int = WIDTH, dtype=np.uint8) -> np.ndarray:
    """Texture of all sizes over slow colour, as photographs have: t h w 3."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width]
    slow = np.stack([np.sin(rows / 40), np.cos(columns / 55), np.sin((rows + columns) / 70)], axis=2) * 50 + 120
    fine = np.zeros((height, width, 1))
    for size in (1, 2, 4, 8, 16):
        coarse = rng.normal(0, 4 + size, (height // size + 1, width // size + 1, 1))
        fine += coarse.repeat(size, 0).repeat(size, 1)[:height, :width]
    frame = np.clip(slow + fine, 0, 255) / 255 * np.iinfo(dtype).max
    return np.stack([frame.astype(dtype)] * FRAMES)


def blurred(pixels: torch.Tensor) -> torch.Tensor:
    """What an autoencoder loses: [c t h w], a little softer."""
    return functional.avg_pool2d(pixels.transpose(0, 1), 3, 1, 1, count_include_pad=False).transpose(0, 1)


def carried(source: np.ndarray, target: np.ndarray, *, drift: float = 0.02) -> tuple[np.ndarray, Compositor]:
    """The middle frame of `target` brought back by way of a small, lossy, restless edit."""
    place = Placement.of(source.shape[2], source.shape[1], 128 * 128, 16)
    rebuilt, edit = (blurred(torch.stack([place.enter(f) for f in frames], 1)) for frames in (source, target))
    edit = edit + drift * torch.randn(edit.shape, generator=torch.Generator().manual_seed(0))
    edited, guide = FrameBuffer(FRAMES, 3, *edit.shape[2:]), FrameBuffer(FRAMES, 2, *edit.shape[2:])
    counter = ChangeCounter()
    m = change(edit, rebuilt)
    counter.add(place.leave(m))
    edited.append(edit)
    guide.append(torch.cat([luminance(rebuilt), m[None]]))
    carrier = Compositor(place, edited, guide, counter.rule(PreserveSettings()))
    return carrier.frame(1, source[1]), carrier


def psnr(a: np.ndarray, b: np.ndarray, where: np.ndarray | None = None) -> float:
    error = (a.astype(float) - b.astype(float)) ** 2 / np.iinfo(a.dtype).max ** 2
    return -10 * np.log10(max(1e-12, error.mean() if where is None else error[where].mean()))


@pytest.fixture
def box() -> np.ndarray:
    where = np.zeros((HEIGHT, WIDTH), bool)
    where[80:160, 200:300] = True
    return where


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_box_changes_and_the_rest_is_the_source(box, dtype):
    source = scene(dtype=dtype)
    target = source.copy()
    target[:, box] = (source[:, box][..., [2, 0, 1]] * 0.6).astype(dtype)
    result, carrier = carried(source, target)
    assert not carrier.rule.whole
    assert result.dtype == dtype
    assert psnr(result, target[1], ~box) >= 40
    assert psnr(result, target[1], box) > psnr(source[1], target[1], box) + 10
    same = (result == source[1]).all(axis=2)
    assert same[~box].mean() > 0.95
    assert same[:40].all()
    assert same[:, :150].all()


def test_the_sources_detail_returns_in_a_recoloured_box(box):
    source = scene()
    target = source.copy()
    target[:, box] = 255 - source[:, box]
    result, carrier = carried(source, target)
    plain = Compositor(carrier.placement, carrier.edit).frame(1, source[1])
    assert psnr(result, target[1], box) > psnr(plain, target[1], box) + 1


@pytest.mark.parametrize("drift", [0.0, 0.03])
def test_no_change_gives_the_source_itself(drift):
    source = scene()
    result, carrier = carried(source, source, drift=drift)
    assert not carrier.rule.whole
    assert np.array_equal(result, source[1])


def test_a_style_takes_the_whole_frame_with_detail():
    source = scene()
    sepia = np.array([[0.393, 0.769, 0.189], [0.349, 0.686, 0.168], [0.272, 0.534, 0.131]])
    target = np.clip(source @ sepia.T, 0, 255).astype(np.uint8)
    result, carrier = carried(source, target)
    plain = Compositor(carrier.placement, carrier.edit).frame(1, source[1])
    assert carrier.rule.whole
    assert psnr(result, target[1]) > psnr(plain, target[1]) + 3


def test_a_limit_is_exact(box):
    source = scene()
    target = 255 - source
    _, carrier = carried(source, target)
    limit = torch.from_numpy(box).float()
    result = carrier.frame(1, source[1], limit)
    assert np.array_equal(result[~box], source[1][~box])
    assert psnr(result, target[1], box) > 25
    assert np.array_equal(carrier.frame(1, source[1], torch.zeros(HEIGHT, WIDTH)), source[1])


@pytest.mark.parametrize("size", [(2, 2), (1, 40), (63, 41), (31, 400)])
def test_sources_smaller_than_the_model_and_odd_ones(size):
    source = scene(*size)
    for target in (source, 255 - source):
        result, _ = carried(source, target)
        assert result.shape == source.shape[1:]
        assert result.dtype == np.uint8


@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (40, 70)])
def test_full_size_is_pytorchs_bicubic_in_strips_and_in_parts(size, monkeypatch):
    source = scene(*size)[1]
    place = Placement.of(size[1], size[0], 128 * 128, 16)
    edit = FrameBuffer(1, 3, place.height, place.width)
    drawn = torch.randn(3, 1, place.height, place.width, generator=torch.Generator().manual_seed(0))
    edit.append(drawn.clamp(-1, 1) / 2)
    how = {"mode": "bicubic", "align_corners": False, "antialias": True}
    whole = functional.interpolate(place.leave(edit[:1].float()), size, **how)[0].permute(1, 2, 0)
    result = Compositor(place, edit).frame(0, source)
    assert np.abs(result - (whole.numpy() + 1) * 127.5).max() <= 0.501
    monkeypatch.setattr(preserve, "_CHUNK", 1000)
    strips = Compositor(place, edit).frame(0, source).astype(int) - result
    assert np.abs(strips).max() <= 1  # sums in another order, where a value lies between two codes
    assert np.abs(strips).mean() < 1e-4
    limit = torch.zeros(size)
    limit[7:31, 12:60] = 1
    part = Compositor(place, edit).frame(0, source, limit)
    assert np.abs(part[7:31, 12:60].astype(int) - result[7:31, 12:60]).max() <= 1


def test_a_long_spool_lives_in_a_file(monkeypatch):
    monkeypatch.setattr(preserve, "IN_MEMORY", 10)
    spool = FrameBuffer(5, 2, 3, 4)
    assert not spool.array.nbytes
    frames = torch.rand(2, 5, 3, 4)
    spool.append(frames[:, :2])
    spool.append(frames[:, 2:])
    torch.testing.assert_close(spool[1:4].float(), frames[:, 1:4].transpose(0, 1), atol=1e-3, rtol=1e-3)


def test_a_full_disk_is_said_in_a_sentence(monkeypatch):
    monkeypatch.setattr(preserve, "IN_MEMORY", 10)
    spool, limits = FrameBuffer(5, 2, 30, 40), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with pytest.raises(UserError, match="set TMPDIR to a folder on a larger disk"):
            spool.append(torch.rand(2, 5, 30, 40))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_quantiles_of_change():
    counter = ChangeCounter()
    counter.add(torch.linspace(0, 1, 1001)[:-1])
    assert counter.quantile(0.25) == pytest.approx(0.25, abs=0.002)
    assert counter.above(0.9) == pytest.approx(0.1, abs=0.002)
