"""A vision-language model of transformers in this process: the only door to those classes.

Frames go in as images, prepared by the model's own image processor in its PIL form: transformers' video processors need
torchvision, its image processors do not.
"""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from opensama.runtime import locate, pick_device, pick_dtype, quiet_loading, read_object
from opensama.values import UserError
from opensama.vlm.answer import check_answer
from opensama.vlm.question import Question

if TYPE_CHECKING:
    import numpy as np
    import torch

EXAMPLE = "Qwen/Qwen2.5-VL-7B-Instruct"
_FAMILIES = ("qwen2_vl", "qwen2_5_vl")
_FILES = ("config.json", "*.safetensors", "tokenizer*", "preprocessor_config.json", "*.json")
IMAGE_TOKENS = "<|vision_start|><|image_pad|><|vision_end|>"


class LocalVlm:
    """Qwen2-VL or Qwen2.5-VL from a folder or the hub; one question at a time. Where the temperature is above zero
    the question itself, its turn included, is the seed: asked again it is answered the same."""

    def __init__(self, model: str, *, device: str | None = None) -> None:
        here = Path(model).expanduser().is_dir()
        if not here and not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", model):
            raise UserError(f"There is no folder {model}: give one, or a name on the hub such as {EXAMPLE}.")
        folder = locate(model, _FILES, folder=model if here else None)
        family = read_object(folder / "config.json").get("model_type")
        if family not in _FAMILIES:
            raise UserError(f"{model} is a {family} model: in this process {', '.join(_FAMILIES)} can be asked.")
        import torch
        from safetensors import SafetensorError
        from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

        where = pick_device(device)
        several = device is None and where.type == "cuda" and torch.cuda.device_count() > 1
        try:
            with quiet_loading():
                self.tokenizer = AutoTokenizer.from_pretrained(folder)
                self.processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
                loaded, info = AutoModelForImageTextToText.from_pretrained(
                    folder,
                    dtype=pick_dtype(None, where),
                    use_safetensors=True,
                    device_map="auto" if several else None,
                    output_loading_info=True,
                )
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            raise UserError(f"The model in {folder} cannot be loaded ({error}): get all of its files again.") from error
        if info["missing_keys"]:
            name = sorted(info["missing_keys"])[0]
            raise UserError(f"The model in {folder} lacks weights ({name}): get all of its files again.")
        self.model = (loaded if several else loaded.to(where)).eval().requires_grad_(False)
        self.name = str(model)
        self._image_id = int(self.model.config.image_token_id)
        self._lock = threading.Lock()

    def ask(self, question: Question) -> str:
        import torch
        from transformers import GenerationConfig

        inputs = self.inputs(question)
        warm = question.temperature > 0
        settings = GenerationConfig(
            max_new_tokens=question.max_tokens,
            do_sample=warm,
            temperature=question.temperature if warm else None,
            eos_token_id=self.model.generation_config.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id or 0,
        )
        devices = [] if self.model.device.type != "cuda" else list(range(torch.cuda.device_count()))
        try:
            with self._lock, torch.inference_mode(), torch.random.fork_rng(devices):
                torch.manual_seed(int(question.digest(self.name)[:15], 16))
                tokens = self.model.generate(**inputs, generation_config=settings)
        except torch.OutOfMemoryError as error:
            shape = max((image.shape[:2] for image in question.images), default=(0, 0))
            raise UserError(
                f"A question with {len(question.images)} images of up to {shape[1]}x{shape[0]} pixels does not fit on "
                f"{self.model.device}: ask with fewer or smaller frames, or a smaller model."
            ) from error
        new = tokens[0, inputs["input_ids"].shape[1] :]
        ends = settings.eos_token_id
        cut = len(new) == question.max_tokens and int(new[-1]) not in (ends if isinstance(ends, list) else [ends])
        answer = str(self.tokenizer.decode(new, skip_special_tokens=True)).strip()
        return check_answer(answer, cut=cut, limit=question.max_tokens, ended="length" if cut else "stop")

    def inputs(self, question: Question) -> dict[str, torch.Tensor]:
        """What the model is given: token ids with as many image tokens as patches, patches and their grid."""
        parts = question.parts()
        images = [part for part in parts if not isinstance(part, str)]
        pieces = prompt_of(question, parts).split("<|image_pad|>")
        assert len(pieces) == len(images) + 1
        seen: dict[str, torch.Tensor] = {}
        prompt = pieces[0]
        if images:
            seen = dict(self.processor(images=images, return_tensors="pt"))
            counts = seen["image_grid_thw"].prod(dim=1) // self.processor.merge_size**2
            prompt += "".join(
                "<|image_pad|>" * count + piece for count, piece in zip(counts.tolist(), pieces[1:], strict=True)
            )
        ids = self.tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        seen |= {"input_ids": ids["input_ids"], "attention_mask": ids["attention_mask"]}
        seen["mm_token_type_ids"] = (ids["input_ids"] == self._image_id).int()
        return {
            name: value.to(self.model.device, self.model.dtype if value.is_floating_point() else None)
            for name, value in seen.items()
        }


def prompt_of(question: Question, parts: list[str | np.ndarray]) -> str:
    """The conversation as these families were trained on it, one image token for each image."""
    said = "".join(_plain(part) if isinstance(part, str) else IMAGE_TOKENS for part in parts)
    system = _plain(question.system) or "You are a helpful assistant."
    return f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{said}<|im_end|>\n<|im_start|>assistant\n"


def _plain(text: str) -> str:
    """Text that cannot pass for one of the model's control tokens."""
    return text.replace("<|", "< |")
