"""Metrics that need no judge and no weights, on any two videos: see docs/evaluate.md.

    measure_edit(read_video("clip.mp4"), read_video("edited.mp4"), ["unedited_psnr", "flicker"])

`METRICS` says what each of them means and what it cannot see; `measure_with_controls` measures a copy, black and
shuffled frames beside.
"""

from opensama.evaluation.metrics.alignment import Alignment, align
from opensama.evaluation.metrics.measuring import METRIC_CONTROLS, Measured, measure_edit, measure_with_controls
from opensama.evaluation.metrics.meters import METRICS, Metric

__all__ = [
    "METRICS",
    "METRIC_CONTROLS",
    "Alignment",
    "Measured",
    "Metric",
    "align",
    "measure_edit",
    "measure_with_controls",
]
