"""The font can be told apart, and every word fits a frame."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from opensama.world.letters import (
    CAPTION_WORDS,
    GLYPHS,
    LETTER_HEIGHT,
    LETTER_WIDTH,
    LETTERS,
    STROKE,
    layout,
    letter_atlas,
)


def test_there_are_200_words_of_three_to_six_letters_that_use_the_whole_alphabet() -> None:
    assert len(CAPTION_WORDS) == len(set(CAPTION_WORDS)) == 200
    assert all(re.fullmatch("[A-Z]{3,6}", word) for word in CAPTION_WORDS)
    assert set("".join(CAPTION_WORDS)) == set(LETTERS) == set(GLYPHS)


def test_letters_fill_their_height_and_stay_inside_their_cell() -> None:
    table = letter_atlas()
    assert table.shape == (26, 56, 40)
    y = torch.linspace(LETTER_HEIGHT, -LETTER_HEIGHT, 56)[:, None]
    x = torch.linspace(-LETTER_WIDTH, LETTER_WIDTH, 40)
    for letter, distance in zip(LETTERS, table, strict=True):
        rows, columns = (distance < 0.02).nonzero(as_tuple=True)
        half = GLYPHS[letter][0] + STROKE
        assert 0.92 < float(y[rows].max() - y[rows].min()) < 1.08, letter
        assert float(x[columns].abs().max()) == pytest.approx(half, abs=0.06), letter
        assert distance[0].min() > 0.1, letter  # room for a rim
        assert distance[:, [0, -1]].min() > 0.1, letter


def test_no_two_letters_look_alike_at_twenty_pixels() -> None:
    """The nearest pair (a letter and one with a stroke more) still differs in a good part of its ink."""
    ink = (0.5 - F.interpolate(letter_atlas()[None], size=(28, 20), mode="area")[0] * 20).clamp(0, 1).flatten(1)
    both = torch.minimum(ink[:, None], ink[None]).sum(-1)
    overlap = both / (ink.sum(-1)[:, None] + ink.sum(-1)[None] - both) - torch.eye(26)
    first, second = divmod(int(overlap.argmax()), 26)
    assert overlap.max() < 0.9, f"{LETTERS[first]} and {LETTERS[second]}"


def test_words_are_centred_in_order_and_do_not_touch() -> None:
    for word in CAPTION_WORDS:
        places = layout(word)
        assert "".join(LETTERS[index] for index, _ in places) == word
        ends = [(x - GLYPHS[c][0] - STROKE, x + GLYPHS[c][0] + STROKE) for (_, x), c in zip(places, word, strict=True)]
        assert ends[0][0] == pytest.approx(-ends[-1][1])
        assert all(b[0] - a[1] > 0.1 for a, b in pairwise(ends))
        assert (ends[-1][1] - ends[0][0]) * 0.19 < 0.9, "with letters of 0.19 of the height it fits a square frame"
