"""BerniniPipeline: the released sampler's numbers in every mode, prompts, references, and edits through the editor."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, MagCacheConfig, UniPCMultistepScheduler, WanTransformer3DModel
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import opensama
from opensama.apps.cli import main
from opensama.apps.edit_settings import EditSettings
from opensama.media.video_io import read_video, write_video
from opensama.models.registry import Defaults, find
from opensama.pipeline.bernini import GUIDANCE_MODES, BerniniPipeline, task_prompt
from opensama.pipeline.editor import Editor
from opensama.pipeline.guidance import Projection
from opensama.pipeline.request_checks import check_family
from opensama.pipeline.room import download_notice, to_download
from opensama.values import EditRequest, UserError, Video
from tests.models.test_bernini import CONFIG, MANY, NUMBERS, REFERENCES, TOLERANCE, golden_expert, relative
from tests.models.test_lora_files import merged_state
from tests.pipeline.conftest import tiny_text_encoder, tiny_tokenizer, tiny_vae

SOURCE = [NUMBERS["source"]]
SAMPLED = {
    "sampled_v2v_apg": ("v2v_apg", SOURCE, []),
    "sampled_v2v_apg_momentum": ("v2v_apg", SOURCE, []),
    "sampled_v2v": ("v2v", SOURCE, []),
    "sampled_v2v_chain": ("v2v_chain", SOURCE, []),
    "sampled_rv2v": ("rv2v", SOURCE, REFERENCES),
    "sampled_rv2v_apg": ("v2v_apg", SOURCE, REFERENCES),
    "sampled_vv_apg": ("v2v_apg", [*SOURCE, NUMBERS["source_2"]], []),
    "sampled_many_rv2v": ("rv2v", SOURCE, MANY[1:]),
    "sampled_r2v_apg": ("r2v_apg", [], REFERENCES),
    "sampled_t2v": ("t2v", [], []),
    "sampled_t2v_apg": ("t2v_apg", [], []),
    "two_sampled_v2v_apg": ("v2v_apg", SOURCE, []),
    "two_sampled_rv2v": ("rv2v", SOURCE, REFERENCES),
}


def golden_pipes() -> dict[bool, BerniniPipeline]:
    """With one transformer, and with two."""
    parts = {"tokenizer": tiny_tokenizer(), "text_encoder": tiny_text_encoder(), "vae": tiny_vae()}
    one, two = golden_expert(), golden_expert("checkpoint_2.safetensors")
    scheduler = UniPCMultistepScheduler()
    pipes = {
        low: BerniniPipeline(**parts, transformer=one, scheduler=scheduler, transformer_2=two if low else None)
        for low in (False, True)
    }
    for pipe in pipes.values():
        pipe.set_progress_bar_config(disable=True)
    return pipes


@pytest.fixture(scope="module")
def golden() -> dict[bool, BerniniPipeline]:
    return golden_pipes()


def sampled_errors(pipes: dict[bool, BerniniPipeline]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name in SAMPLED:
        found |= sampled(pipes["two" in name], name)
    return found


def sampled(pipe: BerniniPipeline, name: str) -> dict[str, float]:
    """Relative errors of the sampled latents and of the first guided velocity."""
    mode, videos, images = SAMPLED[name]
    momentum = CONFIG["other_momentum" if "momentum" in name else "momentum"]
    first: list[Tensor] = []
    sigmas = NUMBERS["sigmas"]

    def keep(pipe, i, t, state):
        if not first:  # the first step of UniPC is Euler's: data = x - sigma v
            first.append(state["latents"])

    found = pipe(
        source_latents=videos, reference_latents=images, latents=NUMBERS["noise"], prompt_embeds=NUMBERS["context"],
        negative_prompt_embeds=NUMBERS["context_negative"], guidance_mode=mode, guidance_scale=CONFIG["omega_txt"],
        video_guidance_scale=CONFIG["omega_vid"], image_guidance_scale=CONFIG["omega_img"],
        projection=Projection(CONFIG["eta"], CONFIG["norm_threshold"], momentum), shift=CONFIG["shift"],
        num_inference_steps=CONFIG["num_inference_steps"], output_type="latent", callback_on_step_end=keep,
    ).frames  # fmt: skip
    errors = {name: relative(found, name)}
    if (velocity := name.replace("sampled", "first")) in NUMBERS and "two" not in name:
        errors[velocity] = relative((first[0] - NUMBERS["noise"]) / (sigmas[1] - sigmas[0]), velocity)
    return errors


def test_every_mode_samples_as_released(golden):
    errors = sampled_errors(golden)
    assert max(errors.values()) <= TOLERANCE, errors
    assert {name for name in NUMBERS if "first_" in name or "sampled_" in name} <= errors.keys()
    assert {mode for mode, _, _ in SAMPLED.values()} == set(GUIDANCE_MODES)


def test_the_grid_is_the_released_one(golden):
    scheduler = golden[False].make_scheduler(4, 5.0, None, torch.device("cpu"))
    assert torch.equal(scheduler.timesteps, NUMBERS["timesteps"].float())
    torch.testing.assert_close(scheduler.sigmas.float(), NUMBERS["sigmas"], rtol=0, atol=1e-7)


# The whole pipeline, with random weights

ASK = "Make the ball blue."


@pytest.fixture
def clip(picture) -> Tensor:
    return torch.from_numpy(picture(5, 32, 32)).permute(3, 0, 1, 2)[None].float() / 127.5 - 1


def test_prompts_are_as_released(bernini, monkeypatch):
    """The prompt cleaned, a task's words right before it; the negative prompt as it stands, wide commas and all."""
    texts: list[str] = []
    monkeypatch.setattr(bernini, "embed_texts", lambda given: texts.extend(given) or torch.zeros(1, 1, 16))
    bernini.encode_text("  make  it\n&amp; blue")
    bernini.encode_negative(None, 1, bernini.guidance(None))
    bernini.encode_text(ASK, prefix=task_prompt("rv2v"))
    assert texts[0] == "You are a helpful assistant specialized in video editing.make it & blue"
    assert texts[1].startswith("色调艳丽，过曝，静态")  # noqa: RUF001
    assert texts[1].count("，") == 27  # noqa: RUF001
    assert texts[2] == f"You are a helpful assistant specialized in video editing with reference.{ASK}"
    with pytest.raises(ValueError, match="choose v2v, mv2v"):
        task_prompt("v2w")
    with pytest.raises(ValueError, match="choose v2v_apg, rv2v"):
        bernini.chain("apg")


def test_saved_and_loaded_it_gives_the_same(bernini, bernini_folder, clip):
    again = DiffusionPipeline.from_pretrained(bernini_folder)
    again.set_progress_bar_config(disable=True)
    assert type(again) is BerniniPipeline
    assert again.defaults == bernini.defaults
    np.testing.assert_allclose(again(clip, ASK, seed=0).frames, bernini(clip, ASK, seed=0).frames, atol=1e-4)


def test_what_a_call_is_given_counts(bernini, clip):
    """Pictures of other sizes, the task, the mode, the scales; and without a video noise is enough."""
    ask = {"seed": 0, "num_inference_steps": 2, "output_type": "latent"}
    picture = clip[0, :, :1].repeat(1, 1, 1, 2)
    plain = bernini(clip, ASK, **ask).frames
    others = [
        bernini(clip, ASK, references=[picture], **ask),
        bernini(clip, ASK, references=[picture, -picture], task="rv2v", **ask),
        bernini(clip, ASK, task="mv2v", **ask),
        bernini(clip, ASK, guidance_mode="v2v", **ask),
        bernini(clip, ASK, guidance_scale=2.0, **ask),
        bernini(clip, ASK, projection=Projection(thresholds=(0.1,)), **ask),
        bernini(latents=torch.randn(1, 4, 4, 4, 4), prompt=ASK, references=[picture], task="r2v", **ask),
    ]
    found = [plain, *(other.frames for other in others)]
    assert {x.shape for x in found} == {plain.shape}
    assert len({x.double().sum().item() for x in found}) == len(found)
    with pytest.raises(ValueError, match="multiples of 16"):
        bernini(clip, ASK, references=[picture[..., :24]], **ask)


def test_each_of_several_videos_sees_its_own_source(bernini, clip):
    ask = {"num_inference_steps": 3, "output_type": "latent", "latents": torch.randn(2, 4, 2, 4, 4)}
    two = bernini(torch.cat([clip, -clip]), ASK, references=[clip[0, :, :1]], task="rv2v", **ask).frames
    ask["latents"] = ask["latents"][1:]
    alone = bernini(-clip, ASK, references=[clip[0, :, :1]], task="rv2v", **ask).frames
    torch.testing.assert_close(two[1:], alone, rtol=1e-4, atol=1e-4)


def test_any_clip_through_the_editor(bernini_folder, picture):
    editor = opensama.load(bernini_folder, device="cpu")
    assert isinstance(editor.pipeline, BerniniPipeline)
    asked: dict[str, int] = {}
    for name in ("transformer", "transformer_2"):
        model = getattr(editor.pipeline, name)
        model.register_forward_pre_hook(lambda *_, name=name: asked.update({name: asked.get(name, 0) + 1}))
    for frames, height, width, fps in ((1, 40, 56, 25), (6, 37, 61, 24), (30, 32, 32, 12.5)):
        video = Video.from_frames(picture(frames, height, width), fps)
        edited = editor.edit(EditRequest(video, ASK, source_guidance=1.25 if frames == 6 else None))
        assert (edited.shape, edited.timestamps) == (video.shape, video.timestamps)
        assert edited.array().shape == (frames, height, width, 3)
    # four steps: two above the boundary, two below; two forward passes each, three with a scale for the source
    assert asked == {"transformer": 14, "transformer_2": 14}


def test_a_second_transformer_that_is_damaged_is_said(bernini_folder, tmp_path):
    folder = shutil.copytree(bernini_folder, tmp_path / "model")
    file = folder / "transformer_2" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    del tensors["blocks.0.attn1.to_q.weight"]
    save_file(tensors, file)
    with pytest.raises(UserError, match=r"transformer_2 .*blocks.0.attn1.to_q.weight is missing"):
        opensama.load(folder, device="cpu")


Q = "blocks.0.attn1.to_q.weight"


def lora_for_q(model: torch.nn.Module, file: Path, size: float) -> tuple[Path, Tensor]:
    """A LoRA of one layer by Wan's names, as most are published, and what it adds to the weight."""
    width = model.state_dict()[Q].shape[0]
    down, up = torch.full((1, width), size), torch.arange(width, dtype=torch.float32)[:, None]
    key = "blocks.0.self_attn.q"
    file.parent.mkdir(exist_ok=True)
    save_file({f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}, file)
    return file, up @ down


def test_each_of_two_transformers_gets_the_loras_that_are_named_for_it(bernini, bernini_folder, tmp_path):
    """Two files, of which the names, or those of their folders, say which is which."""
    high, more = lora_for_q(bernini.transformer, tmp_path / "few_steps_high_noise.safetensors", 0.5)
    low, less = lora_for_q(bernini.transformer, tmp_path / "LowNoise" / "model.safetensors", 0.25)
    loaded = opensama.load(bernini_folder, device="cpu", lora=[low, (high, 2.0), low]).pipeline
    for model, own, added in zip(loaded.experts, bernini.experts, (2 * more, 2 * less), strict=True):
        torch.testing.assert_close(model.state_dict()[Q], own.state_dict()[Q] + added)
    adapted = opensama.load(bernini_folder, device="cpu").pipeline
    adapted.load_lora_weights(low, load_into_transformer_2=True)
    assert not hasattr(adapted.transformer, "peft_config")
    torch.testing.assert_close(merged_state(adapted.transformer_2)[Q], bernini.transformer_2.state_dict()[Q] + less)

    for name in ("plain.safetensors", "high-noise-and-low-noise.safetensors", "high_detail.safetensors"):
        file = tmp_path / name
        shutil.copy(high, file)
        with pytest.raises(UserError, match=rf"LoRA {name} does not say whether it is for high or low noise: rename"):
            opensama.load(bernini_folder, device="cpu", lora=[file])
    wrong = tmp_path / "wrong_low_noise.safetensors"
    save_file({"blocks.7.self_attn.q.diff": torch.zeros(2)}, wrong)
    with pytest.raises(UserError, match=r"is no LoRA for this model.*blocks\.7"):
        opensama.load(bernini_folder, device="cpu", lora=[wrong])


def test_a_cache_that_counts_steps_is_refused_where_two_transformers_share_them(bernini, clip):
    bernini.transformer_2.enable_cache(MagCacheConfig(num_inference_steps=4, mag_ratios=[1.0] * 4))
    try:
        with pytest.raises(UserError, match="two transformers take turns: use FirstBlockCache or SeaCache"):
            bernini(clip, ASK)
    finally:
        bernini.transformer_2.disable_cache()


# References and tasks, and the released layout


@pytest.fixture
def asked(bernini, monkeypatch) -> dict[str, list]:
    """What the transformer is shown, and the texts that are embedded."""
    found: dict[str, list] = {"texts": [], "streams": []}
    embed, shown = bernini.embed_texts, bernini.shown

    def keep(texts: list[str]) -> Tensor:
        found["texts"] += texts
        return embed(texts)

    def keep_shown(*given) -> list[Tensor]:
        found["streams"].append([tuple(x.shape[2:]) for x in shown(*given)])
        return shown(*given)

    monkeypatch.setattr(bernini, "embed_texts", keep)
    monkeypatch.setattr(bernini, "shown", keep_shown)
    return found


def test_references_and_task_through_the_editor(bernini, asked, picture, tmp_path):
    """Released chain of four passes; every picture in its own shape, never enlarged; windows share them."""
    Image.fromarray(picture(1, 20, 64)[0]).save(tmp_path / "wide.png")
    wide, small = tmp_path / "wide.png", picture(1, 16, 16)[0]
    editor = Editor(bernini, find("bernini-1.3b"))
    video = Video.from_frames(picture(21, 32, 32), 25)
    edited = editor.edit(EditRequest(video, ASK, references=[wide, small], steps=1))
    assert edited.array().shape == (21, 32, 32, 3)
    assert asked["texts"][0] == f"You are a helpful assistant specialized in video editing with reference.{ASK}"
    source, pictures = (5, 4, 4), [(1, 2, 6), (1, 2, 2)]  # 43 pixels are the longer side of 32 x 32
    assert asked["streams"][:4] == [[], [source], [source, *pictures], [source, *pictures]]

    asked["texts"].clear(), asked["streams"].clear()
    still = Video.from_frames(picture(1, 32, 32), 25)
    editor.edit(EditRequest(still, ASK, steps=1))
    assert asked["texts"][0].startswith("You are a helpful assistant specialized in image editing.")
    editor.edit(EditRequest(still, ASK, task="mv2v", steps=1))
    assert "lighting, colors, textures, and the subject's pose or action.Make" in asked["texts"][2]


def test_what_is_known_to_fail_is_refused_or_filled_up(bernini, asked, picture, tmp_path, capsys):
    """By the longer side, which a size gives to each shape; before a download; `anyway` goes on all the same."""
    editor, clip = Editor(bernini, find("bernini-1.3b")), Video.from_frames(picture(2, 32, 32), 25)
    with pytest.raises(UserError, match=r"below 480 .* `size=360` makes it 368: ask for `size=468` or more"):
        editor.edit(EditRequest(clip, ASK, size=360))
    wide = EditRequest(Video.from_frames(picture(2, 32, 56), 25), ASK, size=360)
    check_family(find("bernini-14b"), wide)  # 480x272
    with pytest.raises(UserError, match=r"is known to fail .* ask for `size=\d+` or more, leave it out, or add"):
        check_family(find("bernini-14b"), replace(wide, size=320))
    write_video(clip, tmp_path / "clip.mp4")
    assert main(["edit", str(tmp_path / "clip.mp4"), ASK, "-m", "bernini-1.3b", "--size", "256"]) == 2
    assert "at most 336: ask for --size 468 or more" in capsys.readouterr().err
    with pytest.raises(UserError, match="makes it 400: ask for `size=468`"):
        EditSettings(size=400).completed(EditRequest(clip, ASK, size=400), "bernini-1.3b", False)
    forced = Editor(bernini, find("bernini-1.3b"), anyway=True)
    assert forced.edit(EditRequest(clip, ASK, size=32, steps=1)).array().shape == (2, 32, 32, 3)
    assert asked["streams"][0] == [(4, 4, 4)]  # 13 frames, the last one again and again
    assert find("bernini-14b").defaults.shortest == 37


def test_other_families_take_no_references_and_no_task(folder, picture, tmp_path, capsys):
    clip, still = tmp_path / "clip.mp4", tmp_path / "still.png"
    write_video(Video.from_frames(picture(2, 32, 32), 25), clip)
    Image.fromarray(picture(1, 16, 16)[0]).save(still)
    with pytest.raises(UserError, match="takes no pictures beside the video: leave `references` out"):
        opensama.edit(clip, ASK, folder, references=[still])
    with pytest.raises(UserError, match="knows no task 'mv2v': leave `task` out"):
        opensama.load(folder, device="cpu").edit(EditRequest(clip, ASK, task="mv2v"))
    assert main(["edit", str(clip), ASK, "--model", "tiny-icve", "--reference", str(still)]) == 2
    assert "tiny-icve takes no pictures beside the video: leave --reference out." in capsys.readouterr().err


def test_references_and_task_from_the_command_line(bernini_folder, picture, tmp_path, capsys):
    clip, still, out = tmp_path / "clip.mp4", tmp_path / "still.png", tmp_path / "out.mp4"
    write_video(Video.from_frames(picture(2, 32, 32), 25), clip)
    Image.fromarray(picture(1, 16, 16)[0]).save(still)
    ask = ["edit", str(clip), ASK, "-m", str(bernini_folder), "--steps", "1"]
    assert main([*ask, "-o", str(out), "--reference", str(still), "--reference", str(still), "--task", "mv2v"]) == 0
    assert read_video(out).shape == read_video(clip).shape
    capsys.readouterr()
    for options, words in (
        (["--task", "v2w"], "knows no task 'v2w': choose v2v, mv2v, rv2v, vrc2v, vi2v, ads2v, i2i."),
        (["--reference", str(clip)], "clip.mp4 has 2 frames, and a reference is one picture."),
        (["--reference", "none.png"], "none.png"),
    ):
        assert main([*ask, "-o", str(tmp_path / "no.mp4"), *options]) == 2
        assert words in capsys.readouterr().err


@pytest.fixture(scope="module", params=["bernini-1.3b", "bernini-14b"])
def released(request, bernini, tmp_path_factory) -> tuple[str, Path]:
    """A model's name, and its repository as it is on the hub: parts side by side, transformers in shards, no index."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "config.json").write_text("{}")
    for name in ("tokenizer", "text_encoder", "vae", "transformer", "transformer_2"):
        if name != "transformer_2" or request.param == "bernini-14b":
            getattr(bernini, name).save_pretrained(folder / name)
    for config in folder.glob("transformer*/config.json"):
        plain = WanTransformer3DModel.from_pretrained(config.parent)
        shutil.rmtree(config.parent)
        plain.save_pretrained(config.parent, max_shard_size="20KB")
    return request.param, folder


def test_the_released_layout_makes_an_editor(released, bernini, picture):
    name, folder = released
    assert len(list(folder.glob("transformer/*.safetensors"))) > 1
    pipe = opensama.load(name, device="cpu", base=folder, weights=folder).pipeline
    assert isinstance(pipe, BerniniPipeline)
    assert (pipe.transformer_2 is None) == (name == "bernini-1.3b")
    for model, wanted in zip(pipe.experts, bernini.experts, strict=False):
        assert type(model) is type(wanted)
        assert all(torch.equal(p, q) for p, q in zip(model.parameters(), wanted.parameters(), strict=True))
    assert isinstance(pipe.scheduler, UniPCMultistepScheduler)
    assert (pipe.defaults.steps, pipe.defaults.shift, pipe.defaults.guidance) == (40, 5.0, 4.0)
    own = opensama.load(name, device="cpu", base=folder, weights=folder / "transformer").pipeline  # a folder of its own
    assert len(own.experts) == len(pipe.experts)
    if name == "bernini-14b":
        low, added = lora_for_q(pipe.transformer_2, folder / "lora_LOW_fp16.safetensors", 2.0)
        with_lora = opensama.load(name, device="cpu", base=folder, weights=folder, lora=[f"{low}:0.5"]).pipeline
        found, own = with_lora.transformer_2.state_dict()[Q], pipe.transformer_2.state_dict()[Q]
        torch.testing.assert_close(found, own + added / 2)
        assert torch.equal(with_lora.transformer.state_dict()[Q], pipe.transformer.state_dict()[Q])
    else:
        video = Video.from_frames(picture(2, 32, 48), 25)
        editor = Editor(pipe, replace(find(name), defaults=Defaults()))
        edited = editor.edit(EditRequest(video, ASK, references=[picture(1, 16, 16)[0]], steps=1, size=64))
        assert edited.array().shape == video.array().shape


def test_a_download_that_was_cut_is_not_taken_for_a_whole_one(released, monkeypatch, tmp_path, capsys):
    """What is missing counts, with the size of the rest; the whole of it loads from the hub's cache alone."""
    name, folder = released
    entry = find(name)
    there = tmp_path / f"models--{entry.base.repo.replace('/', '--')}"
    shutil.copytree(folder, there / "snapshots" / "one")
    (there / "refs").mkdir()
    (there / "refs" / "main").write_text("one")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert to_download(entry) == []
    assert len(opensama.load(name, device="cpu", anyway=True).pipeline.experts) == 1 + (name == "bernini-14b")
    first, *_, last = sorted((there / "snapshots" / "one").glob("transformer*/*.safetensors"))
    last.unlink()
    os.truncate(first, 2 * 10**9)  # without taking room
    (rest,) = to_download(entry)
    assert rest == replace(entry.edit, size="3.7 GB" if name == "bernini-1.3b" else "112.3 GB")
    assert "Licence: Apache-2.0" in download_notice(entry, [rest])
    assert main(["models", "info", name]) == 0
    assert f"(to download, {entry.edit.size})" in capsys.readouterr().out
    with pytest.raises(UserError, match=last.name):
        opensama.load(name, device="cpu", anyway=True)


@pytest.mark.parametrize("released", ["bernini-1.3b"], indirect=True)
def test_a_repack_in_bfloat16_loads_as_it_is(released, bernini, tmp_path):
    """Such as others publish: what the release keeps in float32 stays so."""
    name, folder = released
    repack = shutil.copytree(folder, tmp_path / "repack")
    shutil.rmtree(repack / "transformer")
    state = {
        key: tensor.clone()
        if {"time_embedder", "scale_shift_table", "norm2"} & {*key.split(".")}
        else tensor.bfloat16()
        for key, tensor in bernini.transformer.state_dict().items()
    }
    bernini.transformer.save_config(repack / "transformer")
    save_file(state, repack / "transformer" / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    bernini.text_encoder.save_pretrained(repack / "text_encoder")
    pipe = opensama.load(name, device="cpu", base=repack, weights=repack).pipeline
    for key, tensor in pipe.transformer.state_dict().items():
        assert torch.equal(tensor, state[key].float()), key
    half = opensama.load(name, device="cpu", dtype="bfloat16", base=repack, weights=repack).pipeline
    assert {key: x.dtype for key, x in half.transformer.state_dict().items()} == {
        key: x.dtype for key, x in state.items()
    }
