"""A model of few words says which words of an instruction it has never been taught."""

from __future__ import annotations

import pytest

from opensama.apps.cli import main
from opensama.media.video_io import write_video
from opensama.models.registry import TINY, TINY_ICVE, find, unknown_words
from opensama.models.vocabulary import check_words, without_politeness
from opensama.pipeline.editor import load
from opensama.training.text import known_words
from opensama.values import UserError, Video
from opensama.world import CONTROL_FAMILIES, EDIT_FAMILIES, plan_edit, sample_edit


@pytest.mark.parametrize(
    ("instruction", "unknown"),
    [
        ("Remove the football.", ("football",)),
        ("Make it NIGHT in the video!", ()),
        ("Replace the cat with a red dog", ("cat", "dog")),
        ('Change the word to "cat".', ()),
        ("Change the word to \u201cCat\u201d.", ()),
        ('Change the word to "Xylophone", please, please.', ("xylophone", "please")),
        ("Turn the boy\u2019s ball blue 2 times", ("boy\u2019s", "2", "times")),
        ("", ()),
    ],
)
def test_what_is_unknown_to_the_embedded_models(instruction, unknown):
    for entry in (TINY, TINY_ICVE, find(str(TINY.folder))):
        assert unknown_words(entry, instruction) == unknown
    assert unknown_words(find("sama-14b"), instruction) == ()


@pytest.mark.parametrize(
    ("instruction", "plain", "polite"),
    [
        ("Please make it night.", "Make it night.", ("please",)),
        ("Could you make it night, please?", "Make it night.", ("could", "you", "please")),
        ("Make it night.", "Make it night.", ()),
        ('Kindly change the word to "please".', 'Change the word to "please".', ("kindly",)),
        ("Please!", "Please!", ()),
    ],
)
def test_words_of_politeness_are_left_out(instruction, plain, polite):
    assert without_politeness("tiny", instruction) == (plain, polite)
    assert without_politeness("sama-14b", instruction) == (instruction, ())


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("foggy", "'foggy' (fog?),"),
        ("rainy", "'rainy' (rain?),"),
        ("sunst", "'sunst' (sunset?),"),
        ("horse", "'horse',"),
        ("football", "'football',"),
    ],
)
def test_the_known_word_that_was_meant_is_named_where_that_is_sure(word, said):
    with pytest.raises(UserError) as caught:
        check_words("tiny", f"Make it {word}.")
    assert said in str(caught.value)


def test_all_that_the_world_says_is_known_and_both_models_list_it():
    for entry in (TINY, TINY_ICVE):
        assert (entry.folder / "words.txt").read_text().split() == known_words()
    for i in range(300):
        for split in ("train", "test"):
            plan = plan_edit(i, split, (*EDIT_FAMILIES, *CONTROL_FAMILIES)[i % 13])
            assert unknown_words(TINY, plan.instruction) == unknown_words(TINY, plan.caption) == ()


def test_the_command_says_so_and_edits_only_when_asked_to_go_on(tmp_path, capsys):
    clip, out = tmp_path / "clip.mp4", tmp_path / "out.mp4"
    write_video(Video.from_frames(sample_edit(0, frames=5, size=64).source, 16), clip)
    asked = ["edit", str(clip), "Remove the football.", "-o", str(out), "--device", "cpu", "--size", "64"]
    assert main(asked) == 2
    assert not out.exists()
    said = capsys.readouterr().err
    assert "never been taught 'football'" in said
    assert "--anyway" in said
    assert main([*asked, "--anyway", "--steps", "1"]) == 0
    assert out.exists()
    assert load("tiny", device="cpu").unknown_words("Remove the football.") == ("football",)
