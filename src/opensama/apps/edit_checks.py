"""What `opensama edit` was asked for: read, and checked as far as that goes before a model is loaded.

Arguments in the wrong order, inputs, outputs, masks, codecs, sound tracks: `check` makes a `Job` of one input or says
in one sentence why not. A job that was made can fail only while it is edited, or because the disk fills up.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from opensama.first_bytes import is_address
from opensama.media import VIDEO_SUFFIXES
from opensama.media.credentials import SigningIdentity
from opensama.values import EditRequest, Span, UserError, Video

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
"""Pictures that are written as they were read; others become PNG."""


@dataclass(frozen=True)
class Writing:
    """How results are written."""

    quality: float = 80
    even: bool = False
    codec: str | None = None
    overwrite: bool = False
    record: str = "settings"
    credentials: SigningIdentity | None = None


@dataclass(frozen=True)
class Job:
    """One edit to make, its video read and checked, and where it goes."""

    request: EditRequest
    source: Video
    out: Path
    compared: Path | None


def check_job(
    source: Path,
    request: EditRequest,
    out: Path,
    writing: Writing,
    *,
    span: Callable[[Video], tuple[int, int] | None] = lambda video: None,
    compare: bool = False,
) -> Job:
    """All that can be known about one edit before the model is, and without PyTorch. UserError for what is wrong."""
    from opensama.media.frames import side_by_side
    from opensama.media.video_io import read_video
    from opensama.media.video_io.writing import check_writable, rehearse
    from opensama.pipeline.request_checks import check_request

    compared = compared_path(out) if compare else None
    check_alpha(request, out)
    if out.exists() and source.exists() and out.samefile(source):
        raise UserError(f"{out} is the source itself; choose another name with --out.")
    for place in filter(None, (out, compared)):
        check_writable(place, writing.overwrite)
    video = read_video(source, background=request.background)
    wanted = span(video)
    trial = partial(rehearse, quality=writing.quality, even=writing.even, overwrite=writing.overwrite)
    written = video if request.alpha == "keep" else replace(video, transparency=None)
    if wanted is not None:
        written = replace(written, span=Span(video, *wanted))
    said = list(video.notes)
    encoded = trial(written, out, codec=writing.codec, on_note=said.append)
    if compared is not None:
        trial(side_by_side(video, video), compared)

    asked = check_request(replace(request, video=replace(video, notes=tuple(said)), frames=wanted), encoded)
    assert isinstance(asked.video, Video)
    return Job(asked, asked.video, out, compared)


def compared_path(out: Path) -> Path:
    """Where a result and its source lie side by side."""
    from opensama.media.video_io.pictures import is_picture

    return out.with_name(f"{out.stem}-compare{out.suffix if is_picture(out) else '.mp4'}")


def check_alpha(request: EditRequest, out: Path) -> None:
    """UserError where the request keeps transparency and the output's kind of file cannot hold it."""
    from opensama.media.video_io.containers import format_of
    from opensama.media.video_io.pictures import is_picture

    if request.alpha != "keep":
        return
    if not (out.suffix.lower() in (".png", ".webp") if is_picture(out) else format_of(out).holds_alpha):
        raise UserError(f"{out} cannot hold transparency; end its name in .mov or .webm, of a picture .png or .webp.")


# --- what goes in


def check_order(videos: Sequence[str], instruction: str) -> None:
    """UserError for words that a shell has pulled apart or that stand in the wrong places."""
    for video in videos:
        if is_address(video) and not Path(video).exists():
            raise UserError(f"{video} is an address: download it first, and give the file.")
    first, rest = videos[0], videos[1:]
    if not instruction.strip():
        raise UserError(f"The instruction is empty: say what to change after {first}, in quotes.")
    if _is_file_name(instruction):
        if not _is_file_name(first):
            text = " ".join(videos)
            raise UserError(f'The video comes first, the instruction after it: opensama edit {instruction} "{text}"')
        if words := " ".join(word for word in rest if not _is_file_name(word)):
            raise UserError(f'The result is named with --out: opensama edit {first} "{words}" --out {instruction}')
        raise UserError(f"The instruction is missing: say what to change after {instruction}, in quotes.")
    loose = [word for word in rest if not _is_file_name(word)]
    if loose and _is_file_name(first) and " " in instruction:  # which was in quotes, so the rest are names
        raise UserError(f"There is no file {loose[0]}, and its name does not end as a video's or a picture's does.")
    if loose and _is_file_name(first):
        text = " ".join((*rest[rest.index(loose[0]) :], instruction))
        raise UserError(f'Put the instruction in quotes: opensama edit {first} "{text}"')


def _is_file_name(word: str) -> bool:
    """Whether a word names something to edit: what is there, or what ends as videos and pictures do."""
    from opensama.media import PICTURE_SUFFIXES

    with suppress(OSError, ValueError):
        if Path(word).exists():
            return True
    return Path(word).suffix.lower() in (*VIDEO_SUFFIXES, *PICTURE_SUFFIXES)


def input_paths(videos: Sequence[str]) -> list[Path]:
    """What to edit: files as they are named, and the videos of each folder that has some, by name. Folders of pictures
    are one film each."""
    found: list[Path] = []
    for name in videos:
        path = Path(name)
        inside = videos_in(path) if path.is_dir() else []
        found += inside or [path]
    return found


def videos_in(folder: Path) -> list[Path]:
    """The videos in a folder, by name, without those that begin with a dot, and without results of others there."""
    try:
        inside = sorted(folder.iterdir())
    except PermissionError:
        raise UserError(f"The folder {folder} may not be read; change its permissions.") from None
    films = [path for path in inside if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()]
    stems = {path.stem for path in films}
    return [path for path in films if path.name[0] != "." and _source_stem(path.stem) not in stems]


def _source_stem(stem: str) -> str:
    """`holiday` of `holiday-edited` and `holiday-edited-compare`, which a result of it is called; else nothing."""
    source = stem.removesuffix("-compare").removesuffix("-edited")
    return source if source != stem else ""


# --- what comes out


def output_paths(
    found: Sequence[Path], out: str | None, several: bool, alpha: bool, part: bool = False
) -> tuple[list[Path], Path | None]:
    """Where each input's result goes, and the folder that `out` names, if it is one.

    `out` is a folder for several inputs, where it is one already, and where it ends in a slash.
    """
    if out is None:
        return _distinct([default_output(path, alpha, part) for path in found], found), None
    place = Path(out)
    if not (several or place.is_dir() or out.endswith(("/", os.sep))):
        return [place], None
    from opensama.media.video_io.containers import FORMATS

    if not place.is_dir() and (place.exists() or place.suffix.lower() in (*FORMATS, *PICTURES)):
        raise UserError(f"Several results go into a folder, which {place} is not; name a folder with --out.")
    return _distinct([place / default_output(path, alpha, part).name for path in found], found), place


def _distinct(places: list[Path], found: Sequence[Path]) -> list[Path]:
    """The places, none of which is another's, or one of the inputs."""
    sources, seen = {os.path.realpath(path) for path in found}, set[str]()
    for place in places:
        name = os.path.abspath(place).lower()  # which some file systems take for the same
        if name in seen:
            raise UserError(f"{place} would be written twice, since two inputs have one name; rename one of them.")
        if os.path.realpath(place) in sources:
            raise UserError(
                f"{place} is one of the inputs, and another's result would go there; name a folder with --out."
            )
        seen.add(name)
    return places


def default_output(source: Path, alpha: bool = False, part: bool = False) -> Path:
    """`holiday.mov` gives `holiday-edited.mp4` beside it, `photo.jpg` gives `photo-edited.jpg`; a folder of pictures
    gives a file beside the folder. A video of which only a `part` is edited stays of its kind: all else is copied.

    With alpha a video is a .webm where the source is one, else a .mov, and a picture a .webp or a .png.
    """
    from opensama.media import PICTURE_SUFFIXES
    from opensama.media.video_io.containers import FORMATS

    source = Path(os.path.abspath(source)) if source.name in ("", "..") else source
    own = source.suffix.lower()
    if source.is_dir():
        return source.with_name(f"{source.name}-edited{'.mov' if alpha else '.mp4'}")
    if own in PICTURE_SUFFIXES and not (own == ".avif" and _moves(source)):
        holds = PICTURES if not alpha else (".png", ".webp")
        suffix = source.suffix if own in holds else ".png"
    else:
        suffix = own if part and own in FORMATS else ".mp4" if not alpha else ".webm" if own == ".webm" else ".mov"
    return source.with_name(f"{source.stem}-edited{suffix}")


def _moves(path: Path) -> bool:
    from opensama.media.video_io.stills import is_film

    return is_film(path)


@contextmanager
def folder_made(folder: Path | None) -> Iterator[None]:
    """Makes the folder where it is not there; it goes again if nothing was written into it."""
    from opensama.apps.demo import make_output_folder

    new = folder is not None and not folder.exists()
    if new:
        assert folder is not None
        make_output_folder(folder, "--out")
    try:
        yield
    finally:
        if new:
            assert folder is not None
            with suppress(OSError):
                folder.rmdir()


def parse_range(text: str, count: int) -> tuple[int, int]:
    """`A:B` as frame numbers, A included, B not; either end may be left out. Raises UserError outside 0..count."""
    first, colon, last = text.partition(":")
    try:
        if not colon:
            raise ValueError
        start = int(first) if first.strip() else 0
        stop = int(last) if last.strip() else count
    except ValueError:
        raise UserError(f"--frames wants A:B with whole numbers, as in 0:49, not {shorten(text)!r}.") from None
    if 0 <= stop <= start <= count:
        raise UserError(f"The frames {shorten(text)} end before they begin: give A:B with A smaller than B.")
    if not 0 <= start < stop <= count:
        raise UserError(f"The frames {shorten(text)} reach outside the video, which has 0:{count}; choose among these.")
    return start, stop


def parse_times(begin: str | None, end: str | None, video: Video | None) -> tuple[int, int] | None:
    """Two times of a video as frame numbers, the second not included; either may be None, which is the video's own.

    UserError for what is no time, for an end before the beginning, and, if the video is given, outside of it.
    """
    first, last = _seconds("--from", begin), _seconds("--to", end)
    if first is not None and last is not None and last <= first:
        raise UserError(f"The span from {begin} to {end} ends before it begins: give --from the earlier time.")
    if video is None:
        return None
    length = float((video.timestamps[0] * video.time_base) + video.duration)
    if (first or 0) >= length or (last or 0) > length + 1 / float(video.fps):
        raise UserError(
            f"The span from {begin or 'the beginning'} to {end or 'the end'} reaches outside the video, which lasts "
            f"{length:.2f} seconds; choose times in it."
        )
    return video.frame_range(first, last)


def _seconds(option: str, text: str | None) -> float | None:
    """Seconds of `S`, `M:S` or `H:M:S`, the last of which may have decimals."""
    if text is None:
        return None
    parts = text.strip().split(":")
    numbers = [float(part) for part in parts if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", part, re.ASCII)]
    whole = not any("." in part for part in parts[:-1])
    if len(numbers) != len(parts) or len(parts) > 3 or not whole or any(number >= 60 for number in numbers[1:]):
        raise UserError(f"{option} wants a time such as 83.5, 1:23.5 or 00:41:10, not {shorten(text)!r}.")
    return sum(number * 60**place for place, number in enumerate(reversed(numbers)))


def parse_box(text: str) -> tuple[int, int, int, int]:
    """`X,Y,W,H` in pixels; whether it lies inside the picture is the editor's to say."""
    try:
        x, y, width, height = (int(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--box wants X,Y,W,H in whole numbers, as in 10,20,200,100, not {shorten(text)!r}.") from None
    return x, y, width, height


def parse_regions(said: Sequence[str]) -> dict[int, tuple[int, int, int, int] | Path]:
    """`N:X,Y,W,H` and `N:FILE` as boxes and masks, by the number of the edit that they are for."""
    found: dict[int, tuple[int, int, int, int] | Path] = {}
    for text in said:
        number, colon, region = text.partition(":")
        if not colon or not region or not re.fullmatch(r"[0-9]{1,4}", number.strip()):
            raise UserError(f"--region wants N:X,Y,W,H or N:FILE, as in 2:10,20,200,100, not {shorten(text)!r}.")
        if int(number) in found:
            raise UserError(f"There are two regions for edit {int(number)}; draw both into one mask.")
        found[int(number)] = parse_box(region) if re.fullmatch(r"[-\d\s.]*(,[-\d\s.]*)+", region) else Path(region)
    return found


def shorten(text: str, limit: int = 40) -> str:
    """The beginning of what was typed, for a message that stays one sentence."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
