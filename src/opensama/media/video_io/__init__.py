"""Video files in and out, the only door to PyAV: `read_video` and `write_video`."""

from opensama.media.video_io.reading import check_frames, read_video
from opensama.media.video_io.writing import WriteReport, write_video

__all__ = ["WriteReport", "check_frames", "read_video", "write_video"]
