"""diffusers' features on our transformers: as they are where they work, made to fit where they do not, else refused.

step cache          what becomes of it
FirstBlockCache     works; the pipeline asks one row of the batch at a time, so that each is decided on its own
SeaCache            works: it looks at the target's latents; the pipeline tells it step, sigma and count
MagCache            works, with ratios measured on the model (`calibrate=True`), for as many steps as it was told
TaylorSeer          works: its own patterns name no attention of Wan, and its lite mode forgets the semantic head
PyramidAttentionBroadcast, FasterCache, TextKVCache
                    refused: one memory for all branches of guidance; another order of the batch; another model
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import torch
from diffusers import (
    FasterCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
    TextKVCacheConfig,
)
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from diffusers.models.modeling_utils import ModelMixin
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from opensama.models.parallel import blocks
from opensama.values import UserError

if TYPE_CHECKING:
    from diffusers import FirstBlockCacheConfig, MagCacheConfig, SeaCacheConfig

    CacheConfig: TypeAlias = FirstBlockCacheConfig | SeaCacheConfig | MagCacheConfig | TaylorSeerCacheConfig

REFUSED = {
    PyramidAttentionBroadcastConfig: "it keeps one memory for every branch of guidance, which would mix them",
    FasterCacheConfig: "it expects both branches of guidance in one batch, in another order than ours",
    TextKVCacheConfig: "it is written for one other model, and would do nothing here",
}
ATTENTION = r"(single_)?(transformer_)?blocks\.\d+\.attn[12]?"
BLOCKS = r"(single_)?(transformer_)?blocks\.\d+"
ENDS = ["proj_out", "semantic_head"]  # what turns the last block's tokens into answers


class CheckedFeatures:
    """Goes before a diffusers model, whose caches, fused projections, backends and single files it looks after."""

    _cache_config: CacheConfig | None
    modules: Callable[[], Iterable[nn.Module]]

    def enable_cache(self, config: CacheConfig) -> None:
        """diffusers' call. UserError for a cache that would compute something else here, or nothing at all."""
        super().enable_cache(checked_cache(self, config))  # type: ignore[misc]

    def fuse_qkv_projections(self) -> None:
        """diffusers' call. UserError beside a LoRA, which the fused matrices would not see, and where nothing fuses."""
        if has_adapters(self.modules()):
            raise UserError("A LoRA and fused projections do not go together: merge the LoRA first, or leave one out.")
        if not any(isinstance(m, AttentionModuleMixin) and m._supports_qkv_fusion for m in self.modules()):
            raise UserError(f"No attention of {type(self).__name__} can fuse its projections: leave the call out.")
        super().fuse_qkv_projections()  # type: ignore[misc]

    def add_adapter(self, *args: object, **given: object) -> None:
        refuse_fused(self.modules())
        super().add_adapter(*args, **given)  # type: ignore[misc]

    def load_lora_adapter(self, *args: object, **given: object) -> object:
        refuse_fused(self.modules())
        return super().load_lora_adapter(*args, **given)  # type: ignore[misc]

    def set_attention_backend(self, backend: str) -> None:
        """diffusers' call, for this model alone: diffusers makes it the default of every model in the process, too."""
        before, _ = _AttentionBackendRegistry.get_active_backend()
        try:
            super().set_attention_backend(backend)  # type: ignore[misc]
        finally:
            _AttentionBackendRegistry.set_active_backend(before)

    @classmethod
    def from_single_file(
        cls,
        path: str | Path,
        *,
        config: str | Path | Mapping[str, object] | None = None,
        torch_dtype: torch.dtype | None = None,
        dtype: torch.dtype | None = None,
        **given: object,
    ) -> ModelMixin:
        """The model of a released file: strictly, by `load_released`. Takes `config` (sizes) and `torch_dtype`."""
        from opensama.models.convert import load_released
        from opensama.models.families import family_of

        if given:
            raise UserError(f"from_single_file takes config and torch_dtype here: leave {', '.join(given)} away.")
        if not isinstance(path, str | Path) or re.match(r"\w+://", str(path)):
            raise UserError("from_single_file reads a file of this machine: download it first, and give its path.")
        config = Path(config) if isinstance(config, str) else config
        return load_released(Path(path).expanduser(), family_of(cls).name, config, dtype=torch_dtype or dtype)


def checked_cache(model: ModelMixin, config: CacheConfig) -> CacheConfig:
    """The cache's settings as they work on our model. UserError where none do."""
    name = type(config).__name__.removesuffix("Config")
    why = next((why for kind, why in REFUSED.items() if isinstance(config, kind)), None)
    if why is not None:
        raise UserError(f"{name} does not work here: {why}. FirstBlockCache, SeaCache, MagCache and TaylorSeer do.")
    if len(blocks(model)) < 2:
        raise UserError(f"{name} leaves out blocks after the first one, and this model has one: use no cache.")
    if isinstance(config, TaylorSeerCacheConfig):
        return checked_taylorseer(model, config)
    looks = getattr(config, "raw_vision_callback", target_latents)
    return config if looks is not None else replace(config, raw_vision_callback=target_latents)


def checked_taylorseer(model: ModelMixin, config: TaylorSeerCacheConfig) -> TaylorSeerCacheConfig:
    """TaylorSeer with names of ours: attention by default; in lite mode blocks are left out, all answers predicted."""
    if config.use_lite_mode:
        return replace(config, use_lite_mode=False, skip_predict_identifiers=[BLOCKS], cache_identifiers=ENDS)
    if not config.cache_identifiers and not config.skip_predict_identifiers:
        return replace(config, cache_identifiers=[ATTENTION])
    given = [*(config.cache_identifiers or []), *(config.skip_predict_identifiers or [])]
    names = [name for name, _ in model.named_modules()]
    for pattern in given:
        if not any(re.fullmatch(pattern, name) for name in names):
            raise UserError(f"No module's whole name is {pattern!r}, so TaylorSeer would leave nothing out: mend it.")
    return config


def target_latents(model: nn.Module, args: tuple[Tensor, ...], given: dict[str, Tensor]) -> list[Tensor]:
    """What SeaCache looks at in a call: the noisy target, each row's [c t h w]."""
    latents = args[0] if args else given["hidden_states"]
    return list(latents.unbind(0))


def check_steps(models: Sequence[nn.Module], steps: int) -> None:
    """UserError where a step cache counts other steps than there will be, also because models take turns."""
    told = {getattr(getattr(model, "_cache_config", None), "num_inference_steps", None) for model in models} - {None}
    if told and len(models) > 1:  # a MagCache has been told
        raise UserError(
            "A MagCache counts all steps, and two transformers take turns: use FirstBlockCache or SeaCache."
        )
    if told - {steps}:
        (counted,) = told
        raise UserError(
            f"The MagCache counts {counted} steps and the edit has {steps}: set num_inference_steps={steps}."
        )


def has_adapters(modules: Iterable[nn.Module]) -> bool:
    """Whether a LoRA is attached to one of the modules."""
    return any(isinstance(module, BaseTunerLayer) for module in modules)


def refuse_fused(modules: Iterable[nn.Module]) -> None:
    """UserError for a LoRA on projections that were fused: their matrices would not see it."""
    if any(getattr(module, "fused_projections", False) for module in modules):
        raise UserError(
            "The projections are fused, and a LoRA would not reach them: call unfuse_qkv_projections first."
        )


def sigma_of(scheduler: SchedulerMixin, i: int) -> float:
    """The noise level of step `i`, which a timestep of whole numbers does not say exactly."""
    return min(1.0, max(0.0, float(torch.as_tensor(scheduler.sigmas[i]))))
