"""How a judge is asked about an edit, as data: what it is shown, by which rubrics, and what a failed reply means.

A protocol is in the style of its benchmark. The rubrics are ours (see `rubrics`), and judges are shown frames where
some published scripts upload whole files, so numbers compare systems that were scored here, by one judge; they stand
beside published ones only with the authors' own rubric, judge and files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from opensama.evaluation.aggregation import mean_of
from opensama.evaluation.frames_shown import Presentation
from opensama.evaluation.items import BenchmarkItem
from opensama.evaluation.rubrics import ScoringRubric
from opensama.values import UserError


@dataclass(frozen=True)
class ReplySettings:
    """How replies are sampled; `tries` is how often a reply that cannot be read is asked for."""

    tries: int = 3
    temperature: float = 1.0
    max_tokens: int = 2048


def with_mean(marks: Mapping[str, float]) -> dict[str, float]:
    """A reply's marks and their mean."""
    return {**marks, "mean": mean_of(list(marks.values()))}


@dataclass(frozen=True)
class JudgingProtocol:
    """A way to judge an edit: every score it gives is the better the higher it is."""

    name: str
    style_of: str
    presentation: Presentation
    rubrics: Callable[[BenchmarkItem], tuple[ScoringRubric, ...]]
    replies: ReplySettings = ReplySettings()
    derive: Callable[[Mapping[str, float]], dict[str, float]] = with_mean
    """One reply's marks -> the scores that are averaged over passes and items."""
    zeros: tuple[str, ...] = ()
    """Scores that are 0 where no reply can be read, or where the pictures prove that nothing was edited; without
    these, such a pass is left out."""

    @property
    def policy(self) -> str:
        """What happens to items that cannot be scored, in sentences."""
        then = "then it counts 0" if self.zeros else "then its item is left out"
        same = " An edit identical to its source counts 0." if self.zeros else ""
        return (
            f"A reply that cannot be read is asked for {self.replies.tries} times, {then}.{same} Items whose files are "
            f"{self.presentation.needs} are left out."
        )

    def digest(self, item: BenchmarkItem) -> str:
        """Of all that decides this item's marks but the judge and the files."""
        asked = [
            [rubric.name, rubric.text, rubric.parse.__name__, [asdict(mark) for mark in rubric.marks]]
            for rubric in self.rubrics(item)
        ]
        sampling = self.presentation.sampling
        shown = [type(self.presentation).__name__, sampling.says, sampling.side]
        said = json.dumps([self.name, asked, shown, asdict(self.replies), self.zeros])
        return hashlib.sha256(said.encode()).hexdigest()[:16]


def with_rubrics(protocol: JudgingProtocol, place: Path) -> JudgingProtocol:
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

    def asked(item: BenchmarkItem) -> tuple[ScoringRubric, ...]:
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
