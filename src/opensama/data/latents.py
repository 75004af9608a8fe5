"""Both sides' latents, text and semantic features of items: computed when asked for, or beforehand into shards.

    FOLDER/index.json                    settings, the data's fingerprint among them, and bad items with their reasons
    FOLDER/items.jsonl                   the items in order, with their shapes
    FOLDER/shard-00007.safetensors       ITEM/source, LINE/target [c t h w], ITEM/text [l d], LINE/semantic [s e], ...
                                         (a clip's variants share what is its line's; a source that is the target is
                                         not there)

Both go through `encode_item`, one item at a time, and round to the same number type: the same numbers come out, to the
bit. A shard is written under another name and renamed when it is whole, so an interrupted run goes on; several
processes share the shards among them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol, TypedDict

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from opensama.data.prefetch import Prefetcher
from opensama.data.samples import BadSample, Layout, PixelPair, Shape, TrainingItem, TrainingRow
from opensama.runtime import whole_file
from opensama.values import UserError

_log = logging.getLogger(__name__)
_CHANGED = 0.1  # difference of pixels in [-1, 1] above which an edit has changed them
SHARD_ITEMS = 64
OF_LINE = ("target", "semantic")  # what a clip's variants have in common
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Encoders:
    """The frozen models around the transformer, as functions on its device."""

    video: Callable[[Tensor], Tensor]  # [1 3 t h w] in [-1, 1] -> normalised latents [1 c t h w]
    text: Callable[[str], dict[str, Tensor]]  # -> text [1 l d], zero where it has ended; pooled [1 d] if there is one
    semantic: Callable[[Tensor], Tensor] | None  # the target [3 t h w] -> tokens of its anchors [s e]
    dtype: torch.dtype = torch.bfloat16  # what latents and features are kept as


class LatentsIndex(TypedDict):
    """`index.json`: what the items were encoded with, and reasons of bad items by their names."""

    settings: dict[str, object]
    bad: dict[str, str]


class EncodedItems(Protocol):
    """Items as the loss needs them. Several threads ask at once, except of `LiveItems`: there they call `read`."""

    items: Sequence[TrainingItem]

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        """source, target [c t h w], text [l d] as long as it is, change [t h w]; semantic [s e], pooled [d] if any."""
        ...

    @property
    def nothing(self) -> Mapping[str, Tensor]:
        """The text that stands for none: text [l d], and pooled [d] if items have it."""
        ...


class LiveItems:
    """Encodes items when they are asked for."""

    def __init__(self, items: Sequence[TrainingItem], layout: Layout, encoders: Encoders, no_text: str = ""):
        self.items, self.layout, self.encoders = items, layout, encoders
        self.nothing = {key: x.to("cpu", encoders.dtype) for key, x in unbatched_text(encoders.text(no_text)).items()}

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        return self.encode(self.read(number))

    def read(self, number: int) -> PixelPair:
        """An item's pixels and text, in any thread."""
        return self.layout.read(self.items[number])

    def encode(self, pair: PixelPair, of_line: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """What `live[number]` is, of what was read. In one thread at a time: autoencoders keep state in a call.

        `of_line` is another variant's of the same clip, whose target and semantic features are this one's, too.
        """
        return encode_item(pair, self.encoders, of_line or {})


class ShardedItems:
    """Reads what `precompute` wrote."""

    def __init__(self, folder: Path, expected: Mapping[str, object]):
        """`expected` are the settings that this run would encode with; UserError names one that differs."""
        self.folder = folder
        index = read_index(folder)
        check_settings(index["settings"], expected, folder)
        self.bad = index["bad"]
        self.items: Sequence[TrainingItem] = read_items(folder / "items.jsonl")
        missing = [shard for shard in range(count_shards(len(self.items))) if not shard_file(folder, shard).is_file()]
        if missing:
            raise UserError(f"The latents in {folder} lack {shard_file(folder, missing[0]).name}: encode them again.")
        self._open = lru_cache(256)(lambda shard: safe_open(shard_file(folder, shard), framework="pt"))
        self.nothing = load_file(folder / "nothing.safetensors")

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        name = self.items[number].name
        if name in self.bad:
            raise BadSample(self.bad[name])
        shard = self._open(number // SHARD_ITEMS)
        own = (f"{name}/", f"{self.items[number].row.line}/")
        keys = [key for key in shard.keys() if key.startswith(own)]  # noqa: SIM118  (a file handle)
        found = {key.partition("/")[2]: shard.get_tensor(key) for key in keys}
        return {"source": found["target"]} | found


@dataclass
class ItemsInMemory:
    """Items whose tensors are in memory, such as drawn ones."""

    items: Sequence[TrainingItem]
    samples: Sequence[Mapping[str, Tensor]]
    nothing: Mapping[str, Tensor]

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        return dict(self.samples[number])


@torch.no_grad()
def encode_item(pair: PixelPair, encoders: Encoders, known: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One item's tensors, on the CPU; `known` may hold its target and semantic features."""
    target = known["target"] if "target" in known else encoders.video(pair.target[None])[0]
    source = target if pair.source is pair.target else encoders.video(pair.source[None])[0]
    out = {"source": source, "target": target, **unbatched_text(encoders.text(pair.text))}
    if encoders.semantic is not None:
        out["semantic"] = known["semantic"] if "semantic" in known else encoders.semantic(pair.target)
    bad = [name for name, tensor in out.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise BadSample(f"its {bad[0]} holds numbers that are not finite")
    if pair.is_edit and pair.source.shape == pair.target.shape:
        changed = (pair.source - pair.target).abs().amax(0) > _CHANGED
        out["change"] = changed_share(changed[None], target.shape[1:])[0]
    else:
        out["change"] = torch.zeros(target.shape[1:])
    return {name: tensor.to("cpu", encoders.dtype).contiguous() for name, tensor in out.items()}


def changed_share(changed: Tensor, cells: Sequence[int]) -> Tensor:
    """Share of changed pixels in each latent cell [b *cells] of masks [b t h w] bool; the first frame is alone."""
    t, h, w = cells
    parts = [F.adaptive_avg_pool3d(changed[:, :1].float(), (1, h, w))]
    if t > 1:
        parts.append(F.adaptive_avg_pool3d(changed[:, 1:].float(), (t - 1, h, w)))
    return torch.cat(parts, dim=1)


def precompute(
    folder: Path,
    live: LiveItems,
    settings: Mapping[str, object],
    *,
    rank: int = 0,
    world: int = 1,
    workers: int = 2,
) -> dict[str, str]:
    """Encodes all items into shards, every `world`-th of them from `rank` on; bad items, by name, come out.

    `workers` threads read ahead. Shards that are there stay. A clip's target is encoded once for all its variants
    that follow each other in this process's shards. The last process to end, whichever it is, leaves the index whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "index.json").exists():
        check_settings(read_index(folder)["settings"], settings, folder)
    items = live.items
    _save({key: x.contiguous() for key, x in live.nothing.items()}, folder / "nothing.safetensors")
    _write("".join(f"{json.dumps(line_of(item))}\n" for item in items), folder / "items.jsonl")
    bad: dict[str, str] = {}
    shards = [s for s in range(rank, count_shards(len(items)), world) if not shard_file(folder, s).is_file()]
    wanted = [range(shard * SHARD_ITEMS, min(len(items), (shard + 1) * SHARD_ITEMS)) for shard in shards]
    numbers = [number for part in wanted for number in part]
    prefetch = Prefetcher(lambda at: live.read(numbers[at]), workers=workers, end=len(numbers))
    at = 0
    last: tuple[int, dict[str, Tensor]] = (-1, {})  # a line, and what its variants have in common
    try:
        for done, (shard, part) in enumerate(zip(shards, wanted, strict=True), 1):
            tensors: dict[str, Tensor] = {}
            faults: dict[str, str] = {}
            for number in part:
                item, at = items[number], at + 1
                try:
                    encoded = live.encode(prefetch(at - 1), last[1] if last[0] == item.row.line else None)
                except BadSample as reason:
                    faults[item.name] = str(reason)
                    _log.info("skipped line %d: %s", item.row.line, reason)
                    continue
                last = (item.row.line, {key: encoded[key] for key in OF_LINE if key in encoded})
                if torch.equal(encoded["source"], encoded["target"]):
                    encoded.pop("source")
                owner = {key: item.row.line if key in OF_LINE else item.name for key in encoded}
                tensors |= {f"{owner[key]}/{key}": tensor for key, tensor in encoded.items()}
            _save(tensors, shard_file(folder, shard), {"bad": json.dumps(faults)})
            if done % max(1, len(shards) // 20) == 0 or done == len(shards):
                _log.info("encoded %d of %d shards", done, len(shards))
    finally:
        prefetch.close()
    for shard in range(count_shards(len(items))):
        if shard_file(folder, shard).is_file():
            with safe_open(shard_file(folder, shard), framework="pt") as file:
                bad |= json.loads((file.metadata() or {}).get("bad", "{}"))
    _write(json.dumps({"settings": dict(settings), "bad": bad}, indent=1), folder / "index.json")
    return bad


def line_of(item: TrainingItem) -> list[str | int]:
    """Name, line, path, seed and shape of an item, as `items.jsonl` has them."""
    return [item.name, item.row.line, str(item.row.target), item.seed, *item.shape]


def read_items(file: Path) -> list[TrainingItem]:
    """The items that were encoded; the manifest and its files need not be there any more."""
    try:
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        return [
            TrainingItem(TrainingRow(at, None, Path(path), ""), Shape(*shape), seed, name)
            for name, at, path, seed, *shape in lines
        ]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{file} is missing or damaged ({error}): encode the data again.") from None


def read_index(folder: Path) -> LatentsIndex:
    """Settings and bad items of a folder of latents. UserError where it is none, or damaged."""
    try:
        return json.loads((folder / "index.json").read_text())
    except FileNotFoundError:
        raise UserError(f"There are no latents in {folder}: make them with `opensama train RECIPE --encode`.") from None
    except ValueError:
        raise UserError(f"The index of {folder} is damaged: encode the data again.") from None


def check_settings(saved: Mapping[str, object], now: Mapping[str, object], folder: Path) -> None:
    """UserError that names the first setting that latents on disk were made with and this run would not be."""
    now = json.loads(json.dumps(now))
    for key in sorted({*saved, *now}):
        if saved.get(key) != now.get(key):
            raise UserError(
                f"The latents in {folder} were made with {key} {saved.get(key)!r}, this run has {now.get(key)!r}: "
                "encode into another folder, or set it back."
            )


def count_shards(items: int) -> int:
    return -(-items // SHARD_ITEMS)


def shard_file(folder: Path, shard: int) -> Path:
    return folder / f"shard-{shard:05}.safetensors"


def unbatched_text(encoded: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One encoded text, without its batch: text [1 l d] as [l d], and without the zeros past its end."""
    out = {key: x[0] for key, x in encoded.items()}
    there = out["text"].ne(0).any(-1).nonzero()
    out["text"] = out["text"][: int(there[-1]) + 1 if len(there) else 1]
    return out


def _write(text: str, file: Path) -> None:
    with whole_file(file) as temporary:
        temporary.write_text(text)


def _save(tensors: dict[str, Tensor], file: Path, metadata: dict[str, str] | None = None) -> None:
    with whole_file(file) as temporary:
        save_file(tensors, temporary, metadata)
