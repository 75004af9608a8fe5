"""`opensama bench`: parts that add up, a share of what the machine can do, and a peer over as many tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from opensama.apps.cli import main

SMALL = ["--frames", "5", "--width", "160", "--height", "96", "--rounds", "1", "--device", "cpu"]


@pytest.mark.parametrize("model", ["tiny", "tiny-icve"])
def test_parts_add_up_and_the_peer_has_as_many_tokens(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "bench.json"
    assert main(["bench", "--model", model, "--steps", "1", *SMALL, "--against", "diffusers", "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    parts = {part["what"]: part for part in found["parts"]}
    whole = parts.pop("the edit, from file to file")["seconds"][0]
    inside = [part for what, part in parts.items() if not what.startswith("loading")]
    assert sum(sum(part["seconds"]) for part in inside) == pytest.approx(whole)
    (forward,) = (part for what, part in parts.items() if what.startswith("a forward pass"))
    assert len(forward["seconds"]) == 1
    assert 0 < forward["operations"] / forward["seconds"][0] < found["machine"]["operations"]
    assert (
        found["against"]["peer"]
        == {"tiny": "WanTransformer3DModel", "tiny-icve": "HunyuanVideoTransformer3DModel"}[model]
    )
    assert f"{found['against']['tokens']:,} tokens" in forward["what"]
    assert found["machine"]["peak"] > 2e8
    said = capsys.readouterr().out
    assert "ratio" in said
    assert "share" in said


def test_random_weights_need_no_download(tmp_path: Path):
    file = tmp_path / "bench.json"
    assert main(["bench", "--random-weights", "--frames", "5", "--rounds", "2", "--json", str(file)]) == 0
    (forward,) = json.loads(file.read_text())["parts"]
    assert len(forward["seconds"]) == 2
    assert forward["operations"] == pytest.approx(2.57e9, rel=0.01)  # counted on a device without fused attention


def test_a_card_too_small_for_the_weights_is_a_sentence(capsys: pytest.CaptureFixture[str], monkeypatch):
    from opensama.pipeline import room

    monkeypatch.setattr(room, "memory_of_computer", lambda: 10**9)
    assert main(["bench", "--model", "sama-14b", "--random-weights", "--device", "cpu"]) == 2
    assert "The weights of sama-14b take 57 GB in float32, and cpu has 1 GB" in capsys.readouterr().err
