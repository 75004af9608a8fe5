"""The speeds of an edit: how many forward passes and blocks each makes, and what is said and recorded of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from torch import nn

import opensama
from opensama.models.parallel import blocks
from opensama.models.registry import Defaults, find
from opensama.pipeline.advice import advice
from opensama.pipeline.editor import Editor
from opensama.pipeline.speed import steps_of
from opensama.values import EditRequest, UserError, Video

ASK = "Make the ball blue."


@pytest.fixture(scope="module", params=["sama", "bernini", "icve"])
def editor(request, folder, bernini_folder, icve_folder) -> Editor:
    return opensama.load({"sama": folder, "bernini": bernini_folder, "icve": icve_folder}[request.param], device="cpu")


@pytest.fixture
def asked(picture) -> EditRequest:
    return EditRequest(Video.from_frames(picture(5, 32, 32), 25), ASK, steps=10, guidance=3.0, preserve=False)


def calls_of(editor: Editor, request: EditRequest, module: Any) -> int:
    """How often an edit calls a module of each transformer."""
    counted = list[None]()
    hooks = [module(one).register_forward_hook(lambda *_: counted.append(None)) for one in editor.pipeline.experts]
    try:
        editor.edit(request)
    finally:
        for hook in hooks:
            hook.remove()
    return len(counted)


def ending(model: nn.Module) -> Any:
    return model.proj_out


def last_block(model: nn.Module) -> Any:
    return blocks(model)[-1].attn1.to_q


@pytest.mark.parametrize(("speed", "passes"), [("exact", 20), ("balanced", 16), ("fast", 14)])
def test_steps_are_guided_as_far_as_the_speed_says(editor, asked, speed, passes):
    """The first six or four of ten; the others have one forward pass, the prompt's."""
    assert calls_of(editor, replace(asked, speed=speed), ending) == passes


@pytest.mark.parametrize(("speed", "steps"), [("exact", 50), ("balanced", 25), ("fast", 20)])
def test_a_speed_has_its_share_of_the_models_own_steps(speed, steps):
    request = EditRequest("clip.mp4", ASK, speed=speed)
    assert steps_of(request, Defaults(steps=50)) == steps
    assert steps_of(request, Defaults(steps=1)) == 1
    assert steps_of(replace(request, steps=7), Defaults(steps=50)) == 7


@pytest.mark.parametrize("editor", ["sama"], indirect=True)
def test_only_fast_has_the_cache_that_was_measured_and_only_for_its_edit(editor, asked):
    plain = editor.edit(asked).array()
    pipe = editor.pipeline
    defaults = replace(pipe.defaults, cache=1e9)  # so high that after the first step no block counts
    pipe.register_to_config(defaults=defaults.to_dict())
    try:
        assert calls_of(editor, replace(asked, speed="balanced"), last_block) == 16
        assert calls_of(editor, replace(asked, speed="fast"), last_block) == 2
        assert not pipe.transformer.is_cache_enabled
        assert np.array_equal(editor.edit(asked).array(), plain)
    finally:
        pipe.register_to_config(defaults=replace(defaults, cache=None).to_dict())


@pytest.mark.parametrize("editor", ["sama"], indirect=True)
def test_an_edit_tells_its_speed_unless_it_is_exact(editor, asked):
    for speed, told in (("exact", None), ("fast", "fast")):
        record = editor.edit(replace(asked, speed=speed)).record
        assert record["settings"].get("speed") == told
        assert record["settings"]["steps"] == 10


def test_what_there_is_no_measurement_of_is_said(asked):
    entry = replace(find("tiny"), defaults=Defaults())
    assert any("leaves no blocks out" in one for one in advice(entry, replace(asked, speed="fast")))
    assert not any("blocks" in one for one in advice(entry, replace(asked, speed="balanced")))


def test_a_speed_that_is_none_is_refused():
    with pytest.raises(UserError, match=r"no speed 'turbo': choose exact, balanced, fast"):
        EditRequest("clip.mp4", ASK, speed="turbo")
