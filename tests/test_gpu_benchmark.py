"""The benchmark for a GPU, rehearsed: every piece at the smallest size on the CPU, and a run that goes on."""

from __future__ import annotations

import json

import pytest

from benchmarks.gpu import PIECES, measure, run_all


def test_it_takes_at_most_eight_minutes():
    assert sum(budget for _, budget in PIECES.values()) <= 8 * 60


@pytest.mark.parametrize("name", [name for name in PIECES if "B" in name] + ["ceiling"])
def test_pieces_of_the_large_transformers_rehearse(name):
    row = measure(name, small=True)
    assert row["tflops"] > 0
    assert ("predicted GB" in row) == ("pass" in name)
    assert row["peak GB"] > 0
    assert row["device"] == "cpu"
    json.dumps(row)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ten steps of train tiny", "preview"])
def test_training_and_a_preview_rehearse(name):
    row = measure(name, small=True)
    assert row["seconds"] > 0
    if "train" in name:
        assert {f"{stage} seconds a step" for stage in ("autoencoder", "semantic", "images", "videos")} < row.keys()


def test_pieces_that_are_done_are_not_done_again(tmp_path, capsys):
    done = {name: {"seconds": 2.0, "tflops": 3.0, "device": "a card"} for name in PIECES}
    done["ceiling"] = {"tflops": 12.0, "device": "a card"}
    file = tmp_path / "gpu.json"
    file.write_text(json.dumps(done))
    assert run_all(file, small=True) == done
    assert "share of the ceiling 25%" in capsys.readouterr().out
