"""What an editor's batches are made of: items of a manifest (decoded or as cached latents), and drawn pools.

A batch is a function of the source's seed and the number of its pass alone, its noise and noise levels included.

    source, target [b c t h w]   change [b t h w]   noise, and semantic [b s e] with semantic_noise, where there is some
    text [b l d] with text_mask [b l] and pooled [b d], or ids and mask [b l] for a text encoder that is in the stage
    sigma [b], weight []; of windows, source_places and target_places [b n 3]

Letters: `b` batch, `c` channels, `t h w` latent time, rows, columns, `l` text tokens, `d` their width, `s` semantic
tokens, `e` their width. sigma = 1 is noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from opensama.data.item_reader import ItemReader
from opensama.data.latents import EncodedItems, LiveItems
from opensama.data.samples import BatchSampler, Kind, generator, shapes_of
from opensama.flow import sample_sigma
from opensama.models.families import find_family
from opensama.training.config import EditConfig
from opensama.training.parallel import share_tensors
from opensama.training.plan import count_passes
from opensama.training.pool import LatentPool, RenewedPool
from opensama.training.stage import Batch, ReadySource, Source
from opensama.training.text import tokenize, trim_padding, without_words
from opensama.training.windows import cut_windows
from opensama.values import UserError

_Found = tuple[int, Any]
"""The number of an item, and what was read of it."""
_WHOLE = slice(None)  # of a batch's samples
_BESIDE = 8  # cells of the source outside a window


class ItemSource(Source[Batch | list[_Found]]):
    """Images and videos of a data set in turn; an optimizer's step takes the images first.

    Each pass is weighted so that every sample of a step counts the same. `rank` and `world` number the processes that
    see different data; of a batch that a group of processes is `sharing`, each reads and encodes its part where that is
    not done before.
    """

    def __init__(
        self,
        data: EncodedItems,
        config: EditConfig,
        *,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
        sharing: dist.ProcessGroup | None = None,
    ):
        super().__init__()
        self.data, self.config, self.sharing = data, config, sharing
        self.rank, self.world, self.device = rank, world, torch.device(device)
        self.pads_text, self.workers = find_family(config.family).pads_text, config.machine.workers
        self.live = data if isinstance(data, LiveItems) else None
        self.reader: ItemReader[Any] = ItemReader(data.items, data.__getitem__ if self.live is None else self.live.read)
        self.skipped = self.reader.skipped
        wanted = config.data
        shares: list[tuple[Kind, int, int]] = [
            ("image", wanted.images, wanted.image_batch),
            ("video", wanted.videos, wanted.video_batch),
        ]
        self.plan: list[tuple[BatchSampler, int, int, float]] = []  # sampler, batch a process, passes, weight of a pass
        counts = {kind: count_passes(kind, a_step, batch, world) for kind, a_step, batch in shares}
        self.passes = sum(counts.values())
        shapes = shapes_of(data.items)
        for kind, a_step, batch in shares:
            if not a_step:
                continue
            sampler = BatchSampler(shapes, kind, batch, config.seed)
            if not sampler.epoch_length:
                raise UserError(
                    f"The data has no {kind}s, but {a_step} are wanted a step: add some, or set data.{kind}s=0."
                )
            weight = batch * self.passes * world / (wanted.images + wanted.videos)
            self.plan.append((sampler, batch, counts[kind], weight))
        self.epoch = max(sampler.steps(count * world * batch) for sampler, batch, count, _ in self.plan)  # in steps
        self.part = _WHOLE  # of batches that must be encoded, the samples that this process does
        if sharing is not None:
            self.part = slice(sharing.rank(), None, sharing.size())

    def read(self, index: int) -> Batch | list[_Found]:
        return self.alone(index) if self.live is None else self.read_part(index, self.part)

    def batch(self, index: int, found: Batch | list[_Found]) -> Batch:
        return self.collate(index, self.shared(index, found)) if isinstance(found, list) else found

    def alone(self, index: int) -> Batch:
        """The batch on the CPU in float32; see `sample` for what is in it."""
        return self.collate(index, self.encode(index, self.read_part(index)))

    def read_part(self, index: int, part: slice = _WHOLE) -> list[_Found]:
        """What one pass's batch is made of, in any thread: of each sample what was read, by the item's number."""
        sampler, _, mine, _ = self._place(index)
        return [self.reader(sampler, number) for number in sampler.numbers(mine)[part]]

    def encode(self, index: int, found: Sequence[_Found], part: slice = _WHOLE) -> list[dict[str, Tensor]]:
        """The latents, text and features of what was read; computed here where they are not read."""
        if self.live is None:
            return [what for _, what in found]
        sampler, _, mine, _ = self._place(index)
        pairs = zip(sampler.numbers(mine)[part], found, strict=True)
        return [self.reader.finish(self.live.encode, sampler, number, what) for number, what in pairs]

    def shared(self, index: int, read: Sequence[_Found]) -> list[dict[str, Tensor]]:
        """What `encode` gives of the whole batch, with every sample read and encoded by one of those that share it."""
        if self.sharing is None:
            return self.encode(index, read)

        def own() -> dict[str, Tensor]:
            encoded = self.encode(index, read, self.part)
            numbers = range(self._place(index)[1])[self.part]
            return {f"{i}/{key}": x for i, sample in zip(numbers, encoded, strict=True) for key, x in sample.items()}

        found: dict[int, dict[str, Tensor]] = {}
        for name, x in share_tensors(own, self.sharing).items():
            number, _, key = name.partition("/")
            found.setdefault(int(number), {})[key] = x
        return [found[i] for i in range(len(found))]

    def collate(self, index: int, encoded: Sequence[dict[str, Tensor]]) -> Batch:
        """The batch of encoded samples, one shape, texts padded to one length."""
        sampler, b, mine, weight = self._place(index)
        samples = [self.sample(x, generator(self.config.seed, sampler.kind, mine, i)) for i, x in enumerate(encoded)]
        texts = [sample.pop("text") for sample in samples]
        out = {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}
        most = self.config.data.text_tokens
        lengths = torch.tensor([min(len(text), most) for text in texts])
        whole = self.pads_text or self.config.mesh.compile  # what is compiled wants one length
        out["text"] = torch.zeros(b, most if whole else int(lengths.max()), texts[0].shape[1])
        for i, text in enumerate(texts):
            out["text"][i, : len(text)] = text[:most]
        there = torch.arange(out["text"].shape[1]) < lengths[:, None]
        if not self.pads_text and not there.all():
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
        how = self.config.loss.times("image" if x["target"].shape[1] == 1 else "video")
        x["sigma"] = sample_sigma(1, **how, generator=g)[0]
        x["noise"] = torch.randn(x["target"].shape, generator=g)
        if "semantic" in x:
            x["semantic_noise"] = torch.randn(x["semantic"].shape, generator=g)
        return x

    def _place(self, index: int) -> tuple[BatchSampler, int, int, float]:
        """Of a pass: the stream it belongs to, its batch's size and number in it, and its weight."""
        step, at = divmod(index, self.passes)
        for sampler, b, count, weight in self.plan:
            if at < count:
                every = range(step * count * self.world, (step + 1) * count * self.world)
                by_size = sorted(every, key=lambda number: self.data.items[sampler.numbers(number)[0]].shape.size)
                return sampler, b, by_size[at * self.world + self.rank], weight
            at -= count
        raise AssertionError(index)


class PoolStream(NamedTuple):
    """A pool, its share of the batches, and how these are made of it."""

    pool: LatentPool | RenewedPool
    batch: int
    share: float  # of the steps, beside the other streams' shares
    cut: bool = True  # half of the batches to a random length of whole latents
    sides: tuple[int, ...] = ()  # of windows in cells, one of them a batch; none: whole frames
    pictures: bool = False  # the target alone, from its caption
    shift: float | None = None  # of noise levels, where it is not the stage's

    def at(self, index: int) -> LatentPool:
        """The pool that batches of that step are drawn from."""
        return self.pool(index) if isinstance(self.pool, RenewedPool) else self.pool


class PoolSource(ReadySource):
    """Batches from several pools in turn, one shape a batch; their texts are `ids` and `mask`."""

    def __init__(
        self,
        streams: Sequence[PoolStream],
        tokenizer: PreTrainedTokenizerFast,
        *,
        anchored: bool = True,
        pads_text: bool = True,
        shift: float = 3.0,
        text_dropout: float = 0.1,
        word_dropout: float = 0.0,
        seed: int = 0,
        shortest: int = 2,
    ):
        """`anchored` models read semantic tokens; without `pads_text` a batch is as long as its longest text."""
        super().__init__()
        self.streams, self.anchored, self.pads_text, self.shift = streams, anchored, pads_text, shift
        self.text_dropout, self.word_dropout, self.seed, self.shortest = text_dropout, word_dropout, seed, shortest
        self.nothing = tokenize(tokenizer, [""], streams[0].at(0)["ids"].shape[1])
        self._lock = Lock()  # a pool that is renewed holds one step's samples at a time

    def read(self, index: int) -> Batch:
        with self._lock:
            return self.make(index)

    def make(self, index: int) -> Batch:
        """The batch of one step, in float32, where its pool lies."""
        g = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        shares = torch.tensor([stream.share for stream in self.streams])
        stream = self.streams[int(torch.multinomial(shares, 1, generator=g))]
        pool, b = stream.at(index), stream.batch
        device = pool["ids"].device
        if device.type != "cpu":  # where the pool lies, batches are made
            g = torch.Generator(device).manual_seed(self.seed * 1_000_003 + index)
        chosen = torch.randint(len(pool["ids"]), (b,), generator=g, device=device)
        t = pool["source"].shape[2]
        if stream.cut and t > self.shortest and torch.rand((), generator=g, device=device) < 0.5:
            t = int(torch.randint(self.shortest, t, (), generator=g, device=device))
        semantic = self.anchored and not stream.sides
        texts = ("caption_ids", "caption_mask") if stream.pictures else ("ids", "mask")
        told = ("objects",) if "objects" in pool else ()
        wanted = ("source", "target", "change", *texts, *(("semantic",) if semantic else ()), *told)
        out = {key.removeprefix("caption_"): pool[key][chosen] for key in wanted}
        out = {key: (v[:, :, :t] if key in ("source", "target", "objects") else v) for key, v in out.items()}
        out["change"] = out["change"][:, :t]
        if stream.pictures:
            del out["source"]
            out["change"] = torch.zeros_like(out["change"])
        if stream.sides:
            side = stream.sides[int(torch.randint(len(stream.sides), (), generator=g, device=device))]
            out |= cut_windows(out, side, _BESIDE, g)
        ids, mask = (x.to(device) for x in self.nothing)
        if self.word_dropout:
            left_out = torch.rand(out["ids"].shape, generator=g, device=device) < self.word_dropout
            left_out[::2] = False  # half of the texts stay whole
            out["ids"], out["mask"] = without_words(out["ids"], out["mask"], left_out, int(ids[0, -1]))
        drop = torch.rand(b, generator=g, device=device) < self.text_dropout
        out["ids"] = torch.where(drop[:, None], ids, out["ids"])
        out["mask"] = torch.where(drop[:, None], mask, out["mask"])
        out["sigma"] = sample_sigma(b, shift=stream.shift or self.shift, generator=g)
        out["noise"] = torch.randn(out["target"].shape, generator=g, device=device)
        if "semantic" in out:
            out["semantic_noise"] = torch.randn(out["semantic"].shape, generator=g, device=device)
        if not self.pads_text:
            out["ids"], out["mask"] = trim_padding(out["ids"], out["mask"])
        return {key: v.float() if v.is_floating_point() else v for key, v in out.items()}
