"""IcvePipeline: the released sampler's numbers, its words, guidance, the autoencoder's tiles, windows, saving, LoRA."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLHunyuanVideo, DiffusionPipeline, HunyuanVideoPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file

import opensama
from opensama.models.convert import load_released
from opensama.models.icve import IcveTransformer3DModel
from opensama.models.registry import ICVE_13B
from opensama.models.tiny import PatchAutoencoder
from opensama.pipeline.icve import IcvePipeline
from opensama.values import EditRequest, Video

GOLDEN = Path(__file__).parents[1] / "golden" / "icve"
ASK = "Make the ball blue."


@pytest.fixture
def clip(picture) -> torch.Tensor:
    return torch.from_numpy(picture(9, 32, 48)).permute(3, 0, 1, 2)[None].float() / 127.5 - 1


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def test_the_released_sampler_comes_out(icve):
    numbers = load_file(GOLDEN / "expected.safetensors")
    parts = icve.components | {
        "transformer": load_released(GOLDEN / "checkpoint.safetensors", "icve", GOLDEN / "config.json")
    }
    golden = IcvePipeline(**parts, defaults=ICVE_13B.defaults.to_dict())
    golden.set_progress_bar_config(disable=True)

    def words(which: str) -> dict[str, torch.Tensor]:
        return {
            "encoder_hidden_states": numbers[f"context{which}"],
            "encoder_attention_mask": numbers["context_mask"],
            "pooled_projections": numbers[f"pooled{which}"],
            "guidance": torch.tensor([1000.0]),
        }

    result = golden(
        source_latents=numbers["source"], condition=words(""), negative_condition=words("_negative"),
        latents=numbers["noise"], num_inference_steps=4, output_type="latent",
    )  # fmt: skip
    assert relative(result.frames, numbers["sampled_latents"]) < 1e-5
    scheduler = golden.make_scheduler(4, 7.0, None, torch.device("cpu"))
    torch.testing.assert_close(scheduler.timesteps, numbers["timesteps"].float())
    assert scheduler.timesteps.dtype == torch.float32
    again = golden(
        source_latents=numbers["source"], condition=words(""), negative_condition=words("_negative"),
        latents=numbers["noise"], num_inference_steps=4, output_type="latent", embedded_guidance_scale=6.0,
    )  # fmt: skip
    assert relative(again.frames, numbers["sampled_latents"]) > 1e-4


def test_words_are_those_of_diffusers_with_a_bare_template(icve):
    """HunyuanVideo's own encoding, without its chat template; padding is left off and does not count."""
    theirs = HunyuanVideoPipeline(
        **{name: part for name, part in icve.components.items() if name != "transformer"}, transformer=None
    )
    for text in (ASK, f"  {ASK}\n", ""):
        states, pooled, mask = theirs.encode_prompt(
            text.strip(), prompt_template={"template": "{}", "crop_start": 0}, max_sequence_length=12
        )
        words = icve.encode_text(text)
        used = int(mask.sum())
        assert words["encoder_hidden_states"].shape[1] == used
        torch.testing.assert_close(words["encoder_hidden_states"], states[:, :used], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(words["pooled_projections"], pooled, rtol=1e-5, atol=1e-5)
        assert "encoder_attention_mask" not in words
        assert words["guidance"].tolist() == [1000.0]
    pair = icve.encode_text(["a", ASK], 2)
    alone = icve.encode_text("a")
    used = alone["encoder_hidden_states"].shape[1]
    assert pair["encoder_attention_mask"].sum(1).tolist()[0] == used
    torch.testing.assert_close(pair["encoder_hidden_states"][:1, :used], alone["encoder_hidden_states"])


def test_the_layer_is_the_third_from_the_end(icve):
    words = icve.encode_text(ASK)
    ids = icve.tokenizer(ASK, return_tensors="pt").input_ids
    encoder = icve.text_encoder
    with torch.no_grad():
        x = encoder.embed_tokens(ids)
        rotary = encoder.rotary_emb(x, torch.arange(ids.shape[1])[None])
        mask = torch.full((ids.shape[1], ids.shape[1]), -torch.inf).triu(1)[None, None]
        for layer in encoder.layers[:-2]:
            x = layer(x, attention_mask=mask, position_embeddings=rotary)
    torch.testing.assert_close(words["encoder_hidden_states"], x, rtol=1e-5, atol=1e-5)


def test_guidance_acts_on_the_words_alone(icve, clip):
    """One step from noise: v_neg + 6 (v - v_neg), the source's tokens in both."""
    source = icve.encode_video(clip)
    noise = torch.randn(source.shape, generator=torch.Generator().manual_seed(3))
    words, away = icve.encode_text(ASK), icve.encode_text(icve.defaults.negative_prompt)
    asked = {"hidden_states": noise, "timestep": torch.tensor([1000.0]), "source_hidden_states": source}
    with torch.no_grad():
        v, v_neg = (icve.transformer(**asked, **w).sample for w in (words, away))
    result = icve(source_latents=source, prompt=ASK, latents=noise, num_inference_steps=1, output_type="latent")
    assert relative(result.frames, noise - (v_neg + 6 * (v - v_neg))) < 1e-5


def test_latents_are_the_mode_times_the_scaling(icve, clip):
    with torch.no_grad():
        mode = icve.vae.encode(clip).latent_dist.mode()
    scaled = icve.encode_video(clip)
    assert torch.equal(scaled, mode * 0.476986)
    with torch.no_grad():
        pixels = icve.vae.decode(mode).sample.clamp(-1, 1)
    torch.testing.assert_close(icve.decode_latents(scaled), pixels, rtol=1e-4, atol=1e-4)


def test_the_autoencoder_works_in_the_released_tiles(icve):
    vae = icve.vae
    assert isinstance(vae, AutoencoderKLHunyuanVideo)
    assert vae.use_tiling
    tiles = [vae.tile_sample_min_height, vae.tile_sample_min_width, vae.tile_sample_min_num_frames]
    strides = [vae.tile_sample_stride_height, vae.tile_sample_stride_width, vae.tile_sample_stride_num_frames]
    assert (tiles, strides) == ([256, 256, 64], [192, 192, 48])


def test_one_seed_fixes_all_noise(icve, clip):
    first, same, other = (icve(clip, ASK, seed=seed).frames for seed in (1, 1, 2))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)
    assert first.shape == (1, 9, 32, 48, 3)


def test_several_videos_and_prompts(icve, clip):
    two = torch.cat([clip, -clip])
    both = icve(two, [ASK, "Remove the box now."], seed=0, output_type="latent").frames
    noise = icve.noise(*icve.begin(two, None, 0, None))
    second = icve(two[1:], "Remove the box now.", latents=noise[1:], output_type="latent").frames
    assert relative(both[1:], second) < 1e-4


def test_saved_and_loaded_it_gives_the_same(icve, icve_folder, clip):
    for door in (DiffusionPipeline, IcvePipeline):
        again = door.from_pretrained(icve_folder)
        again.set_progress_bar_config(disable=True)
        assert type(again) is IcvePipeline
        assert again.defaults == icve.defaults
        assert again.vae.tile_sample_min_num_frames == 64
    np.testing.assert_allclose(again(clip, ASK, seed=0).frames, icve(clip, ASK, seed=0).frames, atol=1e-4)


def test_any_clip_through_the_editor(icve_folder, picture):
    """The same editor as SAMA's: any length, size and frame rate come back, long clips in windows."""
    editor = opensama.load(icve_folder, device="cpu")
    assert isinstance(editor.pipeline, IcvePipeline)
    for frames, height, width, fps in ((1, 40, 56, 25), (6, 37, 61, 24), (30, 32, 32, 12.5)):
        video = Video.from_frames(picture(frames, height, width), fps)
        edited = editor.edit(EditRequest(video, ASK, steps=1))
        assert (edited.shape, edited.timestamps) == (video.shape, video.timestamps)
        assert edited.array().shape == (frames, height, width, 3)


def test_lora_is_saved_and_loaded(icve_folder, clip, tmp_path):
    pipe, fresh = (IcvePipeline.from_pretrained(icve_folder) for _ in range(2))
    ask = {"seed": 0, "output_type": "latent", "guidance_scale": 1.0, "num_inference_steps": 1}
    for each in (pipe, fresh):
        each.set_progress_bar_config(disable=True)
    plain = pipe(clip, ASK, **ask).frames
    torch.manual_seed(0)
    pipe.transformer.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q"], init_lora_weights=False))
    changed = pipe(clip, ASK, **ask).frames
    IcvePipeline.save_lora_weights(tmp_path, transformer_lora_layers=get_peft_model_state_dict(pipe.transformer))
    fresh.load_lora_weights(tmp_path)
    assert not torch.equal(plain, changed)
    torch.testing.assert_close(fresh(clip, ASK, **ask).frames, changed)


def test_the_embedded_models_parts(pipe, picture):
    """One text encoder, the small autoencoder, a transformer of one cell a token: how a tiny ICVE is laid out."""
    transformer = IcveTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, rope_axes_dim=(4, 4, 4), in_channels=192, out_channels=192,
        text_embed_dim=16, pooled_projection_dim=16, num_layers=1, num_single_layers=1, num_refiner_layers=1,
        patch_size=1, guidance_embeds=False, source_gate=True,
    ).eval()  # fmt: skip
    vae = PatchAutoencoder(widths=(8, 8, 8), decoder_blocks=(1, 1, 1)).eval()
    small = IcvePipeline(
        pipe.tokenizer, pipe.text_encoder, vae, transformer, pipe.scheduler,
        defaults=pipe.defaults.to_dict() | {"prompt_prefix": ""},
    )  # fmt: skip
    small.set_progress_bar_config(disable=True)
    words = small.encode_text(["blue ball", "a"], 2)
    mask = words["encoder_attention_mask"][..., None]
    mean = (words["encoder_hidden_states"] * mask).sum(1) / mask.sum(1)
    torch.testing.assert_close(words["pooled_projections"], mean)
    assert small.multiple == 16
    assert small(picture(17, 32, 48), ASK, seed=0, output_type="pt").frames.shape == (1, 17, 3, 32, 48)
