"""Shapes of videos and of their latents, each computed from the other."""

from __future__ import annotations

from dataclasses import dataclass, replace


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
