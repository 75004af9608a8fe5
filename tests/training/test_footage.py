"""Styles on what looks like footage: the answer is the style of the very frames, and every clip is another."""

from __future__ import annotations

import random

import torch

from opensama.models.registry import TINY, unknown_words
from opensama.training.drawing import FILMED, DrawSettings, draw_core, draw_plan
from opensama.training.footage import compressed, footage, styled_footage
from opensama.world import STYLES, apply_style

CPU = torch.device("cpu")


def test_a_clip_is_a_function_of_its_name_and_has_the_camera_in_it():
    one, other = footage("a", 3, 48, 64), footage("b", 3, 48, 64)
    assert one.shape == (3, 3, 48, 64)
    assert torch.equal(one, footage("a", 3, 48, 64))
    assert (one - other).abs().mean() > 0.05
    assert 0 <= one.min() < one.max() <= 1
    lights = torch.stack([footage(f"clip {i}", 1, 32, 32).mean() for i in range(6)])
    assert lights.std() > 0.08, "dark ones and light ones"


def test_what_jpeg_does():
    smooth = torch.linspace(0, 1, 64).expand(2, 3, 64, 64)
    assert (compressed(smooth, 95) - smooth).abs().max() < 0.05
    noise = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    errors = [(compressed(noise, quality) - noise).square().mean() for quality in (95, 40)]
    assert errors[0] < errors[1]


def test_the_answer_is_the_style_of_the_source():
    names = [f"film {i}" for i in range(8)]
    source, target, mask, texts, captions = styled_footage(names, "train", 2, 32, 32)
    seen = set()
    for i, (text, caption) in enumerate(zip(texts, captions, strict=True)):
        (style,) = [style for style in STYLES if caption == f"In {style} style."]
        assert style in text
        assert unknown_words(TINY, text + caption) == ()
        assert torch.equal(target[i], apply_style(style, source[i]))
        seen.add(style)
    assert len(seen) > 3
    assert mask.flatten(1).any(1).all()


def test_they_stand_among_the_cores_edits_each_at_its_name():
    names = [f"x-{i}" for i in range(40)]
    drawn = draw_core(names, DrawSettings(height=32, width=32))
    filmed = [i for i, name in enumerate(names) if drawn.texts[i] != draw_plan(name, "train", "core").instruction]
    assert 0 < len(filmed) < 4 * FILMED * len(names)
    source, _, _, texts, _ = styled_footage([names[i] for i in filmed], "train", 1, 32, 32)
    assert [drawn.texts[i] for i in filmed] == texts
    torch.testing.assert_close(drawn.pictures.source[filmed], source)
    (still,) = [i for i in (0, 1) if i not in filmed][:1]
    alone = draw_core([names[still]], DrawSettings(height=32, width=32))
    torch.testing.assert_close(drawn.pictures.target[still], alone.pictures.target[0])
    assert drawn.captions[still] == alone.captions[0]


def test_a_share_of_the_cores_edits_is_the_full_worlds():
    names, how = [f"x-{i}" for i in range(40)], DrawSettings(height=32, width=32)
    core, mixed = draw_core(names, how), draw_core(names, how, full_share=0.5)
    full = [i for i, name in enumerate(names) if mixed.texts[i] != core.texts[i]]
    assert 10 < len(full) < 30
    assert [mixed.texts[i] for i in full] == [draw_plan(names[i], "train", "full").instruction for i in full]
    kept = [i for i in range(40) if i not in full]
    torch.testing.assert_close(mixed.pictures.target[kept], core.pictures.target[kept])
    assert [mixed.captions[i] for i in kept] == [core.captions[i] for i in kept]


def test_the_cores_families_may_have_other_shares():
    names, how = [f"x-{i}" for i in range(20)], DrawSettings(height=32, width=32)
    drawn = draw_core(names, how, shares={"remove": 1, "absent": 1})
    plans = [draw_plan(name, "train", "core", {"remove": 1, "absent": 1}) for name in names]
    assert {plan.family for plan in plans} == {"remove", "absent"}
    core = [i for i, plan in enumerate(plans) if drawn.texts[i] == plan.instruction]
    assert len(core) > 20 * (1 - 4 * FILMED)


def test_a_lot_of_films_alone_is_drawn_too():
    (name,) = [f"y-{i}" for i in range(200) if random.Random(f"filmed/y-{i}").random() < FILMED][:1]
    assert draw_core([name], DrawSettings(height=32, width=32)).captions[0].startswith("In ")
    assert draw_core([name], DrawSettings(height=32, width=32)).pictures.source.shape == (1, 1, 3, 32, 32)
