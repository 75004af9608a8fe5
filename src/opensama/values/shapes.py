"""How many frames a causal video autoencoder takes: the first alone, then groups of four."""

from __future__ import annotations


def frames_up(frames: int, temporal: int = 4) -> int:
    """The smallest 4k+1 that is at least `frames`."""
    return -(-(frames - 1) // temporal) * temporal + 1


def frames_down(frames: int, temporal: int = 4) -> int:
    """The largest 4k+1 that is at most `frames`."""
    return (frames - 1) // temporal * temporal + 1
