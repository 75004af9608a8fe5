"""Windows of edits: cut where something changes, told where they lie by cells from outside."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from opensama.models.families import find_family
from opensama.models.icve import IcveTransformer3DModel
from opensama.models.registry import TINY
from opensama.models.sama import SamaTransformer3DModel
from opensama.recipes.tiny import CORE
from opensama.training.budget import TimeBudget
from opensama.training.drawn import DRAWN_STAGES, Pools
from opensama.training.embedded_config import TinyConfig
from opensama.training.pool import PoolEncoders
from opensama.training.sources import PoolSource
from opensama.training.tiny import given_parts
from opensama.training.windows import cut_windows


def batch(b: int = 64, t: int = 2, h: int = 6, w: int = 11) -> dict[str, torch.Tensor]:
    """Latents whose two numbers are a cell's own number and minus it; one cell changes in each sample."""
    cells = torch.arange(t * h * w).view(1, 1, t, h, w).expand(b, 1, t, h, w).float()
    change = torch.zeros(b, t, h * w)
    change[torch.arange(b), 0, torch.arange(b) % (h * w)] = 1
    return {"source": torch.cat((cells, -cells), 1), "target": 1000 + cells, "change": change.view(b, t, h, w)}


def test_a_window_is_a_square_around_the_change_and_the_source_has_corners_besides():
    x, (h, w) = batch(), (6, 11)
    cut = cut_windows(x, 4, 6, torch.Generator().manual_seed(0))
    assert cut["target"].shape == (64, 1, 1, 1, 32)
    assert cut["source"].shape == (64, 2, 1, 1, 32 + 12)
    assert cut["change"].shape == (64, 1, 1, 32)
    assert torch.equal(cut["source_places"][:, :32], cut["target_places"])
    for name, values in (("source", cut["source"][:, 0]), ("target", cut["target"][:, 0] - 1000)):
        time, row, column = cut[f"{name}_places"].unbind(-1)
        assert torch.equal(values[:, 0, 0], ((time * h + row) * w + column).float()), "places say what cells these are"
    assert (cut["change"].flatten(1).sum(1) == 1).float().mean() > 0.75
    for places, whole in zip(cut["target_places"], cut["source_places"], strict=True):
        cells = {tuple(p[1:].tolist()) for p in places}
        rows, columns = {y for y, _ in cells}, {x for _, x in cells}
        assert len(cells) == 16
        assert (max(rows) - min(rows), max(columns) - min(columns)) == (3, 3)
        assert rows <= set(range(h))
        assert columns <= set(range(w))
        seen = {tuple(p[1:].tolist()) for p in whole}
        assert len(seen) == 16 + 6
        assert {(0, 0), (0, w - 1), (h - 1, 0), (h - 1, w - 1)} <= seen


def test_what_changes_nothing_is_seen_anywhere():
    x = batch(400)
    x["change"] = torch.zeros_like(x["change"])
    places = cut_windows(x, 4, 4, torch.Generator().manual_seed(1))["target_places"]
    assert {(p[0, 1].item(), p[0, 2].item()) for p in places} == {(y, x) for y in range(3) for x in range(8)}


def model(family: str = "sama", **parts: int) -> SamaTransformer3DModel | IcveTransformer3DModel:
    torch.manual_seed(0)
    latents = {"patch_size": (1, 1, 1), "in_channels": 4, "out_channels": 4, "source_gate": True}
    heads = {"num_attention_heads": 2, "attention_head_dim": 24}
    own = {"text_dim": 8, "freq_dim": 16, "ffn_dim": 48, "num_layers": 2, "semantic_dim": None}
    if family == "icve":
        own = {"rope_axes_dim": (8, 8, 8), "text_embed_dim": 8, "pooled_projection_dim": 5, "num_layers": 1}
        own |= {"num_single_layers": 1, "num_refiner_layers": 1, "guidance_embeds": False}
    made = find_family(family).transformer(**latents, **heads, **own, **parts)
    torch.nn.init.normal_(made.proj_out.weight, std=0.5)
    if made.local_color is not None:
        for tensor in (*made.local_color.parameters(), *made.local_color.buffers()):
            torch.nn.init.normal_(tensor, std=0.3)
    if made.frame_position is not None:
        torch.nn.init.normal_(made.frame_position.proj.weight)
    return made


@pytest.mark.parametrize("family", ["sama", "icve"])
@pytest.mark.parametrize("sizes", [{}, {"color_rank": 3}, {"color_rank": 3, "color_shapes": 2}, {"frame_waves": 2}])
def test_all_cells_in_any_order_are_the_whole_frame(sizes: dict[str, int], family: str):
    net, g = model(family, **sizes), torch.Generator().manual_seed(2)
    noisy, source = torch.randn(2, 2, 4, 2, 3, 4, generator=g)
    x = {"text": torch.randn(2, 5, 8, generator=g), "sigma": torch.tensor([0.3, 0.9])}
    if family == "icve":
        x |= {"pooled": torch.randn(2, 5, generator=g), "text_mask": torch.ones(2, 5).tril(3)}
    order = torch.stack([torch.randperm(24, generator=g) for _ in range(2)])
    places = torch.stack((order // 12, order // 4 % 3, order % 4), -1)

    def taken(v: torch.Tensor) -> torch.Tensor:
        return v.flatten(2).gather(2, order[:, None].expand(-1, 4, -1))[:, :, None, None]

    def answer(**given: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return net(**find_family(family).condition(x | given)).sample

    cells = {"noisy": taken(noisy), "source": taken(source), "source_places": places, "target_places": places}
    whole, rows = answer(noisy=noisy, source=source), answer(**cells)
    net.set_attention_backend("native")  # diffusers' own way, as on a GPU
    others = answer(**cells)
    torch.testing.assert_close(rows, taken(whole), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(others, rows, atol=1e-5, rtol=1e-4)


def test_only_cells_from_outside_say_where_a_window_lies():
    """Rotary positions are relative: a window alone is the same everywhere, one with a corner is not."""
    net, g = model(), torch.Generator().manual_seed(3)
    noisy, source = torch.randn(2, 1, 4, 1, 1, 4, generator=g)
    corner, text = torch.randn(1, 4, 1, 1, 1, generator=g), torch.randn(1, 5, 8, generator=g)
    here = torch.tensor([[[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]]])
    there, sigma = here + torch.tensor([0, 3, 4]), torch.tensor([900.0])
    with torch.no_grad():
        alone = [net(noisy, sigma, text, source, places=(at, at)).sample for at in (here, there)]
        outside = torch.tensor([[[0, 7, 7]]])
        both = torch.cat((source, corner), -1)
        told = [net(noisy, sigma, text, both, places=(torch.cat((at, outside), 1), at)).sample for at in (here, there)]
    torch.testing.assert_close(*alone, atol=1e-5, rtol=1e-4)
    assert (told[0] - told[1]).abs().max() > 1e-3


def test_a_cell_may_be_told_where_in_the_frame_it_lies():
    """As a share of the frame, whose corner is among the source's cells: the same in a frame of twice the size."""
    net, g = model(frame_waves=3), torch.Generator().manual_seed(3)
    noisy, source = torch.randn(2, 1, 4, 1, 1, 4, generator=g)
    corner, text = torch.randn(1, 4, 1, 1, 1, generator=g), torch.randn(1, 5, 8, generator=g)
    here, sigma = torch.tensor([[[0, 0, 0], [0, 0, 2], [0, 2, 0], [0, 2, 2]]]), torch.tensor([900.0])

    def answer(at: torch.Tensor, last: int) -> torch.Tensor:
        places = torch.cat((at, torch.tensor([[[0, last, last]]])), 1), at
        with torch.no_grad():
            return net(noisy, sigma, text, torch.cat((source, corner), -1), places=places).sample

    moved = here + torch.tensor([0, 2, 2])
    assert (answer(here, 6) - answer(moved, 8)).abs().max() > 1e-2  # rotary differences are the same
    net.frame_position = None
    torch.testing.assert_close(answer(here, 6), answer(moved, 8), atol=1e-5, rtol=1e-4)


def test_the_videos_stage_reads_windows_of_clips_and_new_stills(tmp_path: Path):
    config = CORE.model_copy(update={
        "start_from": TINY.folder, "video_edits": 4, "video_batch": 3, "image_batch": 2, "window_batch": 20,
        "video_stills": 0.5, "video_windows": 0.75, "pretext": 0.0, "chunk": 8, "chunk_steps": 1,
    })  # fmt: skip
    parts, seen = given_parts(config, torch.device("cpu")), list[tuple[tuple[int, ...], bool]]()
    encoders = PoolEncoders(parts.vae, parts.encoder, parts.tokenizer)
    budget = TimeBudget(tmp_path / "budget.json", 0.0, {"videos": 1.0})
    pools = Pools(config, tmp_path / "pools", encoders, budget=budget, device=torch.device("cpu"))
    source = PoolSource(DRAWN_STAGES["videos"].streams(pools, config), parts.tokenizer)
    batches = [source.read(k) for k in range(40)]
    pools.close()
    for x in batches:
        seen.append((tuple(x["target"].shape), "target_places" in x))
        assert ("semantic" in x) != ("target_places" in x)
    frames = {2, 3, 4, 5}
    assert {shape[0] for shape, cut in seen if not cut} == {2, 3}, "whole stills, whole clips"
    assert {shape[2] for shape, cut in seen if not cut and shape[0] == 3} <= frames
    sides = {16, 25}
    assert {shape[0] for shape, cut in seen if cut} == {20, 4}, "a window of a clip takes five stills' place"
    assert {shape[-1] for shape, cut in seen if cut and shape[0] == 20} == sides
    assert {shape[-1] for shape, cut in seen if cut and shape[0] == 4} <= {t * n for t in frames for n in sides}
    assert 20 < sum(cut for _, cut in seen) < 38, "three in four"
    assert len(list((tmp_path / "pools").glob("videos-*-1x128x128*"))) > 1, "stills are drawn anew, not once for all"
    with pytest.raises(ValidationError, match="not trained on windows"):
        TinyConfig(family="bernini", video_windows=0.5)
