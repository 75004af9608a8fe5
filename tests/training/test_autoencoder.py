"""The patch autoencoder: Wan's interface, causal, and a code from the first step on."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from opensama.models.tiny import PatchAutoencoder, deblocked
from opensama.training.autoencoder import AutoencoderStage, drawn_clips, set_latent_statistics
from opensama.training.textures import dead_leaves, moving_crops


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    model = PatchAutoencoder(widths=(16, 16, 24), decoder_blocks=(1, 1, 1))
    model.start_from_components(drawn_clips(48, 0))
    return model.eval()


def psnr(a, b):
    return float(-10 * torch.log10((a - b).square().mean() / 4))


@torch.no_grad()
def test_shapes_and_interface(vae):
    x = drawn_clips(2, 100, 9)[..., :96, :]
    z = vae.encode(x).latent_dist.mode()
    assert z.shape == (2, 192, 3, 6, 8)
    assert vae.decode(z).sample.shape == x.shape
    torch.testing.assert_close(vae.decode(z, return_dict=False)[0], vae(x).sample)
    assert vae.config.scale_factor_spatial == 16
    assert len(vae.config.latents_mean) == 192


@torch.no_grad()
def test_it_is_a_code_before_any_training(vae):
    x = drawn_clips(4, 500, 5)
    assert psnr(vae(x).sample, x) > 24


@torch.no_grad()
def test_any_latents_come_back(vae):
    z = torch.randn(2, 192, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(vae.encode(vae.decode(z).sample).latent_dist.mode(), z, atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_it_is_causal_and_cut_at_groups_of_four(vae):
    x = drawn_clips(1, 7, 9)
    z = vae.encode(x).latent_dist.mode()
    torch.testing.assert_close(vae.encode(x[:, :, :5]).latent_dist.mode(), z[:, :, :2], atol=1e-5, rtol=1e-4)
    changed = x.clone()
    changed[:, :, 5:] = 0
    torch.testing.assert_close(vae.encode(changed).latent_dist.mode()[:, :, :2], z[:, :, :2], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_still_is_nearly_the_same_alone_and_in_a_group(vae):
    still = drawn_clips(4, 30, 1).expand(-1, -1, 5, -1, -1)
    z = vae.encode(still).latent_dist.mode()
    apart = (z[:, :120, 0] - z[:, :120, 1]).square().mean() / z[:, :120, 0].square().mean()
    assert apart < 1e-6


def test_wrong_frames_are_refused(vae):
    with pytest.raises(ValueError, match="4k\\+1"):
        vae.encode(torch.zeros(1, 3, 4, 32, 32))
    with pytest.raises(ValueError, match="multiples of 16"):
        vae.encode(torch.zeros(1, 3, 1, 30, 32))


def test_save_and_load(vae, tmp_path):
    set_latent_statistics(vae, drawn_clips(2, 0, 5))
    vae.save_pretrained(tmp_path)
    again = PatchAutoencoder.from_pretrained(tmp_path)
    assert again.config.latents_std == pytest.approx(vae.config.latents_std)
    x = drawn_clips(1, 3)
    with torch.no_grad():
        torch.testing.assert_close(again(x).sample, vae(x).sample)


def test_older_folders_hold_the_way_back_and_need_not(vae, tmp_path, caplog):
    vae.save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    back = {f"linear_out.{kind}.weight": layer.weight.T.contiguous() for kind, layer in vae.linear_in.items()}
    save_file(load_file(file) | back, file, metadata={"format": "pt"})
    again = PatchAutoencoder.from_pretrained(tmp_path)
    assert "linear_out" not in caplog.text
    with torch.no_grad():
        torch.testing.assert_close(again(drawn_clips(1, 3)).sample, vae(drawn_clips(1, 3)).sample)


def test_faint_steps_between_cells_become_ramps_and_edges_stay():
    """Cells of slightly different grey lose their borders; an edge, a texture and what lies within cells do not."""
    cells = torch.tensor([[0.0, 0.1, 0.2], [0.1, 0.2, 0.3]]).repeat_interleave(16, 0).repeat_interleave(16, 1)
    frames = cells.expand(2, 3, 4, 32, 48)
    smooth = deblocked(frames, 0.2)
    for axis in (-1, -2):
        assert frames.diff(dim=axis).abs().max() > 0.09
        assert smooth.diff(dim=axis).abs().max() < 0.1 / 8
    torch.testing.assert_close(smooth[..., :8, :8], frames[..., :8, :8])  # half a cell away from any border
    torch.testing.assert_close(smooth.mean(), frames.mean())
    assert torch.equal(deblocked(frames, 0.09), frames), "a step that is no smaller is an edge"

    ramp = torch.linspace(0, 1, 48).expand(1, 3, 1, 32, 48)
    torch.testing.assert_close(deblocked(ramp, 0.2), ramp)
    rough = frames + 0.3 * torch.rand(frames.shape, generator=torch.Generator().manual_seed(0)).round()
    same = deblocked(rough, 0.2) == rough
    assert same.float().mean() > 0.8


@torch.no_grad()
def test_deblocking_is_a_setting_of_the_decoder_alone(vae):
    smoothed = PatchAutoencoder.from_config(vae.config, deblocking=0.2)
    smoothed.load_state_dict(vae.state_dict())
    x = drawn_clips(1, 7, 9)
    z = vae.encode(x).latent_dist.mode()
    assert torch.equal(smoothed.encode(x).latent_dist.mode(), z)
    z = z + 0.3 * torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    plain, decoded = vae.decode(z).sample, smoothed.decode(z).sample
    torch.testing.assert_close(decoded, deblocked(plain, 0.2))
    assert not torch.equal(decoded, plain)
    smoothed.use_tiling = True
    torch.testing.assert_close(smoothed.decode(z).sample, decoded)


def test_textures_are_pictures():
    leaves = dead_leaves(2, side=64, leaves=20, seed=1)
    assert leaves.shape == (2, 3, 64, 64)
    assert 0 <= leaves.min() <= leaves.max() <= 1
    torch.testing.assert_close(leaves, dead_leaves(2, side=64, leaves=20, seed=1))
    clips = moving_crops(leaves, 3, 5, 32, generator=torch.Generator().manual_seed(0))
    assert clips.shape == (3, 3, 5, 32, 32)
    assert clips.abs().max() <= 1


def test_training_lowers_the_loss():
    torch.manual_seed(0)
    small = PatchAutoencoder(widths=(16, 16, 24), decoder_blocks=(1, 1, 1))
    stage = AutoencoderStage(small, batch=8, pictures=8, side=32)
    stage.start(64)
    optimizer = torch.optim.AdamW([p for p in small.parameters() if p.requires_grad], lr=2e-3)
    losses = []
    for i in range(12):
        loss = stage.step(i % 2)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert sum(losses[-4:]) < sum(losses[:4])
