"""load() and Editor, with random weights: what comes back is the source's in everything but the edit."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

import opensama
from opensama.media.frames import resize_frame
from opensama.media.video_io import read_video, write_video
from opensama.pipeline.editor import Editor
from opensama.pipeline.part_store import PartStore
from opensama.pipeline.previews import LatentPreview
from opensama.values import Cancelled, EditRequest, Progress, UserError, Video

ASK = "Make the ball blue."


@pytest.fixture(scope="module")
def editor(folder) -> Editor:
    return opensama.load(folder, device="cpu")


@pytest.fixture
def video(picture) -> Video:
    return Video.from_frames(picture(), 25)


@pytest.fixture
def changed(editor, monkeypatch):
    """An editor whose decoded edits are the source's own decoding with the right half inverted."""

    def edit(request: EditRequest) -> Video:
        plain = editor.pipeline.decode_latents
        calls = []

        def decode(latents: torch.Tensor) -> torch.Tensor:
            pixels = plain(sources[len(calls) // 2])
            calls.append(None)
            if len(calls) % 2 == 1:
                half = pixels.shape[-1] // 2
                pixels = torch.cat([pixels[..., :half], -pixels[..., half:].sign() * 0.9], dim=-1)
            return pixels

        sources = []
        encode = editor.pipeline.encode_video

        def keep(pixels: torch.Tensor) -> torch.Tensor:
            sources.append(encode(pixels))
            return sources[-1]

        with monkeypatch.context() as patch:
            patch.setattr(editor.pipeline, "encode_video", keep)
            patch.setattr(editor.pipeline, "decode_latents", decode)
            return editor.edit(request)

    return edit


@pytest.mark.parametrize("size", [(48, 64), (64, 36), (33, 65), (30, 90), (90, 30), (2, 2), (1, 70)])
def test_any_size_comes_back(editor, picture, size):
    video = Video.from_frames(picture(5, *size), 25)
    for preserve in (True, False):
        edited = editor.edit(EditRequest(video, ASK, preserve=preserve))
        assert edited.shape == video.shape
        assert edited.array().shape == (5, *size, 3)


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 6, 16, 17, 18, 21, 33, 60])
def test_any_length_comes_back(editor, picture, frames):
    video = Video.from_frames(picture(frames, 32, 32), 25)
    edited = editor.edit(EditRequest(video, ASK, steps=1, preserve=False))
    assert edited.array().shape == (frames, 32, 32, 3)


def test_one_seed_one_result(editor, video):
    first, same, other = (editor.edit(EditRequest(video, ASK, seed=s, preserve=False)).array() for s in (1, 1, 2))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, video.array())


def test_frames_may_be_asked_again_and_from_anywhere(editor, video):
    edited = editor.edit(EditRequest(video, ASK))
    whole = edited.array()
    assert np.array_equal(edited.array(3, 7), whole[3:7])
    assert np.array_equal(edited.array(), whole)


def test_every_field_of_the_request_counts(editor, video):
    plain = EditRequest(video, ASK, preserve=False)
    base = editor.edit(plain).array()
    for change in (
        {"steps": 3}, {"guidance": 4.0}, {"shift": 8.0}, {"source_guidance": 2.0}, {"size": 64}, {"speed": "fast"},
        {"instruction": "Remove the box."}, {"guidance": 4.0, "negative_prompt": "ugly"},
    ):  # fmt: skip
        assert not np.array_equal(editor.edit(replace(plain, **change)).array(), base), change


def test_only_the_frames_asked_for_change(editor, video):
    edited = editor.edit(EditRequest(video, ASK, frames=(2, 6), preserve=False)).array()
    source = video.array()
    same = [bool(np.array_equal(a, b)) for a, b in zip(edited, source, strict=True)]
    assert same == [True, True, False, False, False, False, True, True, True]
    with pytest.raises(UserError, match="2:60"):
        editor.edit(EditRequest(video, ASK, frames=(2, 60)))


def test_a_box_limits_the_edit_exactly(editor, video):
    edited = editor.edit(EditRequest(video, ASK, box=(10, 12, 20, 16), preserve=False)).array()
    different = (edited != video.array()).any(axis=(0, 3))
    inside = np.zeros((48, 64), bool)
    inside[12:28, 10:30] = True
    assert not different[~inside].any()
    assert different[inside].mean() > 0.7
    with pytest.raises(UserError, match="outside"):
        editor.edit(EditRequest(video, ASK, box=(50, 12, 20, 16)))


def test_masks_of_every_form_limit_the_edit(editor, video, tmp_path):
    mask = np.zeros((48, 64), np.uint8)
    mask[8:40, 8:32] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    still = editor.edit(EditRequest(video, ASK, mask=tmp_path / "mask.png", preserve=False)).array()
    array = editor.edit(EditRequest(video, ASK, mask=mask, preserve=False)).array()
    boolean = editor.edit(EditRequest(video, ASK, mask=mask > 0, preserve=False)).array()
    ones = editor.edit(EditRequest(video, ASK, mask=mask // 255, preserve=False)).array()
    different = (array != video.array()).any(axis=(0, 3))
    assert not different[mask == 0].any()
    assert different[mask > 0].mean() > 0.7
    assert np.array_equal(still, array)
    assert np.array_equal(boolean, array)
    assert np.array_equal(ones, array)

    moving = np.stack([np.roll(mask, 2 * i, axis=1) for i in range(9)])
    edited = editor.edit(EditRequest(video, ASK, mask=moving, preserve=False)).array()
    assert not (edited != video.array()).any(axis=3)[moving == 0].any()


def test_a_dark_frame_of_a_moving_mask_stays_dark(editor, video, tmp_path):
    moving = np.zeros((9, 48, 64), np.uint8)
    moving[:4, 8:40, 8:32] = 255
    moving[4:] = 1  # black as a codec leaves it
    clip = Video.from_frames(np.repeat(moving[..., None], 3, axis=3), 24)
    write_video(clip, tmp_path / "mask.mp4", quality=100)
    for mask in (moving, tmp_path / "mask.mp4"):
        edited = editor.edit(EditRequest(video, ASK, mask=mask, preserve=False)).array()
        assert (edited[:4] != video.array()[:4]).any()
        assert np.array_equal(edited[4:], video.array()[4:])


def test_masks_that_do_not_fit_are_refused(editor, video):
    for mask, word in (
        (np.zeros((48, 64), np.uint8), "black"),
        (np.ones((48, 48), np.uint8), "shape"),
        (np.ones((3, 48, 64), np.uint8), "frames"),
    ):
        with pytest.raises(UserError, match=word):
            editor.edit(EditRequest(video, ASK, mask=mask))


def test_a_mask_of_another_size_is_scaled(editor, video):
    small = np.zeros((24, 32), np.uint8)
    small[6:18, 4:16] = 255
    edited = editor.edit(EditRequest(video, ASK, mask=small, preserve=False)).array()
    different = (edited != video.array()).any(axis=(0, 3))
    assert not different[np.kron(small, np.ones((2, 2))) == 0].any()


def test_an_edit_that_changes_nothing_gives_the_source(editor, video, monkeypatch):
    monkeypatch.setattr(editor.pipeline, "denoise", lambda noise, semantic, source, *rest, **more: (source, semantic))
    edited = editor.edit(EditRequest(video, ASK, preserve=True))
    assert np.array_equal(edited.array(), video.array())


def test_preserve_keeps_what_the_edit_left_alone(changed, picture):
    video = Video.from_frames(picture(21, 96, 128), 25)
    edited = changed(EditRequest(video, ASK, preserve=True)).array()
    source = video.array()
    left = np.s_[:, :, :48]
    error = ((edited[left].astype(float) - source[left]) ** 2).mean()
    assert 10 * np.log10(255**2 / max(error, 1e-9)) >= 40
    assert np.abs(edited[:, :, 80:].astype(int) - source[:, :, 80:]).mean() > 10


def test_previews_show_the_edit_on_its_way(editor, video):
    """After a step the clean latents in the colours that fit the source's; when decoded, the pictures themselves."""
    shown: dict[str, list[np.ndarray]] = {}

    def look(progress: Progress) -> None:
        if progress.preview is not None:
            shown.setdefault(progress.stage, []).append(progress.preview())

    edited = editor.edit(EditRequest(video, ASK, steps=3, progress=look, preserve=False))
    assert list(shown) == ["Editing", "Decoding"]
    assert {(one.shape, one.dtype.name) for one in shown["Editing"] + shown["Decoding"]} == {((32, 32, 3), "uint8")}
    assert len(shown["Editing"]) == 3
    small = resize_frame(next(edited.frames(0, 1)), 32, 32)
    assert np.abs(shown["Decoding"][0].astype(float) - small).mean() < 4


def test_a_preview_of_clean_latents_has_the_colors_of_their_pictures():
    """A made-up autoencoder whose cells mix colours linearly; x = sigma noise + (1 - sigma) clean, as in the model."""
    generator = torch.Generator().manual_seed(0)
    frame, mix = torch.rand(3, 64, 96, generator=generator) * 2 - 1, torch.randn(6, 3, generator=generator)
    cells = functional.avg_pool2d(frame, 8)
    clean = torch.einsum("cr,rhw->chw", mix, cells)
    noise = torch.randn(clean.shape, generator=generator)
    store, sigmas, preview = PartStore(), [1.0, 0.4, 0.0], LatentPreview(clean, frame)
    latents = [(sigma * noise + (1 - sigma) * clean)[None, :, None] for sigma in sigmas]
    expected = functional.interpolate(cells[None], size=(64, 96), mode="bilinear")[0].permute(1, 2, 0)
    for step, error in enumerate((torch.zeros_like(clean), torch.zeros_like(clean), noise)):
        if step:
            store.put("state", 0, step, {"latents": latents[min(step, 1)]})
        store.put("velocity", 0, min(step, 1), {"latents": (noise - clean + error)[None, :, None]})
        away = np.abs(preview.of(store, latents[0], sigmas)() - (expected.numpy() + 1) * 127.5)
        assert (away.max() < 1) == (not error.any())


def test_progress_tells_each_stage_and_may_cancel(editor, video):
    seen: list[Progress] = []
    editor.edit(EditRequest(video, ASK, steps=3, progress=seen.append))
    n = video.frame_count
    stages = [(p.stage, p.done, p.total, p.unit) for p in seen]
    told = [("Reading", n), *(("Editing", round(n * step / 3)) for step in (1, 2, 3)), ("Decoding", n)]
    assert stages == [(stage, done, n, "frames") for stage, done in told]

    def stop(progress: Progress) -> None:
        if progress.stage == "Editing":
            raise Cancelled

    with pytest.raises(Cancelled):
        editor.edit(EditRequest(video, ASK, progress=stop))


def test_ten_bit_and_time_stamps_pass_through(editor, picture):
    frames = picture(6, 32, 48, np.uint16)
    video = replace(
        Video.from_frames(frames, 25), timestamps=(0, 10, 25, 30, 70, 90), time_base=Fraction(1, 100),
        duration=Fraction(1),
    )  # fmt: skip
    edited = editor.edit(EditRequest(video, ASK))
    assert edited.timestamps == video.timestamps
    assert edited.duration == video.duration
    assert edited.bit_depth == 10
    assert edited.array().dtype == np.uint16


def test_long_clips_are_streamed(editor, picture):
    """Full-size frames are read in order, once for the edit and once for the result, and never piled up."""
    frames = picture(60, 32, 48)
    alive, most = 0, 0

    class Frame(np.ndarray):
        def __array_finalize__(self, obj):
            self.counted = False

        def __del__(self):
            nonlocal alive
            alive -= self.counted

    def source(start, stop):
        nonlocal alive, most
        for i in range(start, stop):
            frame = frames[i].copy().view(Frame)
            frame.counted = True
            alive += 1
            most = max(most, alive)
            yield frame
            del frame

    video = Video.from_frames(frames, 25).with_frames(source)
    edited = editor.edit(EditRequest(video, ASK, steps=1, preserve=False))
    count = sum(1 for _ in edited.frames())
    assert count == 60
    assert most <= 4


def test_file_in_file_out(editor, video, tmp_path):
    write_video(video, tmp_path / "in.mp4")
    edited = editor.edit(EditRequest(tmp_path / "in.mp4", ASK))
    write_video(edited, tmp_path / "out.mp4")
    assert read_video(tmp_path / "out.mp4").shape == video.shape


def test_the_front_door(folder, video):
    edited = opensama.edit(video, ASK, folder, device="cpu", seed=3, preserve=False)
    again = opensama.load(folder, device="cpu").edit(EditRequest(video, ASK, seed=3, preserve=False))
    assert np.array_equal(edited.array(), again.array())


def test_how_a_video_was_read_is_said_once_before_a_model_is_loaded(folder, tmp_path, monkeypatch, capsys):
    frames = [Image.new("RGBA", (32, 32), (200, 40 * i, 0, 0 if i else 255)) for i in range(5)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=10, disposal=2)
    loaded, load = [], opensama.load

    def listening(*given, **named):
        loaded.append(capsys.readouterr().out)
        return load(*given, **named)

    monkeypatch.setattr("opensama.pipeline.editor.load", listening)
    edited = opensama.edit(tmp_path / "a.gif", ASK, folder, device="cpu", steps=1, background="#00ff00")
    (said,) = loaded
    assert said.count("less than 0.02 s") == 1
    assert said.count("a.gif has transparent places, #00ff00 in the result") == 1
    write_video(edited, tmp_path / "out.mp4")
    assert "0.02 s" not in capsys.readouterr().out
    opensama.edit(read_video(tmp_path / "a.gif", background="blue"), ASK, folder, device="cpu", steps=1)
    assert "transparent places, #0000ff in the result" in loaded[1]


def test_a_wrong_file_is_said_before_a_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("opensama.pipeline.editor.load", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(UserError, match="no file"):
        opensama.edit(tmp_path / "none.mp4", ASK)
