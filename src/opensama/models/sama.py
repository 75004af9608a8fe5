"""The SAMA transformer: Wan's video transformer that edits, by source and semantic tokens beside the target's.

    z = [ source tokens | semantic tokens | target tokens ] + type embedding (0, 1, 2)
    target and source: one patch embedding, the same rotary positions; semantic: an MLP of noisy SigLIP features
    output: velocity of the target's latents, and of the semantic features (SAMA, arXiv 2603.19228, section 3.1 and 3.2)

Blocks, attention and time embedding are diffusers' own.
sigma = 1 is noise, velocity = noise - data, timestep = 1000 sigma.

`b` batch, `c` channels, `t h w` latent time, rows, columns (after patching: the token grid), `n` joint tokens,
`d` width, `l` text tokens, `s` semantic tokens, `e` their width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import isqrt
from typing import Literal, NamedTuple

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin  # noqa: F401  (diffusers loads components of modules that name it)
from diffusers.utils import BaseOutput, apply_lora_scale
from torch import Tensor, nn

from opensama.models.rotary import Grid, Rotary, axis_rotary, grid_rotary, joined_rotary, rotary_table
from opensama.models.semantic import SemanticEmbedder, SemanticHead, anchor_positions
from opensama.models.source_gate import check_on_source, drawn_on_source, parts_on_source
from opensama.models.wan import WanStreams
from opensama.values.names import SemanticRotary as SemanticRotary
from opensama.values.names import SourceRotary as SourceRotary

SOURCE, SEMANTIC, TARGET = 0, 1, 2

SourceTime = Literal["same", "zero"]


@dataclass
class SamaOutput(BaseOutput):
    """Velocity of the target latents [b c t h w], and of the semantic tokens [b s e] if there were any."""

    sample: Tensor
    semantic_sample: Tensor | None = None


class SamaTransformer3DModel(WanStreams):
    """Predicts velocities of target latents and semantic tokens, given source latents and text.

    Sizes are WanTransformer3DModel's. Added: `type_embedding` tells source, semantic and target tokens apart;
    `source_rotary` puts the source at the target's positions ("shared"), behind them ("shifted"), or at the target's
    and turned by the rotary phase of a first stream ("phase", as Bernini's weights know it, see `models/rotary.py`);
    `semantic_rotary` puts semantic tokens nowhere ("zero", as released: their queries and keys vanish), at the origin
    ("identity") or at their anchor's time and cell ("grid"); `semantic_dim=None` leaves semantic modules out;
    `source_time` gives the source the target's timestep ("same", as released) or 0, as it is clean ("zero", as
    Wan2.2-TI2V treats a given frame): in training and sampling alike, every token then has a timestep of its own;
    `semantic_gate` lets source and target read the semantic tokens apart, times a learned number a block that is 0 at
    first, so that a base with anchors begins as without (ours; the release has one attention over all tokens);
    `released_rounding` rounds the timestep to bfloat16 as the released sampler does. `source_gate` is for models that
    are small beside their latents, see `models/source_gate.py`; it needs a source of the target's shape. So are
    `color_rank` and `color_shapes`, by which cells are drawn as other colours and shapes (`models/local_color.py`), and
    `frame_waves`, which tell tokens where in the frame they lie; 0 leaves each out.
    """

    _skip_layerwise_casting_patterns = [  # noqa: RUF012
        *WanStreams._skip_layerwise_casting_patterns,
        "token_types",
        "frame_position",
        "local_color",
        "semantic",
    ]

    @register_to_config
    def __init__(
        self,
        patch_size: tuple[int, ...] = (1, 2, 2),
        num_attention_heads: int = 40,
        attention_head_dim: int = 128,
        in_channels: int = 16,
        out_channels: int = 16,
        text_dim: int = 4096,
        freq_dim: int = 256,
        ffn_dim: int = 13824,
        num_layers: int = 40,
        cross_attn_norm: bool = True,
        qk_norm: str | None = "rms_norm_across_heads",
        eps: float = 1e-6,
        image_dim: int | None = None,
        added_kv_proj_dim: int | None = None,
        rope_max_seq_len: int = 1024,
        pos_embed_seq_len: int | None = None,
        type_embedding: bool = True,
        source_rotary: SourceRotary = "shared",
        semantic_dim: int | None = 1152,
        semantic_hidden: int = 1024,
        semantic_tokens_per_anchor: int = 65,
        num_anchors: int = 1,
        semantic_rotary: SemanticRotary = "zero",
        released_rounding: bool = False,
        source_gate: bool = False,
        source_time: SourceTime = "same",
        semantic_gate: bool = False,
        color_rank: int = 0,
        color_shapes: int = 0,
        frame_waves: int = 0,
    ):
        super().__init__(
            patch_size=patch_size,
            num_attention_heads=num_attention_heads,
            attention_head_dim=attention_head_dim,
            in_channels=in_channels,
            out_channels=2 * out_channels if source_gate else out_channels,
            text_dim=text_dim,
            freq_dim=freq_dim,
            ffn_dim=ffn_dim,
            num_layers=num_layers,
            cross_attn_norm=cross_attn_norm,
            qk_norm=qk_norm,
            eps=eps,
            image_dim=image_dim,
            added_kv_proj_dim=added_kv_proj_dim,
            rope_max_seq_len=rope_max_seq_len,
            pos_embed_seq_len=pos_embed_seq_len,
        )
        self.register_to_config(out_channels=out_channels)  # the parent has noted the head's width
        if source_rotary not in ("shared", "shifted", "phase"):
            raise ValueError(f"unknown source_rotary {source_rotary!r}: choose shared, shifted or phase")
        if semantic_rotary not in ("zero", "identity", "grid"):
            raise ValueError(f"unknown semantic_rotary {semantic_rotary!r}: choose zero, identity or grid")
        if source_time not in ("same", "zero"):
            raise ValueError(f"unknown source_time {source_time!r}: choose same or zero")
        check_on_source(source_gate, tuple(patch_size), color_rank, color_shapes)
        local = semantic_tokens_per_anchor - 1
        if semantic_dim is not None and semantic_rotary == "grid" and (local < 0 or isqrt(local) ** 2 != local):
            raise ValueError(
                f"semantic_rotary='grid' needs a square of local tokens and one global token an anchor (17, 65, ...), "
                f"not {semantic_tokens_per_anchor}"
            )

        d = num_attention_heads * attention_head_dim
        self.rotary_layout = RotaryLayout(
            attention_head_dim, source_rotary, semantic_rotary, semantic_tokens_per_anchor
        )
        self.token_types = nn.Embedding(3, d) if type_embedding else None
        if self.token_types is not None:
            nn.init.zeros_(self.token_types.weight)  # a base Wan model starts unchanged
        self.semantic_embedder = SemanticEmbedder(semantic_dim, semantic_hidden, d) if semantic_dim else None
        self.semantic_head = SemanticHead(d, semantic_dim) if semantic_dim else None
        self.frame_position, self.local_color = parts_on_source(d, out_channels, color_rank, color_shapes, frame_waves)
        gated = semantic_gate and semantic_dim is not None
        self.semantic_gates = nn.Embedding(num_layers, 1, _weight=torch.zeros(num_layers, 1)) if gated else None

    @apply_lora_scale("attention_kwargs")
    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        source_hidden_states: Tensor | None = None,
        semantic_hidden_states: Tensor | None = None,
        attention_kwargs: dict[str, object] | None = None,
        return_dict: bool = True,
        places: tuple[Tensor, Tensor] | None = None,
    ) -> SamaOutput | tuple[Tensor, Tensor | None]:
        """Velocities of `hidden_states` [b c t h w] and of `semantic_hidden_states` [b s e].

        `timestep` is [b], or [b n] with one for every joint token; `encoder_hidden_states` is the text [b l d_text];
        `source_hidden_states` [b c t' h' w'] may differ in size or be absent. Where tokens are some of a grid's, in
        any order, `places` has the (time, row, column) of the source's [b n' 3] and of the target's [b n 3]; the
        source then begins with the target's places, and there are no semantic tokens.
        """
        sigma = timestep / 1000
        target, target_grid = self.embed_latents(hidden_states)
        target = self.add_type(target, TARGET)
        source, source_grid = target[:, :0], (0, 0, 0)
        if source_hidden_states is not None:
            source, source_grid = self.embed_latents(source_hidden_states)
            source = self.add_type(source, SOURCE)
        if self.frame_position is not None:
            source, target = self.frame_position(source, target, source_grid, target_grid, places)
        semantic = target[:, :0]
        if semantic_hidden_states is not None:
            semantic = self.embed_semantic(semantic_hidden_states)
        s = semantic.shape[1]
        if places is None:
            rotary = joint_rotary(self.rotary_layout, source_grid, s, target_grid, target.device)
        else:
            rotary = placed_rotary(self.rotary_layout, torch.cat(places, dim=1))

        if self.config["source_time"] == "zero" and timestep.ndim == 1 and source.shape[1]:
            own = timestep[:, None].expand(-1, s + target.shape[1])
            timestep = torch.cat([own.new_zeros(len(own), source.shape[1]), own], dim=1)
        if self.config["released_rounding"]:
            timestep = timestep.to(torch.bfloat16)
        streams = source, semantic, target
        gates = None
        if self.semantic_gates is not None and s:
            gates = self.semantic_gates(torch.arange(len(self.blocks), device=target.device)).squeeze(1)
        (_, semantic, target), temb = self.through_blocks(streams, rotary, timestep, encoder_hidden_states, gates)
        target = self.normalised(target, temb)
        sample = self.unpatched(self.proj_out(target), target_grid)
        if self.config["source_gate"]:
            sample = drawn_on_source(
                sample, target, hidden_states, source_hidden_states, sigma, self.local_color, places
            )
        semantic_sample = None
        if semantic_hidden_states is not None and self.semantic_head is not None:
            semantic_sample = self.semantic_head(semantic)
        if not return_dict:
            return sample, semantic_sample
        return SamaOutput(sample=sample, semantic_sample=semantic_sample)

    def embed_semantic(self, semantic: Tensor) -> Tensor:
        """Semantic features [b s e] as tokens [b s d]."""
        if self.semantic_embedder is None:
            raise ValueError("this model has no semantic modules (semantic_dim is None): pass no semantic tokens")
        return self.add_type(self.semantic_embedder(semantic), SEMANTIC)

    def add_type(self, tokens: Tensor, kind: int) -> Tensor:
        if self.token_types is None:
            return tokens
        return tokens + self.token_types(torch.full((), kind, device=tokens.device)).to(tokens.dtype)


class RotaryLayout(NamedTuple):
    """What decides rotary positions, besides the shapes of a call."""

    head_dim: int
    source: SourceRotary
    semantic: SemanticRotary
    tokens_per_anchor: int


def joint_rotary(layout: RotaryLayout, source: Grid, s: int, target: Grid, device: torch.device) -> Rotary:
    """Rotary cosines and sines of the joint sequence, each [1 n 1 head_dim] float32.

    What is kept between calls is a line for each row, column and time; a table of all tokens has 34 MB at 81 frames.
    """
    start = target if layout.source == "shifted" else (0, 0, 0)
    source_id = 1.0 if layout.source == "phase" else 0.0
    return joined_rotary(
        grid_rotary(layout.head_dim, source, start, device, source_id),
        semantic_rotary(layout, s, target, device),
        grid_rotary(layout.head_dim, target, (0, 0, 0), device),
    )


@lru_cache(maxsize=64)
def semantic_rotary(layout: RotaryLayout, s: int, target: Grid, device: torch.device) -> Rotary:
    """Cosines and sines [s head_dim] of the semantic tokens."""
    with torch.inference_mode(False), torch.no_grad():
        positions = torch.zeros(s, 3, dtype=torch.float64)
        if layout.semantic == "grid" and s:
            anchors, rest = divmod(s, layout.tokens_per_anchor)
            if rest:
                raise ValueError(f"{s} semantic tokens are no multiple of {layout.tokens_per_anchor} an anchor")
            positions = anchor_positions(*target, anchors, layout.tokens_per_anchor)
        cos, sin = rotary_table(positions, layout.head_dim)
        if layout.semantic == "zero":
            cos, sin = torch.zeros_like(cos), torch.zeros_like(sin)
        return cos.to(device), sin.to(device)


def placed_rotary(layout: RotaryLayout, places: Tensor) -> Rotary:
    """The same of tokens at whole-numbered places [b n 3], a set a sample: each [b n 1 head_dim] float32."""
    lines = [axis_rotary(layout.head_dim, axis, 0, 1024, places.device) for axis in range(3)]
    sides = ([line[side][places[..., axis]] for axis, line in enumerate(lines)] for side in (0, 1))
    cos, sin = (torch.cat(parts, dim=-1)[:, :, None] for parts in sides)
    return cos, sin
