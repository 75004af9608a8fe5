"""Local colours: maps of a cell's colours, in latents of the embedded models' linear autoencoder."""

from __future__ import annotations

import pytest
import torch
from diffusers import HunyuanVideoTransformer3DModel, ModelMixin, WanTransformer3DModel
from torch import Tensor

from opensama.models.families import find_family
from opensama.models.local_color import LocalColor
from opensama.models.source_gate import gate
from opensama.models.tiny import PatchAutoencoder
from opensama.training.autoencoder import drawn_clips, set_latent_statistics

RED, BLUE, GRAY = (torch.tensor(color).view(3, 1, 1, 1) for color in ((0.9, -0.7, -0.6), (-0.8, -0.5, 0.9), (0.2,) * 3))


@pytest.fixture(scope="module")
def vae() -> PatchAutoencoder:
    torch.manual_seed(0)
    made = PatchAutoencoder(widths=(8, 8, 8), decoder_blocks=(1, 1, 1)).eval()
    made.start_from_components(drawn_clips(12, 0))
    set_latent_statistics(made, drawn_clips(4, 50))
    return made.requires_grad_(False)


def moving_disk(front: Tensor, behind: Tensor) -> Tensor:
    """Five frames [1 3 5 32 48] of a disk that moves."""
    t, y, x = torch.meshgrid(torch.arange(5), torch.arange(32), torch.arange(48), indexing="ij")
    disk = ((y - 15).square() + (x - 14 - 2 * t).square() < 90).float()
    return (behind + (front - behind) * disk)[None]


def codes(vae: PatchAutoencoder, clip: Tensor) -> Tensor:
    """Normalised latents [1 n c], token after token."""
    mean, std = (torch.tensor(vae.config[f"latents_{name}"]) for name in ("mean", "std"))
    return (vae.encode(clip).latent_dist.mode().flatten(2).transpose(1, 2) - mean) / std


def changed(vae: PatchAutoencoder, clip: Tensor, mixing: Tensor, bias: Tensor, rank: int = 256) -> Tensor:
    """A clip's codes where every pixel becomes pixel + mixing pixel + bias: b is what that does to a cell's mean."""
    source = codes(vae, clip)
    made = LocalColor(12, source.shape[-1], rank)
    made.read_autoencoder(vae)
    frames = torch.stack((clip[:, :, 0], clip[:, :, 1:].mean(2)), 2)
    mean = frames.unflatten(3, (2, 16)).unflatten(5, (3, 16)).mean((4, 6)).flatten(2).transpose(1, 2)  # [1 12 3]
    maps = mixing.flatten().expand(1, 12, 9)
    with torch.no_grad():
        made.map.weight.copy_(torch.eye(12) / 4)
        later = (torch.arange(source.shape[1]) >= 6)[None]
        return source + made(torch.cat((maps, mean @ mixing.T + bias), -1), source, later)


def error(given: Tensor, wanted: Tensor, source: Tensor) -> float:
    """Squared, over the source's own; the larger of the first frame's and the others'."""
    return max(
        float((given - wanted)[:, part].square().sum() / (source - wanted)[:, part].square().sum())
        for part in (slice(0, 6), slice(6, None))
    )


def test_one_map_of_colors_recolors_an_object_and_keeps_its_outline(vae: PatchAutoencoder):
    """Red becomes blue, and the ground stays: A (red - ground) = blue - red, and b lets the ground alone."""
    clip, wanted = moving_disk(RED, GRAY), codes(vae, moving_disk(BLUE, GRAY))
    lead = (RED - GRAY).flatten()
    mixing = torch.outer((BLUE - RED).flatten(), lead / lead.square().sum())
    for rank, most in ((256, 0.08), (96, 0.12)):  # the source's code has not all of its outline
        given = changed(vae, clip, mixing, -mixing @ GRAY.flatten(), rank)
        assert error(given, wanted, codes(vae, clip)) < most


def test_one_map_of_colors_removes_an_object(vae: PatchAutoencoder):
    clip, wanted = moving_disk(RED, GRAY), codes(vae, moving_disk(GRAY, GRAY))
    given = changed(vae, clip, -torch.eye(3), GRAY.flatten())
    assert error(given, wanted, codes(vae, clip)) < 0.03


def test_a_shape_of_one_colour_is_painted_with_a_sharp_outline(vae: PatchAutoencoder):
    """A square of which each cell sees a corner or a side: f has four waves, its outline is as sharp as the latents."""
    t, y, x = torch.meshgrid(torch.arange(5), torch.arange(32), torch.arange(48), indexing="ij")
    square = ((y - 14).abs().maximum((x - 22).abs()) < 11).float()[None, None]
    ground = GRAY.expand(3, 5, 32, 48)[None]
    source, wanted = codes(vae, ground), codes(vae, ground + (RED - GRAY) * square)
    made = LocalColor(12, source.shape[-1], 256, 1)
    made.read_autoencoder(vae)
    torch.manual_seed(0)
    tokens, later = torch.eye(12)[None], (torch.arange(12) >= 6)[None]
    optimizer = torch.optim.Adam([made.outline.weight, made.paint.weight], lr=0.05)
    for _ in range(200):
        left = (source + made(tokens, source, later) - wanted).square().sum()
        optimizer.zero_grad()
        left.backward()
        optimizer.step()
    with torch.no_grad():
        given = source + made(tokens, source, later)
    assert error(given, wanted, source) < 0.03


def test_shapes_alone_change_nothing_at_first(vae: PatchAutoencoder):
    source = codes(vae, moving_disk(RED, GRAY))
    made = LocalColor(12, source.shape[-1], 96, 2)
    made.read_autoencoder(vae)
    assert made.outline.weight.any()
    change = made(torch.randn(1, 12, 12), source, (torch.arange(12) >= 6)[None])
    assert not change.any()
    (change.sum()).backward()
    assert made.paint.weight.grad.any()


LATENTS = {"patch_size": (1, 1, 1), "in_channels": 4, "out_channels": 4, "source_gate": True}
HEADS = {"num_attention_heads": 2, "attention_head_dim": 12}
OWN = {
    "sama": {"text_dim": 8, "freq_dim": 16, "ffn_dim": 24, "num_layers": 1, "semantic_dim": 6, "semantic_hidden": 6},
    "icve": {
        "rope_axes_dim": (4, 4, 4), "text_embed_dim": 8, "pooled_projection_dim": 5, "num_layers": 1,
        "num_single_layers": 1, "num_refiner_layers": 1, "guidance_embeds": False,
    },
}  # fmt: skip
PARTS = {"color_rank": 5, "color_shapes": 2, "frame_waves": 2}


@pytest.mark.parametrize("family", OWN)
def test_a_model_that_gets_local_colors_and_positions_answers_as_before(family: str):
    make, sizes = find_family(family).transformer, LATENTS | HEADS | OWN[family]
    torch.manual_seed(0)
    plain = make(**sizes).eval()
    colored = make(**sizes, **PARTS).eval()
    missing = colored.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert {name.split(".")[0] for name in missing} == {"local_color", "frame_position"}
    noisy, source = torch.randn(2, 1, 4, 3, 2, 2)
    pooled = {"pooled_projections": torch.randn(1, 5)} if family == "icve" else {}
    for given in (source, source[:, :, :2], None):
        call = noisy, torch.tensor([700.0]), torch.randn(1, 3, 8), given
        with torch.no_grad():
            torch.testing.assert_close(colored(*call, **pooled).sample, plain(*call, **pooled).sample)
    with pytest.raises(ValueError, match="source_gate"):
        make(**sizes | {"source_gate": False}, color_rank=5)
    with pytest.raises(ValueError, match="color_rank"):
        make(**sizes, color_shapes=2)


def test_a_change_is_added_to_what_is_kept():
    """The first frame's cells change by planes of their own."""
    torch.manual_seed(0)
    made = LocalColor(6, 4, 3, 2)
    for tensor in (*made.buffers(), *made.parameters()):
        torch.nn.init.normal_(tensor)
    tokens, source = torch.randn(1, 12, 6), torch.randn(1, 4, 3, 2, 2)
    later = (torch.arange(12) >= 4)[None]
    change = made(tokens, source.flatten(2).transpose(1, 2), later).transpose(1, 2).unflatten(2, (3, 2, 2))
    noisy, sigma = torch.randn(1, 4, 3, 2, 2), torch.tensor([0.5])
    answer = torch.cat((torch.randn(1, 4, 3, 2, 2), torch.full((1, 4, 3, 2, 2), 60.0)), 1)
    torch.testing.assert_close(noisy - 0.5 * gate(answer, noisy, source, sigma, change), source + change)
    first = made(tokens[:, :4], source[:, :, :1].flatten(2).transpose(1, 2), None)
    torch.testing.assert_close(change[:, :, 0].flatten(2).transpose(1, 2), first)
    assert not torch.allclose(
        change[:, :, 1].flatten(2).transpose(1, 2),
        made(tokens[:, 4:8], source[:, :, 1].flatten(2).transpose(1, 2), None),
    )


@pytest.mark.parametrize(("name", "base"), [("sama", WanTransformer3DModel), ("icve", HunyuanVideoTransformer3DModel)])
def test_a_start_from_a_plain_base_draws_these_parts_too(name: str, base: type[ModelMixin]):
    """What low-rank training trains beside its matrices, and a base's weights lack, is all that the family adds."""
    family = find_family(name)
    model = family.transformer(**LATENTS | HEADS | OWN[name] | PARTS)
    drawn = {
        f"{part}.{name}": value.shape
        for part, module in family.draw_added(model.config).items()
        for name, value in module.state_dict().items()
    }
    own = {name: value.shape for name, value in model.state_dict().items() if family.is_added(name)}
    assert drawn == own
    assert {"local_color", "frame_position"} <= {name.split(".")[0] for name in own}
    plain = base.from_config(dict(model.config) | ({"patch_size": 1} if name == "icve" else {}))
    assert {name for name in model.state_dict() if name not in own} == set(plain.state_dict())
