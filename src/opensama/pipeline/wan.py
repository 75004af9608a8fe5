"""What the pipelines on Wan share: its text encoder, and its loader of LoRAs."""

from __future__ import annotations

import html
from collections.abc import Sequence

import torch
from diffusers.loaders import WanLoraLoaderMixin
from torch import Tensor

from opensama.pipeline.diffusion import EditPipeline, TextCondition


class WanEditPipeline(EditPipeline, WanLoraLoaderMixin):  # load_lora_weights takes more than diffusers' says
    """An EditPipeline whose transformer reads UMT5's last hidden states, zero where a text has ended."""

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Texts as they are, as embeddings [b l d]."""
        ids, mask = self.tokenize(self.tokenizer, list(texts), self.defaults.max_text_tokens)
        hidden = self.text_encoder(ids, mask).last_hidden_state
        return hidden.masked_fill(mask[..., None] == 0, 0)


def text_condition(text: Tensor) -> TextCondition:
    """Encoded prompts [b l d] as the transformer takes them."""
    return {"encoder_hidden_states": text}


def clean_text(text: str) -> str:
    """Mojibake and HTML entities undone, runs of white space made one blank: as Wan cleans its prompts."""
    import ftfy

    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split())
