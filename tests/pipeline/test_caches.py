"""Step caches in an edit: how many blocks they leave out, how far the result moves, and what is refused."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    FasterCacheConfig,
    FirstBlockCacheConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    SeaCacheConfig,
    TaylorSeerCacheConfig,
    TextKVCacheConfig,
)
from torch import Tensor, nn

import opensama
from opensama.models.bernini import BerniniTransformer3DModel
from opensama.models.icve import IcveTransformer3DModel
from opensama.pipeline.wan import WanEditPipeline
from opensama.values import Cancelled, EditRequest, Progress, UserError, Video
from tests.pipeline.conftest import TINY_WAN, tiny_icve_transformer, tiny_transformer

ASK, STEPS = "Make the ball blue.", 8
EXACT = torch.float32


def series(**changes: Any) -> TaylorSeerCacheConfig:
    settings: dict[str, Any] = {"cache_interval": 2, "disable_cache_before_step": 2, "taylor_factors_dtype": EXACT}
    return TaylorSeerCacheConfig(**(settings | changes))


# Which cache, and of 8 steps how many its blocks compute. TaylorSeer: two to begin with, then every other one.
CACHES: list[tuple[Any, int]] = [
    (FirstBlockCacheConfig(threshold=1e9), 1),
    (SeaCacheConfig(threshold=1e9, max_consecutive_cached=0), 2),  # the first step and the last one
    (SeaCacheConfig(threshold=0.0), 8),
    (MagCacheConfig(1e9, max_skip_steps=2, retention_ratio=0.25, num_inference_steps=STEPS, mag_ratios=[1.0] * 8), 4),
    (series(), 5),
    (series(use_lite_mode=True), 5),
]


@pytest.fixture(params=["sama", "bernini", "icve"], scope="module")
def deep(request, pipe, bernini, icve) -> Any:
    """A pipeline with a transformer of four blocks."""
    whole = {"sama": pipe, "bernini": bernini, "icve": icve}[request.param]
    torch.manual_seed(1)
    transformer: nn.Module = tiny_transformer(num_layers=4)
    if request.param == "bernini":
        transformer = BerniniTransformer3DModel(**TINY_WAN | {"num_layers": 4}).eval()
    if request.param == "icve":
        config = dict(tiny_icve_transformer().config)
        sizes = {"num_layers": 2, "num_single_layers": 2}
        transformer = IcveTransformer3DModel.from_config(config | sizes).eval()
    alone = {name: part for name, part in whole.components.items() if name != "transformer_2"}
    twin = type(whole)(**(alone | {"transformer": transformer}), defaults=whole.defaults.to_dict())
    twin.set_progress_bar_config(disable=True)
    return twin


def last_block(pipe: Any) -> tuple[nn.Module, int]:
    """What the last block alone computes and a cache that leaves it out does not, and how often a pass calls it."""
    if isinstance(pipe, WanEditPipeline):
        return pipe.transformer.blocks[-1].attn1.to_q, 1
    return pipe.transformer.single_transformer_blocks[-1].attn.to_q, 2  # for the video and for the text


def latents_of(pipe: Any, b: int = 1, **changes: Any) -> Tensor:
    g = torch.Generator().manual_seed(2)
    source = torch.randn(b, 4, 2, 4, 4, generator=g)
    settings: dict[str, Any] = {"num_inference_steps": STEPS, "guidance_scale": 3.0, "seed": 0}
    return pipe(source_latents=source, prompt=ASK, output_type="latent", **(settings | changes)).frames


@pytest.fixture(scope="module")
def plain(deep) -> Tensor:
    return latents_of(deep)


@pytest.mark.parametrize(
    ("config", "computed"), CACHES, ids=lambda x: type(x).__name__ if not isinstance(x, int) else x
)
def test_a_cache_leaves_blocks_out_and_moves_the_edit_a_little(deep, plain, config, computed):
    calls: list[Any] = []
    last, times = last_block(deep)
    counting = last.register_forward_hook(lambda *_: calls.append(1))
    deep.transformer.enable_cache(copy.deepcopy(config))
    try:
        cached = latents_of(deep)
        assert len(calls) == times * 2 * computed  # with the negative prompt
        assert torch.equal(latents_of(deep), cached)
        assert len(calls) == times * 4 * computed
    finally:
        deep.transformer.disable_cache()
        counting.remove()
    error = float((cached - plain).norm() / plain.norm())
    assert error < 1e-6 if computed == STEPS else 1e-7 < error < 0.2
    assert torch.equal(latents_of(deep), plain)


@pytest.mark.parametrize("deep", ["bernini"], indirect=True)
def test_each_of_two_transformers_has_a_cache_of_its_own(deep):
    """What one has kept is not the other's: each computes all of its first step, and none of its others."""
    experts = [deep.transformer, copy.deepcopy(deep.transformer)]
    with torch.no_grad():
        for p in experts[1].parameters():
            p.mul_(0.9)
    pipe = type(deep)(**deep.components | {"transformer_2": experts[1]}, defaults=deep.defaults.to_dict())
    pipe.set_progress_bar_config(disable=True)
    plain, calls = latents_of(pipe), [list[Any](), list[Any]()]
    for expert, counted in zip(experts, calls, strict=True):
        expert.blocks[-1].attn1.to_q.register_forward_hook(lambda *_, counted=counted: counted.append(1))
        expert.enable_cache(FirstBlockCacheConfig(threshold=1e9))
    try:
        cached = latents_of(pipe)
        assert [len(counted) for counted in calls] == [2, 2]  # with the negative prompt
        assert torch.equal(latents_of(pipe), cached)
    finally:
        deep.transformer.disable_cache()
    assert 1e-7 < float((cached - plain).norm() / plain.norm()) < 0.3


@pytest.mark.parametrize("deep", ["sama"], indirect=True)
def test_the_lite_series_still_denoises_semantic_tokens(deep):
    source = torch.randn(1, 4, 2, 4, 4, generator=torch.Generator().manual_seed(2))
    asked: dict[str, Any] = {"num_inference_steps": STEPS, "seed": 0, "output_semantic": True, "output_type": "latent"}
    plain = deep(source_latents=source, prompt=ASK, **asked).semantic
    deep.transformer.enable_cache(series(use_lite_mode=True))
    try:
        lite = deep(source_latents=source, prompt=ASK, **asked).semantic
    finally:
        deep.transformer.disable_cache()
    assert float((lite - plain).norm() / plain.norm()) < 0.1


@pytest.mark.parametrize("deep", ["sama", "icve"], indirect=True)
def test_each_video_of_a_batch_is_decided_on_its_own(deep):
    """One first block decides for the batch: a still clip beside a lively one would be given the other's answer."""
    both = latents_of(deep, 2, guidance_scale=1.0)
    calls: list[int] = []
    last, times = last_block(deep)
    counting = last.register_forward_hook(lambda module, args, out: calls.append(len(args[0])))
    deep.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.0))
    try:
        torch.testing.assert_close(latents_of(deep, 2, guidance_scale=1.0), both, atol=1e-5, rtol=1e-4)
    finally:
        deep.transformer.disable_cache()
        counting.remove()
    assert calls == [1] * (times * 2 * STEPS)


def now() -> int:
    return 500


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (PyramidAttentionBroadcastConfig(2, current_timestep_callback=now), "PyramidAttentionBroadcast .* mix them"),
        (FasterCacheConfig(current_timestep_callback=now), "FasterCache .* another order"),
        (TextKVCacheConfig(), "TextKVCache .* one other model"),
        (TaylorSeerCacheConfig(cache_identifiers=["blocks.*attention"]), r"'blocks\.\*attention'.*leave nothing out"),
    ],
)
def test_what_does_not_work_is_refused(deep, config, words):
    with pytest.raises(UserError, match=words):
        deep.transformer.enable_cache(config)
    assert not deep.transformer.is_cache_enabled


def test_a_cache_for_other_steps_or_for_one_block_is_refused(deep):
    deep.transformer.enable_cache(MagCacheConfig(num_inference_steps=28, mag_ratios=[1.0] * 28))
    try:
        with pytest.raises(UserError, match="counts 28 steps and the edit has 8: set num_inference_steps=8"):
            latents_of(deep)
    finally:
        deep.transformer.disable_cache()
    with pytest.raises(UserError, match="this model has one"):
        tiny_transformer(num_layers=1).enable_cache(FirstBlockCacheConfig())


@pytest.mark.parametrize("deep", ["sama", "icve"], indirect=True)
@pytest.mark.parametrize("sampler", ["euler", "unipc"])
def test_the_cache_is_told_the_exact_noise_level(deep, sampler, monkeypatch):
    told: list[dict[str, Any]] = []
    context = type(deep.transformer).cache_context

    def tell(self: Any, name: str, **place: Any) -> Any:
        told.append({"name": name, **place})
        return context(self, name, **place)

    monkeypatch.setattr(type(deep.transformer), "cache_context", tell)
    latents_of(deep, guidance_scale=1.0, num_inference_steps=4, shift=3.0, sampler=sampler)
    s = np.linspace(1, 0, 5)[:-1]
    assert [place["step_index"] for place in told] == [0, 1, 2, 3]
    assert {place["num_inference_steps"] for place in told} == {4}
    np.testing.assert_allclose([place["sigma"] for place in told], 3 * s / (1 + 2 * s), rtol=2e-3)


@pytest.mark.parametrize("stop", ["Editing", "Decoding"])
def test_a_cancelled_edit_leaves_nothing_to_the_next(folder, picture, stop):
    """Another size: what a cache remembers of the cancelled one has another shape."""

    def cancel(progress: Progress) -> None:
        if progress.stage == stop:
            raise Cancelled

    editor = opensama.load(folder, device="cpu")
    large, small = (Video.from_frames(picture(5, *size), 25) for size in ((48, 64), (32, 32)))
    plain = editor.edit(EditRequest(small, ASK, size=32)).array()
    editor.pipeline.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.0))
    with pytest.raises(Cancelled):
        editor.edit(EditRequest(large, ASK, size=64, progress=cancel))
    again = editor.edit(EditRequest(small, ASK, size=32)).array()
    np.testing.assert_allclose(again.astype(int), plain.astype(int), atol=1)


def test_a_cancelled_call_of_the_pipeline_too(deep):
    def cancel(*_: Any) -> None:
        raise Cancelled

    deep.transformer.enable_cache(FirstBlockCacheConfig(threshold=1e9))
    try:
        with pytest.raises(Cancelled):
            latents_of(deep, 2, callback_on_step_end=cancel)
        source = torch.randn(1, 4, 1, 2, 2, generator=torch.Generator().manual_seed(2))
        settings = {"source_latents": source, "prompt": ASK, "seed": 0, "output_type": "latent"}
        one, other = (deep(**settings, num_inference_steps=2).frames for _ in range(2))
        assert torch.equal(one, other), "nothing of the call that was cancelled is left"
    finally:
        deep.transformer.disable_cache()
    assert not torch.equal(one, deep(**settings, num_inference_steps=2).frames), "the second step was skipped"
