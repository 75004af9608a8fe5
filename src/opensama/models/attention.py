"""Both families' attention. On a CPU, where the embedded models run: diffusers' numbers, in fewer and larger steps.

    queries and keys are normalised in the norm's own type and rotated as complex numbers, in one product
    short bfloat16 attention is two matrix products around a softmax

On two cores that is about twice the training speed of the fused kernel, whose backward pass is slow on a CPU. On every
other device, and where a backend or the compiler was asked for, it is diffusers' own processor; under context
parallelism the same around an exchange of tokens for heads (`models/parallel.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_hunyuan_video import HunyuanVideoAttnProcessor2_0
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor, _get_qkv_projections
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from opensama.models.parallel import Exchange

EXPLICIT_BYTES = 2**28  # attention weights [b heads n m] up to this size are written out


class ApartRotary(NamedTuple):
    """Rotary positions of tokens, of which `start` to `stop` are read apart, times a gate []: see `attend_apart`."""

    cos: Tensor
    sin: Tensor
    gate: Tensor
    start: int
    stop: int


class SamaAttnProcessor(WanAttnProcessor):
    """WanAttnProcessor with a faster way on the CPU, and one for tokens that are read apart."""

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | ApartRotary | None = None,
    ) -> Tensor:
        exchange = None
        if encoder_hidden_states is None and self._parallel_config is not None:
            exchange = Exchange.of(self._parallel_config, attn.heads, hidden_states.shape[1])
        if isinstance(rotary_emb, ApartRotary) or (exchange is not None and rotary_emb is not None):
            return self.shared(exchange, attn, hidden_states, rotary_emb)
        if attention_mask is not None or not uses_cpu_path(self, hidden_states):
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)
        q, k, v = _get_qkv_projections(attn, hidden_states, encoder_hidden_states)
        q, k = attn.norm_q(q.to(attn.norm_q.weight.dtype)), attn.norm_k(k.to(attn.norm_k.weight.dtype))
        q, k, v = (x.unflatten(2, (attn.heads, -1)) for x in (q, k, v))
        if rotary_emb is not None:
            q, k = apply_rotary(q, *rotary_emb), apply_rotary(k, *rotary_emb)
        q, k, v = (x.to(v.dtype).transpose(1, 2) for x in (q, k, v))
        return attn.to_out[1](attn.to_out[0](attend(q, k, v).transpose(1, 2).flatten(2)))

    def shared(
        self,
        exchange: Exchange | None,
        attn: WanAttention,
        hidden_states: Tensor,
        rotary: tuple[Tensor, Tensor] | ApartRotary,
    ) -> Tensor:
        """Self-attention of a share of the tokens [b n/p d], or of all, over all of them."""
        if exchange is None and self._parallel_config is not None:
            raise ValueError("rings read no tokens apart: ask for ulysses_degree")
        q, k, v = _get_qkv_projections(attn, hidden_states, None)
        q, k = attn.norm_q(q), attn.norm_k(k)
        q, k, v = (x.unflatten(2, (attn.heads, -1)) for x in (q, k, v))
        q, k = (apply_rotary_real(x, rotary[0], rotary[1]).to(v.dtype) for x in (q, k))
        how: Callable[..., Tensor] = partial(dispatch_attention_fn, backend=self._attention_backend)
        if isinstance(rotary, ApartRotary):
            how = partial(attend_apart, how, rotary.gate, rotary.start, rotary.stop)
        out = how(q, k, v) if exchange is None else exchanged_attention(exchange, q, k, v, how)
        return attn.to_out[1](attn.to_out[0](out.flatten(2)))


class IcveAttnProcessor(HunyuanVideoAttnProcessor2_0):
    """HunyuanVideo's attention of video and text together, with the same two ways beside diffusers'."""

    def __call__(  # diffusers' own says less than it takes and gives
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,  # cosines and sines, [n d] or [b n d] each
    ) -> tuple[Tensor, Tensor]:
        """Video [b n d] and text [b l d] after attention."""
        video, text = hidden_states, encoder_hidden_states
        n, alone = video.shape[1], self._parallel_config is None
        exchange = Exchange.of(self._parallel_config, attn.heads, n + text.shape[1])
        if exchange is None and not alone and attention_mask is not None:
            raise ValueError("rings take no padded text: ask for ulysses_degree, or give texts of one length")
        assert image_rotary_emb is not None
        cos, sin = (side if side.ndim == 3 else side[None] for side in image_rotary_emb)
        explicit = exchange is None and alone and uses_cpu_path(self, video)
        if exchange is None and not explicit and len(cos) == 1:
            return super().__call__(attn, video, text, attention_mask, (cos[0], sin[0]))
        q, k, v = joint_heads(attn, video, text, (cos, sin), apply_rotary if explicit else apply_rotary_real)
        how = partial(dispatch_attention_fn, attn_mask=attention_mask, backend=self._attention_backend)
        if explicit:
            q, k, v = (x.transpose(1, 2) for x in (q, k, v))
            out = attend(q, k, v, attention_mask).transpose(1, 2)
        else:
            out = how(q, k, v) if exchange is None else exchanged_attention(exchange, q, k, v, how)
        video, text = out.flatten(2).split((n, text.shape[1]), dim=1)
        if attn.to_out is not None:  # in single-stream blocks the layer after attention is the block's own
            video = attn.to_out[1](attn.to_out[0](video))
        return video, text if attn.to_add_out is None else attn.to_add_out(text)


def joint_heads(
    attn: Attention, video: Tensor, text: Tensor, rotary: tuple[Tensor, Tensor], rotate: Callable[..., Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values [b n+l heads d] of video and text, normalised; only the video's are rotated."""
    own = attn.to_q, attn.to_k, attn.to_v, attn.norm_q, attn.norm_k
    added = attn.add_q_proj, attn.add_k_proj, attn.add_v_proj, attn.norm_added_q, attn.norm_added_k
    rotary = rotary[0][:, :, None], rotary[1][:, :, None]
    sides = []
    for x, (to_q, to_k, to_v, norm_q, norm_k) in ((video, own), (text, own if attn.add_q_proj is None else added)):
        q, k, v = (layer(x).unflatten(2, (attn.heads, -1)) for layer in (to_q, to_k, to_v))
        q, k = norm_q(q.to(norm_q.weight.dtype)), norm_k(k.to(norm_k.weight.dtype))
        if x is video:
            q, k = rotate(q, *rotary), rotate(k, *rotary)
        sides.append((q.to(v.dtype), k.to(v.dtype), v))
    q, k, v = (torch.cat(pair, dim=1) for pair in zip(*sides, strict=True))
    return q, k, v


def uses_cpu_path(processor: SamaAttnProcessor | IcveAttnProcessor, x: Tensor) -> bool:
    """Whether a processor is to compute on a CPU, and in no special way."""
    special = processor._attention_backend is not None or processor._parallel_config is not None
    return x.device.type == "cpu" and not special and not torch.compiler.is_compiling()


def exchanged_attention(exchange: Exchange, q: Tensor, k: Tensor, v: Tensor, how: Callable[..., Tensor]) -> Tensor:
    """Attention of a share of the tokens [b n/p heads d] over all of them, in the shares' order for `how`."""
    q, k, v = exchange.to_heads(torch.cat((q, k, v), dim=-1)).chunk(3, dim=-1)
    return exchange.to_tokens(how(q, k, v))


def attend_apart(
    how: Callable[..., Tensor], gate: Tensor, start: int, stop: int, q: Tensor, k: Tensor, v: Tensor
) -> Tensor:
    """Attention [b n heads d] in which the tokens from `start` to `stop` read all, and the others one another.

    What the others read of these is added times the gate: with a gate of 0 they are as if these were not there.
    """
    apart = slice(start, stop)
    q_rest, k_rest, v_rest = (torch.cat((x[:, :start], x[:, stop:]), dim=1) for x in (q, k, v))
    rest = how(q_rest, k_rest, v_rest) + gate.to(v.dtype) * how(q_rest, k[:, apart], v[:, apart])
    return torch.cat((rest[:, :start], how(q[:, apart], k, v), rest[:, start:]), dim=1)


def apply_rotary_real(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`apply_rotary` in real numbers, which every device and compiler can do."""
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[..., 0::2], sin[..., 1::2]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x [b n heads d]: neighbouring pairs are complex numbers, multiplied by cos + i sin."""
    turns = torch.complex(cos[..., 0::2], sin[..., 1::2])
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns).flatten(-2)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k' / sqrt d) v, each [b heads n d]; keys where `mask` [b 1 1 n] is false do not count."""
    size = 2 * q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2]
    if q.dtype != torch.bfloat16 or size > EXPLICIT_BYTES:
        return scaled_dot_product_attention(q, k, v, mask)
    weights = q * q.shape[-1] ** -0.5 @ k.transpose(2, 3)
    if mask is not None:
        weights = weights.masked_fill(~mask, -torch.inf)
    return weights.softmax(dim=-1, dtype=q.dtype) @ v
