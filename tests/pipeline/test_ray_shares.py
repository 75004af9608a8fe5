"""How many actors share a cluster, and what each of them gets."""

from __future__ import annotations

import pytest

from opensama.pipeline.batch import ActorShare, fair_share
from opensama.values import UserError

BIG, SMALL, PLAIN = {"CPU": 32.0, "GPU": 4.0}, {"CPU": 6.0, "GPU": 1.0}, {"CPU": 9.0, "memory": 1e9}


@pytest.mark.parametrize(
    ("nodes", "workers", "on_gpu", "share"),
    [
        ([BIG, SMALL], None, True, ActorShare(5, 6, 1)),  # one a GPU, and each of them fits wherever one is
        ([BIG, SMALL, PLAIN], 2, True, ActorShare(2, 6, 1)),
        ([BIG, SMALL], None, False, ActorShare(2, 6, 0)),  # one a node
        ([PLAIN, {"object_store_memory": 1e9}], None, True, ActorShare(1, 9, 0)),  # a head that computes nothing
        ([PLAIN, PLAIN], 3, True, ActorShare(3, 4, 0)),  # two on one of them
        ([{"CPU": 2.0}], 4, True, ActorShare(4, 0.5, 0)),
    ],
)
def test_each_actor_finds_room(nodes, workers, on_gpu, share):
    assert fair_share(nodes, workers, on_gpu=on_gpu) == share


def test_more_actors_than_gpus_are_refused():
    with pytest.raises(UserError, match="Ray has 5 GPUs, too few for 6 workers"):
        fair_share([BIG, SMALL], 6, on_gpu=True)
    with pytest.raises(UserError, match="at least one worker, not 0"):
        fair_share([PLAIN], 0, on_gpu=True)
