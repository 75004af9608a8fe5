"""The reproduction with two steps a stage: everything is run and reported, nothing twice, and nothing is learnt."""

from __future__ import annotations

import json

import pytest

from opensama.apps.cli import main
from opensama.reproduction.arms import MODULES, SAMA, SAMA_BUDGETS, SHARE_ARMS, SamaBudget, sama_runs
from opensama.reproduction.bernini import BERNINI_BUDGETS, STREAM_ARMS, BerniniExperiment
from opensama.reproduction.report import write_reproduction
from opensama.reproduction.runner import Run, write_json, write_plan
from opensama.reproduction.sama import make_sama, stage0_batch, step_tokens
from opensama.values import UserError
from opensama.world.micro import MICRO_FAMILIES


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("reproduction") / "run"
    assert main(["reproduce", "--budget", "smoke", "--out", str(out), "--workers", "1", "--shipped"]) == 0
    return out


@pytest.mark.slow
def test_every_run_is_reported(folder):
    results = [json.loads(file.read_text()) for file in folder.glob("runs/*/result.json")]
    assert {(r["arm"], r["seed"]) for r in results} == {(arm.name, seed) for arm, seed in sama_runs(1)}
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


@pytest.mark.slow
def test_an_arm_of_telling_streams_apart_is_trained_and_scored(folder):
    """On the same pools and prior."""
    experiment = BerniniExperiment(folder, BERNINI_BUDGETS["smoke"])
    result = experiment.make_run(Run("rotary phase, anchors", 0), folder / "streams")
    assert [len(result[stage]["curve"]) for stage in ("stage0", "stage1")] == [2, 2]
    assert len(result["stage1"]["right"]) == 3
    assert "right" not in result["stage0"]


def test_what_marks_say_of_telling_streams_apart(tmp_path):
    """Made-up results: the phase is always right, a type embedding in half of the items, nothing else ever."""
    experiment = BerniniExperiment(tmp_path / "bernini", SamaBudget(seeds=3, items=4))
    write_plan(experiment.out, experiment.budget)
    write_json({"machine": "one core", "workers": 1}, experiment.out / "machine.json")
    for run in experiment.waves[0]:
        step = {"rotary phase": 1, "type embedding": 2}.get(run.arm, 0)
        right = [int(step and i % step == 0) for i in range(12)]
        scores = {"right": right, "lead": right, "error": [0.5] * 12, "families": dict.fromkeys(MICRO_FAMILIES, 0.25)}
        file = experiment.result_file(*run)
        file.parent.mkdir(parents=True)
        write_json({"minutes": 2, "stage1": {"curve": [[1.0, 1.0]] * 5, **scores}}, file)
    write_reproduction(tmp_path, tmp_path / "report.md")
    text = (tmp_path / "report.md").read_text()
    assert "21 runs" in text
    assert "42 minutes" in text
    rows = [line.strip("| ").split(" | ") for line in text.splitlines()]
    verdicts = {row[0]: row[2].strip("*") for row in rows if row[-1].startswith("**")}
    assert verdicts == {
        "a rotary phase is better than shifted positions": "agrees",
        "a rotary phase is better than a type embedding": "agrees",
        "a type embedding is better than shifted positions (SAMA's table 6)": "agrees",
        "a type embedding is better than no mark at all": "agrees",
        "a rotary phase is better than no mark at all": "agrees",
        "anchors help, with type embedding": "disagrees",
        "anchors help, with shifted positions": "cannot tell",
        "anchors help, with rotary phase": "disagrees",
    }
    (row,) = (line for line in text.splitlines() if line.startswith("| rotary phase | 100.0"))
    assert "+50.0 (+" in row
    experiment.result_file("nothing", 2).unlink()
    with pytest.raises(UserError, match=r"lacks 1 runs, such as nothing \(seed 2\)"):
        write_reproduction(tmp_path, tmp_path / "report.md")


def test_arms_differ_in_what_they_say():
    models = {arm.name: make_sama(arm, SAMA_BUDGETS["smoke"]) for arm, _ in sama_runs()}
    assert models["baseline"].semantic_embedder is None
    assert models["+MA"].semantic_embedder is None
    assert models["SA+MA"].semantic_embedder is not None
    assert models["shifted RoPE"].token_types is None
    for arm in STREAM_ARMS:
        model = make_sama(arm, SAMA_BUDGETS["smoke"])
        told = (model.token_types is not None, model.config["source_rotary"])
        ways = {"type embedding": (True, "shared"), "shifted positions": (False, "shifted")}
        ways |= {"rotary phase": (False, "phase"), "nothing": (False, "shared")}
        assert told == ways[arm.name.removesuffix(", anchors")]
        assert (model.semantic_embedder is not None) == arm.name.endswith("anchors")
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
