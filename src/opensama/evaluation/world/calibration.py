"""What the measure lets pass and what it does not, on outputs of which it is known: how far can it be trusted?

Right answers must pass, imitations must not. Every output but the copy has been through the model's autoencoder, as an
edit's would have been.

    exact         the exact answer
    rough         the exact answer blurred over 3x3 pixels, with clouds of noise of 5 % over it
    displaced     the exact answer, an object that comes in 3 % of the frame's side away each way and 8 % larger
    copy          the source
    disk          a disk of the new object's colour, area and place, in place of it
    mean          the mean over all kinds in place of it: a cloud of the right colour, size and texture
    wrong color   the right answer in another colour, drawn among all others
    wrong kind    the right answer with another kind, drawn among all others
    one part      of an edit of two parts one alone
    blend         half of the answer, half of the source, in every pixel
    half region   the answer in one half of the region, on a random side, the source in the other
    late          one third of the frames untouched

and of styles (see `styling`), of widths and reaches drawn anew for each; half their strength is `blend`:

    tint          the source under the nearest affine map of its colours, where the style is more than that
    border        the style in a margin alone, the tint within it, or the source where the tint is the style
    blurred       the style out of focus, over 6 to 13 pixels of 128
    light         a weather without what falls
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from opensama.evaluation.statistics import wilson
from opensama.evaluation.world.answer_key import Through, Verdict, differs, thirds
from opensama.evaluation.world.scores import answer_key
from opensama.evaluation.world.styling import blurred, border, tint, without_particles
from opensama.values import Progress, counted
from opensama.world import (
    COLORS,
    KINDS,
    TIERS,
    EditSample,
    StyledScene,
    Thing,
    TierName,
    render_styled,
    sample_edit,
    to_uint8,
)

RIGHT = ("exact", "rough", "displaced")
LEAST, MOST = 0.95, 0.10  # share of right answers that must pass, of imitations that may
TINTED = 0.1  # a style is more than its tint where that leaves more of the squared change than this
STYLED = ("tint", "border", "blurred", "light")  # imitations of styles alone
COMES = ("replace", "add", "swapped")  # families in which an object comes in


def imitations(sample: EditSample, rng: random.Random) -> Iterator[tuple[str, Tensor]]:
    """Names and frames [t 3 h w] of all outputs of the list above that this edit can have, not yet coded."""
    plan = sample.plan
    t, h, w = sample.source.shape[:3]
    source, answer = render_styled([plan.source, plan.target], t, h, w)
    yield "exact", answer
    yield "rough", _rough(rng, answer)
    yield "copy", source
    part = rng.choice(plan.parts)
    new = _comer(part.before, plan.target)
    if new is not None:
        yield from _of_an_object(rng, part.family, new, plan.target, answer)
    if part.family == "style" and len(plan.parts) == 1:
        yield from _of_a_style(rng, part.edited, source, answer)
    if len(plan.parts) > 1:
        yield "one part", render_styled([part.before], t, h, w)[0]
    yield "blend", (source + answer) / 2
    yield "half region", torch.where(_one_side(rng, differs(source, answer))[:, None], answer, source)
    late = answer.clone()
    untouched = list(rng.choice(thirds(t)))
    late[untouched] = source[untouched]
    yield "late", late


def _of_an_object(
    rng: random.Random, family: str, new: Thing, target: StyledScene, answer: Tensor
) -> Iterator[tuple[str, Tensor]]:
    def draw(*things: Thing | None) -> Tensor:
        t, _, h, w = answer.shape
        return render_styled([_exchanged(target, new, thing) for thing in things], t, h, w)

    if family in COMES:
        yield "displaced", draw(replace(new, x=new.x + 0.06, y=new.y - 0.06, size=1.08 * new.size))[0]
    colors = [c for c in COLORS if c not in (new.color, *((new.wears.color,) if new.wears else ()))]
    if family == "accessory" and new.wears:
        yield "wrong color", draw(replace(new, wears=replace(new.wears, color=rng.choice(colors))))[0]
    if family in (*COMES, "recolor"):
        yield "wrong color", draw(replace(new, color=rng.choice(colors)))[0]
    if family in (*COMES, "recolor", "retexture"):
        yield "disk", _disk(answer, draw(None)[0], new.color)
        yield "mean", draw(*(replace(new, kind=kind) for kind in KINDS)).mean(0)
    if family in COMES:
        yield "wrong kind", draw(replace(new, kind=rng.choice([k for k in KINDS if k != new.kind])))[0]


def _of_a_style(rng: random.Random, style: str, source: Tensor, answer: Tensor) -> Iterator[tuple[str, Tensor]]:
    colors, light = tint(source, answer), without_particles(style, source)
    more = float((answer - colors).square().mean()) > TINTED * float((answer - source).square().mean())
    if more:
        yield "tint", colors
    yield "border", border(colors if more else source, answer, rng.uniform(0.05, 0.12))
    yield "blurred", blurred(answer, rng.uniform(2.5, 6) / 128)
    if light is not None:
        yield "light", light


def _rough(rng: random.Random, answer: Tensor) -> Tensor:
    t, _, h, w = answer.shape
    clouds = torch.randn(t, 3, 12, 12, generator=torch.Generator().manual_seed(rng.randrange(2**31)))
    soft = F.avg_pool2d(F.pad(answer, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return (soft + 0.05 * F.interpolate(clouds, (h, w), mode="bicubic")).clamp(0, 1)


def _comer(before: StyledScene, target: StyledScene) -> Thing | None:
    """The object that the part brings in or changes."""
    return next((t for t in target.scene.things if t not in before.scene.things), None)


def _exchanged(look: StyledScene, old: Thing, new: Thing | None) -> StyledScene:
    things = tuple(new if t is old else t for t in look.scene.things)
    return replace(look, scene=replace(look.scene, things=tuple(t for t in things if t is not None)))


def _disk(answer: Tensor, without: Tensor, color: str) -> Tensor:
    """A disk where the object can be seen, of the same area, frame by frame [t 3 h w]."""
    seen = differs(answer, without).float()
    t, h, w = seen.shape
    y, x = torch.arange(h)[:, None] + 0.5, torch.arange(w) + 0.5
    area = seen.sum((1, 2)).clamp_min(1)
    middle = [(seen * v).sum((1, 2)) / area for v in (x, y)]
    away = torch.hypot(x - middle[0].view(t, 1, 1), y - middle[1].view(t, 1, 1))
    radius = (area / torch.pi).sqrt().view(t, 1, 1)
    cover = ((radius - away + 0.5).clamp(0, 1) * (seen.sum((1, 2)) > 0).view(t, 1, 1))[:, None]
    return without + (torch.tensor(COLORS[color]).view(3, 1, 1) - without) * cover


def _one_side(rng: random.Random, region: Tensor) -> Tensor:
    """A mask [t h w] of one half of each frame's region: left, right, above or below its middle."""
    axis, sign = rng.choice((-1, -2)), rng.choice((-1, 1))
    line = torch.arange(region.shape[axis]).float().view(-1, 1) if axis == -2 else torch.arange(region.shape[-1])
    middle = (region * line).sum((1, 2)) / region.sum((1, 2)).clamp_min(1)
    return sign * (line - middle.view(-1, 1, 1)) > 0


@dataclass(frozen=True)
class Trial:
    """How one output of one edit came out."""

    family: str
    name: str
    verdict: Verdict


@dataclass
class Calibration:
    """What passed."""

    trials: list[Trial]

    def shares(self) -> dict[str, dict[str, tuple[int, int]]]:
        """family (and "all") -> output -> how many passed, of how many."""
        found: dict[str, dict[str, tuple[int, int]]] = {}
        for trial in self.trials:
            for family in (trial.family, "all"):
                passed, n = found.setdefault(family, {}).get(trial.name, (0, 0))
                found[family][trial.name] = passed + trial.verdict.success, n + 1
        return found

    def failures(self) -> list[str]:
        """What is not as it must be, in words."""
        wrong = []
        for family, row in self.shares().items():
            for name, (passed, n) in row.items():
                if passed < LEAST * n if name in RIGHT else passed > MOST * n:
                    wrong.append(f"{family}: {name} passes {passed} of {n}")
        return wrong

    def to_dict(self) -> dict[str, dict[str, dict[str, object]]]:
        return {
            family: {
                name: {"passed": passed, "n": n, "interval": list(wilson(passed, n))}
                for name, (passed, n) in row.items()
            }
            for family, row in self.shares().items()
        }

    def table(self) -> str:
        """Percent that pass, one line a family."""
        shares = self.shares()
        names = [n for n in NAMES if n in shares["all"]]
        lines = ["percent that pass" + "".join(f"{name:>13}" for name in names)]
        for family, row in shares.items():
            if family != "all":
                lines.append(f"{family:<17}" + "".join(_percent(row.get(name)) for name in names))
        lines.append(f"{'all':<17}" + "".join(_percent(shares["all"][name]) for name in names))
        intervals = [wilson(*shares["all"][name]) for name in names]
        lines.append(f"{'95 % interval':<17}" + "".join(f"{f'{100 * a:.0f}-{100 * b:.0f}':>13}" for a, b in intervals))
        lines.append(f"{'n':<17}" + "".join(f"{shares['all'][name][1]:>13}" for name in names))
        lines += [f"not as it should be: {text}" for text in self.failures()]
        return "\n".join(lines)


NAMES = ("exact", "rough", "displaced", "copy", "disk", "mean", "wrong color", "wrong kind", "one part", "blend",
         "half region", "late", *STYLED)  # fmt: skip


def _percent(share: tuple[int, int] | None) -> str:
    return f"{'':>13}" if share is None else f"{100 * share[0] / share[1]:>13.1f}"


def calibrate(
    through: Through,
    *,
    n: int = 60,
    tier: TierName = "full",
    families: Sequence[str] | None = None,
    split: str = "test",
    seed: int = 0,
    frames: int = 17,
    size: int = 128,
    progress: Callable[[Progress], None] | None = None,
) -> Calibration:
    """Judges imitations of `n` edits of each family, by default of the tier's."""
    families = TIERS[tier].families if families is None else families
    trials = []
    for i in counted(range(n * len(families)), "Calibrating", progress):
        family = families[i % len(families)]
        name = f"{seed}-{i // len(families)}"
        sample = sample_edit(name, split, family, frames, size, tier)  # type: ignore[arg-type]
        key = answer_key(sample, through)
        for which, drawn in imitations(sample, random.Random(f"{family}/{name}")):
            output = drawn if which == "copy" else through(drawn[None])[0]
            trials.append(Trial(family, which, key.judge(to_uint8(output))))
    return Calibration(trials)
