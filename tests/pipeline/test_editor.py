"""load() and Editor, with random weights: what comes back is the source's in everything but the edit."""

from __future__ import annotations

import pytest

import opensama
from opensama.pipeline.editor import Editor
from opensama.values import EditRequest, Video


@pytest.fixture(scope="module")
def editor(folder) -> Editor:
    return opensama.load(folder, device="cpu")


def test_an_edit_keeps_size_and_length(editor, picture):
    source = Video.from_frames(picture(), 25)
    edited = editor.edit(EditRequest(source, "Make the ball blue.", preserve=False))
    assert edited.shape == source.shape
    assert edited.array().shape == (9, 48, 64, 3)
    assert (edited.array() != source.array()).mean() > 0.5
