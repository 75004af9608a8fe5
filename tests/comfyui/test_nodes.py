"""The ComfyUI nodes against a small stand-in for ComfyUI: what they declare, and what they do with real files."""

from __future__ import annotations

import asyncio
import inspect
import io
import json
import sys
import tomllib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import opensama
from opensama.apps.models import convert
from opensama.media.video_io import read_video, write_video
from opensama.media.video_io.edit_record import read_record
from opensama.models.registry import find
from opensama.models.weights import TensorFiles
from opensama.pipeline.unfinished import Unfinished, identity_of
from opensama.values import EditRequest, UserError, Video
from tests.comfyui.stand_in import (
    PACK,
    Comfy,
    Interrupted,
    OldVideoFromFile,
    VideoFromComponents,
    VideoFromFile,
)
from tests.media.making import hear, make_video

ASK = "Make the scene look like sunset."
QUICK = {"steps": 1, "size": 64}
PLACE = {"filename_prefix": "video/edit", "format": ".mp4", "save_output": True, "settings": QUICK}


@pytest.fixture(scope="module")
def comfy(tmp_path_factory: pytest.TempPathFactory) -> Comfy:
    return Comfy(tmp_path_factory.mktemp("comfyui"))


@pytest.fixture(scope="module")
def nodes(comfy: Comfy) -> Iterator[dict[str, Any]]:
    """The nodes by their ids."""
    with comfy.pack() as pack:
        extension = asyncio.run(pack.comfy_entrypoint())
        yield {node.define_schema().node_id: node for node in asyncio.run(extension.get_node_list())}


@pytest.fixture(scope="module")
def editor(nodes: dict[str, Any]) -> opensama.Editor:
    (editor,) = nodes["OpenSAMALoadEditor"].execute(**defaults(nodes["OpenSAMALoadEditor"])).values
    return editor


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve frames at 10 a second, with a beep each third of a second."""
    return make_video(tmp_path_factory.mktemp("films") / "film.mp4", stamps=range(12), sound="aac")


@pytest.fixture(autouse=True)
def quiet(comfy: Comfy) -> None:
    comfy.shown.clear()
    comfy.cancel_at = 101.0


def defaults(node: Any) -> dict[str, Any]:
    return {one.id: one.said["default"] for one in node.define_schema().inputs if "default" in one.said}


def written(comfy: Comfy) -> list[Path]:
    return sorted(path for path in comfy.root.glob("[ot]*/**/*") if path.is_file())


def test_schemas_say_what_execute_takes(nodes: dict[str, Any]) -> None:
    assert len(nodes) == 10
    for name, node in nodes.items():
        schema, takes = node.define_schema(), inspect.signature(node.execute).parameters
        assert name.startswith("OpenSAMA")
        assert schema.said["category"] == "OpenSAMA"
        loose = any(one.kind is one.VAR_KEYWORD for one in takes.values())
        assert loose or [one.id for one in schema.inputs] == list(takes)
        for one in schema.inputs:
            assert one.optional == (one.id in takes and takes[one.id].default is None), f"{name}.{one.id}"
            if "default" in one.said and one.options is not None:
                assert one.said["default"] in one.options


def test_a_video_is_edited_as_python_edits_it(
    nodes: dict[str, Any], editor: opensama.Editor, film: Path, comfy: Comfy, tmp_path: Path
) -> None:
    made = nodes["OpenSAMAEditVideo"].execute(editor, VideoFromFile(str(film)), ASK, 3, **PLACE)
    video, changed, report = made.values
    path = Path(video.get_stream_source())
    assert path.parent == comfy.root / "output" / "video"
    assert made.ui == {"images": [{"filename": path.name, "subfolder": "video", "type": "output"}]}
    edited = opensama.edit(film, ASK, editor, seed=3, notice=lambda note: None, **QUICK)
    write_video(edited, tmp_path / "python.mp4", on_note=lambda note: None)
    assert path.read_bytes() == (tmp_path / "python.mp4").read_bytes()
    assert changed == pytest.approx(edited.changed)
    assert f"{100 * changed:.1f} % of the picture changed" in report
    values = [value for value, _ in comfy.shown]
    assert values == sorted(values)
    assert values[-1] == 100
    pictures = [preview for _, preview in comfy.shown if preview is not None]
    assert {(kind, picture.size) for kind, picture, _ in pictures} <= {("JPEG", (64, 64)), ("JPEG", (64, 48))}
    assert pictures


def test_pending_frame_edits_and_videos_of_no_file_are_written_by_comfyui(
    nodes: dict[str, Any], editor: opensama.Editor, film: Path, comfy: Comfy, tmp_path: Path
) -> None:
    small = make_video(tmp_path / "small.mp4", stamps=range(3), size=(48, 32))
    given = {
        "pending": (VideoFromFile(str(film), start_time=1, pending=small), 3),
        "frames": (VideoFromComponents(small), 3),
        "buffer": (VideoFromFile(io.BytesIO(small.read_bytes())), 3),
        "old": (OldVideoFromFile(str(small)), 3),
    }
    before = written(comfy)
    for name, (video, count) in given.items():
        key = nodes["OpenSAMAKeyFrame"].execute(editor, video, ASK, 0, -1, QUICK)
        edited, source, _ = key.values
        assert edited.shape == source.shape == (1, 32, 48, 3), name
        last = read_video(small).array(count - 1, count)
        assert np.array_equal((source * 255).round().byte().numpy(), last), name
    assert written(comfy) == before  # what was written for it is gone


def test_a_trimmed_video_is_the_part_with_its_own_sound(
    nodes: dict[str, Any], editor: opensama.Editor, film: Path
) -> None:
    video = VideoFromFile(str(film), start_time=0.35, duration=0.6)  # frames 4 to 9
    made = nodes["OpenSAMAEditVideo"].execute(editor, video, ASK, 0, **PLACE, box=(0, 0, 16, 16))
    path = Path(made.values[0].get_stream_source())
    edited, source = read_video(path), read_video(film)
    assert (edited.frame_count, edited.fps) == (6, 10)
    begins, heard = hear(path)
    assert begins == pytest.approx(0, abs=0.03)
    assert len(heard) / 44_100 == pytest.approx(0.6, abs=0.05)
    away = np.abs(edited.array()[:, :, 24:].astype(int) - source.array(4, 10)[:, :, 24:])
    assert away.mean() < 2  # outside of the box, coded again
    record = read_record(path)
    assert record is not None
    assert record["shows"] == "only a part of its source"
    with pytest.raises(UserError, match="begins at 9 s"):
        nodes["OpenSAMAEditVideo"].execute(editor, VideoFromFile(str(film), start_time=9), ASK, 0, **PLACE)


def test_span_box_and_settings_reach_the_edit(
    nodes: dict[str, Any], editor: opensama.Editor, film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    plain = opensama.Editor.edit

    def edit(self: opensama.Editor, request: opensama.EditRequest, unfinished: Unfinished | None) -> Any:
        asked.append(request)
        return plain(self, request, unfinished)

    monkeypatch.setattr(opensama.Editor, "edit", edit)
    (box,) = nodes["OpenSAMABox"].execute(8, 8, 32, 16).values
    (span,) = nodes["OpenSAMASpan"].execute("seconds", 0.5, 0.0).values
    own = defaults(nodes["OpenSAMASettings"])
    assert nodes["OpenSAMASettings"].execute(**own).values == ({"background": "white", "alpha": "flatten"},)
    (settings,) = nodes["OpenSAMASettings"].execute(**own | {"steps": 1, "preserve": "off", "guidance": 0.0}).values
    nodes["OpenSAMAEditVideo"].execute(
        editor, VideoFromFile(str(film)), ASK, 0, **PLACE | {"settings": settings}, box=box, span=span
    )
    (request,) = asked
    assert (request.box, request.frames) == ((8, 8, 32, 16), (5, 12))
    assert (request.steps, request.preserve, request.guidance) == (1, False, 0.0)
    assert (request.shift, request.size, request.negative_prompt) == (None, None, None)


def test_masks_limit_an_edit(nodes: dict[str, Any], editor: opensama.Editor, film: Path, tmp_path: Path) -> None:
    """The same as MASK, and as a video that is read frame by frame."""
    mask = torch.zeros(1, 48, 64)
    mask[:, :, 32:] = 1
    video = VideoFromFile(str(film))
    white = [(one * 255).byte().numpy()[..., None].repeat(3, -1) for one in mask.repeat(12, 1, 1)]
    write_video(Video.from_frames(white, 10), tmp_path / "mask.mp4", on_note=lambda note: None)
    moving = VideoFromFile(str(tmp_path / "mask.mp4"))
    source = read_video(film).array(0, 1)
    for limit in ({"mask": mask}, {"mask_video": moving}):
        made = nodes["OpenSAMAEditVideo"].execute(editor, video, ASK, 0, **PLACE, **limit)
        edited = read_video(made.values[0].get_stream_source()).array(0, 1)
        away = np.abs(edited.astype(int) - source).mean((0, 1, 3))
        assert away[:28].max() < 4
        assert away[40:].mean() > 8
        assert "The mask covers 50.0 % of the frame." in made.values[2]
    with pytest.raises(UserError, match="take one of them off"):
        nodes["OpenSAMAEditVideo"].execute(editor, video, ASK, 0, **PLACE, mask=mask, mask_video=moving)


def test_frames_in_memory_keep_their_sound_and_rate(nodes: dict[str, Any], editor: opensama.Editor, film: Path) -> None:
    frames = read_video(film).array(0, 5)
    images, sound = (
        torch.from_numpy(frames / np.float32(255)),
        {"waveform": torch.zeros(1, 2, 100), "sample_rate": 8000},
    )
    made, audio, fps, report = (
        nodes["OpenSAMAEditFrames"].execute(editor, images, ASK, 0, 10.0, QUICK, audio=sound).values
    )
    assert audio is sound
    assert fps == 10.0
    expected = opensama.edit(Video.from_frames(frames, 10), ASK, editor, notice=lambda note: None, **QUICK).array()
    assert np.array_equal((made * 255).round().byte().numpy(), expected)
    assert "changed" in report


def test_source_and_result_side_by_side(nodes: dict[str, Any], film: Path, comfy: Comfy) -> None:
    video = VideoFromFile(str(film))
    made = nodes["OpenSAMACompare"].execute(video, video, "video/both", False)
    both = read_video(made.values[0].get_stream_source())
    assert both.path is not None
    assert both.path.parent == comfy.root / "temp" / "video"
    assert (both.width, both.height, both.frame_count, both.has_audio) == (128, 48, 12, True)


def test_cancel_ends_an_edit_and_leaves_nothing(
    nodes: dict[str, Any], editor: opensama.Editor, film: Path, comfy: Comfy
) -> None:
    before = written(comfy)
    for at in (8, 92):  # after a step, and while it is written
        comfy.cancel_at = at
        comfy.shown.clear()
        with pytest.raises(Interrupted):
            nodes["OpenSAMAEditVideo"].execute(editor, VideoFromFile(str(film)), ASK, 0, **PLACE)
        assert comfy.shown[-1][0] < 100
    assert written(comfy) == before


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"instruction": " "}, "instruction is empty"),
        ({"instruction": "Remove the football."}, "never been taught 'football'"),
        ({"filename_prefix": "../edit"}, "names no file in ComfyUI's output folder"),
        ({"filename_prefix": ""}, "names no file in ComfyUI's output folder"),
        ({"mask": torch.zeros(1, 48, 64)}, "mask is black everywhere"),
        ({"mask": torch.ones(3, 48, 64)}, "has 3 frames where the video has 12"),
        ({"box": (60, 40, 10, 10)}, "reaches outside the video"),
        ({"span": ("frames", 10, 30)}, "does not lie in the video, which has 12 frames"),
        ({"span": ("seconds", 1.0, 0.5)}, "give a beginning before the end"),
        ({"settings": {"alpha": "keep"}}, "cannot hold transparency"),
        ({"video": VideoFromFile("/nowhere/film.mp4")}, "film.mp4"),
    ],
)
def test_mistakes_are_one_sentence_before_the_edit(
    nodes: dict[str, Any], editor: opensama.Editor, film: Path, comfy: Comfy, changes: dict[str, Any], sentence: str
) -> None:
    if "span" in changes:
        changes = {"span": nodes["OpenSAMASpan"].execute(*changes["span"]).values[0]}
    before, given = written(comfy), {"video": VideoFromFile(str(film)), "instruction": ASK, "seed": 0} | PLACE | changes
    with pytest.raises(UserError, match=sentence):
        nodes["OpenSAMAEditVideo"].execute(editor, **given)
    assert written(comfy) == before
    assert not any(value >= 8 for value, _ in comfy.shown)


def test_weights_are_found_in_comfyuis_folders_and_loaded_with_their_loras(
    nodes: dict[str, Any], comfy: Comfy, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = comfy.root / "models"
    for name in ("diffusion_models/wan/sama.safetensors", "diffusion_models/old.ckpt", "unet_gguf/sama-Q4.gguf"):
        (models / name).parent.mkdir(parents=True, exist_ok=True)
        (models / name).write_bytes(b"x")
    for name in ("a", "b"):
        (models / "loras" / f"{name}.safetensors").write_bytes(b"x")
    for name, kind in (("wan", "WanPipeline"), ("mine", "SamaPipeline")):
        (models / "diffusers" / name).mkdir()
        (models / "diffusers" / name / "model_index.json").write_text(json.dumps({"_class_name": kind}))
    load = nodes["OpenSAMALoadEditor"]
    offered = {one.id: one.options for one in load.define_schema().inputs}
    assert offered["weights"] == ["from the hub", "wan/sama.safetensors", "sama-Q4.gguf"]
    assert offered["base"] == ["from the hub", "mine", "wan"]
    assert {"tiny", "sama-14b", "icve-13b:384x240x81", "mine"} <= set(offered["model"])
    assert "wan" not in offered["model"]

    (first,) = nodes["OpenSAMAAddLora"].execute("a.safetensors", 0.5).values
    (both,) = nodes["OpenSAMAAddLora"].execute("b.safetensors", 1.0, first).values
    loaded: list[Any] = []
    monkeypatch.setattr(opensama, "load", lambda *given, **how: loaded.append((given, how)))
    given = defaults(load) | {"model": "sama-14b", "weights": "sama-Q4.gguf", "base": "wan", "memory": "12GB"}
    load.execute(**given, lora=both)
    ((name,), how) = loaded.pop()
    assert (name, how["weights"], how["base"]) == (
        "sama-14b",
        models / "unet_gguf/sama-Q4.gguf",
        models / "diffusers/wan",
    )
    assert how["lora"] == [(models / "loras/a.safetensors", 0.5), (models / "loras/b.safetensors", 1.0)]
    assert (how["dtype"], how["memory"], how["device"], how["offload"]) == (None, "12GB", "cpu", "auto")
    load.execute(**defaults(load) | {"model": "mine"})
    assert loaded.pop()[0] == (models / "diffusers/mine",)
    with pytest.raises(UserError, match="There is no gone"):
        load.execute(**given | {"weights": "gone.safetensors"})


def test_the_registry_is_told_what_it_asks_for() -> None:
    told = tomllib.loads((PACK / "pyproject.toml").read_text())
    ours = tomllib.loads((PACK.parent / "pyproject.toml").read_text())
    assert told["project"]["version"] == opensama.__version__
    assert "comfyui" not in told["project"]["name"].lower()
    assert told["project"]["requires-python"] == ours["project"]["requires-python"]
    assert {"PublisherId", "DisplayName", "Icon"} <= set(told["tool"]["comfy"])
    with Image.open(PACK / Path(told["tool"]["comfy"]["Icon"]).name) as icon:
        assert icon.size[0] == icon.size[1] <= 400
    assert told["project"]["dependencies"] == [f"opensama>={opensama.__version__}"]


@pytest.mark.parametrize("workflow", sorted((PACK / "example_workflows").glob("*.json")), ids=lambda path: path.stem)
def test_example_workflows_use_the_nodes_as_they_are(nodes: dict[str, Any], workflow: Path) -> None:
    """Sockets and widgets by name and number; beside each a picture for the page's browser of templates."""
    graph = json.loads(workflow.read_text())
    for node in graph["nodes"]:
        if not node["type"].startswith("OpenSAMA"):
            continue
        schema = nodes[node["type"]].define_schema()
        ids = [one.id for one in schema.inputs]
        assert {one["name"] for one in node["inputs"]} <= set(ids)
        widgets = [one for one in schema.inputs if "default" in one.said or one.options is not None]
        assert len(node["widgets_values"]) == len(widgets) + any(one.id == "seed" for one in widgets)
        assert [one["type"] for one in node["outputs"]] == [one.kind for one in schema.outputs]
    with Image.open(workflow.with_suffix(".jpg")) as picture:
        assert min(picture.size) >= 200


def test_weights_are_converted_among_comfyuis(nodes: dict[str, Any], comfy: Comfy) -> None:
    folder, run = find("tiny-icve").folder, nodes["OpenSAMAConvertWeights"].execute
    assert folder is not None
    models, own = comfy.root / "models", "the model's own"
    convert(folder, models / "diffusion_models" / "tiny.safetensors", to="released")
    (file,) = run("tiny.safetensors", own, "comfyui", "for-comfyui").values
    assert file == str(models / "diffusion_models" / "for-comfyui.safetensors")
    (path,) = run("for-comfyui.safetensors", "icve", "ours", "tiny").values
    assert path == str(models / "diffusers" / "tiny")
    assert TensorFiles(folder / "transformer").shapes == TensorFiles(Path(path)).shapes
    with pytest.raises(UserError, match="exists"):
        run("tiny.safetensors", own, "ours", "tiny")
    with pytest.raises(UserError, match="no plain name"):
        run("tiny.safetensors", own, "ours", "../tiny")


def test_an_edit_that_comfyui_ended_under_goes_on(
    nodes: dict[str, Any], editor: opensama.Editor, film: Path, comfy: Comfy, monkeypatch: pytest.MonkeyPatch
) -> None:
    video, given = VideoFromFile(str(film)), PLACE | {"filename_prefix": "long"}
    module = sys.modules[nodes["OpenSAMAEditVideo"].__module__]
    with monkeypatch.context() as patch:
        patch.setattr(module, "Unfinished", partial(Unfinished, worth=0))
        patch.setattr(module, "write_video", lambda *_, **how: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            nodes["OpenSAMAEditVideo"].execute(editor, video, ASK, 0, **given)
    (kept,) = (comfy.root / "output").glob("long.mp4.unfinished-*")
    _, _, report = nodes["OpenSAMAEditVideo"].execute(editor, video, ASK, 0, **given).values
    assert "Going on with this edit, which was broken off after 1 of 1 steps." in report
    assert not kept.exists()


def test_parts_of_one_film_are_edits_of_their_own(film: Path) -> None:
    video, record = read_video(film), {"settings": {}, "instruction": ASK, "model": {}, "device": "", "opensama": ""}
    parts = (video, *(video.clip(*part, sound=True) for part in ((0, 6), (6, 12), (0, 8))))
    assert len({identity_of(EditRequest(part, ASK), part, record)["source"] for part in parts}) == 4
