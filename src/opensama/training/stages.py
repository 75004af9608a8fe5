"""The training step of every family of editors, in all stages of their papers.

    loss = L_flow + 0.1 L_semantic                                              (SAMA, equations 4 and 5; ICVE: L_flow)
    L_flow     = mean_samples [ sum w (v - v*)^2 / sum w ],   w = 1 + (emphasis - 1) * changed share
    L_semantic = mean |u - u*|                                v*, u* = noise - data

A pass is one batch a process, each of one shape; the passes of an optimizer's step take the images first, then the
videos, each weighted so that every sample of the step counts the same. Which samples a step sees, their noise, noise
levels and dropped texts are functions of the seed and the step alone, however many processes share it; a step's batches
are sorted by size, so that processes which wait for each other compute alike ones.

Letters: `b` batch, `c` channels, `t h w` latent time, rows, columns, `l` text tokens, `d` their width, `s` semantic
tokens, `e` their width. sigma = 1 is noise, velocity = noise - data, timestep = 1000 sigma.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from opensama.data.latents import Encoded, Live
from opensama.data.loader import Reader
from opensama.data.prefetch import Prefetcher
from opensama.data.samples import Kind, Sampler, generator, shapes_of
from opensama.flow import add_noise, flow_loss, sample_sigma, semantic_loss, velocity
from opensama.models.costs import training_flops
from opensama.models.families import find_family
from opensama.runtime import autocast
from opensama.training.config import EditConfig, FlowSettings, LossSettings
from opensama.training.devices import moved, pinned
from opensama.training.parallel import share_tensors
from opensama.training.plan import count_passes
from opensama.values import UserError

Batch = dict[str, Tensor]
Found = tuple[int, Any]
"""The number of an item, and what was read of it."""
WHOLE = slice(None)  # of a batch's samples


def cells(model: Any) -> int:
    """Latent cells of one token."""
    return int(torch.tensor(model.config.patch_size).prod())


def noised(x: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A batch with what the model sees of target and semantic tokens at its noise levels: `noisy`, `noisy_semantic`."""
    out = {**x, "noisy": add_noise(x["target"], x["noise"], x["sigma"])}
    if "semantic" in x:
        out["noisy_semantic"] = add_noise(x["semantic"], x["semantic_noise"], x["sigma"])
    return out


def edit_losses(
    answer: Any, x: Mapping[str, Tensor], settings: FlowSettings, importance: Tensor | None = None
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
        semantic = semantic_loss(answer.semantic_sample, velocity(x["semantic"], x["semantic_noise"]))
        out["loss"] = video + settings.semantic * semantic
        out["semantic"] = semantic.detach()
    return out


class EditStage:
    """Batches of images and of videos in turn. `step` is one pass; `passes` of them make a step of the optimizer.

    `rank` and `world` number the processes that see different data; `importance` [c] scales latent numbers in the loss.
    Of a batch that a group of processes is `sharing`, each reads and encodes its part where that is not done before.
    """

    def __init__(
        self,
        name: str,
        transformer: Any,
        data: Encoded,
        config: EditConfig,
        *,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
        importance: Tensor | None = None,
        sharing: dist.ProcessGroup | None = None,
    ):
        self.importance, self.sharing = importance, sharing
        self.name, self.transformer, self.data, self.config = name, transformer, data, config
        self.family = find_family(config.family)
        self.sizes = self.family.sizes.of(transformer.config)
        self.rank, self.world, self.device = rank, world, torch.device(device)
        self.live = data if isinstance(data, Live) else None
        self.reader: Reader[Any] = Reader(data.items, data.__getitem__ if self.live is None else self.live.read)
        self.skipped = self.reader.skipped  # for the loop, which lists and empties it
        wanted = config.data
        shares: list[tuple[Kind, int, int]] = [
            ("image", wanted.images, wanted.image_batch),
            ("video", wanted.videos, wanted.video_batch),
        ]
        self.plan: list[tuple[Sampler, int, int, float]] = []  # sampler, batch a process, passes, weight of a pass
        counts = {kind: count_passes(kind, a_step, batch, world) for kind, a_step, batch in shares}
        self.passes = sum(counts.values())
        shapes = shapes_of(data.items)
        for kind, a_step, batch in shares:
            if not a_step:
                continue
            sampler = Sampler(shapes, kind, batch, config.seed)
            if not sampler.epoch_length:
                raise UserError(
                    f"The data has no {kind}s, but {a_step} are wanted a step: add some, or set data.{kind}s=0."
                )
            weight = batch * self.passes * world / (wanted.images + wanted.videos)
            self.plan.append((sampler, batch, counts[kind], weight))
        self.epoch = max(sampler.steps(count * world * batch) for sampler, batch, count, _ in self.plan)  # in steps
        self.preview: Callable[[Path], None] = lambda folder: None
        self.part = WHOLE  # of batches that must be encoded, the samples that this process does
        if sharing is not None:
            self.part = slice(sharing.rank(), None, sharing.size())
        self.prefetch: Prefetcher[Any] = Prefetcher(self.ahead, workers=config.machine.workers)

    def modules(self) -> Mapping[str, nn.Module]:
        return {"transformer": self.transformer}

    def close(self) -> None:
        self.prefetch.close()

    def step(self, index: int) -> dict[str, Tensor]:
        """The losses of one pass."""
        batch = self.prefetch(index) if self.live is None else self.collate(index, self.shared(index))
        x = moved(batch, self.device)
        with autocast(self.device, self.config.compute):
            answer = self.transformer(**self.family.condition(noised(x), **self.config.model.asked))
        losses = edit_losses(answer, x, self.config.loss, self.importance)
        losses["loss"] = losses["loss"] * x["weight"]
        return losses | self.cost(x)

    def cost(self, x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tokens of a batch, and operations of the model for it, forward and backward, nothing counted twice."""
        b, latents = len(x["target"]), [x[side][0, 0].numel() for side in ("source", "target") if side in x]
        semantic = x["semantic"].shape[1] if "semantic" in x else 0
        tokens = sum(latents) // cells(self.transformer) + semantic
        text, full = x["text"].shape[1], self.config.lora is None
        flops = training_flops(self.sizes, tokens, text, semantic=semantic, full=full)
        return {"tokens": torch.tensor(float(b * tokens)), "flops": torch.tensor(b * flops, dtype=torch.float64)}

    def ahead(self, index: int) -> Any:
        """What threads make before a pass's turn: its batch, or where models must encode it first, what they take."""
        return pinned(self.batch(index), self.device) if self.live is None else self.read(index, self.part)

    def read(self, index: int, part: slice = WHOLE) -> list[Found]:
        """What one pass's batch is made of, in any thread: of each sample what was read, by the item's number."""
        sampler, _, mine, _ = self._place(index)
        return [self.reader(sampler, number) for number in sampler.numbers(mine)[part]]

    def encode(self, index: int, found: Sequence[Found], part: slice = WHOLE) -> list[dict[str, Tensor]]:
        """The latents, text and features of what was read; computed here where they are not read."""
        if self.live is None:
            return [what for _, what in found]
        sampler, _, mine, _ = self._place(index)
        pairs = zip(sampler.numbers(mine)[part], found, strict=True)
        return [self.reader.then(self.live.encode, sampler, number, what) for number, what in pairs]

    def shared(self, index: int) -> list[dict[str, Tensor]]:
        """What `encode` gives of the whole batch, with every sample read and encoded by one of those that share it."""
        if self.sharing is None:
            return self.encode(index, self.prefetch(index))

        def own() -> dict[str, Tensor]:
            encoded = self.encode(index, self.prefetch(index), self.part)
            numbers = range(self._place(index)[1])[self.part]
            return {f"{i}/{key}": x for i, sample in zip(numbers, encoded, strict=True) for key, x in sample.items()}

        found: dict[int, dict[str, Tensor]] = {}
        for name, x in share_tensors(own, self.sharing, self.device).items():
            number, _, key = name.partition("/")
            found.setdefault(int(number), {})[key] = x
        return [found[i] for i in range(len(found))]

    def batch(self, index: int) -> Batch:
        """This process's batch of one pass, on the CPU in float32, made by it alone; see `sample` for what is in it."""
        return self.collate(index, self.encode(index, self.read(index)))

    def collate(self, index: int, encoded: Sequence[dict[str, Tensor]]) -> Batch:
        """The batch of encoded samples."""
        sampler, b, mine, weight = self._place(index)
        samples = [self.sample(x, generator(self.config.seed, sampler.kind, mine, i)) for i, x in enumerate(encoded)]
        texts = [sample.pop("text") for sample in samples]
        out = {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}
        most = self.config.data.text_tokens
        lengths = torch.tensor([min(len(text), most) for text in texts])
        whole = self.family.pads_text or self.config.mesh.compile  # what is compiled wants one length
        out["text"] = torch.zeros(b, most if whole else int(lengths.max()), texts[0].shape[1])
        for i, text in enumerate(texts):
            out["text"][i, : len(text)] = text[:most]
        there = torch.arange(out["text"].shape[1]) < lengths[:, None]
        if not self.family.pads_text and not there.all():
            out["text_mask"] = there
        out["weight"] = torch.tensor(weight)
        return out

    def sample(self, encoded: Mapping[str, Tensor], g: torch.Generator) -> Batch:
        """source, target, noise [c t h w], change [t h w], semantic and its noise [s e], text [l d], sigma [].

        Where the model reads the text in one vector too, that is `pooled` [d].
        """
        x = {key: tensor.float() for key, tensor in encoded.items()}
        dropped = torch.rand((), generator=g) < self.config.data.text_dropout
        if dropped:
            x |= {key: tensor.float() for key, tensor in self.data.nothing.items()}
        x["sigma"] = sample_sigma(1, how=self.config.loss.time, shift=self.config.loss.shift, generator=g)[0]
        x["noise"] = torch.randn(x["target"].shape, generator=g)
        if "semantic" in x:
            x["semantic_noise"] = torch.randn(x["semantic"].shape, generator=g)
        return x

    def _place(self, index: int) -> tuple[Sampler, int, int, float]:
        """Of a pass: the stream it belongs to, its batch's size and number in it, and its weight."""
        step, at = divmod(index, self.passes)
        for sampler, b, count, weight in self.plan:
            if at < count:
                every = range(step * count * self.world, (step + 1) * count * self.world)
                by_size = sorted(every, key=lambda number: self.data.items[sampler.numbers(number)[0]].shape.size)
                return sampler, b, by_size[at * self.world + self.rank], weight
            at -= count
        raise AssertionError(index)
