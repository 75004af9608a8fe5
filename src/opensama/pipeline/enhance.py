"""An instruction put into the words that a model was trained with, by a vision-language model that sees the source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TypeVar

from opensama.media.frames import eight_bit, fitted, frames_for
from opensama.models.families import find_family
from opensama.models.registry import find, known_words_of, unknown_words
from opensama.pipeline.request_checks import reference_pictures, source_of
from opensama.pipeline.split_rules import join_edits
from opensama.values import MAX_INSTRUCTION, EditRequest, UserError
from opensama.vlm import (
    IMAGE,
    BadAnswer,
    Question,
    Vlm,
    VlmFailed,
    VlmQuota,
    VlmRefused,
    VlmUnavailable,
    answer_json,
    open_vlm,
)

_T = TypeVar("_T")
_FRAMES, _SIDE = 3, 448  # of the source that are shown, and pixels of their longer side
_RETRIES = 2  # somebody waits


@cache
def enhancer_at(url: str, model: str | None = None) -> Vlm:
    """The model at an OpenAI-compatible server's address; the name may be left out where it has just one."""
    return open_vlm(url, model, retries=_RETRIES)


def enhanced(request: EditRequest, model: str | Path, vlm: Vlm, *, anyway: bool = False) -> EditRequest:
    """The request with its instruction rewritten for a model; what was said goes into `original_instruction`.

    Shown are three frames of what is to be edited, and the references. UserError in one sentence where there is no
    rewriting to be had; and, unless `anyway`, where a model of few words does not know all of its words. Of several
    edits each is rewritten.
    """
    if request.edits:
        said = [enhanced(one, model, vlm, anyway=anyway).instruction for one in request.single_edits()]
        edits = tuple(replace(edit, instruction=text) for edit, text in zip(request.edits, said, strict=True))
        original = request.original_instruction or request.instruction
        return replace(request, edits=edits, instruction=join_edits(said), original_instruction=original)
    read = partial(read_prompt, model=model, anyway=anyway)
    without = "The instruction was not rewritten ({}): leave `enhance` out to edit by it as it is."
    text = answer_to(vlm, question_for(request, model), read, without)
    return replace(request, instruction=text, original_instruction=request.instruction)


def answer_to(vlm: Vlm, question: Question, read: Callable[[str], _T], without: str) -> _T:
    """What `read` makes of the answer; where it is of no use (BadAnswer), of a second one, asked for with the reason.

    UserError where there is none: the sentence `without`, with the reason in place of `{}`.
    """
    try:
        try:
            return read(vlm.ask(question))
        except BadAnswer as error:
            return read(vlm.ask(replace(question, text=f"{question.text}\nNot like the last time, when {error}.")))
    except (BadAnswer, VlmRefused, VlmFailed, VlmUnavailable, VlmQuota) as error:
        raise UserError(without.replace("{}", str(error).rstrip("."))) from error


def check_known(text: str, model: str | Path, anyway: bool) -> None:
    """BadAnswer, unless `anyway`, for an answer in words that a model of few words does not know."""
    if not anyway and (unknown := unknown_words(find(model), text)):
        raise BadAnswer(f"{model} has never been taught the answer's {', '.join(unknown[:5])}")


def enhanced_note(request: EditRequest) -> str:
    """A sentence with what a model is told in place of what was said; nothing where that is the same."""
    if request.original_instruction is None or request.edits:  # which are named one by one
        return ""
    return f"For {request.original_instruction!r} the model is told: {request.instruction}"


def question_for(request: EditRequest, model: str | Path) -> Question:
    """What is asked: the wish and the pictures, and how the model's family wants to be told."""
    entry, video = find(model), source_of(request)
    frames = frames_for(video.clip(*request.frame_range(video)), _FRAMES, _SIDE)
    pictures = tuple(fitted(eight_bit(picture), _SIDE) for picture in reference_pictures(request))
    shown = f"{'A picture' if video.frame_count == 1 else 'Frames of a video'} to be edited: {IMAGE * len(frames)}\n"
    if pictures:
        shown += f"Reference images, the first of them image0: {IMAGE * len(pictures)}\n"
    known = sorted(known_words_of(entry))
    listed = f" It knows these words and no others: {', '.join(known)}." if known else ""
    wish = request.instruction.replace(IMAGE, "image")
    return Question(
        f"{shown}Somebody wishes: {wish}\nRewrite the wish as the prompt of a model that edits videos."
        f" {find_family(entry.family).prompt_guide}{listed} Look at the pictures, and ask for nothing that the wish"
        " does not ask for; names, numbers and words in quotation marks stay as they are. Write English. Answer with"
        ' one JSON object and nothing else: {"prompt": "..."}',
        (*frames, *pictures),
        max_tokens=800,
    )


def read_prompt(text: str, model: str | Path, anyway: bool = False) -> str:
    """The prompt of an answer, as one line. BadAnswer where there is none, or, unless `anyway`, where a model of few
    words would not know all of it."""
    prompt = answer_json(text).get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise BadAnswer("the answer holds no prompt")
    prompt = " ".join(prompt.split())
    if len(prompt) > MAX_INSTRUCTION:
        raise BadAnswer(f"the answer's prompt has {len(prompt):,} characters")
    check_known(prompt, model, anyway)
    return prompt
