"""How a model is asked when nobody says otherwise; a saved pipeline carries these in its model_index.json."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from opensama.values import UserError


@dataclass(frozen=True)
class Defaults:
    """How a model is asked when nobody says otherwise. The values here are those of the released SAMA sampler."""

    steps: int = 50
    guidance: float = 5.0
    shift: float = 5.0
    area: int = 832 * 480  # pixels of one frame at model size
    multiple: int = 32  # width and height at model size are multiples of this
    window: int = 81  # frames that one forward pass sees, 4k+1
    shortest: int | None = None  # frames to which a shorter clip is filled up by its last one; a picture is not
    least_side: int | None = None  # pixels of the longer side at model size, where the model is known to fail below
    overlap: int = 4  # latent frames that neighbouring windows share on long clips
    prompt_prefix: str = "[Video edit] "
    negative_prompt: str = "[Video edit]"
    max_text_tokens: int = 512
    preserve: bool = False  # keep the source's own pixels where the edit changed nothing
    dtype: str = "bfloat16"  # on an accelerator; a CPU computes in float32
    cache: float | None = None  # threshold of a first-block cache, where one was measured on the model
    embedded_guidance: float | None = None  # guidance that the model reads as a number, where it does
    text_layer: int = -1  # which of the text encoder's hidden states ICVE reads; SAMA reads the last

    def __post_init__(self) -> None:
        if self.window % 4 != 1:
            raise ValueError(f"a window holds 4k+1 frames, not {self.window}")
        if self.window > 1 and not 0 < self.overlap < (self.window - 1) // 4 + 1:
            raise ValueError(f"windows of {self.window} frames cannot share {self.overlap} latent frames")

    def to_dict(self) -> dict[str, object]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Defaults:
        """Unknown keys are an error that names them: a model folder of a newer version is not guessed at."""
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise UserError(f"This model folder has settings this version does not know: {', '.join(unknown)}.")
        return cls(**values)
