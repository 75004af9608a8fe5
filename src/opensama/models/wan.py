"""Wan's video transformer over several streams of tokens: what the editors that are built on it share.

    z = [ stream | stream | .. | target ],   full attention, text by cross-attention
    one patch embedding for all latents, rotary positions for each stream; the answer is read off the target's tokens

Blocks, attention and time embedding are diffusers' own. sigma = 1 is noise, velocity = noise - data,
timestep = 1000 sigma.

`b` batch, `c` channels, `t h w` latent time, rows, columns (after patching: the token grid), `n` tokens, `d` width,
`l` text tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import Tensor

from opensama.models.acceleration import CheckedFeatures
from opensama.models.attention import ApartRotary, SamaAttnProcessor
from opensama.models.parallel import JointSequence
from opensama.models.precise import keep_float32, under_autocast
from opensama.models.rotary import Grid, Rotary


class WanStreams(CheckedFeatures, JointSequence, WanTransformer3DModel):
    """WanTransformer3DModel, with its sizes, for families whose `forward` puts streams together."""

    def __init__(self, *args: object, **sizes: object):
        super().__init__(*args, **sizes)
        if self.config["image_dim"] is not None or self.config["added_kv_proj_dim"] is not None:
            raise ValueError("no editor reads an image embedding: leave image_dim and added_kv_proj_dim at None")
        self.set_attn_processor(SamaAttnProcessor())
        embedder = self.condition_embedder
        keep_float32([*embedder.time_embedder.modules(), embedder.time_proj])

    def embed_latents(self, latents: Tensor) -> tuple[Tensor, Grid]:
        """Latents [b c t h w] as tokens [b (t h w) d], and their grid."""
        sides = latents.shape[2:]
        if any(side % p for side, p in zip(sides, self.config["patch_size"], strict=True)):
            raise ValueError(f"latents of {tuple(sides)} do not divide into patches of {self.config['patch_size']}")
        x = self.patch_embedding(latents)
        t, h, w = x.shape[2:]
        return x.flatten(2).transpose(1, 2), (t, h, w)

    def through_blocks(
        self, streams: Sequence[Tensor], rotary: Rotary, timestep: Tensor, text: Tensor, gates: Tensor | None = None
    ) -> tuple[Sequence[Tensor], Tensor]:
        """The streams' tokens [b n d] after the last block, and the time embedding of the last stream, the target.

        `rotary` is that of all tokens, each [1 n 1 head_dim] or [b n 1 head_dim]; `timestep` is [b], or [b n] with one
        for every token; the time embedding is [b d] or [b n d] accordingly. With `gates`, one a block, the other
        streams read the last but one apart, see `attention.attend_apart`.
        """
        lengths = [stream.shape[1] for stream in streams]
        tokens, n = torch.cat(list(streams), dim=1), sum(lengths)
        tokens, cos, sin = self.split(tokens, *rotary)
        per_token = timestep.ndim == 2
        if per_token:
            (timestep,) = self.split(timestep)
        temb, modulation, text = self.embed_conditions(timestep, text)
        start = sum(lengths[:-2])
        for i, block in enumerate(self.blocks):
            places = (cos, sin) if gates is None else ApartRotary(cos, sin, gates[i], start, start + lengths[-2])
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                tokens = self._gradient_checkpointing_func(block, tokens, text, modulation, places)
            else:
                tokens = block(tokens, text, modulation, places)
        if per_token:
            temb = self.gather(temb, n)[:, n - lengths[-1] :]
        return self.gather(tokens, n).split(lengths, dim=1), temb

    def embed_conditions(self, timestep: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Time embedding [b d] or [b n d], its six modulations [b 6 d] or [b n 6 d], and text [b l d]."""
        n = timestep.shape[1] if timestep.ndim == 2 else None
        text = text.float() if under_autocast(text) else text  # the time embedding takes its type
        temb, modulation, text, _ = self.condition_embedder(timestep.float().flatten(), text, None, timestep_seq_len=n)
        return temb, modulation.unflatten(-1, (6, -1)), text

    def project(self, tokens: Tensor, temb: Tensor, grid: Grid) -> Tensor:
        """The last block's target tokens [b (t h w) d] as velocity [b c t h w]."""
        return self.unpatched(self.proj_out(self.normalised(tokens, temb)), grid)

    def normalised(self, tokens: Tensor, temb: Tensor) -> Tensor:
        """The last block's target tokens [b (t h w) d] as the answer is read off them."""
        if temb.ndim == 2:
            temb = temb[:, None]
        shift, scale = (self.scale_shift_table[:, None] + temb[:, :, None]).unbind(2)
        return (self.norm_out(tokens.float()) * (1 + scale) + shift).type_as(tokens)

    def unpatched(self, x: Tensor, grid: Grid) -> Tensor:
        """Numbers of tokens [b (t h w) p] as latents [b c t h w]."""
        p_t, p_h, p_w = self.config["patch_size"]
        x = x.unflatten(2, (p_t, p_h, p_w, -1)).unflatten(1, grid)  # b t h w p_t p_h p_w c
        x = x.permute(0, 7, 1, 4, 2, 5, 3, 6)
        return x.flatten(6, 7).flatten(4, 5).flatten(2, 3)


# diffusers reads a model's arguments off this signature: they are Wan's.
WanStreams.__init__.__wrapped__ = WanTransformer3DModel.__init__  # type: ignore[attr-defined]
