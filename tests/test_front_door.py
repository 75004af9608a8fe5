"""`import opensama` gives what people need, and the command line takes the same settings."""

from __future__ import annotations

import inspect
from dataclasses import fields

import numpy as np
import pytest

import opensama
from opensama.apps.edit import edit_command as command
from opensama.apps.edit_settings import EditSettings, LoadSettings


def test_every_setting_of_a_request_is_a_parameter_of_edit_and_of_the_command():
    parameters = inspect.signature(opensama.edit).parameters
    assert not any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    settings = {
        f.name: f.default
        for f in fields(opensama.EditRequest)
        if f.name not in ("video", "instruction", "original_instruction", "edits")
    }
    assert {name: parameters[name].default for name in settings} == settings
    flat = inspect.signature(command).parameters
    options = dict(flat) | {f.name: f for kind in (EditSettings, LoadSettings) for f in fields(kind)}
    shared = (settings.keys() | {"device", "dtype", "weights", "base", "offload", "vae_tiling", "lora", "anyway"}) - {
        "progress"
    }
    assert shared <= options.keys()
    for name in shared & settings.keys():
        assert options[name].default == settings[name], name


def test_a_video_is_read_and_saved(tmp_path):
    frames = np.zeros((3, 32, 48, 3), np.uint8)
    opensama.Video.from_frames(frames, 10).save(tmp_path / "a.mp4")
    video = opensama.read_video(tmp_path / "a.mp4")
    assert (video.frame_count, video.width, video.height, video.fps) == (3, 48, 32, 10)
    with pytest.raises(opensama.UserError, match=r"a\.mp4 exists"):
        video.save(tmp_path / "a.mp4")


def test_every_name_is_there():
    for name in opensama.__all__:
        assert getattr(opensama, name) is not None
    with pytest.raises(AttributeError, match="'opensama' has no attribute 'nothing'"):
        opensama.nothing  # noqa: B018
