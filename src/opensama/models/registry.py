"""The models that this project can load: one row each: licence, where its weights are, needs, defaults.

A new model is a new row; a preset of it is asked for as NAME:PRESET. A folder saved by a pipeline's `save_pretrained`
is a model too: its `model_index.json` carries the defaults it was trained for. So is a single file of a transformer, in
any layout of `layouts.py`: the rest is its base's. Nothing here imports torch, so listing models is instant, unless a
file is asked for.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from inspect import signature
from pathlib import Path

from opensama.models.defaults import Defaults
from opensama.models.families import MODEL_FAMILIES, Family, Shapes
from opensama.models.families.bernini import FAMILY as BERNINI
from opensama.models.families.icve import FAMILY as ICVE
from opensama.models.families.sama import FAMILY as SAMA
from opensama.runtime import read_object
from opensama.values import UserError

WORDS_FILE = "words.txt"
WEIGHT_ENDINGS = (".safetensors", ".gguf")
ASSETS = Path(__file__).resolve().parent.parent / "assets"


@dataclass(frozen=True)
class Licence:
    """Under which terms a model's weights are published."""

    name: str
    url: str
    notice: str  # one sentence for people, printed once when the weights are loaded; empty: nothing to say


@dataclass(frozen=True)
class Weights:
    """Where one part of a model lies: a repository on the hub, and the files needed of it (patterns; empty: all)."""

    repo: str
    files: tuple[str, ...] = ()
    size: str = ""
    bits: float = 16  # of a number in the files, of packed ones of a number of the transformer's matrices
    packed: str = ""  # how they are kept in memory where that is as they are stored, see `Tensors.packing`

    @property
    def url(self) -> str:
        return f"https://huggingface.co/{self.repo}"


@dataclass(frozen=True)
class ModelEntry:
    """One model: a local pipeline `folder`, or without one put together from `base` and a single file `edit`.

    What the folder itself lacks is in `shared`, another model's folder. Of a model that was asked for by the path of
    its single file, this is `file`, and `config` holds its transformer's arguments as far as they are known.
    """

    name: str
    family: str
    summary: str
    licence: Licence
    memory: str
    defaults: Defaults = field(default_factory=Defaults)
    presets: dict[str, Defaults] = field(default_factory=dict)  # the defaults are the first of them
    folder: Path | None = None
    shared: Path | None = None
    base: Weights | None = None
    edit: Weights | None = None
    file: Path | None = None
    config: Mapping[str, object] = field(default_factory=dict)
    styles: tuple[str, ...] = ()  # of a model that edits drawings: those it was taught, `opensama.world.STYLES`
    footage: tuple[str, ...] = ()  # of a model that edits drawings: what comes out on footage, as looked at

    def holder(self, part: str) -> Path | None:
        """The folder that holds a part: the model's own, or the one that shares what the own lacks."""
        own = self.folder
        return own if own is None or self.shared is None or (own / part).is_dir() else self.shared


_APACHE = "https://www.apache.org/licenses/LICENSE-2.0"

TINY = ModelEntry(
    name="tiny",
    family=SAMA.name,
    summary="embedded, small, trained on drawings that this project renders; runs on a CPU",
    licence=Licence("Apache-2.0", _APACHE, ""),
    memory="under 1 GB, CPU",
    folder=ASSETS / "tiny",
    defaults=Defaults(
        steps=2, guidance=1.0, shift=8.0, area=128 * 128, multiple=16, window=17, overlap=2,
        prompt_prefix="", negative_prompt="", max_text_tokens=40, preserve=True, dtype="float32", cache=0.1,
    ),
    styles=(
        "watercolor", "pencil sketch", "pixel art", "cartoon", "neon", "black and white", "sepia", "night", "sunset",
        "snow", "rain", "fog",
    ),
    footage=("night", "sunset", "sepia", "fog"),
)  # fmt: skip

TINY_ICVE = ModelEntry(
    name="tiny-icve",
    family=ICVE.name,
    summary="embedded: an ICVE with tiny's autoencoder, trained on drawings; runs on a CPU",
    licence=TINY.licence,
    memory=TINY.memory,
    folder=ASSETS / "tiny-icve",
    shared=TINY.folder,
    defaults=replace(TINY.defaults, cache=None),
    styles=TINY.styles,
    footage=TINY.footage,
)

SAMA_14B = ModelEntry(
    name="sama-14b",
    family=SAMA.name,
    summary="the authors' released SAMA weights on Wan2.1-T2V-14B, 480p",
    licence=Licence(
        "SAMA weights: none found; Wan2.1 base: Apache-2.0",
        "https://huggingface.co/syxbb/SAMA-14B",
        "The SAMA-14B weights are published at https://huggingface.co/syxbb/SAMA-14B; we found no licence stated"
        " for them, so read that page before any use beyond trying them. The Wan2.1 base is Apache-2.0.",
    ),
    memory="about 28 GB for the transformer and 11 GB for the text encoder, in bf16; an 80 GB GPU is recommended",
    base=Weights(
        "Wan-AI/Wan2.1-T2V-14B-Diffusers",
        ("text_encoder/*", "tokenizer/*", "vae/*", "transformer/config.json"),
        "12 GB",
    ),
    edit=Weights("syxbb/SAMA-14B", ("sama_14b_ema.safetensors",), "28.6 GB"),
    defaults=Defaults(),
)

ICVE_13B = ModelEntry(
    name="icve-13b",
    family=ICVE.name,
    summary="the authors' released ICVE weights on HunyuanVideo-13B",
    licence=Licence(
        "Tencent Hunyuan Community License, from the HunyuanVideo base; the ICVE weights state none that we found",
        "https://huggingface.co/tencent/HunyuanVideo/blob/main/LICENSE",
        "ICVE-13B builds on HunyuanVideo, whose Tencent Hunyuan Community License grants nothing in the European Union,"
        " the United Kingdom and South Korea, forbids improving other AI models with its outputs, and asks services of"
        " more than 100 million monthly users for a licence of their own; its text encoder derives from Llama 3, under"
        " Meta's licence. We found no licence stated for the edit weights at https://huggingface.co/leoisufa/ICVE, so"
        " read these pages before any use beyond trying them.",
    ),
    memory="about 26 GB for the transformer and 16 GB for the text encoders, in 16 bits; an 80 GB GPU is recommended",
    base=Weights(
        "hunyuanvideo-community/HunyuanVideo",
        ("text_encoder/*", "tokenizer/*", "text_encoder_2/*", "tokenizer_2/*", "vae/*", "transformer/config.json"),
        "16.5 GB",
    ),
    # that is if it holds 16-bit numbers, which its page does not say
    edit=Weights("leoisufa/ICVE", ("diffusion_pytorch_model.safetensors",), "25.6 GB"),
    defaults=ICVE.defaults,
    presets={"768x480x61": ICVE.defaults, "384x240x81": replace(ICVE.defaults, area=384 * 240, window=81)},
)

_BERNINI_PARTS = ("text_encoder/config.json", "text_encoder/*", "tokenizer/*", "vae/*")

BERNINI_1_3B = ModelEntry(
    name="bernini-1.3b",
    family=BERNINI.name,
    summary="the authors' released Bernini-R weights on Wan2.1-T2V-1.3B, for smaller GPUs; takes reference images",
    licence=Licence("Apache-2.0", _APACHE, ""),
    memory="about 3 GB for the transformer and 11 GB for the text encoder, in bf16, one at a time if need be",
    base=Weights("ByteDance/Bernini-R-1.3B-Diffusers", _BERNINI_PARTS, "23.2 GB", bits=32),
    edit=Weights("ByteDance/Bernini-R-1.3B-Diffusers", ("transformer/config.json", "transformer/*"), "5.7 GB", bits=32),
    defaults=BERNINI.defaults,
)

BERNINI_14B = replace(
    BERNINI_1_3B,
    name="bernini-14b",
    summary="the authors' released Bernini-R weights on Wan2.2-T2V-A14B, two transformers; takes reference images",
    memory="about 57 GB for the two transformers and 11 GB for the text encoder, in bf16; an 80 GB GPU is recommended",
    base=Weights("ByteDance/Bernini-R-Diffusers", _BERNINI_PARTS, "23.2 GB", bits=32),
    # that is if it holds 32-bit numbers as the 1.3B does, which we could not look up
    edit=Weights(
        "ByteDance/Bernini-R-Diffusers",
        ("transformer/config.json", "transformer/*", "transformer_2/config.json", "transformer_2/*"),
        "114.3 GB",
        bits=32,
    ),
)

_ENTRIES = (TINY, TINY_ICVE, BERNINI_1_3B, BERNINI_14B, SAMA_14B, ICVE_13B)


def part_folder(folder: Path, part: str) -> Path:
    """Where a part of a model folder lies: in it, or in the folder of the named model that it shares its parts with."""
    holders = (entry.holder(part) for entry in _ENTRIES if entry.folder == folder)
    return (next(holders, None) or folder) / part


def entries() -> tuple[ModelEntry, ...]:
    """The named models, the embedded ones first. What a model's folder says about its defaults goes before its row."""
    return tuple(_as_saved(entry) for entry in _ENTRIES)


def find(name: str | Path) -> ModelEntry:
    """The row for a model's name, with a preset or without, for a folder that holds a pipeline, or for a single file.

    Raises UserError with the nearest name for anything else.
    """
    asked, _, preset = str(name).partition(":")
    for entry in _ENTRIES:
        if asked == entry.name:
            return _with_preset(entry, preset) if preset else _as_saved(entry)
    path = Path(name).expanduser()
    if path.is_dir():
        named = next((entry for entry in _ENTRIES if entry.folder == path.resolve()), None)
        return _as_saved(named) if named else _from_folder(path)
    if path.is_file():
        return _of_file(path, path.stat().st_mtime_ns, path.stat().st_size)
    known = [entry.name for entry in _ENTRIES]
    near = difflib.get_close_matches(str(name).lower(), known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"choose {', '.join(known)} or a model's folder or file."
    raise UserError(f"There is no model and no folder or file {str(name)!r}: {hint}")


def is_editor(name: str | Path) -> bool:
    """Whether `find` has a row for it: a model's name, the folder of one of our families' pipelines, or weights."""
    path = Path(name).expanduser()
    if str(name).partition(":")[0] in {entry.name for entry in _ENTRIES} or (
        path.suffix in WEIGHT_ENDINGS and path.is_file()
    ):
        return True
    index = Path(name).expanduser() / "model_index.json"
    known = {family.pipeline_name for family in MODEL_FAMILIES.values()}
    return index.is_file() and read_object(index).get("_class_name") in known


def unknown_words(entry: ModelEntry, instruction: str) -> tuple[str, ...]:
    """Words of an instruction that the model has never been taught, each once, in lower case.

    A model of few words lists them in its folder (`words.txt`, one a line; in quotation marks those that it knows as
    something to write); of any other nothing is unknown.
    """
    known = known_words_of(entry)
    if not known:
        return ()
    found = []
    for i, part in enumerate(re.split(r'["\u201c\u201d]', instruction)):
        quoted = {word.strip('"') for word in known} if i % 2 else known
        found += [word for word in words_of(part) if word not in quoted]
    return tuple(dict.fromkeys(found))


def known_words_of(entry: ModelEntry) -> frozenset[str]:
    """The words that a model of few words lists, quoted ones in quotation marks; of any other model none."""
    listed = None if entry.folder is None else entry.folder / WORDS_FILE
    return frozenset() if listed is None or not listed.is_file() else frozenset(listed.read_text("utf-8").split())


def words_of(text: str) -> list[str]:
    """A text's words in lower case, and its numbers."""
    return re.findall(r"[^\W_]+(?:['\u2019][^\W_]+)*", text.lower())


def _with_preset(entry: ModelEntry, preset: str) -> ModelEntry:
    if preset not in entry.presets:
        there = f"choose {' or '.join(entry.presets)}" if entry.presets else "it has none"
        raise UserError(f"The model {entry.name} has no preset {preset!r}: {there}.")
    return replace(entry, defaults=entry.presets[preset])


def _as_saved(entry: ModelEntry) -> ModelEntry:
    if entry.folder is None or not (entry.folder / "model_index.json").is_file():
        return entry
    saved = read_object(entry.folder / "model_index.json").get("defaults")
    return replace(entry, defaults=Defaults.from_dict(saved)) if saved else entry


def _from_folder(path: Path) -> ModelEntry:
    if not (path / "model_index.json").is_file():
        raise UserError(
            f"The folder {path} is not a model: it has no model_index.json (SamaPipeline.save_pretrained writes one)."
        )
    saved = read_object(path / "model_index.json")
    known = {family.pipeline_name: family.name for family in MODEL_FAMILIES.values()}
    family = known.get(str(saved.get("_class_name")))
    if family is None:
        raise UserError(
            f"The folder {path} holds a {saved.get('_class_name')}, which is not an editor:"
            f" one of {', '.join(known)} is needed."
        )
    return ModelEntry(
        name=str(path),
        family=family,
        summary=f"the model folder {path}",
        licence=Licence("see the folder's README", "", ""),
        memory="see the folder's README",
        folder=path,
        defaults=Defaults.from_dict(saved.get("defaults") or {}),
    )


@lru_cache(maxsize=8)
def _of_file(path: Path, _changed: int, size: int) -> ModelEntry:
    """A row for a transformer's single file: that of its family whose base has its sizes, or else the family's first.

    UserError for other files, and for one that could as well be its base's.
    """
    from opensama.models.layouts import released_tensors
    from opensama.runtime import check_weights_name

    check_weights_name(path)
    family, tensors, config = released_tensors(path)
    rows = [entry for entry in _ENTRIES if entry.family == family.name and entry.base is not None]
    if not config and not family.added and family.name not in f"{path.parent.name}/{path.name}".lower():
        names = " or ".join(f"`model={entry.name}`" for entry in rows)
        raise UserError(
            f"{path} may be {family.name.upper()}'s or its base's, which have the same tensors: rename it so that it"
            f" says {family.name}, or give {names} and name it with `weights`."
        )
    found = config or _config_of(family, tensors.shapes)
    like = next((entry for entry in rows if found and _is_of_size(found, entry)), rows[0])
    return replace(
        like,
        name=str(path),
        summary=f"the weights in {path.name}, in place of {like.name}'s",
        memory=f"about {size / 1e9:.1f} GB for the transformer",
        edit=Weights(str(path), (path.name,), f"{size / 1e9:.3f} GB"),
        presets={},
        file=path,
        config=found,
    )


def _config_of(family: Family, shapes: Shapes) -> Mapping[str, object]:
    """A transformer's arguments by its tensors' shapes; none where these do not say enough."""
    try:
        return family.config(shapes, {})
    except (UserError, LookupError, ArithmeticError):
        return {}


def _is_of_size(config: Mapping[str, object], entry: ModelEntry) -> bool:
    """Whether a transformer of these arguments is as wide and deep as a model's own."""
    assert entry.base is not None
    family = MODEL_FAMILIES[entry.family]
    usual = {name: one.default for name, one in signature(family.transformer.__init__).parameters.items()}
    usual |= family.bases[entry.base.repo].sizes
    return all(config[name] == usual[name] for name in ("num_attention_heads", "attention_head_dim", "num_layers"))
