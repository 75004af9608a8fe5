"""Metrics that need no judge and no weights, on any two videos: see docs/evaluate.md.

    measure(read_video("clip.mp4"), read_video("edited.mp4"), ["unedited_psnr", "flicker"])

`METRICS` says what each of them means and what it cannot see; `compare` measures a copy, black and shuffled frames
beside.
"""

from opensama.evaluation.metrics.alignment import Alignment, align
from opensama.evaluation.metrics.measuring import CONTROLS, Measured, compare, measure
from opensama.evaluation.metrics.meters import METRICS, Metric

__all__ = ["CONTROLS", "METRICS", "Alignment", "Measured", "Metric", "align", "compare", "measure"]
