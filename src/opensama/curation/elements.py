"""What is in a clip: a vision-language model names foreground persons and objects, and what is behind them.

    elements = name_elements(vlm, clip)
    change = plan_change(vlm, clip, elements.foreground[0], "replace")
    words = describe_change(vlm, clip.frames, edited, change)

Each function asks one question, whose answer is one JSON object. What a model says is checked before it is believed:
`BadAnswer` where it is not what was asked for, `Drop` where it is, and the clip is of no use.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from opensama.curation.graph import Drop
from opensama.media.frames import resize_frame, spread
from opensama.vlm import IMAGE, BadAnswer, Question, Vlm, answer_json, ask

KINDS = ("remove", "replace", "recolor", "background")
"""Changes that an inpainter can make, by their task names."""
BACK = {"remove": "add", "replace": "replace", "recolor": "recolor", "background": "background"}
"""The task of the reverse."""
FRAMES, SIDE = 6, 448  # what the model is shown of a clip
_LONGEST = 60  # characters of a name
BACKDROP = "background"  # the name of everything that is not in front


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames in memory, uint8 [t h w 3], and the file that they are of."""

    path: Path
    frames: np.ndarray
    fps: float

    @property
    def seconds(self) -> float:
        return len(self.frames) / self.fps


@dataclass(frozen=True)
class Element:
    """Something in the foreground, by a name that singles it out."""

    name: str
    person: bool = False


@dataclass(frozen=True)
class Elements:
    """What is in front, and words for what is behind."""

    foreground: tuple[Element, ...]
    background: tuple[str, ...]


@dataclass(frozen=True)
class Change:
    """What is to be made of a clip: the kind, what it is about, and the edited clip in words."""

    kind: str
    element: str
    new: str
    """What comes in its place; empty where nothing does."""
    caption: str
    before: str = ""
    """The clip as it is, in words."""

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True)
class _Words:
    """The instruction that leads from source to edited clip, and the one that leads back."""

    instruction: str
    reverse: str


_NAME = """These are {count} frames of a video, in order: {images}
Say what could be edited in it. Foreground elements are persons, animals, objects, clothes and things worn that can be \
told from everything else, are seen for most of the time, and are neither tiny nor cut off. Give each a short name \
that fits only it, with a colour or a place where others are like it ("man in a red coat", "left cup"). Background \
elements are what lies behind: sky, wall, road, trees.
Answer with one JSON object and nothing else:
{{"foreground": [{{"name": "...", "person": true}}], "background": ["..."]}}
Leave the list of foreground elements empty if there is none, or if the video is a title, a screen recording or a \
still."""

PLAN = """These are {count} frames of a video, in order: {images}
{task}
Describe the whole video in one or two plain sentences, what is seen, where, how it moves, the light: as it is now \
("before"), and as it looks afterwards ("caption"). Do not speak of an edit, and let the second name nothing that is \
no longer there. If no such edit makes sense here, leave everything empty.
Answer with one JSON object and nothing else: {{"new": "{new}", "before": "...", "caption": "..."}}"""

TASKS = {
    "remove": "The {element} will be removed from it, and the place filled with what lies behind.",
    "replace": "The {element} will be replaced by something else, of about its size and shape, as likely there.",
    "recolor": "The {element} will get another colour or pattern, and stay the same in all else.",
    "background": "Everything behind the foreground ({element}) will be replaced by another place or landscape.",
}
NEW = {
    "remove": "",
    "replace": "what comes in its place, with its article",
    "recolor": "the new colour or pattern alone",
    "background": "the new background, with its article",
}

DESCRIBE = """First {count} frames of a source video: {images}
Then {count} frames of an edited version of it, at the same times: {images}
{hint} Judge by what is really to be seen. Write the instruction that a person would give to get the edited video from \
the source, and the one to get the source from the edited video, each one short sentence in the imperative that names \
the thing so that no other is meant. If nothing differs, or something other than meant, leave both empty.
Answer with one JSON object and nothing else: {{"instruction": "...", "reverse": "..."}}"""

HINTS = {
    "remove": "The {element} was to be removed.",
    "replace": "The {element} was to be replaced with {new}.",
    "recolor": "The {element} was to become {new}.",
    "background": "The background was to become {new}.",
}


def name_elements(vlm: Vlm, clip: Clip, most: int = 8) -> Elements:
    """Up to `most` foreground elements, and the background. Drop where there is nothing that could be edited."""
    images = shown(clip.frames)
    answer = _ask(vlm, _NAME.format(count=len(images), images=IMAGE * len(images)), images)
    return check_elements(answer, most)


def check_elements(answer: dict[str, Any], most: int = 8) -> Elements:
    """The elements of an answer: names without articles, each once. BadAnswer for another shape, Drop for none."""
    front, behind = answer.get("foreground"), answer.get("background", [])
    if not isinstance(front, list) or not isinstance(behind, list):
        raise BadAnswer(f"the answer has no lists of foreground and background elements: {answer!r:.120}")
    found: dict[str, Element] = {}
    for entry in front:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise BadAnswer(f"a foreground element has no name: {entry!r:.120}")
        name = clean_name(entry["name"])
        if name and len(name) <= _LONGEST and name != BACKDROP:
            found.setdefault(name, Element(name, entry.get("person") is True))
    if not found:
        raise Drop("elements: nothing in the foreground")
    return Elements(
        tuple(found.values())[:most],
        tuple(dict.fromkeys(clean_name(name) for name in behind if isinstance(name, str) and clean_name(name))),
    )


def clean_name(name: str) -> str:
    """A name as a detector reads it: small letters, without article and punctuation that would end it."""
    plain = re.sub(r"[^\w\s'-]", " ", name.lower())
    return re.sub(r"^(?:(?:a|an|the|some)\s+)+", "", " ".join(plain.split()))


def plan_change(vlm: Vlm, clip: Clip, element: str, kind: str) -> Change:
    """What the clip will look like after a change of that kind to the element (or to all behind the elements).

    Drop where the model knows of no such change.
    """
    images = shown(clip.frames)
    task = TASKS[kind].format(element=element)
    text = PLAN.format(count=len(images), images=IMAGE * len(images), task=task, new=NEW[kind])
    answer = _ask(vlm, text, images)
    new, caption = _text(answer, "new"), _text(answer, "caption")
    if not caption and not new:
        raise Drop(f"caption: nothing to {kind}" if kind != BACKDROP else "caption: no other background")
    if not caption or (kind != "remove" and not new):
        raise BadAnswer(f"the answer leaves the change open: {answer!r:.120}")
    return Change(kind, element, "" if kind == "remove" else new.rstrip("."), caption, _text(answer, "before"))


def describe_change(vlm: Vlm, source: np.ndarray, edited: np.ndarray, change: Change) -> _Words:
    """Instruction and reverse for a change that was made. Drop where the model does not see it."""
    before, after = shown(source, 4), shown(edited, 4)
    hint = HINTS[change.kind].format(element=change.element, new=change.new)
    text = DESCRIBE.format(count=len(before), images=IMAGE * len(before), hint=hint)
    answer = _ask(vlm, text, before + after)
    words = _Words(_text(answer, "instruction"), _text(answer, "reverse"))
    if not words.instruction or not words.reverse:
        raise Drop("instruction: the change is not to be seen")
    return words


def shown(frames: np.ndarray, number: int = FRAMES, side: int = SIDE) -> tuple[np.ndarray, ...]:
    """Frames for a question: evenly spread, the longer side at most `side`."""
    height, width = frames.shape[1:3]
    scale = min(1.0, side / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    return tuple(np.ascontiguousarray(resize_frame(frames[i], *size)) for i in spread(len(frames), number))


def _ask(vlm: Vlm, text: str, images: Sequence[np.ndarray]) -> dict[str, Any]:
    """The JSON of the answer; asked once more where it has none."""
    try:
        return answer_json(ask(vlm, Question(text, tuple(images))))
    except BadAnswer:
        return answer_json(ask(vlm, Question(text, tuple(images), turn=1)))


def _text(answer: dict[str, Any], key: str) -> str:
    value = answer.get(key, "")
    if not isinstance(value, str):
        raise BadAnswer(f"{key} is no text in the answer: {answer!r:.120}")
    return " ".join(value.split())
