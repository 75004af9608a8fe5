"""Scores an editor on the world, where every edit has an exact answer, without a judge: see docs/evaluate.md.

`score` scores one output; `draw` and `AnswerKeys` are the world as a benchmark among the others; `calibrate` shows what
the measure lets pass and what it does not.
"""

from opensama.evaluation.statistics import wilson
from opensama.evaluation.world.answer_key import AnswerKey, Question, Through, Verdict
from opensama.evaluation.world.benchmark import AnswerKeys, draw
from opensama.evaluation.world.calibration import Calibration, calibrate
from opensama.evaluation.world.clips import list_clips
from opensama.evaluation.world.report import WorldReport, through
from opensama.evaluation.world.scores import ItemScore, answer_key, score, summary

__all__ = [
    "AnswerKey",
    "AnswerKeys",
    "Calibration",
    "ItemScore",
    "Question",
    "Through",
    "Verdict",
    "WorldReport",
    "answer_key",
    "calibrate",
    "draw",
    "list_clips",
    "score",
    "summary",
    "through",
    "wilson",
]
