"""What lies in the cells of drawn targets, and the layer that learns to tell it."""

from __future__ import annotations

import pytest
import torch

from opensama.training.cell_objects import LABELS, ObjectTeller, cell_objects, unknown_objects
from opensama.training.drawing import DrawSettings, draw_core, draw_footage
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
    names, how = [f"n-{i}" for i in range(40)], DrawSettings()
    together = draw_core(names, how, 0.3).objects
    assert together is not None
    assert together.shape == (40, LABELS, 1, 8, 8)
    known = (together[:, 0] >= 0).flatten(1).all(1)
    assert 0 < int((~known).sum()) < 20
    assert torch.equal(together[~known], unknown_objects(int((~known).sum()), 1, 128, 128))
    for i in (0, 7, 23):
        torch.testing.assert_close(draw_core([names[i]], how, 0.3).objects, together[i : i + 1])
    assert draw_footage(names[:2], DrawSettings(frames=17)).objects.shape == (2, LABELS, 5, 8, 8)


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
