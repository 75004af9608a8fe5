"""Who marks edits: a vision-language model by rubrics, a file of its earlier replies, or a benchmark's own answers.

    judge = VlmJudge(open_vlm(url, model, cache=folder), find_benchmark("vie").protocol(), passes=3)
    judged = judge.judge(item, Path("edit.mp4"))
    judged.scores         # {"instruct": 8.33, ..., "mean": 8.71}, or None, and `failure` says why

An item has one of three states: scored; failed, where a judge was asked in vain; missing, where it could not be asked
about (no file, a broken one, a size that the protocol does not take).
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol, TypedDict

from opensama.evaluation.aggregation import mean_of
from opensama.evaluation.frames_shown import ShownQuestion
from opensama.evaluation.items import BenchmarkItem
from opensama.evaluation.protocols import JudgingProtocol
from opensama.evaluation.results import Scores, State, read_results
from opensama.evaluation.rubrics import ScoringRubric
from opensama.evaluation.tabular import read_text
from opensama.media.video_io import read_video
from opensama.values import UserError
from opensama.vlm import BadAnswer, Question, Vlm, VlmFailed, VlmRefused, VlmUnavailable, ask

WARM = 0.7  # the least temperature of a question that is asked again because its reply could not be read


@dataclass(frozen=True)
class Reply:
    """What a judge said to question `part` of pass `turn`, and what was read from it."""

    turn: int
    part: int
    rubric: str
    text: str
    marks: Scores | None
    fault: str | None = None


@dataclass(frozen=True)
class Judged:
    """An item's scores, averaged over the passes, and all that led to them."""

    state: State
    scores: Scores | None
    failure: str | None = None
    replies: tuple[Reply, ...] = ()
    spread: Scores = field(default_factory=dict)
    """Standard deviation of a score over the passes, where there were several."""
    again: bool = False
    """No whole answer came, which is no verdict on the edit: it is asked again in the next run."""
    metrics: Scores = field(default_factory=dict)
    controls: dict[str, Scores] = field(default_factory=dict)
    """What else was measured, and both of what is no edit."""
    details: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class JudgingMethod:
    """How a judge marks, as results say it: protocol, frames shown, passes, and what is done with failures."""

    protocol: str
    style_of: str
    frames: str
    policy: str
    passes: int = 1
    zeros: tuple[str, ...] = ()
    """Scores in which a failed item counts 0."""


class Judge(Protocol):
    """Who marks edits. Threads may ask at once."""

    @property
    def name(self) -> str: ...

    @property
    def method(self) -> JudgingMethod: ...

    def digest(self, item: BenchmarkItem) -> str:
        """Of all that decides this item's marks but the judge's name and the files."""
        ...

    def judge(self, item: BenchmarkItem, edited: Path, system: str = "") -> Judged:
        """Marks a file. VlmQuota comes out where nobody will answer any more."""
        ...


class _Place(NamedTuple):
    """Which question: of which system's edit of which item, in which pass."""

    system: str
    item: str
    turn: int
    part: int


class _RubricJudge(ABC):
    """Shows frames, asks the protocol's rubrics, reads replies and averages them; who replies is the subclass's."""

    def __init__(self, name: str, protocol: JudgingProtocol, passes: int = 1) -> None:
        if passes < 1:
            raise UserError(f"There must be at least one pass, not {passes}.")
        self.name, self.protocol, self.passes = name, protocol, passes

    @property
    def method(self) -> JudgingMethod:
        protocol = self.protocol
        shown = protocol.presentation.sampling.says
        return JudgingMethod(protocol.name, protocol.style_of, shown, protocol.policy, self.passes, protocol.zeros)

    def digest(self, item: BenchmarkItem) -> str:
        return f"{self.protocol.digest(item)}-{self.passes}"

    @abstractmethod
    def _reply(self, question: Question, place: _Place, attempt: int) -> str:
        """One reply. VlmRefused, VlmFailed, VlmUnavailable or VlmQuota where there is none."""

    def judge(self, item: BenchmarkItem, edited: Path, system: str = "") -> Judged:
        protocol = self.protocol
        try:
            asked = questions(protocol, item, edited)
        except (UserError, OSError) as error:
            return Judged("missing", None, " ".join(str(error).split()))
        zeros = dict.fromkeys(protocol.zeros, 0.0)
        if zeros and protocol.presentation.shows_copy(asked):
            return Judged("scored", zeros, replies=(Reply(0, 0, "", "the edit is identical to its source", zeros),))
        replies: list[Reply] = []
        rounds: list[Scores | None] = []
        again = False
        for turn in range(self.passes):
            mine: list[Reply] = []
            for part, (rubric, question) in enumerate(asked):
                try:
                    mine += self._replies(rubric, question, _Place(system, item.id, turn, part))
                except (VlmUnavailable, VlmFailed) as error:
                    said = error.said if isinstance(error, VlmFailed) else ""
                    mine.append(Reply(turn, part, rubric.name, said, None, str(error)))
                    again = True
            replies += mine
            read = [reply.marks for reply in mine if reply.marks is not None]
            rounds.append(protocol.derive(_averaged(read)) if read else None)
        faults = [reply.fault for reply in replies if reply.fault]
        if again or not any(rounds):
            return Judged("failed", None, faults[-1], tuple(replies), again=again)
        good = [found or zeros for found in rounds if found or zeros]
        lost = sum(reply.marks is None for reply in replies)
        failure = f"{lost} of {len(replies)} replies could not be read; the last: {faults[-1]}" if lost else None
        values = {name: [found[name] for found in good if name in found] for found in good for name in found}
        spread = {name: _deviation(some) for name, some in values.items() if len(some) > 1}
        return Judged("scored", _averaged(good), failure, tuple(replies), spread)

    def _replies(self, rubric: ScoringRubric, question: Question, place: _Place) -> Iterator[Reply]:
        """Replies to one question, until one can be read."""
        for attempt in range(self.protocol.replies.tries):
            text = ""
            try:
                text = self._reply(question, place, attempt)
                yield Reply(place.turn, place.part, rubric.name, text, rubric.read(text))
                return
            except (BadAnswer, VlmRefused) as error:
                yield Reply(place.turn, place.part, rubric.name, text, None, str(error))


class VlmJudge(_RubricJudge):
    """A vision-language model; each question is asked anew in each of the passes."""

    def __init__(self, vlm: Vlm, protocol: JudgingProtocol, passes: int = 1) -> None:
        super().__init__(vlm.name, protocol, passes)
        self._vlm = vlm

    def _reply(self, question: Question, place: _Place, attempt: int) -> str:
        how = self.protocol.replies
        temperature = max(how.temperature, WARM) if attempt else how.temperature
        turn = place.turn * 1000 + attempt
        return ask(self._vlm, Question(question.text, question.images, "", how.max_tokens, temperature, turn))


_RecordedReply = TypedDict(
    "_RecordedReply", {"system": str, "item": str, "pass": int, "part": int, "reply": str}, total=False
)


class RecordedJudge(_RubricJudge):
    """Replies from a file: lines of {"item", "reply"} with "pass", "part" and "system" where there are several, or the
    results.json of an earlier run."""

    def __init__(self, path: Path, protocol: JudgingProtocol, passes: int = 1) -> None:
        super().__init__(f"recorded:{path.name}", protocol, passes)
        self._known: dict[_Place, list[str]] = {}
        for row in _recorded_rows(path):
            try:
                place = _Place(
                    str(row.get("system") or ""),
                    str(row["item"]),
                    int(row.get("pass") or 0),
                    int(row.get("part") or 0),
                )
                self._known.setdefault(place, []).append(str(row["reply"]))
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"{path} holds a line without item and reply ({error}): mend it.") from error

    def _replies(self, rubric: ScoringRubric, question: Question, place: _Place) -> Iterator[Reply]:
        if not (self._known.get(place) or self._known.get(place._replace(system=""))):
            yield Reply(place.turn, place.part, rubric.name, "", None, "no reply is recorded")
            return
        yield from super()._replies(rubric, question, place)

    def _reply(self, question: Question, place: _Place, attempt: int) -> str:
        known = self._known.get(place) or self._known[place._replace(system="")]
        return known[min(attempt, len(known) - 1)]


def questions(protocol: JudgingProtocol, item: BenchmarkItem, edited: Path) -> list[ShownQuestion]:
    """Each question about an edit, with its pictures. UserError where the files do not allow it."""
    if item.source is None:
        raise UserError("its source is not there")
    source, result = read_video(item.source), read_video(edited)
    return list(protocol.presentation.questions(item, source, result, protocol.rubrics(item)))


def _averaged(read: Sequence[Mapping[str, float]]) -> Scores:
    """Marks of several questions or passes: those of one name averaged."""
    names = dict.fromkeys(name for marks in read for name in marks)
    return {name: mean_of([marks[name] for marks in read if name in marks]) for name in names}


def _deviation(values: Sequence[float]) -> float:
    centre = mean_of(values)
    return float((sum((value - centre) ** 2 for value in values) / (len(values) - 1)) ** 0.5)


def _recorded_rows(path: Path) -> Iterator[_RecordedReply]:
    if not path.is_file():
        raise UserError(f"There is no file {path}: name recorded replies, or the results.json of an earlier run.")
    if path.suffix != ".json":
        try:
            yield from (json.loads(line) for line in read_text(path).splitlines() if line.strip())
        except ValueError as error:
            raise UserError(f"{path} is not JSON ({error}): give lines of replies, or a results.json.") from error
        return
    for system in read_results(path)["systems"]:
        for item in system["items"]:
            for reply in item.get("replies", []):
                yield {
                    "system": system["name"], "item": item["id"], "pass": reply["turn"], "part": reply["part"],
                    "reply": reply["text"],
                }  # fmt: skip
