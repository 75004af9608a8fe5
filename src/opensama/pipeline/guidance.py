"""How a step's velocity comes from forward passes: which are made, by text and by what else the model sees.

    Guidance        v_neg + g (v - v_neg), or, with a scale for the source,
                    v_IT + s_I (v_IT - v_0T) + s_T (v_IT - v_I0)           (0T: no source, I0: the negative prompt)
    ChainGuidance   v_0 + s_1 (v_1 - v_0) + s_2 (v_2 - v_1) ..             of velocities, or of data by projection (APG)

The formulas are those of `opensama.flow`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from torch import Tensor

from opensama.flow import guide, guide_chain, guide_projected, guide_separately
from opensama.pipeline.part_store import BatchRows

if TYPE_CHECKING:
    from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer

ShownStreams = Literal["all", "first video", "images", "none"]


class CleanStreams(NamedTuple):
    """Clean latents that a model sees before its target: videos [b c t h w], images [b c 1 h w], each [1 ...] for all
    videos of a batch alike, and each of a size of its own."""

    videos: tuple[BatchRows, ...] = ()
    images: tuple[Tensor, ...] = ()


CleanSource = BatchRows | CleanStreams
"""What an edit begins from: one video's latents, or several streams where the model takes them."""


class ForwardPass(NamedTuple):
    """What one forward pass is given beside the noisy latents."""

    negative: bool = False  # the negative prompt in place of the prompt
    streams: ShownStreams = "all"  # of the clean latents


Ask = Callable[[ForwardPass], list[Tensor]]
"""Makes a forward pass: the velocities of latents, and of semantic tokens where there are some."""


class SamplingPoint(NamedTuple):
    """Where a step is: noisy latents [b c t h w], their noise level, and what guidance has kept of the steps before."""

    latents: Tensor
    sigma: float
    momentum: dict[int, MomentumBuffer]


@dataclass(frozen=True)
class Guidance:
    """How strongly the text acts, and the source too if `source` is given (then `text` is s_T = scale - 1)."""

    scale: float = 5.0
    source: float | None = None
    text: float | None = None

    @property
    def text_scale(self) -> float:
        """s_T; when it is 0 the negative prompt is not asked."""
        return self.scale - 1 if self.source is None or self.text is None else self.text

    @property
    def asks_negative(self) -> bool:
        return bool(self.text_scale)

    @property
    def passes(self) -> tuple[ForwardPass, ...]:
        """The forward passes of a step."""
        found = [ForwardPass()]
        if self.asks_negative:
            found.append(ForwardPass(negative=True))
        return (*found, ForwardPass(streams="none")) if self.source else tuple(found)

    def scaled(self, factor: float) -> Guidance:
        """The same with every scale multiplied; without guidance still without."""
        if not self.asks_negative and not self.source:
            return self
        source, text = (None if scale is None else factor * scale for scale in (self.source, self.text))
        return Guidance(factor * self.scale, source, text)

    def unguided(self) -> Guidance:
        """One pass, the prompt's."""
        return Guidance(1.0)

    def combine(self, ask: Ask, at: SamplingPoint) -> list[Tensor]:
        """The guided velocities of one step."""
        full = ask(ForwardPass())
        no_text = ask(ForwardPass(negative=True)) if self.asks_negative else full
        if self.source is None:
            return [guide(v, n, self.scale) for v, n in zip(full, no_text, strict=True)] if self.asks_negative else full
        no_source = ask(ForwardPass(streams="none")) if self.source else full
        return [
            guide_separately(v, n, o, source_scale=self.source, text_scale=self.text_scale)
            for v, n, o in zip(full, no_text, no_source, strict=True)
        ]


class Projection(NamedTuple):
    """Adaptive projected guidance's settings: `thresholds` of a latent frame's norm, one a link; see `flow`."""

    eta: float = 0.5
    thresholds: Sequence[float] = (50.0, 50.0)
    momentum: float = 0.0


@dataclass(frozen=True)
class ChainGuidance:
    """Forward passes of which each adds a condition to the one before, with a scale for what it adds."""

    passes: tuple[ForwardPass, ...]
    scales: tuple[float, ...]
    projection: Projection | None = None

    @property
    def asks_negative(self) -> bool:
        return any(one.negative for one in self.passes)

    def scaled(self, factor: float) -> ChainGuidance:
        """The same with every scale multiplied."""
        return replace(self, scales=tuple(factor * scale for scale in self.scales))

    def unguided(self) -> ChainGuidance:
        """One pass, the last, which has every condition."""
        return ChainGuidance(self.passes[-1:], ())

    def combine(self, ask: Ask, at: SamplingPoint) -> list[Tensor]:
        """The guided velocities of one step."""
        answers = list(zip(*map(ask, self.passes), strict=True))
        if self.projection is None:
            return [guide_chain(velocities, self.scales) for velocities in answers]
        from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer

        eta, thresholds, momentum = self.projection
        links = range(len(self.scales))
        kept = [at.momentum.setdefault(i, MomentumBuffer(momentum)) if momentum else None for i in links]
        return [
            guide_projected(
                velocities, self.scales, at.latents, at.sigma,
                eta=eta, thresholds=thresholds[: len(links)], momentum=kept,
            )
            for velocities in answers
        ]  # fmt: skip


AnyGuidance = Guidance | ChainGuidance
