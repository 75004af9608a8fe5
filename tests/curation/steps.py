"""Stages for the tests of the graph: small, importable by name, so that workers of other processes find them."""

from __future__ import annotations

import os
import random
import time
from functools import partial
from pathlib import Path
from typing import Any

from opensama.curation.stage import Drop, GraphItem, GraphStage
from opensama.data.manifest import Record
from opensama.values import UserError
from opensama.vlm import VlmQuota


def items(count: int) -> list[GraphItem]:
    return [Record(f"video-{n:03}", "clip", f"{n}.mp4").to_dict() | {"_number": n} for n in range(count)]


def check(item: GraphItem) -> GraphItem:
    if item["_number"] % 7 == 3:
        raise Drop("too short")
    if item["_number"] % 11 == 5:
        raise UserError(f"{item['target']} is empty (0 bytes); copy or download it again.")
    return item


def cut(item: GraphItem) -> list[GraphItem]:
    return [item | {"id": f"{item['id']}-{part}", "_part": part} for part in range(item["_number"] % 4)]


class Teller:
    """What a stage's worker keeps; says in which process it lives."""

    def __init__(self, folder: Path | None = None):
        if folder is not None:
            (folder / f"{os.getpid()}-{random.getrandbits(32)}").touch()


def tell(teller: Teller, item: GraphItem, *, words: str) -> GraphItem | None:
    assert isinstance(teller, Teller)
    if item["_part"] == 2 and item["_number"] % 8 == 2:
        return None
    return item | {"caption": f"{words} {item['_number']}.{item['_part']}"}


def dawdle(item: GraphItem, *, seconds: float) -> GraphItem:
    time.sleep(seconds * random.random())
    return item


def chain(*, words: str = "part", wait: float = 0.0, folder: Path | None = None) -> list[GraphStage]:
    """Drops, failures, none to three of one, a worker with a state, and a stage that takes now long, now not."""
    return [
        GraphStage("check", check),
        GraphStage("cut", cut),
        GraphStage("tell", partial(tell, words=words), setup=partial(Teller, folder), cpus=0.5),
        GraphStage("dawdle", partial(dawdle, seconds=wait)),
    ]


class Budget:
    def __init__(self, questions: int):
        self.questions = questions


def pay(budget: Budget, item: GraphItem) -> GraphItem:
    if budget.questions == 0:
        raise VlmQuota("the budget is spent")
    budget.questions -= 1
    return item


def no_server(item: GraphItem) -> GraphItem:
    raise ConnectionError("nobody answers")


def wrong_key() -> Any:
    raise UserError("The server does not take this key; give another.")


def give_array(item: GraphItem) -> GraphItem:
    import numpy as np

    return item | {"_frames": np.zeros(3)}


def corrupt(item: GraphItem) -> GraphItem:
    return item | {"task": "cooking"}


def mark(teller: Teller, item: GraphItem, *, folder: Path, seconds: float) -> GraphItem:
    """Takes its time, and leaves a file for each time that it was called."""
    time.sleep(seconds)
    (folder / f"{item['id']}.{random.getrandbits(64)}").touch()
    return tell(teller, item, words="part")


def marking(out: Path, seconds: float = 0.0) -> list[GraphStage]:
    """Drops and fails, cuts each item and marks its parts, in OUT/marks; workers leave files in OUT/states."""
    (out / "states").mkdir(exist_ok=True)
    marks = partial(mark, folder=out / "marks", seconds=seconds)
    return [
        GraphStage("check", check),
        GraphStage("cut", cut),
        GraphStage("mark", marks, setup=partial(Teller, out / "states")),
    ]
