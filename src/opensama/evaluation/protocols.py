"""How each benchmark is judged, as data: which frames, in which order, what is asked, what a failure means, and how
marks become the printed numbers.

A protocol is in the style of its benchmark. The rubrics are ours (see `rubrics`), and judges are shown frames where
some published scripts upload whole files, so numbers compare systems that were scored here, by one judge; they stand
beside published ones only with the authors' own rubric, judge and files.

    PROTOCOLS["reco"].rubrics(item)            # what is asked about this item
    PROTOCOLS["reco"].sampler.pick(81, 16.0)   # frames 0, 8, ..., 80
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from opensama.evaluation import rubrics
from opensama.evaluation.aggregation import (
    RECO_GROUPS,
    Means,
    Number,
    ive_overall,
    mean,
    no_overall,
    openve_overall,
    plain_overall,
    reco_derived,
)
from opensama.evaluation.items import Item
from opensama.evaluation.rubrics import Rubric
from opensama.values import UserError

Order = Literal["source, edited", "side by side", "frame by frame"]


@dataclass(frozen=True)
class _Sampler:
    """Which frames a judge sees, and how large."""

    says: str
    pick: Callable[[int, float], list[int]]
    """Frames and frames a second of a clip -> indices. Both clips' own, unless the order pairs them."""
    side: int = 640
    """Pixels of the longer side, at most."""


@dataclass(frozen=True)
class Protocol:
    """A way to judge. `tries` is how often a reply that cannot be read is asked for anew."""

    name: str
    benchmark: str
    style_of: str
    sampler: _Sampler
    order: Order
    rubrics: Callable[[Item], tuple[Rubric, ...]]
    failure: Literal["drop", "zero"]
    tries: int
    temperature: float
    max_tokens: int
    derive: Callable[[Mapping[str, float]], dict[str, float]]
    """Of one reply's marks: what else is averaged over items."""
    group: Callable[[Item], str]
    overall: Callable[[Means], dict[str, Number]]
    headline: str
    """The score that says it in one number."""
    zeros: tuple[str, ...] = ()
    """What a failed reply makes 0, where failure is zero."""
    identical: bool = False
    """Clips that are the same get 0 in all marks unasked."""
    aside: tuple[str, ...] = ()
    """Groups that stand beside and have no part in the overall numbers."""
    shares: tuple[str, ...] = ()
    """Scores that are 0 or 1."""

    @property
    def policy(self) -> str:
        """What happens to items that cannot be scored, in words."""
        if not self.tries:
            return "items whose files are missing, broken or of another length or shape are left out"
        asked = f"a reply that cannot be read is asked for {self.tries} times"
        then = "then counts 0" if self.failure == "zero" else "then its item is left out"
        same = "; an edit identical to its source counts 0" if self.identical else ""
        files = "missing, broken or of unequal length" if self.order == "side by side" else "missing or broken"
        return f"{asked}, {then}; items whose files are {files} are left out{same}"

    def digest(self, item: Item) -> str:
        """Of all that decides this item's marks but the judge and the files."""
        asked = [asdict(rubric) for rubric in self.rubrics(item)]
        rest = [
            self.name,
            self.sampler.says,
            self.sampler.side,
            self.order,
            self.temperature,
            self.max_tokens,
            self.tries,
        ]
        return hashlib.sha256(json.dumps([asked, rest, self.failure, self.identical]).encode()).hexdigest()[:16]


def with_rubrics(protocol: Protocol, place: Path) -> Protocol:
    """The protocol with a person's text: a file for all items, or a folder of `TASK.txt` and `default.txt`.

    Where a protocol asks several questions (IVEBench), the folder holds one file for each, named as our rubrics are.
    """
    texts: dict[str, str] = {}
    try:
        if place.is_dir():
            texts = {path.stem: path.read_text("utf-8") for path in sorted(place.glob("*.txt"))}
        else:
            texts = {"default": place.read_text("utf-8")}
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"The rubric {place} cannot be read ({error}): give a text file, or a folder of them."
        ) from error
    if not any(text.strip() for text in texts.values()):
        raise UserError(f"There is no text in {place}: give a text file, or a folder of TASK.txt and default.txt.")

    def asked(item: Item) -> tuple[Rubric, ...]:
        ours = protocol.rubrics(item)
        if len(ours) > 1 and "default" in texts and len(texts) == 1:
            names = ", ".join(f"{rubric.name}.txt" for rubric in ours)
            raise UserError(f"{protocol.style_of} asks {len(ours)} questions: give a folder with {names}.")
        found = []
        for rubric in ours:
            text = texts.get(rubric.name) or texts.get(item.task) or texts.get("default")
            found.append(rubric.with_text(text) if text else rubric)
        return tuple(found)

    return replace(protocol, rubrics=asked)


# --- which frames


def eleven(frames: int, fps: float) -> list[int]:
    """Every (frames // 10)-th: 0, 8, ..., 80 of 81."""
    return list(range(0, frames, max(1, frames // 10)))


def thirds(frames: int, fps: float) -> list[int]:
    """Every (frames // 3)-th: three frames, or four where their number does not divide by three."""
    return list(range(0, frames, max(1, frames // 3)))


def each_second(frames: int, fps: float) -> list[int]:
    """One a second, at least four and at most sixteen, evenly spread."""
    return spread(frames, min(16, max(4, round(frames / fps))))


def one_in_five(frames: int, fps: float) -> list[int]:
    """Every fifth frame, at most twenty, evenly spread: 5 a second of clips written at 25."""
    picked = list(range(0, frames, 5))
    return picked if len(picked) <= 20 else spread(frames, 20)


def every(frames: int, fps: float) -> list[int]:
    return list(range(frames))


def eight(frames: int, fps: float) -> list[int]:
    return spread(frames, 8)


def spread(frames: int, number: int) -> list[int]:
    """So many from first to last, evenly, or all there are."""
    count = max(1, min(frames, number))
    return [round(i * (frames - 1) / max(1, count - 1)) for i in range(count)]


# --- what is added to a reply's marks


def with_mean(marks: Mapping[str, float]) -> dict[str, float]:
    return {**marks, "mean": mean(list(marks.values()))}


def with_total(marks: Mapping[str, float]) -> dict[str, float]:
    return {**marks, "total": sum(marks.values())}


def with_groups(marks: Mapping[str, float]) -> dict[str, float]:
    return {**marks, **reco_derived(marks)}


# --- which numbers


def vie_group(item: Item) -> str:
    """Published tables put swap and colour together, and style and tone."""
    merged = {"swap": "swap/change", "color": "swap/change", "style": "style/tone", "tone": "style/tone"}
    return merged.get(item.task, item.task)


def task_of(item: Item) -> str:
    return item.task or "all"


def everything(item: Item) -> str:
    return "all"


def reco_rubrics(item: Item) -> tuple[Rubric, ...]:
    return (rubrics.RECO_STYLE if item.task == "style" else rubrics.RECO,)


def vie_rubrics(item: Item) -> tuple[Rubric, ...]:
    return (rubrics.VIE_REFERENCE if "reference_image" in item.notes else rubrics.VIE,)


_OPENVE = Protocol(
    name="openve",
    benchmark="openve",
    style_of="OpenVE-Bench, one short rubric for all types",
    sampler=_Sampler("one frame a second, 4 to 16 of each clip", each_second),
    order="source, edited",
    rubrics=lambda item: (rubrics.openve(item.task, long=False),),
    failure="drop",
    tries=3,
    temperature=1.0,
    max_tokens=4096,
    derive=with_mean,
    group=task_of,
    overall=openve_overall,
    headline="mean",
)
_VIE = Protocol(
    name="vie",
    benchmark="vie",
    style_of="VIE-Bench",
    sampler=_Sampler("8 frames of each clip, evenly spread", eight),
    order="source, edited",
    rubrics=vie_rubrics,
    failure="drop",
    tries=3,
    temperature=1.0,
    max_tokens=2048,
    derive=with_mean,
    group=vie_group,
    overall=no_overall,
    headline="mean",
)
PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        _VIE,
        replace(_VIE, name="clips", benchmark="clips", group=task_of),
        Protocol(
            name="world",
            benchmark="world",
            style_of="",
            sampler=_Sampler("the first and last of four in each third", every),
            order="frame by frame",
            rubrics=lambda item: (),
            failure="drop",
            tries=0,
            temperature=0.0,
            max_tokens=0,
            derive=dict,
            group=task_of,
            overall=plain_overall,
            headline="success",
            aside=("absent", "swapped", "clips"),
            shares=("success", "first third", "last third"),
        ),
        _OPENVE,
        replace(
            _OPENVE,
            name="openve-long",
            style_of="OpenVE-Bench, a rubric of its own for each type",
            rubrics=lambda item: (rubrics.openve(item.task, long=True),),
            tries=5,
            temperature=0.7,
        ),
        Protocol(
            name="reco",
            benchmark="reco",
            style_of="ReCo-Bench",
            sampler=_Sampler("every (frames // 10)-th pair, 224 rows high, then at least 512", eleven),
            order="side by side",
            rubrics=reco_rubrics,
            failure="zero",
            tries=10,
            temperature=1.0,
            max_tokens=8192,
            derive=with_groups,
            group=task_of,
            overall=no_overall,
            headline="S",
            zeros=(
                *(name for _, names in RECO_GROUPS.values() for name in names),
                *(name for name, _ in RECO_GROUPS.values()),
                "S",
            ),
            identical=True,
        ),
        Protocol(
            name="ive",
            benchmark="ive",
            style_of="IVEBench's two judged metrics",
            sampler=_Sampler("every fifth frame, at most 20 of each clip", one_in_five, side=426),
            order="source, edited",
            rubrics=lambda item: rubrics.IVE,
            failure="drop",
            tries=3,
            temperature=0.0,
            max_tokens=512,
            derive=dict,
            group=lambda item: item.notes.get("subset", "all"),
            overall=ive_overall,
            headline="instruction_satisfaction",
        ),
        Protocol(
            name="editverse",
            benchmark="editverse",
            style_of="EditVerseBench's judged metric",
            sampler=_Sampler("every (frames // 3)-th pair of the shorter clip's", thirds),
            order="frame by frame",
            rubrics=lambda item: (rubrics.EDITVERSE,),
            failure="drop",
            tries=5,
            temperature=0.0,
            max_tokens=1024,
            derive=with_total,
            group=everything,
            overall=no_overall,
            headline="total",
        ),
    )
}


def find_protocol(name: str, benchmark: str) -> Protocol:
    """A protocol of this benchmark."""
    fitting = [protocol for protocol in PROTOCOLS.values() if protocol.benchmark == benchmark]
    for protocol in fitting:
        if protocol.name == name:
            return protocol
    raise UserError(
        f"There is no protocol {name!r} for this benchmark: choose among {', '.join(p.name for p in fitting)}."
    )
