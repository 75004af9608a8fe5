"""Whole pipelines of random weights at the smallest size, and a moving picture to edit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)

from opensama.models.bernini import BerniniTransformer3DModel
from opensama.models.families.bernini import FAMILY as BERNINI
from opensama.models.icve import IcveTransformer3DModel
from opensama.models.registry import ICVE_13B, Defaults
from opensama.models.sama import SamaTransformer3DModel
from opensama.pipeline.bernini import BerniniPipeline
from opensama.pipeline.icve import IcvePipeline
from opensama.pipeline.sama import SamaPipeline

DEFAULTS = Defaults(
    steps=2, guidance=1.0, shift=3.0, area=32 * 32, multiple=16, window=17, overlap=2, max_text_tokens=12, preserve=True
)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=["<pad>", "</s>", "<unk>"])
    tokenizer.train_from_iterator(["[Video edit] make the red ball blue and remove the green box"], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def tiny_text_encoder() -> UMT5EncoderModel:
    return UMT5EncoderModel(
        UMT5Config(vocab_size=120, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, pad_token_id=0)
    ).eval()


def tiny_vae() -> AutoencoderKLWan:
    return AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.0] * 4, latents_std=[0.5] * 4
    ).eval()


TINY_WAN: dict[str, Any] = {
    "patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4,
    "text_dim": 16, "freq_dim": 16, "ffn_dim": 32, "num_layers": 2,
}  # fmt: skip


def tiny_transformer(**changes: Any) -> SamaTransformer3DModel:
    semantic: dict[str, Any] = {
        "semantic_dim": 8, "semantic_hidden": 8, "semantic_tokens_per_anchor": 5, "semantic_rotary": "grid",
    }  # fmt: skip
    return SamaTransformer3DModel(**(TINY_WAN | semantic | changes)).eval()


@pytest.fixture(scope="session")
def pipe() -> SamaPipeline:
    torch.manual_seed(0)
    pipe = SamaPipeline(
        tokenizer=tiny_tokenizer(), text_encoder=tiny_text_encoder(), vae=tiny_vae(), transformer=tiny_transformer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), defaults=DEFAULTS.to_dict(),
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def folder(pipe, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model")
    pipe.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def bernini() -> BerniniPipeline:
    """With two transformers."""
    torch.manual_seed(0)
    small = {"steps": 4, "area": 32 * 32, "window": 17, "overlap": 2, "shortest": 13, "least_side": None,
             "max_text_tokens": 40}  # fmt: skip
    pipe = BerniniPipeline(
        tokenizer=tiny_tokenizer(), text_encoder=tiny_text_encoder(), vae=tiny_vae(),
        transformer=BerniniTransformer3DModel(**TINY_WAN).eval(), scheduler=UniPCMultistepScheduler(),
        transformer_2=BerniniTransformer3DModel(**TINY_WAN).eval(), defaults=BERNINI.defaults.to_dict() | small,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def bernini_folder(bernini, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("bernini")
    bernini.save_pretrained(path)
    return path


def tiny_llama(width: int = 16) -> LlamaModel:
    sizes = {"hidden_size": width, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = LlamaConfig(vocab_size=120, num_hidden_layers=4, pad_token_id=0, bos_token_id=1, eos_token_id=1, **sizes)
    return LlamaModel(config).eval()


def tiny_clip(width: int = 16) -> CLIPTextModel:
    sizes = {"hidden_size": width, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return CLIPTextModel(CLIPTextConfig(vocab_size=120, pad_token_id=0, bos_token_id=1, eos_token_id=1, **sizes)).eval()


def tiny_hunyuan_vae(channels: int = 4) -> AutoencoderKLHunyuanVideo:
    return AutoencoderKLHunyuanVideo(
        latent_channels=channels, block_out_channels=(4, 4, 4, 4), layers_per_block=1, norm_num_groups=2
    ).eval()


def tiny_icve_transformer() -> IcveTransformer3DModel:
    return IcveTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, rope_axes_dim=(4, 6, 6), in_channels=4, out_channels=4,
        text_embed_dim=16, pooled_projection_dim=16, num_layers=1, num_single_layers=1, num_refiner_layers=1,
    ).eval()  # fmt: skip


@pytest.fixture(scope="session")
def icve() -> IcvePipeline:
    torch.manual_seed(0)
    small = {"steps": 2, "area": 32 * 32, "window": 17, "overlap": 2, "max_text_tokens": 12}
    pipe = IcvePipeline(
        tokenizer=tiny_tokenizer(), text_encoder=tiny_llama(), tokenizer_2=tiny_tokenizer(),
        text_encoder_2=tiny_clip(), vae=tiny_hunyuan_vae(), transformer=tiny_icve_transformer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0), defaults=ICVE_13B.defaults.to_dict() | small,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def icve_folder(icve, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("icve")
    icve.save_pretrained(path)
    return path


def moving_picture(t: int = 9, h: int = 48, w: int = 64, dtype=np.uint8) -> np.ndarray:
    """A textured background with a disc that moves: t h w 3."""
    rng = np.random.default_rng(0)
    background = rng.integers(60, 120, (h, w, 3)).astype(np.float64)
    rows, columns = np.mgrid[:h, :w]
    frames = []
    for i in range(t):
        frame = background.copy()
        frame[(rows - h / 2) ** 2 + (columns - w / 4 - i) ** 2 < (h / 6) ** 2] = (220, 40, 40)
        frames.append(frame)
    top = np.iinfo(dtype).max
    return (np.stack(frames) / 255 * top).astype(dtype)


@pytest.fixture(scope="session")
def picture() -> Callable[..., np.ndarray]:
    return moving_picture
