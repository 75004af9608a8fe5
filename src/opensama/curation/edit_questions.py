"""What a vision-language model is asked on the way to an edit: name the elements, plan an edit, word what was done.

    elements = name_elements(vlm, clip)
    edit = plan_element_edit(vlm, clip, elements.foreground[0].name, "replace")
    words = word_edit(vlm, clip.frames, edited, edit)

Each function asks one question, whose answer is one JSON object. Answers are checked: `BadAnswer` where one is not what
was asked for, `Drop` where it is, and the clip is of no use.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from opensama.curation.elements import BACKGROUND, Clip, Element, Elements, PlannedEdit
from opensama.curation.stage import Drop
from opensama.media.frames import evenly_spaced, fitted
from opensama.vlm import IMAGE, BadAnswer, Question, Vlm, answer_json, ask_twice

_FRAMES, _SIDE = 6, 448  # what the model is shown of a clip
_LONGEST = 60  # characters of a name


@dataclass(frozen=True)
class EditWords:
    """The instruction that leads from source to edited clip, and the one that leads back."""

    instruction: str
    reverse: str


NAME_PROMPT = """These are {count} frames of a video, in order: {images}
Say what could be edited in it. Foreground elements are persons, animals, objects, clothes and things worn that can be \
told from everything else, are seen for most of the time, and are neither tiny nor cut off. Give each a short name \
that fits only it, with a colour or a place where others are like it ("man in a red coat", "left cup"). Background \
elements are what lies behind: sky, wall, road, trees.
Answer with one JSON object and nothing else:
{{"foreground": [{{"name": "...", "person": true}}], "background": ["..."]}}
Leave the list of foreground elements empty if there is none, or if the video is a title, a screen recording or a \
still."""

PLAN_PROMPT = """These are {count} frames of a video, in order: {images}
{task}
Describe the whole video in one or two plain sentences, what is seen, where, how it moves, the light: as it is now \
("before"), and as it looks afterwards ("caption"). Do not speak of an edit, and let the second name nothing that is \
no longer there. If no such edit makes sense here, leave everything empty.
Answer with one JSON object and nothing else: {{"new": "{new}", "before": "...", "caption": "..."}}"""

TASK_TEXTS = {
    "remove": "The {element} will be removed from it, and the place filled with what lies behind.",
    "replace": "The {element} will be replaced by something else, of about its size and shape, as likely there.",
    "recolor": "The {element} will get another colour or pattern, and stay the same in all else.",
    "background": "Everything behind the foreground ({element}) will be replaced by another place or landscape.",
}
_NEW_HINTS = {
    "remove": "",
    "replace": "what comes in its place, with its article",
    "recolor": "the new colour or pattern alone",
    "background": "the new background, with its article",
}

WORD_PROMPT = """First {count} frames of a source video: {images}
Then {count} frames of an edited version of it, at the same times: {images}
{hint} Judge by what is really to be seen. Write the instruction that a person would give to get the edited video from \
the source, and the one to get the source from the edited video, each one short sentence in the imperative that names \
the thing so that no other is meant. If nothing differs, or something other than meant, leave both empty.
Answer with one JSON object and nothing else: {{"instruction": "...", "reverse": "..."}}"""

HINT_TEXTS = {
    "remove": "The {element} was to be removed.",
    "replace": "The {element} was to be replaced with {new}.",
    "recolor": "The {element} was to become {new}.",
    "background": "The background was to become {new}.",
}


def name_elements(vlm: Vlm, clip: Clip, most: int = 8) -> Elements:
    """Up to `most` foreground elements, and the background. Drop where there is nothing that could be edited."""
    images = frames_to_show(clip.frames)
    answer = _ask(vlm, NAME_PROMPT.format(count=len(images), images=IMAGE * len(images)), images)
    return check_elements(answer, most)


def check_elements(answer: Mapping[str, object], most: int = 8) -> Elements:
    """The elements of an answer: names without articles, each once. BadAnswer for another shape, Drop for none."""
    front, behind = answer.get("foreground"), answer.get("background", [])
    if not isinstance(front, list) or not isinstance(behind, list):
        raise BadAnswer(f"the answer has no lists of foreground and background elements: {answer!r:.120}")
    found: dict[str, Element] = {}
    for entry in front:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise BadAnswer(f"a foreground element has no name: {entry!r:.120}")
        name = clean_name(entry["name"])
        if name and len(name) <= _LONGEST and name != BACKGROUND:
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


def plan_element_edit(vlm: Vlm, clip: Clip, element: str, kind: str) -> PlannedEdit:
    """What the clip will look like after an edit of that kind to the element (or to all behind the elements).

    Drop where the model knows of no such edit.
    """
    images = frames_to_show(clip.frames)
    task = TASK_TEXTS[kind].format(element=element)
    text = PLAN_PROMPT.format(count=len(images), images=IMAGE * len(images), task=task, new=_NEW_HINTS[kind])
    answer = _ask(vlm, text, images)
    new, caption = _text(answer, "new"), _text(answer, "caption")
    if not caption and not new:
        raise Drop(f"caption: nothing to {kind}" if kind != BACKGROUND else "caption: no other background")
    if not caption or (kind != "remove" and not new):
        raise BadAnswer(f"the answer leaves the edit open: {answer!r:.120}")
    return PlannedEdit(kind, element, "" if kind == "remove" else new.rstrip("."), caption, _text(answer, "before"))


def word_edit(vlm: Vlm, source: np.ndarray, edited: np.ndarray, edit: PlannedEdit) -> EditWords:
    """Instruction and reverse for an edit that was made. Drop where the model does not see it.

    `source` and `edited` are uint8 [t h w 3].
    """
    before, after = frames_to_show(source, 4), frames_to_show(edited, 4)
    hint = HINT_TEXTS[edit.kind].format(element=edit.element, new=edit.new)
    text = WORD_PROMPT.format(count=len(before), images=IMAGE * len(before), hint=hint)
    answer = _ask(vlm, text, before + after)
    words = EditWords(_text(answer, "instruction"), _text(answer, "reverse"))
    if not words.instruction or not words.reverse:
        raise Drop("instruction: the change is not to be seen")
    return words


def frames_to_show(frames: np.ndarray, number: int = _FRAMES) -> tuple[np.ndarray, ...]:
    """Frames for a question: evenly spread, the longer side at most `_SIDE`."""
    return tuple(fitted(frames[i], _SIDE) for i in evenly_spaced(len(frames), number))


def _ask(vlm: Vlm, text: str, images: Sequence[np.ndarray]) -> Mapping[str, object]:
    return ask_twice(vlm, Question(text, tuple(images)), answer_json)


def _text(answer: Mapping[str, object], key: str) -> str:
    value = answer.get(key, "")
    if not isinstance(value, str):
        raise BadAnswer(f"{key} is no text in the answer: {answer!r:.120}")
    return " ".join(value.split())
