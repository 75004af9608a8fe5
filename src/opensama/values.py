"""The values that cross the house: videos, shapes and edit requests. They check themselves and compute.

A `Video` is lazy: it knows its size, its time stamps and where its sound lies, and gives frames when asked. Importing
this module costs nothing; numpy is loaded when frames are.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from importlib import import_module
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import numpy as np

    FrameSource = Callable[[int, int], Iterator[np.ndarray]]

_T = TypeVar("_T")
MAX_INSTRUCTION = 2_000
"""Characters. The text encoders read 512 tokens; what is longer would be cut without a word."""


class UserError(ValueError):
    """Something that the person can mend. The message is one sentence: what is wrong, and how to mend it."""


class Cancelled(Exception):
    """Raised by a progress callback to stop an edit; it comes out of the call that was running."""


@dataclass(frozen=True)
class LatentShape:
    """Latent time, rows and columns."""

    frames: int
    height: int
    width: int

    def pixels(self, temporal: int = 4, spatial: int = 8) -> VideoShape:
        """The frames that such a latent decodes to."""
        return VideoShape((self.frames - 1) * temporal + 1, self.height * spatial, self.width * spatial)


@dataclass(frozen=True)
class VideoShape:
    """Frames, rows and columns of pixels."""

    frames: int
    height: int
    width: int

    def __post_init__(self) -> None:
        if min(self.frames, self.height, self.width) < 1:
            raise ValueError(f"a video shape needs at least one frame, row and column, not {self}")

    def latent(self, temporal: int = 4, spatial: int = 8) -> LatentShape:
        """The latent of a causal video autoencoder: the first frame alone, then groups of `temporal`."""
        if not self.fits(temporal, spatial):
            raise ValueError(f"{self} needs {temporal}k+1 frames and sides that are multiples of {spatial}")
        return LatentShape((self.frames - 1) // temporal + 1, self.height // spatial, self.width // spatial)

    def fits(self, temporal: int = 4, spatial: int = 8) -> bool:
        """Whether the autoencoder takes this shape as it is."""
        return self.frames % temporal == 1 % temporal and self.height % spatial == 0 and self.width % spatial == 0

    def padded(self, temporal: int = 4) -> VideoShape:
        """The same with frames added up to the next 4k+1."""
        return replace(self, frames=frames_up(self.frames, temporal))

    def trimmed(self, temporal: int = 4) -> VideoShape:
        """The same with frames dropped down to the previous 4k+1."""
        return replace(self, frames=frames_down(self.frames, temporal))


def frames_up(frames: int, temporal: int = 4) -> int:
    """The smallest 4k+1 that is at least `frames`."""
    return -(-(frames - 1) // temporal) * temporal + 1


def frames_down(frames: int, temporal: int = 4) -> int:
    """The largest 4k+1 that is at most `frames`."""
    return (frames - 1) // temporal * temporal + 1


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
    extra: dict[str, Any] = field(default_factory=dict)
    """What only the writer needs: HDR mastering metadata."""
    notes: tuple[str, ...] = ()
    """Sentences that a person should read about how the file was read; the writer passes them on."""
    transparency: Transparency | None = None
    """Where the file's format has alpha; the frames are composed on its background."""

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
    def shape(self) -> VideoShape:
        return VideoShape(self.frame_count, self.height, self.width)

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
            if frame.shape != (self.height, self.width, 3):
                raise ValueError(f"frame {index} has shape {frame.shape}, not {(self.height, self.width, 3)}")
            yield frame
            index += 1
            if index == stop:
                return
        raise ValueError(f"the frame source gave {index - start} frames, {stop - start} were asked for")

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
        overwrite: bool = False,
        on_note: Callable[[str], None] = print,
    ) -> None:
        """Writes the file, with the source's sound; `opensama.media.video_io.write_video` says what is possible."""
        writer = import_module("opensama.media.video_io")  # which is built on this module
        writer.write_video(self, path, quality=quality, even=even, codec=codec, overwrite=overwrite, on_note=on_note)

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
            bit_depth=self.bit_depth if bit_depth is None else bit_depth,
        )

    def clip(self, start: int, stop: int | None = None) -> Video:
        """Frames `start` to `stop` (not included) as a silent video; time stamps begin at zero."""
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
            has_audio=False,
            path=None,
            origin=Fraction(0),
        )


@dataclass(frozen=True, eq=False, repr=False)
class EditedVideo(Video):
    """What an edit gives: a video, and what was seen of the edit."""

    count: Callable[[], float] = field(default=lambda: 1.0)
    unknown_words: tuple[str, ...] = ()
    """Words of the instruction that the model has never been taught: what it made of them is chance."""

    @property
    def changed(self) -> float:
        """Which share of the picture changed visibly, 0..1, of what was free to: its frames, within its mask or box.

        Counted while the frames pass; asked before that, some of the frames are made for it.
        """
        return self.count()

    @classmethod
    def of(cls, video: Video, count: Callable[[], float], unknown_words: tuple[str, ...] = ()) -> EditedVideo:
        own = {one.name: getattr(video, one.name) for one in fields(Video)}
        return cls(**own, count=count, unknown_words=unknown_words)


def frame_rate(fps: Fraction | float) -> Fraction:
    """Frames a second as the fraction that is meant: 29.97002997 is 30000/1001. UserError if no file can hold it."""
    _check_number("frame rate", fps, 1e-3, 1e6)
    return Fraction(fps if isinstance(fps, Fraction) else float(fps)).limit_denominator(1001)


@dataclass(frozen=True)
class Progress:
    """How far a long job is: `done` of `total` of a stage, counted in `unit`, `seconds` since the stage began."""

    stage: str
    done: int
    total: int
    seconds: float = 0.0
    unit: str = ""

    @property
    def fraction(self) -> float:
        return self.done / self.total if self.total else 0.0


def counted(items: Sequence[_T], stage: str, progress: Callable[[Progress], None] | None) -> Iterator[_T]:
    """The items one after another; `progress` hears of each when the next is asked for."""
    began = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        if progress is not None:
            progress(Progress(stage, done, len(items), time.monotonic() - began))


@dataclass(frozen=True, eq=False)
class EditRequest:
    """One edit to make. None means the model's own default. A wrong value is a `UserError`."""

    video: Video | Path | str
    instruction: str
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    shift: float | None = None
    source_guidance: float | None = None
    """s_I of separate guidance on source and text; None is single guidance."""
    negative_prompt: str | None = None
    frames: tuple[int, int] | None = None
    """Edit only frames start:stop; the rest passes through."""
    size: int | None = None
    """The model works on about size x size pixels, in the video's own shape."""
    mask: str | Path | np.ndarray | None = None
    """Where the edit may change pixels (white), an image or a video, or an array `h w` or `t h w`."""
    box: tuple[int, int, int, int] | None = None
    """The same as a rectangle: x, y, width, height in pixels of the video."""
    preserve: bool | None = None
    """Keep the source's own pixels where the edit left them alone."""
    background: str = "white"
    """What shows through transparent places: a CSS name or #rrggbb; not for a Video, which is composed already."""
    alpha: str = "flatten"
    """`keep`: the result has the source's transparency, for .mov and .webm files; `flatten`: none."""
    progress: Callable[[Progress], None] | None = None
    """Called as the edit goes on; may raise `Cancelled`."""

    def __post_init__(self) -> None:
        if not isinstance(self.video, Video | Path | str) or not str(self.video):
            raise UserError("The video to edit is missing; give a file, a folder of images or a Video.")
        if not isinstance(self.instruction, str) or not self.instruction.strip():
            raise UserError("The instruction is empty; say what to change, as in: Make the scene look like sunset.")
        if len(self.instruction) > MAX_INSTRUCTION:
            raise UserError(
                f"The instruction has {len(self.instruction):,} characters; say it in at most {MAX_INSTRUCTION:,}."
            )
        _check_int("seed", self.seed, 0, 2**63 - 1)
        _check_int("steps", self.steps, 1, 1000)
        _check_int("size", self.size, 16, 4096)
        _check_number("guidance", self.guidance, 0, 100)
        _check_number("source guidance", self.source_guidance, 0, 100)
        _check_number("shift", self.shift, 1e-3, 100)
        background_color(self.background)
        if self.alpha not in ("flatten", "keep"):
            raise UserError(f"Alpha is either flatten or keep, not {self.alpha!r}.")
        if self.negative_prompt is not None and not isinstance(self.negative_prompt, str):
            raise UserError(f"The negative prompt must be text, not {self.negative_prompt!r}.")
        if self.negative_prompt is not None and len(self.negative_prompt) > MAX_INSTRUCTION:
            raise UserError(f"The negative prompt is too long; say it in at most {MAX_INSTRUCTION:,} characters.")
        if self.frames is not None:
            start, stop = _whole_numbers("frames", self.frames, "start, stop")
            if not 0 <= start < stop:
                raise UserError(f"Frames {start}:{stop} are not a range; give A:B with 0 <= A < B.")
        if self.mask is not None and self.box is not None:
            raise UserError("A mask and a box were both given; choose one.")
        if self.box is not None:
            x, y, width, height = _whole_numbers("box", self.box, "x, y, width, height")
            if min(x, y) < 0 or min(width, height) < 1:
                raise UserError(f"The box {x},{y},{width},{height} is empty or begins outside; give X,Y,W,H in pixels.")
        if self.mask is not None and not isinstance(self.mask, str | Path):
            import numpy as np

            if not isinstance(self.mask, np.ndarray):
                raise UserError(f"The mask must be a file or a numpy array, not a {type(self.mask).__name__}.")
            if self.mask.ndim not in (2, 3) or not self.mask.size or self.mask.dtype.kind not in "buif":
                raise UserError(
                    f"The mask is {self.mask.dtype} {self.mask.shape}; give numbers or bools, (h, w) or (t, h, w)."
                )

    def frame_range(self, video: Video) -> tuple[int, int]:
        """The frames to edit, checked against the video."""
        if self.frames is None:
            return 0, video.frame_count
        start, stop = self.frames
        if stop > video.frame_count:
            raise UserError(f"Frames {start}:{stop} lie outside the video, which has frames 0:{video.frame_count}.")
        return start, stop


def _check_int(name: str, value: int | None, low: int, high: int) -> None:
    if value is not None and not (_is_a(Integral, value) and low <= value <= high):
        raise UserError(f"The {name} must be a whole number from {low} to {high}, not {value!r}.")


def _check_number(name: str, value: Fraction | float | None, low: float, high: float) -> None:
    if value is not None and not (_is_a(Real, value) and low <= value <= high):
        raise UserError(f"The {name} must be a number from {low:g} to {high:g}, not {value!r}.")


def _whole_numbers(name: str, values: Sequence[int], wanted: str) -> tuple[int, ...]:
    numbers = tuple(values) if isinstance(values, Sequence) else ()
    if len(numbers) != len(wanted.split(", ")) or not all(_is_a(Integral, number) for number in numbers):
        raise UserError(f"The {name} must be whole numbers ({wanted}), not {values!r}.")
    return numbers


def _is_a(kind: type, value: object) -> bool:
    """Whether a value, Python's or numpy's, is such a number; truth values are none."""
    return isinstance(value, kind) and not isinstance(value, bool)
