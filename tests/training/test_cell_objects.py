"""What lies in the cells of drawn targets, and the layer that learns to tell it."""

from __future__ import annotations

import pytest
import torch

from opensama.models.families import find_family
from opensama.training.cell_objects import LABELS, ObjectTeller, cell_objects, unknown_objects
from opensama.training.drawing import DrawSettings, draw_core, draw_footage
from opensama.training.embedded_config import TinyConfig
from opensama.training.sources import PoolStream
from opensama.training.text import make_text_encoder, tokenize, train_tokenizer
from opensama.training.tiny import drawn_stage
from opensama.training.windows import cut_windows
from opensama.world import COLORS, KINDS, plan_edit, render_styled


@pytest.mark.parametrize("size", [(128, 128), (96, 176)])
def test_a_cell_that_an_object_covers_has_its_colour(size):
    """Against the pixels: in the middle of plain objects lies what the labels say, in every latent frame."""
    height, width = size
    right = seen = 0
    for seed in range(12):
        plan = plan_edit(seed, "train", "add", tier="core")
        labels = cell_objects([plan], 17, height, width)[0]
        clip = render_styled([plan.target], 17, height, width, torch.device("cpu"))[0]
        for t, frame in enumerate((0, 2, 6, 10, 14)):
            kind, color, along, down = labels[:4, t]
            for row, column in ((kind > 0) & (torch.hypot(along, down) < 0.3)).nonzero().tolist():
                assert KINDS[int(kind[row, column]) - 1] in plan.target.caption
                name = list(COLORS)[int(color[row, column])]
                pixels = clip[frame, :, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16].flatten(1)
                away = (pixels - torch.tensor(COLORS[name])[:, None]).abs().sum(0)
                right, seen = right + float((away < 0.1).float().mean() > 0.1), seen + 1
    assert seen > 30
    assert right / seen > 0.9  # an arrow leaves much of its middle free


def test_all_cells_of_an_object_say_the_same_middle():
    labels = cell_objects([plan_edit(3, "train", "remove", tier="core")], 1, 128, 128)[0, :, 0]
    kind, _, right, down, size, cos, sin = labels
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    radius = size.exp()  # cells
    middles = torch.stack((columns - right * radius, rows - down * radius), -1)[kind > 0]
    groups = {tuple(round(float(v), 2) for v in middle) for middle in middles}
    assert 1 <= len(groups) <= 2 < len(middles)
    torch.testing.assert_close((cos.square() + sin.square())[kind > 0], torch.ones(len(middles)))


def test_samples_of_all_sorts_keep_their_own_labels():
    """Of the core, of the whole world, and of footage, about which nothing is known, in the order of the names."""
    names, how = [f"n-{i}" for i in range(40)], DrawSettings(objects=True)
    together = draw_core(names, how, 0.3).objects
    assert together is not None
    assert together.shape == (40, LABELS, 1, 8, 8)
    known = (together[:, 0] >= 0).flatten(1).all(1)
    assert 0 < int((~known).sum()) < 20
    assert torch.equal(together[~known], unknown_objects(int((~known).sum()), 1, 128, 128))
    for i in (0, 7, 23):
        torch.testing.assert_close(draw_core([names[i]], how, 0.3).objects, together[i : i + 1])
    assert draw_core(names[:2], DrawSettings(), 0.3).objects is None
    assert draw_footage(names[:2], DrawSettings(frames=17, objects=True)).objects.shape == (2, LABELS, 5, 8, 8)


def test_a_window_has_the_labels_of_its_cells():
    g = torch.Generator().manual_seed(0)
    marks = torch.arange(2 * 64.0).view(1, 1, 2, 8, 8)
    x = {
        "source": marks, "target": marks, "change": torch.ones(1, 2, 8, 8), "objects": marks.expand(1, LABELS, 2, 8, 8)
    }  # fmt: skip
    cut = cut_windows(x, 3, 2, g)
    assert torch.equal(cut["objects"][:, :1], cut["target"])


def test_the_layer_learns_what_tokens_hold_and_nothing_of_unknown_cells():
    torch.manual_seed(0)
    labels = torch.cat([cell_objects([plan_edit(i, "train", "add", tier="core")], 1, 128, 128) for i in range(8)])
    labels = labels.flatten(2)
    known = torch.nn.functional.one_hot(labels[:, 0].long(), len(KINDS) + 1).float()
    tokens = torch.cat((known, labels[:, 1:].transpose(1, 2)), -1)
    teller, weight = ObjectTeller(tokens.shape[-1]), torch.ones(8, 64)
    optimizer = torch.optim.AdamW(teller.parameters(), lr=0.01)
    first = teller(tokens, labels, weight)
    for _ in range(150):
        optimizer.zero_grad()
        found = teller(tokens, labels, weight)
        found["objects"].backward()
        optimizer.step()
    assert found["kinds"] > 0.9 > first["kinds"]
    assert found["objects"] < 0.3 * first["objects"]
    nothing = teller(tokens[:2], unknown_objects(2, 1, 128, 128).flatten(2), weight[:2])
    assert nothing["objects"] == nothing["kinds"] == 0


def test_a_stage_whose_tokens_tell_learns_it_and_leaves_the_layer_behind():
    """Windows and whole clips alike; pools without labels are trained on as before; an export lacks the layer."""
    torch.manual_seed(0)
    plans = [plan_edit(i, "train", "add", tier="core") for i in range(8)]
    tokenizer = train_tokenizer([plan.instruction for plan in plans], 400)
    ids, mask = tokenize(tokenizer, [plan.instruction for plan in plans], 24)
    latents = {key: torch.randn(8, 192, 2, 8, 8) for key in ("source", "target")}
    labels = cell_objects(plans, 5, 128, 128)
    pool = latents | {"change": torch.ones(8, 2, 8, 8), "semantic": torch.zeros(8, 17, 32), "ids": ids, "mask": mask}
    config = TinyConfig(width=64, layers=1, text_width=32, semantic_width=32, objects=0.5)
    transformer = find_family("sama").transformer(**config.transformer_sizes)
    names = set(transformer.state_dict())
    told = [PoolStream(pool | {"objects": labels}, 8, 0.5, sides=(4,)), PoolStream(pool | {"objects": labels}, 8, 0.5)]
    text = make_text_encoder(tokenizer, 32, 1)
    stage = drawn_stage("x", transformer, text, tokenizer, told, objects=config.objects, text_dropout=0.0)
    plain = drawn_stage("x", transformer, text, tokenizer, told, text_dropout=0.0)
    found, without = stage.step(1), plain.step(1)
    torch.testing.assert_close(found["loss"] - without["loss"], 0.5 * found["objects"])
    assert {"objects", "kinds"}.isdisjoint(without)
    assert "objects" not in drawn_stage("x", transformer, text, tokenizer, [PoolStream(pool, 8, 1.0)], objects=1).step(
        0
    )
    optimizer = torch.optim.Adam([p for module in stage.modules().values() for p in module.parameters()], lr=3e-3)
    for index in range(40):
        loss = stage.step(index)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert stage.step(1)["objects"] < 0.8 * found["objects"]
    assert set(transformer.state_dict()) == names


def test_families_without_windows_have_no_such_loss():
    with pytest.raises(ValueError, match="set objects=0"):
        TinyConfig(family="bernini", objects=0.1)
