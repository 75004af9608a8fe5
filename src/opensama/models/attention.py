"""Attention as the embedded models run it on a CPU: diffusers' numbers, in fewer and larger steps.

    queries and keys are normalised in the norm's own type and turned as complex numbers, in one product
    short bfloat16 attention is two matrix products around a softmax

On two cores that is about twice the training speed of the fused kernel, whose backward pass is slow on a CPU. On every
other device, and where a backend or the compiler was asked for, it is diffusers' own processor; under context
parallelism the same around an exchange of tokens for heads (`models/parallel.py`).
"""

from __future__ import annotations

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor, _get_qkv_projections
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from opensama.models.parallel import Exchange

EXPLICIT_BYTES = 2**28  # attention weights [b heads n m] up to this size are written out


class SamaAttnProcessor(WanAttnProcessor):
    """WanAttnProcessor with a faster way on the CPU."""

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        exchange = None
        if encoder_hidden_states is None and self._parallel_config is not None:
            exchange = Exchange.of(self._parallel_config, attn.heads, hidden_states.shape[1])
        if exchange is not None and rotary_emb is not None:
            return self.shared(exchange, attn, hidden_states, rotary_emb)
        special = attention_mask is not None or self._attention_backend is not None or self._parallel_config is not None
        if hidden_states.device.type != "cpu" or special or torch.compiler.is_compiling():
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)
        q, k, v = _get_qkv_projections(attn, hidden_states, encoder_hidden_states)  # type: ignore[arg-type]
        q, k = attn.norm_q(q.to(attn.norm_q.weight.dtype)), attn.norm_k(k.to(attn.norm_k.weight.dtype))
        q, k, v = (x.unflatten(2, (attn.heads, -1)) for x in (q, k, v))
        if rotary_emb is not None:
            q, k = turn(q, *rotary_emb), turn(k, *rotary_emb)
        q, k, v = (x.to(v.dtype).transpose(1, 2) for x in (q, k, v))
        return attn.to_out[1](attn.to_out[0](attend(q, k, v).transpose(1, 2).flatten(2)))

    def shared(
        self, exchange: Exchange, attn: WanAttention, hidden_states: Tensor, rotary: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Self-attention of a share of the tokens [b n/p d] over all of them."""
        q, k, v = _get_qkv_projections(attn, hidden_states, None)  # type: ignore[arg-type]
        q, k = attn.norm_q(q), attn.norm_k(k)
        q, k, v = (x.unflatten(2, (attn.heads, -1)) for x in (q, k, v))
        q, k = (turn_real(x, *rotary).to(v.dtype) for x in (q, k))
        q, k, v = exchange.to_heads(torch.cat((q, k, v), dim=-1)).chunk(3, dim=-1)
        out = dispatch_attention_fn(q, k, v, backend=self._attention_backend)
        return attn.to_out[1](attn.to_out[0](exchange.to_tokens(out).flatten(2)))


def turn_real(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`turn` in real numbers, which every device and compiler can do."""
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[..., 0::2], sin[..., 1::2]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x [b n heads d]: neighbouring pairs are complex numbers, multiplied by cos + i sin."""
    turns = torch.complex(cos[..., 0::2], sin[..., 1::2])
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns).flatten(-2)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k' / sqrt d) v, each [b heads n d]."""
    weights = 2 * q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2]
    if q.dtype != torch.bfloat16 or weights > EXPLICIT_BYTES:
        return scaled_dot_product_attention(q, k, v)
    return (q * q.shape[-1] ** -0.5 @ k.transpose(2, 3)).softmax(dim=-1, dtype=q.dtype) @ v
