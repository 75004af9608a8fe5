"""The Bernini-R transformer: Wan's video transformer that edits, by clean streams before the target's tokens.

    z = [ video 1 | video 2 .. | reference image 1 | .. | target ],   every stream from position 0
    told apart by the rotary phase of their source ids: target 0, the others 1, 2, .. in this order
    output: velocity of the target's latents                       (Bernini, arXiv 2605.22344: its renderer)

There are no new parameters and all tokens have the target's timestep. A stream has a size and length of its own; an
image is one latent frame. sigma = 1 is noise, velocity = noise - data, timestep = 1000 sigma.

`b` batch, `c` channels, `t h w` latent time, rows, columns, `n` tokens, `d` width, `l` text tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin  # noqa: F401  (diffusers loads components of modules that name it)
from diffusers.utils import apply_lora_scale
from torch import Tensor

from opensama.models.rotary import grid_rotary, joined_rotary
from opensama.models.wan import WanStreams

MAX_SOURCE_ID = 5
"""The largest that the weights were trained with."""


class BerniniTransformer3DModel(WanStreams):
    """Predicts the target's velocity, given clean streams of videos and images, and text. WanTransformer3DModel's sizes
    and weights, under the same names."""

    @apply_lora_scale("attention_kwargs")
    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        source_hidden_states: Tensor | Sequence[Tensor] | None = None,
        attention_kwargs: dict[str, object] | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Velocity of `hidden_states` [b c t h w].

        `timestep` is [b]; `encoder_hidden_states` is the text [b l d_text]; `source_hidden_states` is one stream
        [b c t' h' w'], or videos and after them images, each a stream of its own size.
        """
        given = [] if source_hidden_states is None else source_hidden_states
        clean = [given] if isinstance(given, Tensor) else list(given)
        tokens, grids = zip(*map(self.embed_latents, (*clean, hidden_states)), strict=True)
        head, device = self.config["attention_head_dim"], hidden_states.device
        ids = (*source_ids(len(clean)), 0.0)
        rotary = [grid_rotary(head, grid, (0, 0, 0), device, i) for grid, i in zip(grids, ids, strict=True)]
        answers, temb = self.through_blocks(tokens, joined_rotary(*rotary), timestep, encoder_hidden_states)
        sample = self.project(answers[-1], temb, grids[-1])
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)


def source_ids(n: int) -> list[float]:
    """1, 2, .. n; more than were trained are spread evenly over 1 to MAX_SOURCE_ID."""
    if n <= MAX_SOURCE_ID:
        return [float(i + 1) for i in range(n)]
    return [1 + (MAX_SOURCE_ID - 1) * i / (n - 1) for i in range(n)]
