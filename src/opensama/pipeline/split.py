"""One instruction as several edits, each with its region: told apart by rules, or by a model behind a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from opensama.first_bytes import is_address
from opensama.models.registry import find, known_words_of
from opensama.pipeline.enhance import answer_to, check_known, enhancer_at
from opensama.pipeline.masks import limits_of
from opensama.pipeline.request_checks import source_of
from opensama.pipeline.split_rules import join_edits, split_by_rules
from opensama.values import MAX_EDITS, EditRequest, SubEdit, UserError
from opensama.vlm import BadAnswer, Question, Vlm, answer_json

if TYPE_CHECKING:
    import numpy as np

    Box = tuple[int, int, int, int]
    Mask = str | Path | np.ndarray
    Region = Box | Mask


@dataclass(frozen=True)
class Splitting:
    """What is asked of instructions that may hold several edits.

    `how` is "off", "rules", or the address of an OpenAI-compatible server (with `server_model`, its name of the model)
    or a `Vlm` that says which edits these are. `regions` limit single ones, of which the first is 1, by boxes, or by
    masks as files or arrays. UserError for what goes with no split, and for what is none.
    """

    how: str | Vlm = "off"
    regions: Mapping[int, Region] = field(default_factory=dict)
    one_pass: bool = False
    server_model: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.how, str) and self.how not in ("off", "rules") and not is_address(self.how):
            raise UserError(
                f"There is no split {self.how[:40]!r}: choose off, rules, or a server's address (http://...)."
            )
        if self.how == "off" and self.regions:
            raise UserError(
                "`regions` is for edits of a split instruction: add `split=rules`, or limit all by `box` or `mask`."
            )
        if self.how == "off" and self.one_pass:
            raise UserError("`one_pass` is about the edits of a split instruction: add `split=rules`.")

    @property
    def asks(self) -> bool:
        """Whether somebody is asked, which waits until all else was found right."""
        return self.how not in ("off", "rules")

    def by_rules(self, request: EditRequest) -> EditRequest:
        """The request with its edits as the rules find them, where these were asked for. UserError for an edit that is
        empty, for too many of them, and for a region of one that is not there."""
        return self._applied(request, split_by_rules(request.instruction)) if self.how == "rules" else request

    def by_server(self, request: EditRequest, model: str | Path, anyway: bool = False) -> EditRequest:
        """The request, its video being read, with the edits that a server finds, where one was asked for.

        These are its instruction then, one a line; what was said goes into `original_instruction`. UserError as above,
        where there is no answer, and, unless `anyway`, for an answer in words that a model of few words does not know.
        """
        if not self.asks:
            return request
        vlm = enhancer_at(self.how, self.server_model) if isinstance(self.how, str) else self.how
        said = _asked(vlm, request.instruction, model, anyway)
        if len(said) > 1:
            request = replace(request, instruction=join_edits(said), original_instruction=request.instruction)
        request = self._applied(request, said)
        for single in request.single_edits():
            limits_of(single, source_of(request))
        return request

    def note(self, request: EditRequest) -> str:
        """Which edits are made, and how; nothing where no split was asked for."""
        if self.how == "off":
            return ""
        if not request.edits:
            return "The instruction is one edit, and is not split."
        how = "in one pass" if request.one_pass else "one after the other"
        said = [edit.instruction + _region_note(edit) for edit in request.edits]
        return f"{len(said)} edits, {how}: {' '.join(f'({number}) {text}' for number, text in enumerate(said, 1))}"

    def _applied(self, request: EditRequest, said: Sequence[str]) -> EditRequest:
        for number in self.regions:
            if not 1 <= number <= len(said):
                raise UserError(f"There is a region for edit {number}, but the instruction asks for {_listed(said)}")
        if len(said) == 1:
            return replace(request, **_limits(self.regions[1])) if 1 in self.regions else request
        edits = [
            SubEdit(text, **_limits(self.regions[number])) if number in self.regions else SubEdit(text)
            for number, text in enumerate(said, 1)
        ]
        return replace(request, edits=tuple(edits))


def question_for_split(instruction: str, known: Sequence[str] = ()) -> Question:
    """What a language model is asked about an instruction; `known` are the only words that it may answer in."""
    listed = f" Use these words and no others: {', '.join(known)}." if known else ""
    return Question(
        f"Somebody asks a model that edits videos: {instruction.replace('<image>', 'image')}\nWhich single edits are"
        f" asked for, in this order? At most {MAX_EDITS}. Each must be understood without the others: in place of"
        " 'it' and the like name what is meant. What only describes an edit, or asks to keep something, belongs to the"
        " edit that it is about. Change no other words, least of all those in quotation marks; one edit alone stays as"
        f' it is.{listed} Answer with one JSON object and nothing else: {{"edits": ["...", "..."]}}',
        max_tokens=800,
    )


def _asked(vlm: Vlm, instruction: str, model: str | Path, anyway: bool) -> tuple[str, ...]:
    question = question_for_split(instruction, sorted(known_words_of(find(model))))
    without = "The instruction was not split ({}): take `split=rules`, which asks nobody, or leave `split` out."
    return answer_to(vlm, question, partial(_read_edits, model=model, anyway=anyway), without)


def _read_edits(text: str, model: str | Path, anyway: bool) -> tuple[str, ...]:
    edits = answer_json(text).get("edits")
    if not isinstance(edits, list) or not 1 <= len(edits) <= MAX_EDITS:
        raise BadAnswer(f"the answer holds no list of 1 to {MAX_EDITS} edits")
    if not all(isinstance(edit, str) and edit.strip() for edit in edits):
        raise BadAnswer("one of the answer's edits says nothing")
    said = tuple(" ".join(edit.split()) for edit in edits)
    check_known(" ".join(said), model, anyway)
    return said


class _Limits(TypedDict):
    box: Box | None
    mask: Mask | None


def _limits(region: Region) -> _Limits:
    return {"box": region, "mask": None} if isinstance(region, tuple) else {"box": None, "mask": region}


def _region_note(edit: SubEdit) -> str:
    if edit.box is not None:
        return f" [in the box {','.join(map(str, edit.box))}]"
    return "" if edit.mask is None else " [in a mask of its own]"


def _listed(edits: Sequence[str]) -> str:
    if len(edits) == 1:
        return "one edit: give its region as `box` or `mask`."
    return f"{len(edits)}: {' '.join(f'({number}) {text}' for number, text in enumerate(edits, 1))}"
