"""The embedded models' text side: a byte-level BPE tokenizer, a small T5-type encoder, and how prompts become ids."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from opensama.models.registry import words_of
from opensama.pretext import PAPER_SHARES, PRETEXT_TASKS
from opensama.world import (
    BACKGROUNDS,
    COLORS,
    EDIT_FAMILIES,
    KINDS,
    PLACES,
    STYLES,
    TEXTURES,
    WEARABLES,
    phrasing,
    plan_edit,
)
from opensama.world.backgrounds import PAINTERS
from opensama.world.letters import CAPTION_WORDS

PAD, END = "<pad>", "</s>"
FILLERS = ("a", "an", "and", "at", "in", "it", "nothing", "pixelated", "says", "style", "with")  # of captions


def training_texts(n: int = 20_000) -> Iterable[str]:
    """Instructions and captions of the world's train split, and now and then a prompt of a pretext task."""
    prompts = [PRETEXT_TASKS[name].prompt for name in PAPER_SHARES if PRETEXT_TASKS[name].prompt]
    for i in range(n):
        plan = plan_edit(i, "train", EDIT_FAMILIES[i % len(EDIT_FAMILIES)])
        yield plan.instruction
        yield plan.caption
        if i % 20 == 0:
            yield prompts[i // 20 % len(prompts)]


def known_words() -> list[str]:
    """All words of the world's instructions and captions, and of the pretext tasks' prompts, in order.

    Those that it only ever reads as a clip's caption text are in quotation marks.
    """
    patterns = [pattern for key in phrasing.GRAMMAR.values() for pattern in key]
    every = [re.sub(r"\{.*?\}", " ", text) for pattern in patterns for text, _ in phrasing.expand(pattern)]
    every += [*KINDS, *COLORS, *TEXTURES, *WEARABLES, *PLACES, *STYLES, *FILLERS]
    every += [text for name, look in BACKGROUNDS.items() for text in (name, look.words, PAINTERS[look.painter].words)]
    every += [PRETEXT_TASKS[name].prompt for name in PAPER_SHARES]
    said = {word for text in every for word in words_of(text)}
    return sorted(said) + sorted(f'"{word.lower()}"' for word in CAPTION_WORDS if word.lower() not in said)


def train_tokenizer(texts: Iterable[str], vocabulary: int = 640) -> PreTrainedTokenizerFast:
    """Byte-level BPE over lower-cased text, ending each text with `</s>`; any input has an encoding."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, tokenizer.token_to_id(END))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END)


def make_text_encoder(tokenizer: PreTrainedTokenizerFast, width: int = 128, layers: int = 2) -> UMT5EncoderModel:
    """A T5-type encoder of prompts with random weights, heads of 32."""
    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=len(tokenizer),
            d_model=width,
            d_kv=32,
            num_heads=width // 32,
            d_ff=2 * width,
            num_layers=layers,
            dropout_rate=0.0,
            relative_attention_num_buckets=16,
            relative_attention_max_distance=32,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def tokenize(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
    """Ids and mask, [b l] each, cut or padded to `length`."""
    out = tokenizer(list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return out.input_ids, out.attention_mask


def encode_text(encoder: UMT5EncoderModel, ids: Tensor, mask: Tensor) -> Tensor:
    """Text [b l d] as the pipeline makes it: hidden states, zero where the text has ended."""
    hidden = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    return torch.where(mask[..., None] == 0, torch.zeros((), dtype=hidden.dtype), hidden)


def without_words(ids: Tensor, mask: Tensor, left_out: Tensor, padding: int) -> tuple[Tensor, Tensor]:
    """Ids and mask [b l] without the tokens that are left out, but each text's end; the others move up."""
    ends = mask.cumsum(1) == mask.sum(1, keepdim=True)
    kept = (mask > 0) & (~left_out | ends)
    order = (~kept).to(torch.int8).argsort(dim=1, stable=True)
    mask = kept.gather(1, order).to(mask.dtype)
    return torch.where(mask > 0, ids.gather(1, order), padding), mask


def trim_padding(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Ids and mask [b l] without the columns that are padding in every row; on the CPU, where that stops nothing."""
    longest = int(mask.sum(1).max())
    return ids[:, :longest], mask[:, :longest]


class PromptEncoding:
    """A stage's hook that encodes token ids in the step: the text encoder learns along, unless its weights are frozen.

    It adds `text` [b l d] as a family's pipeline makes it; `masked` adds where it ends (`text_mask` [b l]) and, in one
    vector, its mean (`pooled` [b d]).
    """

    def __init__(self, encoder: UMT5EncoderModel, *, masked: bool):
        self.encoder, self.masked = encoder, masked

    def modules(self) -> dict[str, nn.Module]:
        return {"text": self.encoder}

    def __call__(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        mask = batch["mask"]
        text = encode_text(self.encoder, batch["ids"], mask)
        if not self.masked:
            return {"text": text}
        return {"text": text, "text_mask": mask.bool(), "pooled": text.sum(1) / mask.sum(1, keepdim=True)}
