"""`opensama models card`: an embedded model's card, from its folder, the notes of its training and its scores."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

from opensama.runtime import read_object
from opensama.values import UserError

SCORES, TRAINING = "scores.json", "training.json"

_CLIPS = " `real clips` are all styles on a folder of real videos (`--clips`)."
_HEAD = """# {name}: an embedded editor

{kind} video editor made of the real classes at small size, trained by `{command}` on clips that this project
draws itself. It shows the whole way on a laptop's CPU. It is **not** a model for real footage.

| part | class | parameters |
|---|---|---|
{parts}

Weights in bfloat16, {size:.1f} MB in all.{shared} It understands English, and of English the words of `opensama.world`:
{kinds} kinds of objects, {colors} colours, {textures} textures, {wearables} accessories, {backgrounds} backgrounds,
{styles} styles and weathers, {words} words to write.

## How it was made

{made}

| stage | minutes | steps | last losses |
|---|---|---|---|
{stages}

## How well it edits

`opensama evaluate world --model {name} --split {split} -n {n} --json {scores}`: object and colour pairs and
phrasings that training never edited. What the columns mean, and what the measure forgives: docs/evaluate.md.{clips}

```
{table}
```

## What it cannot do

{limits}

Licence: Apache-2.0.
"""


def write_card(folder: Path) -> str:
    """The card's text. Raises UserError where the folder holds no scores or no notes of its training."""
    from opensama.models.families import find_family
    from opensama.models.registry import find
    from opensama.models.weights import TensorFiles
    from opensama.world import BACKGROUNDS, COLORS, KINDS, STYLES, TEXTURES, WEARABLES
    from opensama.world.letters import CAPTION_WORDS

    scores, training = (_read(folder, name) for name in (SCORES, TRAINING))
    rows, size = [], 0
    for config in sorted(folder.glob("*/config.json")):
        count = sum(prod(tensor.shape) for tensor in TensorFiles(config.parent).infos.values())
        size += sum(file.stat().st_size for file in config.parent.glob("*.safetensors"))
        settings = read_object(config)
        kind = settings.get("_class_name") or settings["architectures"][0]
        rows.append(f"| `{config.parent.name}` | `{kind}`{_sizes(settings)} | {count / 1e6:.1f} M |")
    stages = [
        f"| {s['name']} | {s['minutes']:.0f} | {s['steps']:,} | "
        + ", ".join(f"{k} {v:.3g}" for k, v in s["last"].items())
        + " |"
        for s in training["stages"]
    ]
    entry = find(folder)
    shared = f" The parts that are not listed are those of `{entry.shared.name}`." if entry.shared else ""
    return _HEAD.format(
        name=folder.resolve().name,
        kind=f"{'An' if entry.family[0] in 'aeiou' else 'A'} {entry.family.upper()}",
        command=find_family(entry.family).command,
        shared=shared,
        parts="\n".join(rows),
        size=size / 1e6,
        kinds=len(KINDS),
        colors=len(COLORS),
        textures=len(TEXTURES),
        wearables=len(WEARABLES),
        backgrounds=len(BACKGROUNDS),
        styles=len(STYLES),
        words=len(CAPTION_WORDS),
        made=training["made"],
        stages="\n".join(stages),
        split=scores["split"],
        n=max(s["n"] for s in scores["families"].values()),
        scores=SCORES,
        clips=_CLIPS if "clips" in scores else "",
        table=scores["table"],
        limits=training["limits"],
    )


def keep_scores(scores: Path, folder: Path) -> None:
    """Copies an evaluation into the folder, without its single edits."""
    try:
        found = json.loads(scores.read_text())
        kept = {key: found[key] for key in ("table", "model", "split", "seed", "families")} | found
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{scores} is no file that `opensama evaluate world --json` wrote; check the name.") from None
    kept.pop("items", None)
    (folder / SCORES).write_text(json.dumps(kept, indent=1) + "\n")


def _read(folder: Path, name: str) -> dict[str, Any]:
    file = folder / name
    if not file.is_file():
        how = {
            SCORES: f"run `opensama evaluate world --model {folder} --json world.json`, then give --scores world.json",
            TRAINING: "only folders written by `opensama train tiny` have it",
        }
        raise UserError(f"{folder} has no {name}; {how[name]}.")
    return read_object(file)


def _sizes(settings: dict[str, Any]) -> str:
    """What is worth saying of a part's sizes."""
    if "num_attention_heads" in settings and "attention_head_dim" in settings:
        width = settings["num_attention_heads"] * settings["attention_head_dim"]
        blocks = settings["num_layers"] + settings.get("num_single_layers", 0)
        return f", width {width}, {blocks} blocks"
    if "z_dim" in settings:
        return f", 16x16x4 pixels to {settings['z_dim']} numbers"
    if "d_model" in settings:
        return f", width {settings['d_model']}, {settings['num_layers']} layers, {settings['vocab_size']:,} tokens"
    return f", width {settings['hidden_size']}, {settings['num_hidden_layers']} layers (for training only)"
