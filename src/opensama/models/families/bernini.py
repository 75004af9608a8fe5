"""Bernini-R on Wan: videos and reference images before the target, told apart by a rotary phase; no new parameter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from opensama.models.defaults import Defaults
from opensama.models.families.family import Family, Shapes
from opensama.models.families.wan import (
    WAN_BASES,
    WAN_NAMES,
    WAN_PARTS,
    WanSizes,
    wan_config,
    wan_embedded,
    wan_prompt,
)

if TYPE_CHECKING:
    from torch import Tensor

_EDIT_PROMPTS = {
    "v2v": "You are a helpful assistant specialized in video editing.",
    "mv2v": "You are a helpful assistant for editing. You might need to adjust the video's style, lighting, colors,"
    " textures, and the subject's pose or action.",
    "rv2v": "You are a helpful assistant specialized in video editing with reference.",
    "vrc2v": "You are a helpful assistant for editing. You may need to adjust the subject's action or position.",
    "vi2v": "You are a helpful assistant specialized in video editing on content propagation.",
    "ads2v": "You are a helpful assistant specialized in ads insertion.",
    "i2i": "You are a helpful assistant specialized in image editing.",
}
"""What goes before a prompt, by task, as the weights were trained: those that edit something."""

TASK_PROMPTS = _EDIT_PROMPTS | {
    "r2v": "You are a helpful assistant specialized in subject-to-video generation.",
    "r2i": "You are a helpful assistant specialized in subject-to-image generation.",
    "t2v": "You are a helpful assistant specialized in text-to-video generation.",
    "t2i": "You are a helpful assistant specialized in text-to-image generation.",
    "i2v": "You are a helpful assistant specialized in image-to-video generation.",
}
"""Those of all tasks, also of ones without a source."""

_DEFAULTS = Defaults(
    steps=40, guidance=4.0, shift=5.0, area=848 * 480, multiple=16, window=81, overlap=4, shortest=37, least_side=480,
    prompt_prefix=TASK_PROMPTS["v2v"],
    negative_prompt=(
        "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，"  # noqa: RUF001
        "最差质量，低质量，JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，"  # noqa: RUF001
        "画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，"  # noqa: RUF001
        "三条腿，背景人很多，倒着走"  # noqa: RUF001
    ),
)  # fmt: skip
"""Those of the released command line, at 848x480. Below 480 pixels of width, and with clips of 17 to 33 frames, others
saw corrupted frames."""


def _condition(x: Mapping[str, Tensor]) -> dict[str, object]:
    """The arguments of BerniniTransformer3DModel's call for a batch: the source stays clean."""
    return {
        "hidden_states": x["noisy"],
        "timestep": 1000 * x["sigma"],
        **wan_prompt(x),
        "source_hidden_states": x.get("source"),
    }


def _config(shapes: Shapes, sizes: dict[str, object]) -> dict[str, object]:
    found, more = wan_config(FAMILY, shapes, sizes)
    return found | more


FAMILY = Family(
    name="bernini",
    transformer_class="opensama.models.bernini:BerniniTransformer3DModel",
    pipeline_class="opensama.pipeline.bernini:BerniniPipeline",
    lora_loader="diffusers.loaders:WanLoraLoaderMixin",
    names=(),  # the released ones are diffusers' own
    comfy_names=WAN_NAMES,
    config=_config,
    embedded=wan_embedded,
    sizes=WanSizes,
    condition=_condition,
    prompt=wan_prompt,
    parts=WAN_PARTS,
    bases=WAN_BASES
    | {
        "ByteDance/Bernini-R-1.3B-Diffusers": WAN_BASES["Wan-AI/Wan2.1-T2V-1.3B-Diffusers"],
        "ByteDance/Bernini-R-Diffusers": WAN_BASES["Wan-AI/Wan2.1-T2V-14B-Diffusers"],
    },
    start="wan",
    gguf_architecture="wan",
    defaults=_DEFAULTS,
    scheduler="diffusers:UniPCMultistepScheduler",
    tasks=_EDIT_PROMPTS,
    prompt_guide="It was trained with long prompts: first what changes, how it looks, where it is, what it does; then"
    " at length what stays as it is: the other things, their motion, the background, the camera, the light."
    " Reference images are called image0, image1 and so on, or where there is one, the reference image.",
    takes_references=True,
    pads_text=True,
)
