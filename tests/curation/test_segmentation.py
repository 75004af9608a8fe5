"""Finding and following things with the real classes at tiny size: what they get, and what is made of their answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.grounding_dino.image_processing_pil_grounding_dino import GroundingDinoImageProcessorPil

from opensama.curation.elements import Clip
from opensama.curation.segmentation import (
    DEVIATION,
    MEAN,
    Box,
    GroundedSam,
    detector_prompt,
    fit,
    open_segmenter,
    to_corners,
    to_model,
)
from opensama.values import UserError
from tests.curation import tiny_models

EDGES = (64, 96)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models")
    return str(tiny_models.detector(folder / "dino")), str(tiny_models.tracker(folder / "sam"))


@pytest.fixture(scope="module")
def both(folders: tuple[str, str]) -> GroundedSam:
    return GroundedSam(*folders, device="cpu", threshold=0.0, edges=EDGES)


@pytest.fixture(scope="module")
def clip() -> Clip:
    """A disc that moves over a texture."""
    y, x = np.mgrid[:48, :72]
    frames = np.stack([np.stack([x * 3, y * 4, (x * y) % 256], -1) for _ in range(5)]).astype(np.uint8)
    for i, frame in enumerate(frames):
        frame[(x - 20 - 6 * i) ** 2 + (y - 24) ** 2 < 120] = (220, 30, 30)
    return Clip(Path("disc.mp4"), frames, 16.0)


def test_pictures_reach_the_detector_as_its_own_processor_brings_them(clip: Clip) -> None:
    published = GroundingDinoImageProcessorPil(size={"shortest_edge": EDGES[0], "longest_edge": EDGES[1]})
    wanted = published(Image.fromarray(clip.frames[2]), return_tensors="pt")
    size = fit(clip.frames.shape[1:3], *EDGES)
    pixels = to_model(clip.frames[2:3], size, "cpu", torch.float32)
    assert pixels.shape == wanted["pixel_values"].shape
    assert wanted["pixel_mask"].all()
    away = (pixels - wanted["pixel_values"]).abs() * torch.tensor(DEVIATION).view(3, 1, 1) * 255
    assert away.max() <= 1.01  # theirs is rounded to whole steps of 255 in between


@pytest.mark.parametrize(
    ("size", "wanted"), [((480, 832), (769, 1333)), ((1080, 1080), (800, 800)), ((90, 160), (750, 1333))]
)
def test_the_short_side_is_fitted_unless_the_long_one_grows_too_long(size, wanted) -> None:
    assert fit(size, 800, 1333) == wanted


def test_a_pixel_of_the_mean_colour_is_zero() -> None:
    grey = np.full((1, 8, 8, 3), np.round(np.array(MEAN) * 255), np.uint8)
    assert to_model(grey, (8, 8), "cpu", torch.float32).abs().max() < 0.01


def test_boxes_are_scored_by_the_tokens_of_their_own_name(both: GroundedSam, clip: Clip) -> None:
    names = ["red ball", "green box"]
    model, tokenizer = both._detector
    coded = tokenizer("red ball. green box.", return_tensors="pt")
    pixels = to_model(clip.frames[:1], fit(clip.frames.shape[1:3], *EDGES), "cpu", torch.float32)
    with torch.no_grad():
        out = model(pixel_values=pixels, **coded)
    words = tokenizer.convert_ids_to_tokens(coded["input_ids"][0])
    corners = to_corners(out.pred_boxes[0], 48, 72)
    with torch.no_grad():
        found = both.detect(clip.frames[0], names)
    assert list(found) == names
    for name in names:
        tokens = [words.index(word) for word in name.split()]
        scores = out.logits[0].sigmoid()[:, tokens].mean(1)
        assert found[name][0].score == pytest.approx(float(scores.max()), abs=1e-6)
        assert found[name][0].corners == pytest.approx(corners[scores.argmax()].tolist(), abs=1e-4)
        assert len(found[name]) > 1
        assert all(
            a.score >= b.score >= 0.8 * found[name][0].score for a, b in zip(found[name], found[name][1:], strict=False)
        )
        assert all(a.overlap(b) < 0.5 for a in found[name] for b in found[name] if a is not b)


def test_names_stand_in_the_text_where_they_are_said_to() -> None:
    text, spans = detector_prompt(["red ball", "dog", "left box"])
    assert text == "red ball. dog. left box."
    assert [text[a:b] for a, b in spans] == ["red ball", "dog", "left box"]


def test_more_names_than_the_detector_can_read_do_no_harm(both: GroundedSam, clip: Clip) -> None:
    names = [f"red ball {n}" for n in range(40)]
    with torch.no_grad():
        assert set(both.detect(clip.frames[0], names)) < set(names)


def test_a_threshold_leaves_out_what_the_detector_is_not_sure_of(folders: tuple[str, str], clip: Clip) -> None:
    assert GroundedSam(*folders, device="cpu", threshold=1.0, edges=EDGES).segment(clip, ["red ball"]) == []


def test_things_are_followed_both_ways_from_the_frame_of_their_box(both: GroundedSam, clip: Clip) -> None:
    with torch.no_grad():
        one, two = both.track(clip.frames, 2, [(10, 10, 40, 40), (30, 5, 70, 45)])
        (alone,) = both.track(clip.frames, 2, [(10, 10, 40, 40)])
    assert one.shape == (5, 48, 72)
    assert one.dtype == bool
    assert all(mask.any() and not mask.all() for mask in one)  # every frame was reached
    assert np.array_equal(one, alone)  # things do not disturb each other
    assert not np.array_equal(one, two)


def test_a_clip_becomes_masks_by_name(both: GroundedSam, clip: Clip) -> None:
    found = both.segment(clip, ["red ball", "dog"])
    assert [thing.name for thing in found] == ["red ball", "dog"]
    for thing in found:
        assert thing.masks.shape == clip.frames.shape[:3]
        with torch.no_grad():
            looks = [both.detect(clip.frames[at], ["red ball", "dog"])[thing.name] for at in (0, 2, 4)]
        best = max(looks, key=lambda boxes: boxes[0].score)
        assert (thing.score, thing.ambiguous) == (pytest.approx(best[0].score), len(best) - 1)
        assert thing.ambiguous > 0
    again = both.segment(clip, ["red ball", "dog"])
    assert all(np.array_equal(a.masks, b.masks) for a, b in zip(found, again, strict=True))


def test_the_tracker_works_in_half_precision(folders: tuple[str, str], clip: Clip) -> None:
    half = GroundedSam(*folders, device="cpu", dtype="bfloat16", threshold=0.0, edges=EDGES)
    (found,) = half.segment(clip, ["red ball"])
    assert found.masks.any(axis=(1, 2)).all()


def test_overlap() -> None:
    a, b = Box((0, 0, 4, 4), 1.0), Box((2, 0, 6, 4), 1.0)
    assert a.overlap(b) == pytest.approx(1 / 3)
    assert a.overlap(Box((4, 4, 8, 8), 1.0)) == 0
    assert a.overlap(a) == 1


def test_boxes_lie_inside_the_picture() -> None:
    boxes = torch.tensor([[0.5, 0.5, 0.5, 1.0], [0.0, 0.0, 0.5, 0.5]])
    assert to_corners(boxes, 100, 200).tolist() == [[50, 0, 150, 100], [0, 0, 50, 25]]


def test_what_is_wrong_with_a_name_or_folder_is_said(tmp_path: Path, folders: tuple[str, str]) -> None:
    with pytest.raises(UserError, match="DETECTOR,TRACKER"):
        open_segmenter("only-one")
    with pytest.raises(UserError, match="no model folder"):
        GroundedSam("no/such/folder", folders[1]).load()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"\*.safetensors"):
        GroundedSam(str(tmp_path), folders[1]).load()
    with pytest.raises(UserError, match="not of a Sam2VideoModel: they lack"):
        GroundedSam(folders[0], folders[0], device="cpu").load()


def test_nothing_is_loaded_before_it_is_needed() -> None:
    assert "grounding-dino" in open_segmenter("").name
