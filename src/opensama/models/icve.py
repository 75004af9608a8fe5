"""The ICVE transformer: HunyuanVideo's video transformer that edits, by the source's tokens before the edit's.

    z = [ source tokens | edit tokens | text tokens ],   full attention, padded text masked
    source and edit: one patch embedding, the same rotary positions; the text has none
    source: modulated by  time(0) + pooled text + guidance,    edit and text: by  time(t) + pooled text + guidance
    output: velocity of the edit's latents, from the edit's tokens alone          (ICVE, arXiv 2510.14648)

Blocks are diffusers' own, those that its image-to-video model uses for a given first frame: here the given tokens are
the whole source. The released model has no new parameters: HunyuanVideo's weights are ICVE's beginning. The embedded
one draws on its source (`source_gate.py`).
sigma = 1 is noise, velocity = noise - data, timestep = 1000 sigma, guidance = 1000 times the scale it stands for.

`b` batch, `c` channels, `t h w` latent time, rows, columns (after patching: the token grid), `n` video tokens,
`d` width, `l` text tokens.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin  # noqa: F401  (diffusers loads components of modules that name it)
from diffusers.models.transformers.transformer_hunyuan_video import HunyuanVideoTransformer3DModel
from diffusers.utils import apply_lora_scale
from torch import Tensor

from opensama.models.acceleration import CheckedFeatures
from opensama.models.attention import IcveAttnProcessor
from opensama.models.parallel import JointSequence
from opensama.models.precise import keep_float32, modulates
from opensama.models.rotary import Grid, Rotary
from opensama.models.source_gate import Places, check_on_source, drawn_on_source, grid_places, parts_on_source

EMBEDDED_GUIDANCE = 1000.0  # a scale of 1, as released


class IcveTransformer3DModel(CheckedFeatures, JointSequence, HunyuanVideoTransformer3DModel):
    """Predicts velocities of edit latents, given source latents and text.

    Sizes are HunyuanVideoTransformer3DModel's, and its folders load here; `patch_size` may also be (time, row, column).
    `source_time` modulates the source as clean ("zero", as released) or with the edit's time ("same").
    `source_gate`, `color_rank`, `color_shapes` and `frame_waves` are SAMA's, for models that are small beside their
    latents, see `source_gate.py`.
    """

    _skip_layerwise_casting_patterns = [  # noqa: RUF012
        *HunyuanVideoTransformer3DModel._skip_layerwise_casting_patterns,
        "frame_position",
        "local_color",
    ]

    _repeated_blocks = [  # noqa: RUF012
        "HunyuanVideoTokenReplaceTransformerBlock",
        "HunyuanVideoTokenReplaceSingleTransformerBlock",
    ]

    @register_to_config
    def __init__(
        self,
        in_channels: int = 16,
        out_channels: int = 16,
        num_attention_heads: int = 24,
        attention_head_dim: int = 128,
        num_layers: int = 20,
        num_single_layers: int = 40,
        num_refiner_layers: int = 2,
        mlp_ratio: float = 4.0,
        patch_size: int | tuple[int, int, int] = (1, 2, 2),
        patch_size_t: int = 1,
        qk_norm: str = "rms_norm",
        guidance_embeds: bool = True,
        text_embed_dim: int = 4096,
        pooled_projection_dim: int = 768,
        rope_theta: float = 256.0,
        rope_axes_dim: tuple[int, ...] = (16, 56, 56),
        image_condition_type: str | None = "token_replace",
        source_time: Literal["zero", "same"] = "zero",
        source_gate: bool = False,
        color_rank: int = 0,
        color_shapes: int = 0,
        frame_waves: int = 0,
    ):
        patch = (patch_size_t, patch_size, patch_size) if isinstance(patch_size, int) else tuple(patch_size)
        if patch[1] != patch[2]:
            raise ValueError(f"patches have as many rows as columns, not {patch}")
        if sum(rope_axes_dim) != attention_head_dim:
            raise ValueError(f"rope_axes_dim {tuple(rope_axes_dim)} must sum to the head's {attention_head_dim}")
        if image_condition_type not in (None, "token_replace"):
            raise ValueError(
                f"ICVE reads its source as tokens: image_condition_type cannot be {image_condition_type!r}"
            )
        if source_time not in ("zero", "same"):
            raise ValueError(f"unknown source_time {source_time!r}: choose zero or same")
        check_on_source(source_gate, patch, color_rank, color_shapes)
        super().__init__(
            in_channels=in_channels,
            out_channels=2 * out_channels if source_gate else out_channels,
            num_attention_heads=num_attention_heads,
            attention_head_dim=attention_head_dim,
            num_layers=num_layers,
            num_single_layers=num_single_layers,
            num_refiner_layers=num_refiner_layers,
            mlp_ratio=mlp_ratio,
            patch_size=patch[1],
            patch_size_t=patch[0],
            qk_norm=qk_norm,
            guidance_embeds=guidance_embeds,
            text_embed_dim=text_embed_dim,
            pooled_projection_dim=pooled_projection_dim,
            rope_theta=rope_theta,
            rope_axes_dim=tuple(rope_axes_dim),
            image_condition_type="token_replace",
        )
        d = num_attention_heads * attention_head_dim
        self.frame_position, self.local_color = parts_on_source(d, out_channels, color_rank, color_shapes, frame_waves)
        # The parent has noted its own: the head's width, and a patch in two numbers.
        self.register_to_config(out_channels=out_channels, patch_size=patch, patch_size_t=patch[0])
        for block in (*self.transformer_blocks, *self.single_transformer_blocks):
            block.attn.set_processor(IcveAttnProcessor())
        precise = [self.time_text_embed, self.context_embedder.time_text_embed, *filter(modulates, self.modules())]
        keep_float32(part for module in precise for part in module.modules())

    @apply_lora_scale("attention_kwargs")
    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        source_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        pooled_projections: Tensor | None = None,
        guidance: Tensor | None = None,
        attention_kwargs: dict[str, object] | None = None,
        return_dict: bool = True,
        places: Places | None = None,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Velocity of `hidden_states` [b c t h w].

        `timestep` is [b]; `encoder_hidden_states` is the text [b l d_text], `encoder_attention_mask` [b l] is 0 where
        it is padded; `pooled_projections` [b d_pooled] is the text in one vector; `guidance` [b] is 1000 if left out.
        `source_hidden_states` [b c t' h' w'] may differ in size; without it this is HunyuanVideo. Where tokens are
        some of a grid's, in any order, `places` says where they lie, see `source_gate.py`.
        """
        if timestep.ndim != 1:
            raise ValueError(f"one timestep a sample is needed, not {tuple(timestep.shape)}")
        if pooled_projections is None:
            raise ValueError("pooled_projections are needed: the text in one vector, [b d]")
        edit, grid = self.embed_latents(hidden_states)
        source, source_grid = edit[:, :0], (0, 0, 0)
        if source_hidden_states is not None:
            source, source_grid = self.embed_latents(source_hidden_states)
        if self.frame_position is not None:
            source, edit = self.frame_position(source, edit, source_grid, grid, places)
        both = places or [grid_places(side, edit.device) for side in (source_grid, grid)]
        cos, sin = self.rotary_at(torch.cat(tuple(both), dim=1))
        n_source, n_edit = source.shape[1], edit.shape[1]
        tokens, n = torch.cat([source, edit], dim=1), n_source + n_edit

        temb, source_temb = self.embed_times(timestep, pooled_projections, guidance)
        text = self.context_embedder(encoder_hidden_states, timestep, encoder_attention_mask)
        text, mask = self.embed_mask(text, encoder_attention_mask, n)
        tokens, cos, sin, text = self.split(tokens, cos, sin, then=(text,))
        given = (temb, mask, (cos, sin), source_temb, self.own(n_source, n))
        for block in (*self.transformer_blocks, *self.single_transformer_blocks):
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                tokens, text = self._gradient_checkpointing_func(block, tokens, text, *given)
            else:
                tokens, text = block(tokens, text, *given)
        edit = self.norm_out(self.gather(tokens, n)[:, -n_edit:], temb)
        sample = self.project(edit, grid)
        if self.config["source_gate"]:
            sample = drawn_on_source(
                sample, edit, hidden_states, source_hidden_states, timestep / 1000, self.local_color, places
            )
        if not return_dict:
            return (sample,)
        return Transformer2DModelOutput(sample=sample)

    def embed_latents(self, latents: Tensor) -> tuple[Tensor, Grid]:
        """Latents [b c t h w] as tokens [b (t h w) d], and their grid."""
        patch = self.config["patch_size"]
        sides = latents.shape[2:]
        if any(side % p for side, p in zip(sides, patch, strict=True)):
            raise ValueError(f"latents of {tuple(sides)} do not divide into patches of {tuple(patch)}")
        t, h, w = (side // p for side, p in zip(sides, patch, strict=True))
        return self.x_embedder(latents), (t, h, w)

    def rotary_at(self, places: Tensor) -> Rotary:
        """Rotary cosines and sines [b n d_head] of tokens at places [b n 3]."""
        cos, sin = zip(
            *(
                get_1d_rotary_pos_embed(size, line.flatten().float(), self.rope.theta, use_real=True)
                for size, line in zip(self.rope.rope_dim, places.unbind(-1), strict=True)
            ),
            strict=True,
        )
        b = len(places)
        return torch.cat(cos, dim=1).unflatten(0, (b, -1)), torch.cat(sin, dim=1).unflatten(0, (b, -1))

    def embed_times(self, timestep: Tensor, pooled: Tensor, guidance: Tensor | None) -> tuple[Tensor, Tensor]:
        """What modulates edit and text, and what modulates the source, each [b d]: time, pooled text and guidance."""
        if guidance is None:
            guidance = torch.full_like(timestep, EMBEDDED_GUIDANCE)
        temb, _ = self.time_text_embed(timestep, pooled, guidance)
        if self.config["source_time"] == "same":
            return temb, temb
        source_temb, _ = self.time_text_embed(torch.zeros_like(timestep), pooled, guidance)
        return temb, source_temb

    def embed_mask(self, text: Tensor, mask: Tensor | None, n: int) -> tuple[Tensor, Tensor | None]:
        """The text [b l d], a token for each process at least; which keys count [b 1 1 n+l], None for all of them."""
        few = self.processes - text.shape[1]
        if few > 0:
            mask = text.new_ones(text.shape[:2]) if mask is None else mask
            text, mask = F.pad(text, (0, 0, 0, few)), F.pad(mask, (0, few))
        if mask is None:
            return text, None
        video = torch.ones(len(mask), n, dtype=torch.bool, device=mask.device)
        return text, self.interleave(video, mask.bool())[:, None, None]

    def project(self, tokens: Tensor, grid: Grid) -> Tensor:
        """The last block's edit tokens [b (t h w) d], normalised, as velocity [b c t h w]."""
        x = self.proj_out(tokens)
        x = x.unflatten(2, (-1, *self.config["patch_size"])).unflatten(1, grid)  # b t h w c p_t p_h p_w
        return x.permute(0, 4, 1, 5, 2, 6, 3, 7).flatten(6, 7).flatten(4, 5).flatten(2, 3)
