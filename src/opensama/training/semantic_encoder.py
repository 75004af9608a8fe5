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

from opensama.models.semantic import pool_anchor_tokens
from opensama.runtime import autocast
from opensama.training.stage import Batch, BatchLoader, ReadySource, TrainingStage
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


class CaptionedFrames(ReadySource):
    """Frames of the world, sources and answers in equal parts, with their captions.

    `frames` [b 3 128 128] in [-1, 1], `ids` and `mask` [b 64], `same` [b b]: whether two captions agree.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, batch: int):
        super().__init__()
        self.tokenizer, self.batch_size = tokenizer, batch

    def read(self, index: int) -> Batch:
        plans = [plan_edit(f"semantic-{index * self.batch_size + i}") for i in range(self.batch_size)]
        looks = [p.source if i % 2 else p.target for i, p in enumerate(plans)]
        captions = [look.caption for look in looks]
        ids, mask = tokenize(self.tokenizer, captions, 64)
        same = torch.tensor([[a == b for b in captions] for a in captions])
        return {"frames": render_styled(looks, 1)[:, 0] * 2 - 1, "ids": ids, "mask": mask, "same": same}


class SemanticStage(TrainingStage):
    """Frames against their captions; `retrieval` is the share of frames whose own caption is the nearest."""

    loader: BatchLoader

    def __init__(
        self, encoder: SiglipVisionModel, text: UMT5EncoderModel, tokenizer: PreTrainedTokenizerFast, *, batch: int = 96
    ):
        self.device = next(encoder.parameters()).device
        super().__init__("semantic", BatchLoader(CaptionedFrames(tokenizer, batch), self.device))
        self.encoder, self.text = encoder, text
        self.heads = Heads(text.config.d_model, encoder.config.hidden_size).to(self.device)

    def modules(self) -> Mapping[str, nn.Module]:
        return {"encoder": self.encoder, "text": self.text, "heads": self.heads}

    def step(self, index: int) -> dict[str, Tensor]:
        batch = self.loader(index)
        mask, b = batch["mask"], len(batch["mask"])
        with autocast(self.device):
            x = self.encoder(pixel_values=batch["frames"]).pooler_output
            text = encode_text(self.text, batch["ids"], mask)
            y = self.heads.project(text.sum(1) / mask.sum(1, keepdim=True))
        x, y = F.normalize(x.float(), dim=-1), F.normalize(y.float(), dim=-1)
        logits = self.heads.log_scale.exp() * x @ y.T + self.heads.bias
        loss = -F.logsigmoid(torch.where(batch["same"], logits, -logits)).sum() / b
        right = (logits.argmax(1) == torch.arange(b, device=self.device)).float().mean()
        return {"loss": loss, "retrieval": right}
