"""`opensama gallery`: one page of edits to look at, of every family, each beside its source and its exact answer."""

from __future__ import annotations

import html
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from opensama.apps.options import OUT, OVERWRITE, check_free
from opensama.apps.progress import Display, loading
from opensama.media import pages
from opensama.runtime import whole_file
from opensama.values import Progress, UserError, Video

if TYPE_CHECKING:
    import numpy as np

    from opensama.evaluation.world import ItemScore
    from opensama.pipeline.editor import Editor

GALLERY_FRAMES = 17
GALLERY_SIDE = 128  # pixels, of drawn and real clips
_GAP = 4  # pixels between the three clips of a picture
_QUALITY = 72
REAL = "real clips"
LEGEND = (
    "Each clip shows the source, the edit and the exact answer. An edit is right if, in every third of the clip, it is "
    "closer to the exact answer than to any wrong answer (the drawn world renders both, and both pass through the "
    "model's autoencoder), and if everything else was left alone. Error is the squared error where the answer differs "
    "from the source, divided by the source's own error there; kept says how well the rest was preserved. Failures "
    "come first."
)


@dataclass(frozen=True)
class GalleryEdit:
    """One edit: clips uint8 [t h w 3]."""

    family: str
    source: np.ndarray
    output: np.ndarray
    answer: np.ndarray
    score: ItemScore
    note: str = ""


def gallery(
    *,
    out: Annotated[Path, OUT] = Path("gallery"),
    model: Annotated[str, Parameter(name=["--model", "-m"])] = "tiny",
    number: Annotated[int, Parameter(name=["--number", "-n"])] = 3,
    split: Literal["test", "train"] = "test",
    family: Annotated[list[str] | None, Parameter(negative=())] = None,
    clips: Path | None = None,
    seed: int = 0,
    overwrite: Annotated[bool, OVERWRITE] = False,
    device: str | None = None,
) -> None:
    """Edit clips of every family and show them on one page.

    Writes index.html, which holds everything itself: source, edit and exact answer play side by side, with the score.

    Parameters
    ----------
    out
        The folder to write into.
    model
        A name that `opensama models list` shows, or a pipeline folder.
    number
        How many edits a family, and styles a clip of your own.
    split
        test: objects, colours and phrasings that were kept from training; train: those it was trained on.
    family
        Only this family of edits; say it again for more.
    clips
        A folder of videos to show in the styles, too.
    seed
        Another number draws other clips.
    overwrite
        Replace the page where it exists.
    device
        Where to compute, such as cpu or cuda:1. By default the best there is.
    """
    if not 1 <= number <= 100:
        raise UserError(f"The number of edits a family must be from 1 to 100, not {number}.")
    check_free(out / "index.html", overwrite)
    videos = find_videos(clips) if clips else []
    from opensama.models.registry import find

    find(model)
    loading(model)
    from opensama import load
    from opensama.apps.demo import make_output_folder
    from opensama.world import CONTROL_FAMILIES, EDIT_FAMILIES

    known = EDIT_FAMILIES + CONTROL_FAMILIES
    if unknown := set(family or ()) - set(known):
        raise UserError(f"There is no family {unknown.pop()!r} of edits; choose {', '.join(known)}.")
    chosen = [f for f in known if not family or f in family]
    make_output_folder(out, "--out")
    total = number * (len(chosen) + len(videos))
    begin = time.monotonic()
    items = []
    with Display() as show:
        editor = load(model, device=device, notice=show.note)
        for found in (drawn_items(editor, chosen, number, split, seed), real_items(editor, videos, number, seed)):
            for item in found:
                items.append(item)
                show(Progress("Editing", len(items), total, time.monotonic() - begin))
    path = out / "index.html"
    with whole_file(path) as temporary:
        temporary.write_text(gallery_page(items, model, split), encoding="utf-8")
    print(f"{pages.how_many(len(items), 'edit')}, {sum(i.score.success for i in items)} right: {path}")


def find_videos(folder: Path) -> list[Path]:
    """The videos of a folder by name; where some are called NAME--source, only those."""
    from opensama.evaluation.world import list_clips

    found = list_clips(folder)
    return [path for path in found if path.stem.endswith("--source")] or found


def drawn_items(
    editor: Editor, families: Sequence[str], number: int, split: Literal["test", "train"], seed: int
) -> Iterator[GalleryEdit]:
    """Edits of the drawn world, scored."""
    from opensama.evaluation.world import score_edit, through
    from opensama.evaluation.world.report import edit_frames
    from opensama.world import sample_edit

    for family in families:
        for i in range(number):
            sample = sample_edit(f"{seed}-{i}", split, family, GALLERY_FRAMES, GALLERY_SIDE)
            output = edit_frames(editor.edit, sample.source, sample.instruction, seed)
            scored = score_edit(sample, output, through(editor))
            yield GalleryEdit(family, sample.source, output, sample.target, scored)


def real_items(editor: Editor, videos: Sequence[Path], number: int, seed: int) -> Iterator[GalleryEdit]:
    """Each video in `number` styles, the styles in turn, scored against the style's own answer among all styles."""
    from opensama.evaluation.world import through
    from opensama.evaluation.world.clips import ask_for, first_second, style_key
    from opensama.evaluation.world.report import edit_frames
    from opensama.evaluation.world.scores import item_score, squared_error
    from opensama.world import STYLES, to_uint8

    rng, styles = random.Random(seed), cycle(STYLES)
    for path in videos:
        source = first_second(path, GALLERY_FRAMES, GALLERY_SIDE)
        for _ in range(number):
            style = next(styles)
            text = ask_for(rng, style)
            key = style_key(source, style, through(editor))
            answer = to_uint8(key.answer)
            output = edit_frames(editor.edit, source, text, seed)
            scored = item_score(REAL, text, style, key.judge(output), squared_error(source, answer, output))
            yield GalleryEdit(REAL, source, output, answer, scored, path.name)


def gallery_page(items: Sequence[GalleryEdit], model: str, split: str) -> str:
    """The whole page."""
    families = list(dict.fromkeys(item.family for item in items))
    groups = {f: sorted((i for i in items if i.family == f), key=lambda i: i.score.success) for f in families}
    right = {f: sum(i.score.success for i in group) for f, group in groups.items()}
    links = [f'<a href="#{_id(f)}">{f} {right[f]}/{len(group)}</a>' for f, group in groups.items()]
    sections = [
        f'<section id="{_id(f)}"><h2>{f} <small>{right[f]} of {len(group)} right</small></h2>\n'
        f'<div class="items">\n{"".join(map(edit_figure, group))}</div></section>'
        for f, group in groups.items()
    ]
    return pages.fill_page(
        "gallery.html",
        "opensama.apps",
        title=html.escape(f"Edits by {model}"),
        summary=f"{sum(right.values())} of {pages.how_many(len(items), 'edit')} came out right, on "
        f"{'clips held out from' if split == 'test' else 'the kind of clips seen in'} training.",
        legend=LEGEND,
        links="\n".join(links),
        sections="\n".join(sections),
    )


def edit_figure(item: GalleryEdit) -> str:
    """One edit: instruction, the three clips as one video, score."""
    from opensama.world.scenes import FPS

    s = item.score
    verdict = '<b class="good">right</b>' if s.success else '<b class="bad">not right</b>'
    facts = [f"error {s.ratio:.2f}"] if s.parts else []  # where nothing should change there is no error to compare with
    facts += [f"kept {s.kept:.1f} dB"] if s.kept < 99 else []
    facts += [html.escape(item.note)] if item.note else []
    lines = [" · ".join((verdict, *facts))]
    lines += map(part, s.parts)
    if not s.success and all(p["right"] for p in s.parts):
        lines.append("the rest of the picture changed in at least one third of the clip")
    said = html.escape(s.instruction)
    height, width = item.source.shape[1:3]
    return (
        f"<figure><blockquote>{said}</blockquote>\n"
        '<div class="columns"><span>source</span><span>edit</span><span>exact answer</span></div>\n'
        f'<video src="{film(item)}" width="{3 * width + 2 * _GAP}" height="{height}" data-fps="{FPS}" '
        f'aria-label="Source, edit and exact answer: {said}" muted loop playsinline controls></video>\n'
        f"<figcaption>{''.join(f'<div>{line}</div>' for line in lines)}</figcaption></figure>\n"
    )


def part(p: dict[str, Any]) -> str:
    """How one part of an edit came out, and what it was nearest to where that was wrong."""
    name = html.escape(f"{p['family']}, {p['edited']}")
    if p["right"]:
        return f'<span class="good">✓</span> {name}'
    nearest = html.escape(", ".join(dict.fromkeys(p["nearest"])))
    return f'<span class="bad">✗</span> {name}: nearest to {nearest}'


def film(item: GalleryEdit) -> str:
    """The three clips side by side, as a video in an address of its own."""
    import numpy as np

    from opensama.world.scenes import FPS

    t, h, w = item.source.shape[:3]
    frames = np.full((t, h, 3 * w + 2 * _GAP, 3), 128, np.uint8)
    for i, clip in enumerate((item.source, item.output, item.answer)):
        frames[:, :, i * (w + _GAP) : i * (w + _GAP) + w] = clip
    return pages.video_url(Video.from_frames(frames, FPS), _QUALITY)


def _id(family: str) -> str:
    return family.replace(" ", "-")
