"""What a person would have said to get the second clip from the first: asked of a VLM, put in other words, and sieved.

The paper tells the order and one example ("Zoom out and pan to the right."); questions, verbs and the words that make
an instruction trivial are our own.
"""

from __future__ import annotations

import random
import re
from pathlib import Path

from opensama.curation.stage import Drop, GraphItem
from opensama.media.frames import frames_for
from opensama.values import MAX_INSTRUCTION
from opensama.vlm import IMAGE, BadAnswer, Question, Vlm, answer_json, ask_twice

_TASKS = ("add", "remove", "replace", "recolor", "background", "motion", "camera", "other")

ASK = f"""Two moments of one scene. The earlier look, COUNT frames in order: {IMAGE}
The later look, COUNT frames in order: {IMAGE}
Suppose that somebody edited a video with the earlier look until it had the later one. Write the instruction they were \
given. Say what was added, removed, replaced or changed, who or what moves otherwise and how, and what the camera does \
otherwise. Name each thing by how it looks or where it is, so that someone who sees the earlier look alone can find \
it. One imperative sentence or two, at most 30 words, only what can be seen, without words such as frame, clip, \
earlier or later. If all that differs is light, colour, sharpness or noise, or nothing, leave the instruction empty.
Answer with one JSON object and nothing else: {{"instruction": "...", "task": "one of {", ".join(_TASKS)}"}}"""

SAME_THING: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"(?:replace) (.+?) (?:with|by) (.+)", (r"change \1 to \2", r"swap \1 for \2", r"turn \1 into \2")),
    (r"(?:swap) (.+?) for (.+)", (r"replace \1 with \2", r"change \1 to \2")),
    (r"(?:turn|transform) (.+?) into (.+)", (r"change \1 to \2", r"replace \1 with \2")),
    (r"(?:add|insert) (.+)", (r"add \1", r"insert \1", r"bring in \1", r"introduce \1")),
    (r"(?:remove|delete|erase) (.+)", (r"remove \1", r"delete \1", r"erase \1", r"take away \1")),
    (r"zoom in\b(.*)", (r"move the camera closer\1", r"bring the camera nearer\1")),
    (r"zoom out\b(.*)", (r"move the camera back\1", r"pull the camera away\1")),
    (r"pan (?:to the )?(left|right)\b(.*)", (r"turn the camera to the \1\2", r"sweep the camera to the \1\2")),
)
"""What an instruction may begin with, and other ways to say the whole of it."""

EMPTY = frozenset(
    word
    for line in """
    a all an and as at bit by for from give in increase decrease adjust reduce raise lower change make turn set keep it
    its little more less much most of on overall over slightly slight subtle subtly some the this to up down very with
    bright brighter brighten brightness dark darker darken darkness light lighter lighten lighting illumination exposure
    contrast saturation saturated hue tone tones tint warmth warm warmer cool cooler white balance gamma shadow shadows
    highlights color colors colour colours coloring grading sharp sharper sharpen sharpness blur blurry blurrier clear
    clearer clarity noise noisy grain grainy quality resolution compression artifacts level levels vivid
    image images picture scene video shot frame footage view
    """.splitlines()
    for word in line.split()
)
"""An instruction of these words alone asks for nothing that an editor has to learn."""

_NOTHING = re.compile(
    r"(no|none|nothing|n/?a)\b|(there (is|are) )?no (visible |noticeable |significant )*(change|difference)"
    r"|(keep|leave|maintain|preserve) (everything|all|it|the (scene|video|shot|image))\b"
    r".*\b(same|unchanged|alone|as (it )?(is|was))\b"
    r"|(do nothing|remain)\b",
    re.IGNORECASE,
)
OUTSIDE = re.compile(r"\b(clips?|frames?|earlier|later look|first look|second look)\b", re.IGNORECASE)
LEAST, MOST = 2, 60  # words


def describe(vlm: Vlm, item: GraphItem, *, model: str = "", count: int = 4, side: int = 448) -> GraphItem:
    """The stage: the VLM's instruction from source to target, and what kind of change it is.

    `model` is there to tell results of several models apart.
    """
    from opensama.media.video_io import read_video

    video = read_video(Path(item["_path"]))
    first = frames_for(video, count, side, start=item["source_start"], end=item["source_end"])
    second = frames_for(video, count, side, start=item["target_start"], end=item["target_end"])
    before, between, after = ASK.split(IMAGE)
    text = before.replace("COUNT", str(len(first))) + IMAGE * len(first)
    text += between.replace("COUNT", str(len(second))) + IMAGE * len(second) + after
    instruction, task = ask_twice(vlm, Question(text, first + second, max_tokens=200), read_answer)
    if not instruction:
        raise Drop("nothing differs")
    return item | {"instruction": instruction, "task": task, "notes": item["notes"] | {"vlm": model or vlm.name}}


def read_answer(text: str) -> tuple[str, str]:
    """The instruction, as one line, and the task of an answer. BadAnswer where they are not there."""
    answer = answer_json(text)
    instruction, task = answer.get("instruction"), answer.get("task", "other")
    if not isinstance(instruction, str) or not isinstance(task, str):
        raise BadAnswer(f"the answer has no instruction and task: {text[:120]!r}")
    instruction = " ".join(instruction.split()).strip("\"' ")
    if len(instruction) > MAX_INSTRUCTION:
        raise BadAnswer(f"the instruction has {len(instruction):,} characters")
    task = task.strip().lower()
    return instruction, task if task in _TASKS else "other"


def reword(item: GraphItem, *, share: float = 0.5, seed: int = 0) -> GraphItem:
    """The stage: some instructions get another verb, chosen by the item's name; the first one stays in the notes."""
    rng = random.Random(f"{seed} {item['id']} verb")
    if rng.random() >= share:
        return item
    said = other_words(item["instruction"], rng)
    if said == item["instruction"]:
        return item
    return item | {"instruction": said, "notes": item["notes"] | {"said": item["instruction"]}}


def other_words(instruction: str, rng: random.Random) -> str:
    """The instruction with another verb; unchanged where its own is not known."""
    body = instruction.rstrip(".! ")
    for pattern, ways in SAME_THING:
        match = re.fullmatch(pattern, body, re.IGNORECASE | re.DOTALL)
        if match:
            choices = [text for way in ways if (text := match.expand(way)).lower() != body.lower()]
            text = rng.choice(choices)
            return text[0].upper() + text[1:] + instruction[len(body) :].rstrip()
    return instruction


def meaningful(item: GraphItem) -> GraphItem:
    """The stage: drops instructions that ask for nothing, or speak of what an editor does not see."""
    if reason := why_not(item["instruction"]):
        raise Drop(reason)
    return item


def why_not(instruction: str) -> str:
    """What is wrong with an instruction, empty if it is worth to be learned."""
    words = re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?", instruction.lower())
    if _NOTHING.match(instruction.strip()):
        return "nothing differs"
    if OUTSIDE.search(instruction):
        return "speaks of clips"
    if not LEAST <= len(words) <= MOST:
        return "too few or too many words"
    if EMPTY.issuperset(words):
        return "trivial instruction"
    return ""
