"""SAMA on Wan: source, semantic and target tokens in one sequence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from opensama.models.costs import TransformerConfig
from opensama.models.families.family import EmbeddedSettings, Family, Names, Shapes, draw_on_source, on_source
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
    from torch import Tensor, nn

_NAMES: Names = (
    *WAN_NAMES,
    ("segment_embedding", "token_types"),
    ("siglip_feat_mlp.norm", "semantic_embedder.norm"),
    ("siglip_feat_mlp.fc1", "semantic_embedder.fc1"),
    ("siglip_feat_mlp.fc2", "semantic_embedder.fc2"),
    ("semantic_head.norm", "semantic_head.norm"),
    ("semantic_head.proj", "semantic_head.proj"),
)


def _condition(x: Mapping[str, Tensor]) -> dict[str, object]:
    """The arguments of SamaTransformer3DModel's call for a batch; plain text-to-video has no source.

    Where its tokens are some of a frame's, `source_places` and `target_places` say which (`training/windows.py`).
    """
    return {
        "hidden_states": x["noisy"],
        "timestep": 1000 * x["sigma"],
        **wan_prompt(x),
        "source_hidden_states": x.get("source"),
        "places": (x["source_places"], x["target_places"]) if "source_places" in x else None,
        "semantic_hidden_states": x.get("noisy_semantic"),
    }


def _config(shapes: Shapes, given: dict[str, object]) -> dict[str, object]:
    """SamaTransformer3DModel's arguments: those given (released names, or the arguments' own), else from shapes.

    What shapes cannot say is the release's: heads of 128, 65 tokens an anchor, eps 1e-6.
    """
    released = ("dim", "num_heads", "num_semantic_tokens", "in_dim", "out_dim")
    found, sizes = wan_config(FAMILY, shapes, given, released)
    semantic = shapes.get("siglip_feat_mlp.fc1.weight", (1024, 1152))
    tokens = sizes.pop("num_semantic_tokens", 65)
    anchors, rest = divmod(tokens, 65)
    if rest:
        anchors, per_anchor = 1, tokens
    else:
        per_anchor = 65
    own = {
        "semantic_dim": semantic[1],
        "semantic_hidden": semantic[0],
        "semantic_tokens_per_anchor": per_anchor,
        "num_anchors": anchors,
        "semantic_gate": "semantic_gates.weight" in shapes,
    }
    return found | own | sizes


def _embedded(settings: EmbeddedSettings) -> dict[str, object]:
    """SamaTransformer3DModel's arguments for the embedded model's settings."""
    return wan_embedded(settings) | {
        **on_source(settings),
        "semantic_dim": settings.semantic_width,
        "semantic_hidden": settings.semantic_width,
        "semantic_tokens_per_anchor": 17,
        "semantic_rotary": settings.semantic_rotary or "grid",
    }


def draw_added(config: TransformerConfig) -> dict[str, nn.Module]:
    """A zero type embedding, semantic modules as torch draws them; gates, places, colours that change nothing yet."""
    import torch
    from torch import nn

    from opensama.models.semantic import SemanticEmbedder, SemanticHead

    d = config["num_attention_heads"] * config["attention_head_dim"]
    parts: dict[str, nn.Module] = {"token_types": nn.Embedding(3, d, _weight=torch.zeros(3, d))}
    if config["semantic_dim"]:
        parts["semantic_embedder"] = SemanticEmbedder(config["semantic_dim"], config["semantic_hidden"], d)
        parts["semantic_head"] = SemanticHead(d, config["semantic_dim"])
        if config["semantic_gate"]:
            layers = config["num_layers"]
            parts["semantic_gates"] = nn.Embedding(layers, 1, _weight=torch.zeros(layers, 1))
    return parts | draw_on_source(config)


@dataclass(frozen=True, kw_only=True)
class SamaSizes(WanSizes):
    """SamaTransformer3DModel's."""

    encoders: ClassVar[Mapping[str, float]] = {**WanSizes.encoders, "image encoder": 1.7}

    semantic_dim: int
    semantic_hidden: int

    @classmethod
    def of(cls, config: TransformerConfig, spatial: int = 8, **more: int) -> Self:
        width, hidden = config["semantic_dim"] or 0, config["semantic_hidden"]
        return super().of(config, spatial, semantic_dim=width, semantic_hidden=hidden, **more)

    def operations(self, tokens: int, text: int, semantic: int, target: int) -> tuple[float, float]:
        linear, attention = super().operations(tokens, text, semantic, target)
        d, hidden = self.d, self.semantic_hidden
        return linear + 2 * semantic * (self.semantic_dim * hidden + hidden * d + self.semantic_dim * d), attention


FAMILY = Family(
    name="sama",
    transformer_class="opensama.models.sama:SamaTransformer3DModel",
    pipeline_class="opensama.pipeline.sama:SamaPipeline",
    lora_loader="diffusers.loaders:WanLoraLoaderMixin",
    names=_NAMES,
    config=_config,
    embedded=_embedded,
    sizes=SamaSizes,
    condition=_condition,
    prompt=wan_prompt,
    parts=WAN_PARTS,
    bases=WAN_BASES,
    start="wan",
    gguf_architecture="wan",
    added=("token_types", "semantic_embedder", "semantic_head", "semantic_gates", "frame_position", "local_color"),
    draw_added=draw_added,
    free=("source_rotary", "semantic_rotary", "source_time", "num_anchors"),
    pads_text=True,
    stages=("autoencoder", "semantic", "pictures", "windows", "images", "videos", "decoder"),
)
