"""The answer key of one edit: what right and wrong answers look like, and which of them an output is nearest to.

Every part of an edit is asked apart. Candidates are the right answer, the source, the right answer without this part,
and the same edit done wrong (another kind, colour, texture, style, place, object). All are drawn by the world, cut to a
box around the changed region and passed through the model's autoencoder, so that like is compared with like; then, with
`likeness.distances` in the region that the right answer or the candidate changes, in each third of the clip:

    lead              (d(output, candidate) - d(output, right)) / d(right, candidate), least over candidates: 1 for the
                      right answer, 0 half way to a wrong one
    right in a third  lead >= MARGIN: the right answer is nearest by a margin, whatever else the output is off by
    kept in a third   PSNR of the output against the autoencoder's source, outside all changed regions, >= _KEPT dB
    success           every part right and the rest kept, in every third

A part whose candidates all look alike through the autoencoder, though they do not as they are drawn, cannot be seen in
any output: it is wrong.

A style is also held to what it looks like, since a tint, a blur or a margin may well be nearer to it than to anything
else. Its tint and, of a weather, its light without what falls are among the wrong answers, and a third is right only if

    edges             the output's edges correlate with the right answer's by EDGES or more ...
    strength          ... and are from SOFTEST to HARSHEST times as strong ...
    off               ... and all that is compared is off by at most FAR units of L a b (root of the mean square)

The output may be moved up to 6 % of the frame's side and scaled up to 15 % about the region's centre; edits of the
whole frame (a style, a background) are compared in place.

Letters: `k` candidates (0 is right), `f` frames looked at, `t` frames, `h w` pixels; frames are float RGB in 0..1.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from opensama.evaluation.world.likeness import half, nearest_distances, structure, to_lab
from opensama.evaluation.world.probes import lattice, probe_part
from opensama.evaluation.world.styling import tint, without_particles

MARGIN = 0.25
_KEPT = 24.0  # dB, of what should stay, against the autoencoder's source
UNCHANGED_DB = 26.0  # dB, of the whole frame, where nothing should change
CALM = 4  # pixels of a 128x128 frame around what changes that count for neither side
MARK = 0.02  # two renderings differ where a channel differs by more
APART = 25.0  # squared units of likeness: candidates nearer to the right answer cannot be told from it ...
_NEAR = 0.02  # ... nor can those whose difference is a smaller share of what the edit changes
EDGES = 0.8  # of a style; the answer blurred over 3x3 pixels under noise has about 0.9, out of focus 0.8 and less
SOFTEST, HARSHEST = 0.6, 1.6
FAR = 16.0
_WHOLE = ("style", "background")  # families that change the whole frame

Frames = np.ndarray  # uint8 [t h w 3]
Through = Callable[[Tensor], Tensor]  # the model's autoencoder there and back: [b t 3 h w] in 0..1, t = 4k+1


@dataclass(frozen=True)
class PartCandidates:
    """One part of an edit, drawn: the answer without this part [t 3 h w], and labelled wrong ones [k t 3 h w]."""

    family: str
    name: str
    before: Tensor
    labels: tuple[str, ...]
    wrong: Tensor


_WRONG = {
    "right": "the right answer", "undone": "not done", "source": "the source", "half": "half done",
    "kind": "the wrong kind", "color": "the wrong colour", "tint": "the style's colours alone",
    "light": "the weather's light alone", "structure": "the style without its structure",
    "hidden": "anything else, through this autoencoder",
}  # fmt: skip


def in_words(label: str) -> str:
    """A candidate's label for people: `kind` is "the wrong kind"."""
    return _WRONG.get(label, f"the wrong {label}")


@dataclass(frozen=True)
class PartVerdict:
    """How one part came out. `nearest` names the candidate nearest to the output in each third, "right" where it is."""

    family: str
    name: str
    thirds: tuple[bool, ...]
    nearest: tuple[str, ...]
    lead: float  # the least over thirds: 1 for the exact answer, 0 half way to the nearest wrong one

    @property
    def right(self) -> bool:
        return all(self.thirds)


@dataclass(frozen=True)
class Verdict:
    """How one output came out, and by the way what the probes measure (see `probes`)."""

    parts: tuple[PartVerdict, ...]
    kept: tuple[float, ...]  # dB in each third; 99 where nothing is left to be kept
    still: float  # the same over the whole clip
    least: float  # what `kept` must reach
    probes: dict[str, float] = field(default_factory=dict)

    @property
    def thirds(self) -> tuple[bool, ...]:
        """Success in each third."""
        kept = [k >= self.least for k in self.kept]
        return tuple(kept[i] and all(p.thirds[i] for p in self.parts) for i in range(len(kept)))

    @property
    def success(self) -> bool:
        return all(self.thirds)


def to_float(frames: Frames) -> Tensor:
    """uint8 [t h w 3] as [t 3 h w] in 0..1."""
    return torch.from_numpy(np.ascontiguousarray(frames)).movedim(-1, -3).float() / 255


def thirds(t: int) -> tuple[range, ...]:
    """The frames of each third; one alone for clips too short to be cut into groups of four."""
    if t < 13:
        return (range(t),)
    cuts = [round(i * t / 3) for i in range(4)]
    return tuple(range(a, b) for a, b in itertools.pairwise(cuts))


def looked_at(t: int) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """For each third the first of the five frames that pass the autoencoder together, and which of them are compared.

    Four frames share a code (the clip's first has its own), so each third is seen through the group of four that has
    most of its frames in it: the first and the last of these.
    """
    if t == 1:
        return ((0, (0,)),)
    found = []
    for span in thirds(t):
        groups = [[f for f in range(start + (start > 0), start + 5) if f in span] for start in range(0, t - 1, 4)]
        best = max(range(len(groups)), key=lambda i: len(groups[i]))
        found.append((4 * best, (groups[best][0] - 4 * best, groups[best][-1] - 4 * best)))
    return tuple(found)


def grown(mask: Tensor, pixels: int) -> Tensor:
    """A mask [... h w] with all pixels within a square of that reach."""
    if not pixels:
        return mask
    flat = mask.reshape(-1, 1, *mask.shape[-2:]).float()
    return F.max_pool2d(flat, 2 * pixels + 1, 1, pixels).view(mask.shape) > 0.5


def differs(a: Tensor, b: Tensor) -> Tensor:
    """[... 3 h w] twice -> bool [... h w]."""
    return (a - b).abs().amax(-3) > MARK


def psnr(a: Tensor, b: Tensor, where: Tensor | None = None) -> float:
    """In dB, of [t 3 h w] over the pixels chosen by `where` [t h w]; 99 where none is chosen or none differs."""
    error = (a - b).square().mean(-3)
    chosen = error if where is None else error[where]
    if not chosen.numel() or not chosen.any():
        return 99.0
    return min(99.0, float(-10 * chosen.mean().log10()))


def _held_to_structure(question: PartCandidates, answer: Tensor) -> PartCandidates:
    """A style's colours alone, and of a weather its light alone, are wrong answers, too."""
    light = without_particles(question.name, question.before)
    found = {"tint": tint(question.before, answer)} | ({} if light is None else {"light": light})
    wrong = torch.cat((question.wrong, torch.stack(list(found.values()))))
    return replace(question, labels=(*question.labels, *found), wrong=wrong)


def _formed(lab: Tensor, right: Tensor) -> bool:
    edges, strength, off = structure(lab, right)
    return edges >= EDGES and SOFTEST <= strength <= HARSHEST and off <= FAR


def _coded(through: Through, frames: Tensor) -> Tensor:
    return through(frames).to(frames.device).clamp(0, 1)


def middles(region: Tensor) -> Tensor:
    """(x, y) of the middle of a region [f h w], frame by frame: [f 2]; of the frame where it is empty."""
    h, w = region.shape[-2:]
    whole = torch.where(region.sum((1, 2), keepdim=True) > 0, region, 1.0)
    x, y = (torch.arange(side).to(whole) + 0.5 for side in (w, h))
    return torch.stack(((whole * x).sum((1, 2)), (whole * y[:, None]).sum((1, 2))), 1) / whole.sum((1, 2))[:, None]


def halfway(right: Tensor, undone: Tensor, region: Tensor) -> Tensor:
    """Half an edit: done on one side of the region's middle only, left, right, above or below. [4 f 3 h w]."""
    h, w = region.shape[-2:]
    x, y = middles(region).view(-1, 2, 1, 1, 1).unbind(1)
    left, above = torch.arange(w).to(x) + 0.5 < x, (torch.arange(h).to(y) + 0.5)[:, None] < y
    return torch.stack([torch.where(side, right, undone) for side in (left, ~left, above, ~above)])


@dataclass(frozen=True)
class _Box:
    """A cut of a frame, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, frames: Tensor) -> Tensor:
        return frames[..., self.top : self.top + self.height, self.left : self.left + self.width]


def box_around(mask: Tensor, margin: int, step: int = 16) -> _Box:
    """The box of whole steps that holds what is true in [... h w] with a margin, as far as the frame goes."""
    h, w = mask.shape[-2:]
    flat = mask.reshape(-1, h, w).any(0)

    def span(line: Tensor, side: int) -> tuple[int, int]:
        found = line.nonzero()[:, 0]
        low = max(0, int(found[0]) - margin) // step * step
        high = min(side, -(-min(side, int(found[-1]) + 1 + margin) // step) * step)
        return low, high - low

    top, height = span(flat.any(1), h)
    left, width = span(flat.any(0), w)
    return _Box(top, left, height, width)


@dataclass(frozen=True)
class _Third:
    """What one part looks like in one third: candidates [k f 3 h/2 w/2] in L a b, weights [k f h/2 w/2].

    Candidate 0 is the right answer; others are here only where they can be told from it.
    """

    frames: tuple[int, ...]
    box: _Box
    centre: tuple[float, float]
    labels: tuple[str, ...]
    seen: Tensor
    weights: Tensor
    apart: Tensor  # [k] distances of the right answer to each
    before: Tensor  # [f 3 h/2 w/2], the answer without this part
    region: Tensor  # [f h/2 w/2], where the right answer differs from it
    hidden: bool  # the autoencoder leaves nothing to tell the right answer by

    def output(self, frames: Tensor) -> Tensor:
        """The same view of an output [t 3 h w]."""
        return half(to_lab(self.box.cut(frames[list(self.frames)])))


class AnswerKey:
    """The answer key of one edit for one model; `judge` as many outputs as there are."""

    def __init__(self, source: Tensor, answer: Tensor, questions: Sequence[PartCandidates], through: Through):
        """source and answer [t 3 h w]; no questions means that the answer is the source."""
        self.source, self.answer = source, answer
        self.questions = tuple(_held_to_structure(q, answer) if q.family == "style" else q for q in questions)
        unit = self._side / 128
        self.calm = max(1, round(CALM * unit))
        self.still = ~grown(differs(source, answer), self.calm) if self.questions else None
        if self.still is not None and self.still.float().mean() < 0.01:
            self.still = torch.zeros_like(self.still)
        self.coded = _coded(through, source[None])[0]
        self.thirds = [[self._third(q, i, through) for i in range(len(thirds(len(source))))] for q in self.questions]

    @property
    def _side(self) -> float:
        return float((self.source.shape[-1] * self.source.shape[-2]) ** 0.5)

    def _third(self, question: PartCandidates, third: int, through: Through) -> _Third | None:
        start, picks = looked_at(len(self.source))[third]
        span = slice(start, start + 5)
        frames = tuple(start + p for p in picks)
        drawn = torch.stack((self.answer[span], question.before[span], self.source[span]))
        drawn = torch.cat((drawn, question.wrong[:, span]))
        labels = ("right", "undone", "source", *question.labels)
        right = differs(drawn[0], drawn[1])[list(picks)]
        if not right.any():
            return None
        box = box_around(right, 3 * self.calm)
        drawn = box.cut(drawn)
        others: list[int] = [0]
        for k in range(1, len(drawn)):  # what looks the same in the box is asked once
            if all(differs(drawn[k], drawn[o]).any() for o in others):
                others.append(k)
        drawn, labels = drawn[others], tuple(labels[k] for k in others)
        before = drawn[1]
        changed = differs(drawn, before)[:, list(picks)]  # [k f h w]
        seen = half(to_lab(_coded(through, drawn)[:, list(picks)]))
        weights = half(grown(changed[0] | changed, max(1, self.calm // 2)).float())
        region = half(changed[0].float())
        halves = halfway(seen[0], seen[1], region)
        seen, labels = torch.cat((seen, halves)), (*labels, *("half",) * len(halves))
        weights = torch.cat((weights, weights[1:2].expand(len(halves), -1, -1, -1)))
        middle = middles(region)[region.sum((1, 2)) > 0].mean(0).tolist()
        centre = (middle[0], middle[1])
        _, apart = self._nearest(question, seen[0], centre, seen, weights)
        told = [0, *(k for k in range(1, len(seen)) if float(apart[k]) > max(APART, _NEAR * float(apart[1])))]
        names = tuple(labels[k] for k in told)
        hidden = False
        if len(told) == 1:
            plain = half(to_lab(drawn[:2, list(picks)]))
            _, drawn_apart = self._nearest(question, plain[0], centre, plain, weights[:2])
            hidden = float(drawn_apart[1]) > APART
        return _Third(frames, box, centre, names, seen[told], weights[told], apart[told], seen[1], region, hidden)

    def _nearest(
        self, question: PartCandidates, lab: Tensor, centre: tuple[float, float], seen: Tensor, weights: Tensor
    ) -> Tensor:
        return nearest_distances(lab, centre, self._side / 2, seen, weights, question.family not in _WHOLE)

    def judge(self, output: Frames) -> Verdict:
        """How `output` [t h w 3] came out."""
        if output.shape[:3] != (len(self.source), *self.source.shape[-2:]):
            raise ValueError(f"the output is {output.shape}, the source {tuple(self.source.shape)}: they must agree")
        frames = to_float(output).to(self.coded)
        parts = tuple(
            self._part(question, views, frames) for question, views in zip(self.questions, self.thirds, strict=True)
        )
        spans = [list(span) for span in thirds(len(frames))]
        kept = tuple(psnr(frames[i], self.coded[i], None if self.still is None else self.still[i]) for i in spans)
        still = psnr(frames, self.coded, self.still)
        return Verdict(parts, kept, still, _KEPT if self.questions else UNCHANGED_DB, self._probes(frames))

    def _part(self, question: PartCandidates, views: Sequence[_Third | None], frames: Tensor) -> PartVerdict:
        right, names, leads = [], [], [1.0]
        for view in views:
            if view is None or len(view.labels) == 1:  # nothing to be seen of this part
                hidden = view is not None and view.hidden
                right.append(not hidden)
                names.append("hidden" if hidden else "right")
                leads.append(float(not hidden))
                continue
            lab = view.output(frames)
            to_right, to_each = self._nearest(question, lab, view.centre, view.seen, view.weights)
            lead = ((to_each - to_right) / view.apart)[1:]
            leads.append(float(lead.min()))
            formed = question.family != "style" or _formed(lab, view.seen[0])
            right.append(leads[-1] >= MARGIN and formed)
            nearest_of_all = "right" if formed else "structure"
            names.append(nearest_of_all if leads[-1] > 0 else view.labels[1 + int((to_each / to_right)[1:].argmin())])
        return PartVerdict(question.family, question.name, tuple(right), tuple(names), min(leads))

    def _probes(self, frames: Tensor) -> dict[str, float]:
        found: dict[str, float] = {}
        for question, views in zip(self.questions, self.thirds, strict=True):
            seen = [(v.output(frames), v.seen[0], v.before, v.region) for v in views if v is not None]
            found |= probe_part(question.family, seen)
            if question.family == "style":
                found["lattice"] = lattice(frames, self.answer)
        return found
