"""The embedded models' image encoder: SigLIP's vision tower at small size, by the sigmoid contrastive loss.

    loss = - mean_ij log sigmoid(z_ij (scale * x_i . y_j + bias)) * b,   z_ij = 1 if i = j else -1

(Zhai et al. 2023, algorithm 1.) x are pooled frames, y pooled captions of the world; pairs whose captions agree count
as matches too. What the editor later uses are the vision tower's tokens.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, SiglipVisionConfig, SiglipVisionModel, UMT5EncoderModel

from opensama.data.prefetch import Prefetcher
from opensama.models.semantic import pool_anchor_tokens
from opensama.runtime import autocast
from opensama.training.devices import moved, pinned
from opensama.training.text import encode_text, tokenize
from opensama.world import plan_edit, render_styled

GRID = 4  # local tokens a side: 16 and one global make the 17 of an anchor frame


def make_semantic_encoder(width: int = 96, layers: int = 3) -> SiglipVisionModel:
    """A vision tower for 128x128 frames in [-1, 1], 16x16 patches."""
    return SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=width,
            intermediate_size=3 * width,
            num_hidden_layers=layers,
            num_attention_heads=width // 32,
            image_size=128,
            patch_size=16,
        )
    )


def semantic_tokens(encoder: SiglipVisionModel, frames: Tensor) -> Tensor:
    """Anchor tokens [b 17 e] of frames [b 3 h w] in [-1, 1]; other shapes are squeezed to the encoder's square."""
    side = int(encoder.config.image_size)
    if frames.shape[-2:] != (side, side):
        frames = F.interpolate(frames, (side, side), mode="bilinear", antialias=True, align_corners=False)
    out = encoder(pixel_values=frames)
    return pool_anchor_tokens(out.last_hidden_state, out.pooler_output, GRID)


class Heads(nn.Module):
    """The contrast's own scale and bias, and the projection of text to the vision tower's width."""

    def __init__(self, text_width: int, width: int):
        super().__init__()
        self.project = nn.Linear(text_width, width)
        self.log_scale = nn.Parameter(torch.tensor(2.3))
        self.bias = nn.Parameter(torch.tensor(-8.0))


class SemanticStage:
    """Frames (sources and answers) against their captions."""

    name = "semantic"

    def __init__(
        self, encoder: SiglipVisionModel, text: UMT5EncoderModel, tokenizer: PreTrainedTokenizerFast, *, batch: int = 96
    ):
        self.encoder, self.text, self.tokenizer, self.batch = encoder, text, tokenizer, batch
        self.device = next(encoder.parameters()).device
        self.next_pictures = Prefetcher(lambda index: pinned(self.pictures(index), self.device))
        self.heads = Heads(text.config.d_model, encoder.config.hidden_size).to(self.device)

    def modules(self) -> Mapping[str, nn.Module]:
        return {"encoder": self.encoder, "text": self.text, "heads": self.heads}

    def close(self) -> None:
        self.next_pictures.close()

    def pictures(self, index: int) -> tuple[Tensor, list[str]]:
        """Frames [b 3 h w] in 0..1, sources and answers in equal parts, and what is seen in them."""
        plans = [plan_edit(f"semantic-{index * self.batch + i}") for i in range(self.batch)]
        looks = [p.source if i % 2 else p.target for i, p in enumerate(plans)]
        return render_styled(looks, 1)[:, 0], [look.caption for look in looks]

    def step(self, index: int) -> dict[str, Tensor]:
        frames, captions = moved(self.next_pictures(index), self.device)
        frames = frames * 2 - 1
        ids, mask = moved(tokenize(self.tokenizer, captions, 64), self.device)
        with autocast(self.device):
            x = self.encoder(pixel_values=frames).pooler_output
            words = encode_text(self.text, ids, mask)
            y = self.heads.project(words.sum(1) / mask.sum(1, keepdim=True))
        x, y = F.normalize(x.float(), dim=-1), F.normalize(y.float(), dim=-1)
        logits = self.heads.log_scale.exp() * x @ y.T + self.heads.bias
        same = torch.tensor([[a == b for b in captions] for a in captions], device=self.device)
        loss = -F.logsigmoid(torch.where(same, logits, -logits)).sum() / self.batch
        right = (logits.argmax(1) == torch.arange(self.batch, device=self.device)).float().mean()
        return {"loss": loss, "retrieval": right}
