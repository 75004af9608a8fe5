"""Scores an editor on the world, where every edit has an exact answer, without a judge: see docs/evaluate.md.

`evaluate_world` runs an editor, `score` scores one output, `evaluate_clips` puts styles on real videos; `calibrate`
shows what the measure lets pass and what it does not.
"""

from opensama.evaluation.world.calibration import Calibration, calibrate
from opensama.evaluation.world.clips import evaluate_clips, list_clips
from opensama.evaluation.world.key import AnswerKey, Question, Through, Verdict
from opensama.evaluation.world.run import WorldReport, evaluate_world
from opensama.evaluation.world.scores import ItemScore, answer_key, score, summary
from opensama.evaluation.world.statistics import wilson

__all__ = [
    "AnswerKey",
    "Calibration",
    "ItemScore",
    "Question",
    "Through",
    "Verdict",
    "WorldReport",
    "answer_key",
    "calibrate",
    "evaluate_clips",
    "evaluate_world",
    "list_clips",
    "score",
    "summary",
    "wilson",
]
