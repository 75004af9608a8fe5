"""One item before a judge: its frames are shown, the protocol's questions asked, the replies read and averaged.

    judged = judge_item(open_vlm(url, model, cache=folder), PROTOCOLS["vie"], item, Path("edit.mp4"), passes=3)
    judged.scores         # {"instruct": 8.33, ..., "mean": 8.71}, or None, and `failure` says why

The judge is anything that `opensama.vlm` asks, or a file of `Recorded` replies. An item has one of three states:
scored; failed, where a judge was asked in vain; missing, where it could not be asked about (no file, a broken one, a
size that the protocol does not take).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opensama.evaluation.aggregation import State, mean
from opensama.evaluation.items import Item, read_text
from opensama.evaluation.protocols import Protocol
from opensama.evaluation.rubrics import Rubric
from opensama.media.video_io import read_video
from opensama.values import UserError, Video
from opensama.vlm import IMAGE, BadAnswer, Question, Vlm, VlmFailed, VlmRefused, VlmUnavailable, ask, looks_cut

if TYPE_CHECKING:
    import numpy as np

WARM = 0.7  # the least temperature of a question that is asked again because its reply could not be read
PAIR_HEIGHT, PAIR_LEAST = (
    224,
    512,
)  # ReCo-Bench: rows of a pair when it is stored, and its shorter side when it is shown

NO_VERDICT = re.compile(r"[45]\d\d |the answer is empty")


@dataclass(frozen=True)
class Reply:
    """What a judge said to one question of one pass, and what was read from it."""

    turn: int
    part: int
    rubric: str
    text: str
    marks: Mapping[str, float] | None
    fault: str | None = None


@dataclass(frozen=True)
class Judged:
    """An item's scores, averaged over the passes, and all that led to them."""

    state: State
    scores: dict[str, float] | None
    failure: str | None = None
    replies: tuple[Reply, ...] = ()
    spread: dict[str, float] = field(default_factory=dict)
    """Standard deviation of a score over the passes, where there were several."""
    again: bool = False
    """No whole answer came, which is no verdict on the edit: it is asked again in the next run."""
    metrics: dict[str, float] = field(default_factory=dict)
    controls: dict[str, dict[str, float]] = field(default_factory=dict)
    """What else was measured, and both of what is no edit."""
    details: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def is_verdict(judged: Mapping[str, Any]) -> bool:
    """Whether a `Judged`, as a dictionary, is worth keeping. Earlier versions kept as refusals what no server took, and
    as answers what was cut off."""
    lost = [reply for reply in judged["replies"] if reply["fault"]]
    return not judged["again"] and not any(
        NO_VERDICT.match(reply["fault"]) or looks_cut(reply["text"]) for reply in lost
    )


class Recorded:
    """Replies from a file instead of a judge: lines of {"item", "reply"} with "pass", "part" and "system" where there
    are several, or the results.json of an earlier run."""

    def __init__(self, path: Path) -> None:
        self.name = f"recorded:{path.name}"
        self._replies: dict[tuple[str, str, int, int], list[str]] = {}
        for row in _recorded_rows(path):
            try:
                key = (
                    str(row.get("system") or ""),
                    str(row["item"]),
                    int(row.get("pass") or 0),
                    int(row.get("part") or 0),
                )
                self._replies.setdefault(key, []).append(str(row["reply"]))
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"{path} holds a line without item and reply ({error}): mend it.") from error

    def reply(self, system: str, item: str, turn: int, part: int, attempt: int) -> str:
        for name in (system, ""):
            if known := self._replies.get((name, item, turn, part)):
                return known[min(attempt, len(known) - 1)]
        raise VlmRefused("no reply is recorded")


def judge_item(
    vlm: Vlm | Recorded, protocol: Protocol, item: Item, edited: Path, passes: int = 1, *, system: str = ""
) -> Judged:
    """Scores of one edit. VlmQuota comes out where nobody will answer any more."""
    try:
        asked = list(questions(protocol, item, edited))
    except (UserError, OSError) as error:
        return Judged("missing", None, " ".join(str(error).split()))
    if protocol.identical and all(_halves_alike(question) for _, question in asked):
        zeros = dict.fromkeys(protocol.zeros, 0.0)
        return Judged("scored", zeros, replies=(Reply(0, 0, "", "the edit is identical to its source", zeros),))
    replies: list[Reply] = []
    rounds: list[dict[str, float] | None] = []
    again = False
    for turn in range(passes):
        read: list[Mapping[str, float]] = []
        for part, (rubric, question) in enumerate(asked):
            try:
                mine = list(_replies(vlm, protocol, rubric, question, (system, item.id, turn, part)))
            except (VlmUnavailable, VlmFailed) as error:
                said = error.said if isinstance(error, VlmFailed) else ""
                mine, again = [Reply(turn, part, rubric.name, said, None, str(error))], True
            replies += mine
            read += [reply.marks for reply in mine if reply.marks is not None]
        rounds.append(protocol.derive(_together(read)) if read else None)
    faults = [reply.fault for reply in replies if reply.fault]
    lost = [reply for reply in replies if reply.marks is None]
    if again or not any(rounds):
        return Judged("failed", None, faults[-1], tuple(replies), again=again)
    if protocol.failure == "zero":
        good: list[dict[str, float]] = [found or dict.fromkeys(protocol.zeros, 0.0) for found in rounds]
    else:
        good = [found for found in rounds if found]
    names = list(dict.fromkeys(name for found in good for name in found))
    values = {name: [found[name] for found in good if name in found] for name in names}
    failure = f"{len(lost)} of {len(replies)} replies could not be read; the last: {faults[-1]}" if lost else None
    return Judged(
        "scored",
        {name: mean(some) for name, some in values.items()},
        failure,
        tuple(replies),
        {name: _deviation(some) for name, some in values.items() if len(some) > 1},
    )


def _replies(
    vlm: Vlm | Recorded, protocol: Protocol, rubric: Rubric, question: Question, key: tuple[str, str, int, int]
) -> Iterator[Reply]:
    """Replies to one question, until one can be read."""
    system, item, turn, part = key
    for attempt in range(protocol.tries):
        text = ""
        try:
            if isinstance(vlm, Recorded):
                text = vlm.reply(system, item, turn, part, attempt)
            else:
                text = ask(vlm, _asked(question, protocol, turn * 1000 + attempt, again=attempt > 0))
            marks = rubric.read(text)
        except (BadAnswer, VlmRefused) as error:
            yield Reply(turn, part, rubric.name, text, None, str(error))
            if isinstance(error, VlmRefused) and isinstance(vlm, Recorded):
                return
            continue
        yield Reply(turn, part, rubric.name, text, marks)
        return


def _asked(question: Question, protocol: Protocol, turn: int, again: bool) -> Question:
    temperature = max(protocol.temperature, WARM) if again else protocol.temperature
    return Question(question.text, question.images, max_tokens=protocol.max_tokens, temperature=temperature, turn=turn)


def _together(read: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Marks of several questions: those of one name averaged."""
    names = dict.fromkeys(name for marks in read for name in marks)
    return {name: mean([marks[name] for marks in read if name in marks]) for name in names}


def _deviation(values: Sequence[float]) -> float:
    centre = mean(values)
    return float((sum((value - centre) ** 2 for value in values) / (len(values) - 1)) ** 0.5)


# --- what is shown


def questions(protocol: Protocol, item: Item, edited: Path) -> Iterator[tuple[Rubric, Question]]:
    """Each question about an edit, with its pictures. UserError where the files do not allow it."""
    if item.source is None:
        raise UserError("its source is not there")
    source, result = read_video(item.source), read_video(edited)
    side = protocol.sampler.side
    rubrics = protocol.rubrics(item)
    if protocol.order == "source, edited":
        before, after = (
            frames_at(video, protocol.sampler.pick(video.frame_count, float(video.fps)), side)
            for video in (source, result)
        )
        picture: tuple[np.ndarray, ...] = ()
        shown = ""
        if place := item.notes.get("reference_image"):
            picture = frames_at(read_video(place), [0], side)
            shown = f"The reference picture:\n{IMAGE}\n"
        shown += f"The original video, {len(before)} frames in order:\n{IMAGE * len(before)}\n"
        shown += f"The edited video, {len(after)} frames in order:\n{IMAGE * len(after)}\n"
        for rubric in rubrics:
            yield rubric, Question(shown + rubric.filled(item.instruction), (*picture, *before, *after))
    elif protocol.order == "side by side":
        if (source.frame_count, source.height) != (result.frame_count, result.height):
            raise UserError(
                f"the edit has {result.frame_count} frames of {result.height} rows, its source {source.frame_count} of "
                f"{source.height}; {protocol.style_of} takes only equal ones"
            )
        pairs = _pairs(source, result, protocol)
        for rubric in rubrics:
            yield rubric, Question(IMAGE * len(pairs) + "\n" + rubric.filled(item.instruction), pairs)
    else:
        wanted = protocol.sampler.pick(min(source.frame_count, result.frame_count), float(source.fps))
        for before_one, after_one in zip(frames_at(source, wanted, side), frames_at(result, wanted, side), strict=True):
            for rubric in rubrics:
                text = f"Before:\n{IMAGE}\nAfter:\n{IMAGE}\n{rubric.filled(item.instruction)}"
                yield rubric, Question(text, (before_one, after_one))


def _pairs(source: Video, result: Video, protocol: Protocol) -> tuple[np.ndarray, ...]:
    import numpy as np

    wanted = protocol.sampler.pick(source.frame_count, float(source.fps))
    lefts, rights = (frames_at(video, wanted, None) for video in (source, result))
    found = []
    for left, right in zip(lefts, rights, strict=True):
        halves = [_scaled(half, PAIR_HEIGHT / half.shape[0]) for half in (left, right)]  # apart: no seam between them
        grow = max(1.0, PAIR_LEAST / min(PAIR_HEIGHT, halves[0].shape[1] + halves[1].shape[1]))
        found.append(np.concatenate([_scaled(half, grow) for half in halves], axis=1))
    return tuple(found)


def _halves_alike(question: Question) -> bool:
    return all(
        image.shape[1] % 2 == 0 and bool((image[:, : image.shape[1] // 2] == image[:, image.shape[1] // 2 :]).all())
        for image in question.images
    )


def frames_at(video: Video, wanted: Sequence[int], side: int | None) -> tuple[np.ndarray, ...]:
    """Those frames, uint8 `h w 3`, the longer side at most `side`; decoded in one pass, few in memory."""
    import numpy as np

    keep = set(wanted)
    found = []
    for index, frame in enumerate(video.frames(min(wanted), max(wanted) + 1), min(wanted)):
        if index not in keep:
            continue
        frame = frame if frame.dtype == np.uint8 else (frame // 257).astype(np.uint8)
        scale = 1.0 if side is None else min(1.0, side / max(frame.shape[:2]))
        found.append(_scaled(frame, scale))
    return tuple(found)


def _scaled(frame: np.ndarray, scale: float) -> np.ndarray:
    import numpy as np
    from PIL import Image

    height, width = (max(1, round(side * scale)) for side in frame.shape[:2])
    if frame.shape[:2] == (height, width):
        return np.ascontiguousarray(frame)
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC))


def _recorded_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    if not path.is_file():
        raise UserError(f"There is no file {path}: name recorded replies, or the results.json of an earlier run.")
    text = read_text(path)
    try:
        whole: Any = json.loads(text) if text.lstrip().startswith("{") and path.suffix == ".json" else None
        if whole is None:
            yield from (json.loads(line) for line in text.splitlines() if line.strip())
            return
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): give lines of replies, or a results.json.") from error
    for system in whole.get("systems", []):
        for item in system.get("items", []):
            for reply in item.get("replies", []):
                key = {"system": system["name"], "item": item["id"], "pass": reply["turn"], "part": reply["part"]}
                yield key | {"reply": reply["text"]}
