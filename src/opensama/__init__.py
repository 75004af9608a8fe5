"""OpenSAMA: edit a video by saying what to change."""

__version__ = "0.1.0"
