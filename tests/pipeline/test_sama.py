"""SamaPipeline: the released sampler's numbers, seeds, guidance, solvers, windows, saving and LoRA."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import SiglipVisionConfig, SiglipVisionModel

from opensama.models.convert import load_released
from opensama.models.registry import TINY
from opensama.models.tiny import PatchAutoencoder
from opensama.pipeline.sama import SamaPipeline
from opensama.pipeline.wan import clean_text
from opensama.training.config import SemanticSettings
from opensama.training.frozen import anchor_tokens
from opensama.values import Cancelled
from tests.pipeline.conftest import tiny_transformer

GOLDEN = Path(__file__).parents[1] / "golden" / "sama"


@pytest.fixture
def clip(picture) -> torch.Tensor:
    return torch.from_numpy(picture(9, 32, 48)).permute(3, 0, 1, 2)[None].float() / 127.5 - 1


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.fixture(scope="module")
def golden_pipe(pipe) -> SamaPipeline:
    parts = {name: part for name, part in pipe.components.items() if name != "transformer"}
    transformer = load_released(GOLDEN / "checkpoint.safetensors", "sama", GOLDEN / "config.json")
    golden = SamaPipeline(**parts, transformer=transformer)
    golden.set_progress_bar_config(disable=True)
    return golden


def golden_call(golden_pipe: SamaPipeline, numbers: dict[str, torch.Tensor], **changes):
    settings = {"num_inference_steps": 4, "guidance_scale": 5.0, "shift": 5.0, "output_semantic": True}
    return golden_pipe(
        source_latents=numbers["source"], prompt_embeds=numbers["context"],
        negative_prompt_embeds=numbers["context_negative"], latents=numbers["noise"],
        semantic_latents=numbers["semantic_noise"], output_type="latent", **(settings | changes),
    )  # fmt: skip


def test_the_released_sampler_comes_out(golden_pipe):
    numbers = load_file(GOLDEN / "expected.safetensors")
    result = golden_call(golden_pipe, numbers)
    assert relative(result.frames, numbers["sampled_latents"]) < 1e-5
    assert relative(result.semantic, numbers["sampled_semantic"]) < 1e-5
    scheduler = golden_pipe.make_scheduler(4, 5.0, None, torch.device("cpu"))
    torch.testing.assert_close(scheduler.timesteps, numbers["timesteps"].float())


def test_separate_guidance_without_a_share_for_the_source_is_guidance(golden_pipe):
    numbers = load_file(GOLDEN / "expected.safetensors")
    result = golden_call(golden_pipe, numbers, source_guidance_scale=0.0)
    assert relative(result.frames, numbers["sampled_latents"]) < 1e-5
    more = golden_call(golden_pipe, numbers, source_guidance_scale=1.5)
    assert relative(more.frames, numbers["sampled_latents"]) > 1e-3


def test_separate_guidance_is_the_formula(golden_pipe):
    numbers = load_file(GOLDEN / "expected.safetensors")
    x, y, source = numbers["noise"], numbers["semantic_noise"], numbers["source"]

    def ask(context: str, source: torch.Tensor | None) -> torch.Tensor:
        t = torch.tensor([1000.0])
        return golden_pipe.transformer(x, t, numbers[context], source, y, return_dict=False)[0]

    with torch.no_grad():
        full, no_source = ask("context", source), ask("context", None)
        no_text = ask("context_negative", source)
    wanted = x - (full + 1.5 * (full - no_source) + 3.0 * (full - no_text))  # one step from sigma 1 to 0
    result = golden_call(
        golden_pipe, numbers, num_inference_steps=1, source_guidance_scale=1.5, text_guidance_scale=3.0
    )
    assert relative(result.frames, wanted) < 1e-5


def test_unipc_walks_the_same_path(golden_pipe):
    """Both solvers follow one equation, so that with enough steps they are near each other, and not the same."""
    numbers = load_file(GOLDEN / "expected.safetensors")
    settings = {"guidance_scale": 1.0, "shift": 3.0, "num_inference_steps": 25}
    euler = golden_call(golden_pipe, numbers, sampler="euler", **settings)
    unipc = golden_call(golden_pipe, numbers, sampler="unipc", **settings)
    assert 0 < relative(unipc.frames, euler.frames) < 0.05
    assert 0 < relative(unipc.semantic, euler.semantic) < 0.05


def test_a_pipeline_with_unipc_uses_it(pipe, clip):
    parts = pipe.components | {"scheduler": UniPCMultistepScheduler()}
    other = SamaPipeline(**parts, defaults=pipe.defaults.to_dict())
    other.set_progress_bar_config(disable=True)
    assert isinstance(other.make_scheduler(3, 3.0, None, torch.device("cpu")), UniPCMultistepScheduler)
    assert isinstance(other.make_scheduler(3, 3.0, "euler", torch.device("cpu")), FlowMatchEulerDiscreteScheduler)
    with pytest.raises(ValueError, match="euler or unipc"):
        other(clip, "Make it blue.", sampler="heun")


@pytest.mark.parametrize("frames", [1, 5, 9, 17])
def test_a_short_clip_has_as_many_anchors_as_in_training(pipe, picture, frames):
    """A model of four anchors: with a grid of positions, tokens beyond the clip's frames were never trained."""
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    encoder = SiglipVisionModel(SiglipVisionConfig(image_size=8, patch_size=4, **sizes)).eval()
    settings = SemanticSettings(encoder="a folder", anchors=4, width=8, grid=2)
    target = torch.from_numpy(picture(frames, 32, 32)).permute(3, 0, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        trained = anchor_tokens(encoder, settings, target)
    parts = pipe.components | {"transformer": tiny_transformer(num_anchors=4)}
    four = SamaPipeline(**parts, defaults=pipe.defaults.to_dict())
    four.set_progress_bar_config(disable=True)
    semantic = four(target, "Make it blue.", seed=0, num_inference_steps=1, output_semantic=True).semantic
    assert semantic[0].shape == trained.shape == (5 * min(4, (frames - 1) // 4 + 1), 8)


@pytest.mark.parametrize("sampler", ["euler", "unipc"])
@pytest.mark.parametrize("steps", [4, 200, 600])
def test_timesteps_are_exact_and_steps_are_counted(pipe, sampler, steps):
    """Integers would coincide from about 200 steps on: a clock that looks its place up would begin at the second."""
    scheduler = pipe.make_scheduler(steps, 5.0, sampler, torch.device("cpu"))
    sigma = torch.linspace(1, 0, steps + 1, dtype=torch.float64)[:-1]
    torch.testing.assert_close(scheduler.timesteps.double(), 5000 * sigma / (1 + 4 * sigma), rtol=0, atol=2e-3)
    assert scheduler.timesteps.dtype == torch.float32
    assert (scheduler.timesteps.diff() < 0).all()
    noise, data = torch.randn(2, 1, 4, generator=torch.Generator().manual_seed(0))
    x = noise
    for t in scheduler.timesteps:  # along a straight path every solver of the equation ends at the data
        x = scheduler.step(noise - data, t, x, return_dict=False)[0]
    torch.testing.assert_close(x, data, rtol=0, atol=1e-4)
    assert scheduler.step_index == steps


def test_the_model_is_asked_at_the_noise_that_there_is(pipe, clip):
    asked = []
    hook = pipe.transformer.register_forward_pre_hook(lambda _, __, x: asked.append(x["timestep"]), with_kwargs=True)
    with hook:
        pipe(clip, "Make it blue.", sampler="unipc", num_inference_steps=7, shift=5.0, output_type="latent")
    assert {t.dtype for t in asked} == {torch.float32}
    wanted = [5000 * s / (1 + 4 * s) for s in (1 - i / 7 for i in range(7))]
    assert [t.item() for t in asked] == pytest.approx(wanted, abs=2e-3)


def test_one_autoencoder_serves_two_threads(pipe, clip):
    """It keeps features of the frames before in itself: two decodings at once would read each other's."""
    z = torch.randn(8, 1, 4, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    other = SamaPipeline(**pipe.components, defaults=pipe.defaults.to_dict())  # of the same parts
    with torch.no_grad():
        wanted = [pipe.decode_latents(one) for one in z]
        again = [pipe.encode_video(one) for one in wanted]
    switching = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as threads:
            pipes = [pipe, other] * 4
            found = list(threads.map(torch.no_grad()(lambda p, one: p.decode_latents(one)), pipes, z))
            back = list(threads.map(torch.no_grad()(lambda p, one: p.encode_video(one)), pipes, wanted))
    finally:
        sys.setswitchinterval(switching)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    torch.testing.assert_close(back, again, rtol=0, atol=0)


def test_one_seed_fixes_all_noise(pipe, clip):
    first, same, other = (pipe(clip, "Make it blue.", seed=seed, output_semantic=True) for seed in (1, 1, 2))
    assert np.array_equal(first.frames, same.frames)
    assert torch.equal(first.semantic, same.semantic)
    assert not np.array_equal(first.frames, other.frames)
    assert not torch.equal(first.semantic, other.semantic)


@pytest.mark.parametrize("form", ["pil", "pt", "np", "latent"])
def test_every_output_form_has_the_source_shape(pipe, clip, form):
    frames = pipe(clip, "Make it blue.", seed=0, output_type=form).frames
    if form == "pil":
        assert len(frames[0]) == 9
        assert frames[0][0].size == (48, 32)
    else:
        shape = {"pt": (1, 9, 3, 32, 48), "np": (1, 9, 32, 48, 3), "latent": (1, 4, 3, 4, 6)}[form]
        assert tuple(frames.shape) == shape


def test_pictures_and_tensors_mean_the_same(pipe, picture):
    frames = picture(5, 32, 32)
    tensor = torch.from_numpy(frames).permute(3, 0, 1, 2).float() / 127.5 - 1
    one, other = (pipe(form, "Make it blue.", seed=0).frames for form in (frames, tensor))
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_several_videos_at_once(pipe, clip):
    two = torch.cat([clip, -clip])
    result = pipe(two, ["Make it blue.", "Remove the box."], seed=0)
    assert result.frames.shape == (2, 9, 32, 48, 3)
    with pytest.raises(ValueError, match="prompts"):
        pipe(two, ["a", "b", "c"])
    with pytest.raises(ValueError, match="window"):
        pipe(two.repeat(1, 1, 3, 1, 1), "Make it blue.")


def test_lengths_that_are_not_4k_plus_1_come_back_whole(pipe, clip):
    for frames in (1, 2, 4, 7):
        assert pipe(clip[:, :, :frames], "Make it blue.", seed=0).frames.shape[1] == frames


def test_windows_are_asked_in_chunks_with_the_same_answer(pipe, clip, monkeypatch):
    long = clip.repeat(1, 1, 4, 1, 1)
    together = pipe(long, "Make it blue.", seed=0, guidance_scale=2.0).frames
    monkeypatch.setattr(SamaPipeline, "windows_at_once", lambda self, latents: 1)
    apart = pipe(long, "Make it blue.", seed=0, guidance_scale=2.0).frames
    assert together.shape[1] == 36
    np.testing.assert_allclose(together, apart, atol=1e-4)


def test_anchors_set_how_many_semantic_tokens(pipe, clip):
    for anchors, tokens in ((1, 5), (2, 10)):
        result = pipe(clip, "Make it blue.", seed=0, num_anchors=anchors, output_semantic=True)
        assert result.semantic.shape == (1, tokens, 8)
    assert pipe(clip, "Make it blue.", seed=0, num_anchors=0, output_semantic=True).semantic is None


def test_prompts_are_cleaned_prefixed_and_padding_is_zero(pipe):
    clean = "[Video edit] make the ball & box blue"
    text = pipe.encode_prompt("make  the\n ball &amp; box blue")
    assert torch.equal(text, pipe.encode_prompt(clean, prefix=""))
    used = min(12, len(pipe.tokenizer(clean).input_ids))
    assert text.shape == (1, 12, 16)
    assert text[0, :used].abs().sum(-1).all()
    assert not pipe.encode_prompt("a")[0, -1].any()
    assert clean_text(" a\t b\u00a0c ") == "a b c"


def test_the_callback_sees_every_step_and_may_stop_or_change(pipe, clip):
    seen = []

    def stop(pipe, i, t, state):
        seen.append((i, sorted(state)))
        if i == 1:
            raise Cancelled

    with pytest.raises(Cancelled):
        pipe(clip, "Make it blue.", seed=0, num_inference_steps=5, callback_on_step_end=stop)
    assert seen == [(0, ["latents", "semantic"]), (1, ["latents", "semantic"])]

    def wipe(pipe, i, t, state):
        return {"latents": torch.zeros_like(state["latents"])}

    result = pipe(clip, "Make it blue.", seed=0, callback_on_step_end=wipe, output_type="latent")
    assert not result.frames.any()


def test_sizes_that_do_not_fit_are_refused(pipe, clip):
    with pytest.raises(ValueError, match="multiples of 16"):
        pipe(clip[..., :30, :], "Make it blue.")
    with pytest.raises(ValueError, match="video or source_latents"):
        pipe(prompt="Make it blue.")
    with pytest.raises(ValueError, match="prompt"):
        pipe(clip)


@pytest.mark.parametrize("door", [DiffusionPipeline, SamaPipeline])
def test_saved_and_loaded_it_gives_the_same_bits(pipe, folder, clip, door):
    again = door.from_pretrained(folder)
    again.set_progress_bar_config(disable=True)
    assert type(again) is SamaPipeline
    assert again.defaults == pipe.defaults
    assert np.array_equal(again(clip, "Make it blue.", seed=0).frames, pipe(clip, "Make it blue.", seed=0).frames)


def test_lora_is_saved_loaded_and_unloaded(folder, clip, tmp_path):
    pipe = SamaPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    plain = pipe(clip, "Make it blue.", seed=0, output_type="latent").frames
    torch.manual_seed(0)
    pipe.transformer.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q"], init_lora_weights=False))
    changed = pipe(clip, "Make it blue.", seed=0, output_type="latent").frames
    SamaPipeline.save_lora_weights(tmp_path, transformer_lora_layers=get_peft_model_state_dict(pipe.transformer))
    assert not torch.equal(plain, changed)

    fresh = SamaPipeline.from_pretrained(folder)
    fresh.set_progress_bar_config(disable=True)
    fresh.load_lora_weights(tmp_path, adapter_name="edit")
    torch.testing.assert_close(fresh(clip, "Make it blue.", seed=0, output_type="latent").frames, changed)
    fresh.unload_lora_weights()
    assert torch.equal(fresh(clip, "Make it blue.", seed=0, output_type="latent").frames, plain)


def test_a_step_cache_keeps_windows_apart(folder, clip):
    pipe = SamaPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    from diffusers import FirstBlockCacheConfig

    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.0))
    cached = pipe(clip.repeat(1, 1, 4, 1, 1), "Make it blue.", seed=0, guidance_scale=2.0).frames
    pipe.transformer.disable_cache()
    plain = pipe(clip.repeat(1, 1, 4, 1, 1), "Make it blue.", seed=0, guidance_scale=2.0).frames
    np.testing.assert_allclose(cached, plain, atol=1e-4)


def test_text_guidance_alone_asks_the_negative_prompt(pipe, clip):
    one = {"seed": 0, "guidance_scale": 1.0, "source_guidance_scale": 0.0, "output_type": "latent"}
    plain = pipe(clip, "Make it blue.", **one).frames
    guided = pipe(clip, "Make it blue.", text_guidance_scale=2.0, **one).frames
    same = pipe(clip, "Make it blue.", seed=0, guidance_scale=3.0, output_type="latent").frames
    assert not torch.equal(plain, guided)
    torch.testing.assert_close(guided, same)


def test_the_embedded_models_layout(pipe, picture):
    """One latent cell a token, sixteen pixels a cell, as the embedded model has it."""
    vae = PatchAutoencoder(widths=(8, 8, 8), decoder_blocks=(1, 1, 1)).eval()
    sizes = {"patch_size": (1, 1, 1), "in_channels": 192, "out_channels": 192, "source_gate": True}
    transformer = type(pipe.transformer).from_config(dict(pipe.transformer.config) | sizes).eval()
    small = SamaPipeline(
        **(pipe.components | {"vae": vae, "transformer": transformer}), defaults=TINY.defaults.to_dict()
    )
    small.set_progress_bar_config(disable=True)
    result = small(picture(17, 32, 48), "Make it blue.", seed=0, num_inference_steps=2, output_type="pt")
    assert small.multiple == 16
    assert result.frames.shape == (1, 17, 3, 32, 48)
