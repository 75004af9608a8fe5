"""Scores an editor on the world, where every edit has an exact answer, without a judge: see docs/evaluate.md.

`draw_benchmark`, `WorldBench` and `AnswerKeys` are the world as a benchmark among the others;
`calibrate` shows what the measure lets pass and what it does not.
"""

from opensama.evaluation.world.answer_key import AnswerKey, PartCandidates
from opensama.evaluation.world.benchmark import AnswerKeys, WorldBench, draw_benchmark
from opensama.evaluation.world.calibration import Calibration, calibrate
from opensama.evaluation.world.clips import list_clips
from opensama.evaluation.world.report import WorldReport, through
from opensama.evaluation.world.scores import ItemScore, answer_key

__all__ = [
    "AnswerKey",
    "AnswerKeys",
    "Calibration",
    "ItemScore",
    "PartCandidates",
    "WorldBench",
    "WorldReport",
    "answer_key",
    "calibrate",
    "draw_benchmark",
    "list_clips",
    "through",
]
