"""Video: frames and time, with sound. It is lazy: it knows its size and time stamps, and gives frames when asked."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from opensama.values.numbers import check_number
from opensama.values.progress import UserError
from opensama.values.record import EditRecord

if TYPE_CHECKING:
    import numpy as np

    FrameSource = Callable[[int, int], Iterator[np.ndarray]]

_F = TypeVar("_F")


def chosen_frames(frames: Iterable[_F], numbers: Sequence[int]) -> Iterator[_F]:
    """Of frames that begin with the first of these numbers, those of the numbers."""
    wanted = set(numbers)
    return (frame for number, frame in enumerate(frames, numbers[0]) if number in wanted)


@dataclass(frozen=True)
class ColorInfo:
    """How colours are coded, in FFmpeg's names. `unspecified` stays so: the written file says what the source said."""

    matrix: str = "bt709"
    range: str = "limited"
    primaries: str = "bt709"
    transfer: str = "bt709"

    @property
    def is_hdr(self) -> bool:
        return self.transfer in ("smpte2084", "arib-std-b67")

    def matrix_for(self, width: int, height: int) -> str:
        """The matrix to compute with: the named one, or what players assume for pictures of this size."""
        if self.matrix != "unspecified":
            return self.matrix
        if self.is_hdr or self.primaries == "bt2020":
            return "bt2020nc"
        return "bt709" if max(width, height) >= 1280 else "smpte170m"


@dataclass(frozen=True, eq=False)
class Transparency:
    """How much of each frame shows, beside a `Video` whose frames were composed on a plain background."""

    source: FrameSource = field()
    """`source(start, stop)` streams alpha, `h w`, of the frames' type: 0 is clear, the largest number opaque."""
    background: tuple[int, int, int]
    """Red, green, blue of 0 to 255."""

    def any(self, count: int) -> bool:
        """Whether something shows through in the first `count` frames; looks until it finds it.

        By more than a hundredth: what FFmpeg makes opaque in 10 bits is 1020 of 1023.
        """
        import numpy as np

        return any(alpha.min() < 0.99 * np.iinfo(alpha.dtype).max for alpha in self.source(0, count))


def background_color(name: str) -> tuple[int, int, int]:
    """Red, green, blue of 0 to 255 from a CSS name or `#rrggbb`. UserError for anything else."""
    from PIL import ImageColor

    try:
        red, green, blue, *clear = ImageColor.getrgb(name)
        if clear:
            raise ValueError
    except (ValueError, AttributeError):
        raise UserError(
            f"The background {str(name)[:40]!r} is not a colour; give a name such as white, or #rrggbb."
        ) from None
    return red, green, blue


@dataclass(frozen=True, eq=False, repr=False)
class Video:
    """Frames and time, with sound: what people have.

    Frames are numpy `h w 3` RGB: uint8, or uint16 over the full 16 bits when `bit_depth` is more than 8. They are
    upright and have square pixels, whatever the file says about rotation and pixel shape.
    """

    width: int
    height: int
    timestamps: tuple[int, ...]
    time_base: Fraction
    duration: Fraction
    """Seconds from the first frame's beginning to the last frame's end."""
    source: FrameSource = field()
    """`source(start, stop)` streams these frames; call `frames` instead, which checks."""
    bit_depth: int = 8
    color: ColorInfo = ColorInfo()
    has_audio: bool = False
    path: Path | None = None
    """The file that the sound is copied from."""
    origin: Fraction = Fraction(0)
    """Seconds in the file at `path` that are zero here (0 for most; transport streams begin anywhere)."""
    is_clip: bool = False
    """Whether sound and subtitles outside of these frames are left out: of a part of the file at `path`."""
    extra: dict[str, str] = field(default_factory=dict)
    """What only the writer needs: HDR mastering metadata."""
    notes: tuple[str, ...] = ()
    """Sentences that a person should read about how the file was read; the writer passes them on."""
    transparency: Transparency | None = None
    """Where the file's format has alpha; the frames are composed on its background."""
    span: Span | None = None
    """Where only some frames are other than a source's: the writer copies what it need not encode."""
    record: EditRecord | None = None
    """Of an edit, which the writer puts into the file's own metadata."""

    def __post_init__(self) -> None:
        if not self.timestamps:
            raise UserError("The video has no frames; choose a file that has at least one.")
        if any(a >= b for a, b in zip(self.timestamps, self.timestamps[1:], strict=False)):
            raise ValueError("time stamps must rise")
        if self.duration <= (self.timestamps[-1] - self.timestamps[0]) * self.time_base:
            raise ValueError("the duration must include the last frame's own")

    def __repr__(self) -> str:
        sound = "with sound" if self.has_audio else "silent"
        return (
            f"Video({self.width}x{self.height}, {self.frame_count} frames, {float(self.duration):.3f} s, "
            f"{float(self.fps):.5g} fps, {self.bit_depth} bit, {sound})"
        )

    @property
    def frame_count(self) -> int:
        return len(self.timestamps)

    @property
    def fps(self) -> Fraction:
        """Average frames a second."""
        return self.frame_count / self.duration

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frames, rows and columns."""
        return self.frame_count, self.height, self.width

    @property
    def durations(self) -> tuple[int, ...]:
        """How long each frame is shown, in units of `time_base` (the last one rounded, at least 1)."""
        steps = [b - a for a, b in zip(self.timestamps, self.timestamps[1:], strict=False)]
        last = self.duration / self.time_base - (self.timestamps[-1] - self.timestamps[0])
        return (*steps, max(1, round(last)))

    @property
    def is_constant_rate(self) -> bool:
        """Whether every frame is shown equally long."""
        return len(set(self.durations)) == 1

    def frame_range(self, start: float | None = None, end: float | None = None) -> tuple[int, int]:
        """The frames [first, stop) of a stretch from `start` to `end` in seconds; at least one.

        Each end is the frame boundary nearest to it (the earlier of two), so that times that were rounded name the
        frames that they were made from, at any rate.
        """
        edges = (*self.timestamps, self.timestamps[-1] + self.durations[-1])

        def nearest(seconds: float) -> int:
            place = seconds / float(self.time_base)
            after = min(max(1, bisect_left(edges, place)), self.frame_count)
            return after if edges[after] - place < place - edges[after - 1] else after - 1

        first = 0 if start is None else min(nearest(start), self.frame_count - 1)
        return first, self.frame_count if end is None else max(first + 1, nearest(end))

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """Streams frames `start` to `stop` (not included), in bounded memory; may be asked again and again."""
        stop = self.frame_count if stop is None else stop
        if not 0 <= start <= stop <= self.frame_count:
            raise UserError(f"Frames {start}:{stop} lie outside the video, which has frames 0:{self.frame_count}.")
        return self._checked(start, stop)

    def _checked(self, start: int, stop: int) -> Iterator[np.ndarray]:
        index = start
        if start == stop:
            return
        for frame in self.source(start, stop):
            yield self._of_size(index, frame)
            index += 1
            if index == stop:
                return
        raise ValueError(f"the frame source gave {index - start} frames, {stop - start} were asked for")

    def _of_size(self, index: int, frame: np.ndarray) -> np.ndarray:
        if frame.shape != (self.height, self.width, 3):
            raise ValueError(f"frame {index} has shape {frame.shape}, not {(self.height, self.width, 3)}")
        return frame

    def some(self, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        """These frames (rising numbers) in one pass. Of a file the others are decoded, too, but not turned into RGB."""
        source_some = getattr(self.source, "some", None)
        if source_some is not None and 0 <= numbers[0] and numbers[-1] < self.frame_count:
            return map(self._of_size, numbers, source_some(numbers))
        return chosen_frames(self.frames(numbers[0], numbers[-1] + 1), numbers)

    def array(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Those frames in memory at once: `t h w 3`."""
        import numpy as np

        return np.stack(list(self.frames(start, stop)))

    def save(
        self,
        path: Path | str,
        *,
        quality: float = 80,
        even: bool = False,
        codec: str | None = None,
        record: str = "settings",
        overwrite: bool = False,
        on_note: Callable[[str], None] = print,
    ) -> None:
        """Writes the file, with the source's sound; `opensama.media.video_io.write_video` says what is possible."""
        writer = import_module("opensama.media.video_io")  # which is built on this module
        writer.write_video(
            self, path, quality=quality, even=even, codec=codec, record=record, overwrite=overwrite, on_note=on_note
        )

    @classmethod
    def from_frames(
        cls, frames: Sequence[np.ndarray] | np.ndarray, fps: Fraction | float, *, bit_depth: int | None = None
    ) -> Video:
        """A silent video of frames in memory: `t h w 3`, uint8, or uint16 for more than 8 bit (taken as 10)."""
        if len(frames) == 0:
            raise UserError("A video needs at least one frame.")
        rate = frame_rate(fps)
        first = frames[0]
        for index, frame in enumerate(frames):
            if frame.ndim != 3 or frame.shape[2] != 3 or frame.shape != first.shape or frame.dtype != first.dtype:
                raise UserError(f"Frame {index} is {frame.dtype} {frame.shape}; frames are alike, of shape (h, w, 3).")
        if first.dtype.name not in ("uint8", "uint16"):
            raise UserError(f"Frames are uint8 or uint16, not {first.dtype}.")
        return cls(
            width=first.shape[1],
            height=first.shape[0],
            timestamps=tuple(range(len(frames))),
            time_base=1 / rate,
            duration=len(frames) / rate,
            source=lambda start, stop: iter(frames[start:stop]),
            bit_depth=bit_depth or (8 if first.dtype.name == "uint8" else 10),
        )

    def with_frames(
        self,
        source: FrameSource,
        *,
        width: int | None = None,
        height: int | None = None,
        bit_depth: int | None = None,
    ) -> Video:
        """The same time stamps, colour coding and sound with other pixels: `source(start, stop)` streams them."""
        width, height = width or self.width, height or self.height
        resized = (width, height) != (self.width, self.height)  # players would assume another matrix: name this one
        matrix = self.color.matrix_for(self.width, self.height) if resized else self.color.matrix
        return replace(
            self,
            source=source,
            width=width,
            height=height,
            color=replace(self.color, matrix=matrix),
            transparency=None if resized else self.transparency,
            span=None,
            bit_depth=self.bit_depth if bit_depth is None else bit_depth,
        )

    def clip(self, start: int, stop: int | None = None, *, sound: bool = False) -> Video:
        """Frames `start` to `stop` (not included), silent unless their `sound` is wanted; time stamps begin at zero."""
        stop = self.frame_count if stop is None else stop
        if not 0 <= start < stop <= self.frame_count:
            raise UserError(f"Frames {start}:{stop} lie outside the video, which has frames 0:{self.frame_count}.")
        stamps = tuple(stamp - self.timestamps[start] for stamp in self.timestamps[start:stop])
        whole_source, alpha = self.source, self.transparency
        return replace(
            self,
            timestamps=stamps,
            duration=(stamps[-1] + self.durations[stop - 1]) * self.time_base,
            source=lambda a, b: whole_source(start + a, start + b),
            transparency=alpha and replace(alpha, source=lambda a, b: alpha.source(start + a, start + b)),
            has_audio=sound and self.has_audio,
            path=self.path if sound else None,
            origin=self.origin + self.timestamps[start] * self.time_base if sound else Fraction(0),
            is_clip=sound,
            span=None,
        )


@dataclass(frozen=True, eq=False)
class Span:
    """The frames `start` to `stop` (not included) of a video that is the `source` elsewhere."""

    source: Video
    start: int
    stop: int


@dataclass(frozen=True, eq=False, repr=False)
class EditedVideo(Video):
    """What an edit gives: a video, and what was seen of the edit."""

    count: Callable[[], float] = field(default=lambda: 1.0)
    chain: tuple[EditedVideo, ...] = ()
    """Where several edits were made one after the other: the video after each of them."""
    unknown_words: tuple[str, ...] = ()
    """Words of the instruction that the model has never been taught: what it made of them is chance."""

    @property
    def changed(self) -> float:
        """Which share of the picture changed visibly, 0..1, of what was free to: its frames, within its mask or box.

        Counted while the frames pass; asked before that, some of the frames are made for it.
        """
        return self.count()

    @classmethod
    def of(
        cls,
        video: Video,
        count: Callable[[], float],
        unknown_words: tuple[str, ...] = (),
        chain: tuple[EditedVideo, ...] = (),
    ) -> EditedVideo:
        own = {one.name: getattr(video, one.name) for one in fields(Video)}
        return cls(**own, count=count, unknown_words=unknown_words, chain=chain)


def frame_rate(fps: Fraction | float) -> Fraction:
    """Frames a second as the fraction that is meant: 29.97002997 is 30000/1001. UserError if no file can hold it."""
    check_number("frame rate", fps, 1e-3, 1e6)
    return Fraction(fps if isinstance(fps, Fraction) else float(fps)).limit_denominator(1001)
