"""The training step of every family of editors, in all stages of their papers.

    loss = L_flow + 0.1 L_semantic                                              (SAMA, equations 4 and 5; ICVE: L_flow)
    L_flow     = mean_samples [ sum w (v - v*)^2 / sum w ],   w = 1 + (emphasis - 1) * changed share
    L_semantic = mean |u - u*|                                v*, u* = noise - data

A pass is one batch a process, each of one shape, from a source (`sources.py`): live videos, cached latents or drawn
pools. Which samples a step sees, their noise, noise levels and dropped texts are functions of the seed and the step
alone, however many processes share it.

Where a drawn world knows how an answer differs from its source, weighting that region is what lets a small model learn
the edit before it has learnt to copy (without it, copying is nearly all of the loss).

Letters: `b` batch, `c` channels, `t h w` latent time, rows, columns, `l` text tokens, `d` their width, `s` semantic
tokens, `e` their width. sigma = 1 is noise, velocity = noise - data, timestep = 1000 sigma.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from opensama.flow import add_noise, flow_loss, semantic_loss, velocity
from opensama.models.costs import training_flops
from opensama.models.families import family_of
from opensama.runtime import autocast
from opensama.training.cell_objects import ObjectTeller
from opensama.training.config import FlowSettings, LossSettings
from opensama.training.sources import ItemSource
from opensama.training.stage import Batch, BatchHook, BatchLoader, Source, TrainingStage

if TYPE_CHECKING:
    from diffusers.models.modeling_outputs import Transformer2DModelOutput

    from opensama.models.sama import SamaOutput

    EditAnswer: TypeAlias = SamaOutput | Transformer2DModelOutput

_Read = TypeVar("_Read")


def with_noise(x: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A batch with what the model sees of target and semantic tokens at its noise levels: `noisy`, `noisy_semantic`."""
    out = {**x, "noisy": add_noise(x["target"], x["noise"], x["sigma"])}
    if "semantic" in x:
        out["noisy_semantic"] = add_noise(x["semantic"], x["semantic_noise"], x["sigma"])
    return out


def edit_losses(
    answer: EditAnswer, x: Mapping[str, Tensor], settings: FlowSettings, importance: Tensor | None = None
) -> dict[str, Tensor]:
    """The loss of a model's answer to a batch, and its parts to watch; `importance` [c] scales latent numbers."""
    scale: Tensor | float = 1.0
    if settings.ease:
        scale = (x["sigma"] / settings.ease).clamp(max=1).view(-1, 1, 1, 1, 1)
    if importance is not None:
        scale = scale * importance.view(-1, 1, 1, 1)
    wanted, given = scale * velocity(x["target"], x["noise"]), scale * answer.sample.float()
    weight = 1 + (settings.emphasis - 1) * x["change"] if settings.emphasis != 1 else None
    video = flow_loss(given, wanted, weight)
    out = {"loss": video, "flow": flow_loss(given.detach(), wanted)}
    if weight is not None:
        out["changed"] = flow_loss(given.detach(), wanted, x["change"] + 1e-6)
    if "semantic" in x:
        assert isinstance(settings, LossSettings)
        assert answer.semantic_sample is not None
        semantic = semantic_loss(answer.semantic_sample, velocity(x["semantic"], x["semantic_noise"]))
        out["loss"] = video + settings.semantic * semantic
        out["semantic"] = semantic.detach()
    return out


class EditStage(TrainingStage):
    """`step` is one pass over a batch of the source; `source.passes` of them make a step of the optimizer.

    `condition_kwargs` are what the family's `condition` takes besides the batch; `importance` [c] scales latent numbers
    in the loss. A source of token ids needs a `hook` that encodes them. `scores` are what `measure` gives. `full`: all
    weights are trained, not low-rank matrices. `objects` is the weight of a loss by which tokens of a drawn target tell
    what lies in their cells, see `cell_objects.py`.
    """

    loader: BatchLoader

    def __init__(
        self,
        name: str,
        transformer: ModelMixin,
        source: Source[_Read],
        loss: FlowSettings,
        *,
        condition_kwargs: Mapping[str, float] | None = None,
        compute: Literal["auto", "bfloat16", "float32"] = "auto",
        full: bool = True,
        device: torch.device | str | None = None,
        importance: Tensor | None = None,
        hook: BatchHook | None = None,
        scores: Callable[[EditStage], dict[str, float]] = lambda stage: {},
        preview: Callable[[Path], None] | None = None,
        objects: float = 0.0,
    ):
        self.device = next(transformer.parameters()).device if device is None else torch.device(device)
        super().__init__(name, BatchLoader(source, self.device))
        self.transformer, self.loss, self.compute, self.full = transformer, loss, compute, full
        self.hook, self.scores, self.previews = hook, scores, preview
        self.condition_kwargs = dict(condition_kwargs or {})
        self.family = family_of(transformer)
        self.sizes = self.family.sizes.of(transformer.config)
        self.objects, self.teller = objects, None
        if objects:
            self.teller = ObjectTeller(transformer.proj_out.in_features).to(self.device)
            transformer.proj_out.register_forward_pre_hook(self._keep_tokens)
        self.importance = None if importance is None else importance.to(self.device)

    @staticmethod
    def of(
        name: str,
        transformer: ModelMixin,
        items: ItemSource,
        *,
        importance: Tensor | None = None,
        preview: Callable[[Path], None] | None = None,
    ) -> EditStage:
        """A stage on items of a data set, as an editor's settings say."""
        config = items.config
        return EditStage(
            name, transformer, items, config.loss, condition_kwargs=config.model.condition_kwargs,
            compute=config.compute, full=config.lora is None, device=items.device, importance=importance,
            preview=preview,
        )  # fmt: skip

    @property
    def passes(self) -> int:
        """Batches that make a step of the optimizer."""
        return self.loader.source.passes

    def modules(self) -> Mapping[str, nn.Module]:
        teller = {} if self.teller is None else {"objects": self.teller}
        return {"transformer": self.transformer} | dict(self.hook.modules() if self.hook else {}) | teller

    def step(self, index: int) -> dict[str, Tensor]:
        """Losses of one batch, [] each, weighted by its `weight`; its tokens and operations."""
        x = self.loader(index)
        losses = edit_losses(self.answer(x), x, self.loss, self.importance)
        if self.teller is not None and "objects" in x:
            weight = 1 + (self.loss.emphasis - 1) * x["change"].flatten(1)
            told = self.teller(self.tokens, x["objects"].flatten(2), weight)
            losses["loss"] = losses["loss"] + self.objects * told["objects"]
            losses |= {name: part.detach() for name, part in told.items()}
        if "weight" in x:
            losses["loss"] = losses["loss"] * x["weight"]
        return losses | self.cost(x)

    def answer(self, x: Batch) -> EditAnswer:
        """The transformer's answer to a batch, to which the hook adds."""
        with autocast(self.device, self.compute):
            if self.hook is not None:
                x |= self.hook(x)
            return self.transformer(**self.family.condition(with_noise(x), **self.condition_kwargs))

    def _keep_tokens(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """What the last block's tokens [b n d] are after their norm, for the losses beside the answer's."""
        self.tokens = inputs[0]

    def preview(self, folder: Path) -> None:
        if self.previews is not None:
            self.previews(folder)

    def measure(self) -> dict[str, float]:
        return self.scores(self)

    def cost(self, x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tokens of a batch, and operations of the model for it, forward and backward, nothing counted twice."""
        b, latents = len(x["target"]), [x[side][0, 0].numel() for side in ("source", "target") if side in x]
        semantic = x["semantic"].shape[1] if "semantic" in x else 0
        tokens = sum(latents) // prod(self.sizes.patch) + semantic
        text = x["text"].shape[1]
        flops = training_flops(self.sizes, tokens, text, semantic=semantic, full=self.full)
        return {"tokens": torch.tensor(float(b * tokens)), "flops": torch.tensor(b * flops, dtype=torch.float64)}
