"""The reproduction with two steps a stage: everything is run and reported, nothing twice, and nothing is learnt."""

from __future__ import annotations

import json

import pytest

from opensama.apps.cli import main
from opensama.reproduction.arms import MODULES, SAMA, SAMA_BUDGETS, SHARE_ARMS, sama_runs
from opensama.reproduction.sama import make_sama, stage0_batch, step_tokens


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("reproduction") / "run"
    assert main(["reproduce", "--budget", "smoke", "--out", str(out), "--workers", "1", "--shipped"]) == 0
    return out


@pytest.mark.slow
def test_every_run_is_reported(folder):
    results = [json.loads(file.read_text()) for file in folder.glob("runs/*/result.json")]
    assert {(r["arm"], r["seed"]) for r in results} == {(arm.name, seed) for arm, seed in sama_runs(2)}
    for result in results:
        for stage in ("stage0", "stage1"):
            assert len(result[stage]["curve"]) == 2
            assert len(result[stage]["right"]) == 3
            assert result[stage]["seconds"] > 0
        assert 0 <= result["stage1"]["success"] < 0.7  # two steps teach nothing
    text = (folder / "reproduction.md").read_text()
    assert "{" not in text
    for arm, _ in sama_runs():
        assert f"| {arm.name} |" in text
    for name in ("success", "loss"):
        assert (folder / "images" / f"reproduction-{name}.png").stat().st_size > 10_000
    assert set(json.loads((folder / "shipped.json").read_text())) == {"as trained", "fast motion", "long", "unlike"}


@pytest.mark.slow
def test_a_second_call_makes_nothing_again(folder, capsys):
    file = folder / "runs" / "SA+MA-0" / "result.json"
    before = file.stat().st_mtime_ns
    assert main(["reproduce", "--budget", "smoke", "--out", str(folder), "--workers", "1"]) == 0
    assert file.stat().st_mtime_ns == before
    assert main(["reproduce", "--out", str(folder)]) == 2
    assert "another budget" in capsys.readouterr().err


def test_arms_differ_in_what_they_say():
    models = {arm.name: make_sama(arm, SAMA_BUDGETS["smoke"]) for arm, _ in sama_runs()}
    assert models["baseline"].semantic_embedder is None
    assert models["+MA"].semantic_embedder is None
    assert models["SA+MA"].semantic_embedder is not None
    assert models["shifted RoPE"].token_types is None
    assert {arm.name: set(arm.pretext) for arm in MODULES}["+SA"] == {"none"}
    budget = SAMA_BUDGETS["full"]
    sizes = [step_tokens(SAMA, *stage0_batch(arm, budget)) for arm in (SAMA, *SHARE_ARMS)]
    assert max(sizes) < 1.1 * min(sizes)  # equal compute, whatever the share


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--set", "stage=3"], "did you mean stage"),
        (["--set", "stage0=many"], "must be a number above 0"),
        (["--set", "seeds=0"], "must be a number above 0"),
        (["--workers", "0"], "from 1 to 64"),
    ],
)
def test_bad_input(arguments, says, capsys, tmp_path):
    assert main(["reproduce", "--out", str(tmp_path / "x"), *arguments]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
