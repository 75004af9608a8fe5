"""ICVE's reproduction with two steps a stage: everything is run and reported, nothing twice, and nothing is learnt."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from opensama.apps.cli import main
from opensama.pipeline.icve import IcvePipeline
from opensama.reproduction.data import draw_micro_unpaired, frozen_models, micro_items
from opensama.reproduction.icve import (
    BOTH,
    EQUAL,
    ICVE_BUDGETS,
    ONLY,
    PRETRAINED,
    SAME,
    IcveExperiment,
    icve_runs,
    make_icve,
)
from opensama.world.micro import plan_micro_unpaired


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("reproduction") / "run"
    assert main(["reproduce", "--paper", "icve", "--budget", "smoke", "--out", str(out), "--workers", "1"]) == 0
    return out


@pytest.mark.slow
def test_every_run_is_reported(folder):
    results = [json.loads(file.read_text()) for file in folder.glob("icve/runs/*/result.json")]
    assert {(r["arm"], r["seed"]) for r in results} == {*((arm.name, seed) for arm, seed in icve_runs(2)), (EQUAL, 0)}
    steps = {r["arm"]: r["steps"] for r in results}
    assert steps[ONLY["few"].name] == steps[BOTH["few"].name] == 2
    assert steps["few edits, all the steps"] == 4
    flops = {r["arm"]: r["flops"] for r in results if r["arm"] != EQUAL}
    assert flops["few edits, all the steps"] > 1.5 * flops["few edits"] > 0
    assert all(r["success"] < 0.7 for r in results)  # two steps teach nothing
    text = (folder / "reproduction.md").read_text()
    assert "{" not in text
    for name in steps:
        assert f"| {name} |" in text
    assert (folder / "images" / "reproduction-icve.png").stat().st_size > 10_000


@pytest.mark.slow
def test_a_second_call_makes_nothing_again(folder, capsys):
    file = folder / "icve" / "runs" / f"{PRETRAINED.name}-0" / "result.json"
    before = file.stat().st_mtime_ns
    assert main(["reproduce", "--paper", "icve", "--budget", "smoke", "--out", str(folder)]) == 0
    assert file.stat().st_mtime_ns == before
    assert main(["reproduce", "--paper", "icve", "--out", str(folder)]) == 2
    assert "another budget" in capsys.readouterr().err


def test_an_arm_goes_on_from_what_it_should(folder):
    """Two steps move weights little: those of an arm lie near its beginning, far from the other one."""
    budget, base = ICVE_BUDGETS["smoke"], folder / "icve"
    experiment = IcveExperiment(base, budget)
    prior = base / "prior-0" / "prior.safetensors"
    pretrained = base / "runs" / f"{PRETRAINED.name}-0" / "model.safetensors"
    assert experiment.starts_from(ONLY["few"], 0) == experiment.starts_from(PRETRAINED, 0) == prior
    assert experiment.starts_from(BOTH["many"], 0) == pretrained
    assert experiment.starts_from(SAME, 0) == base / "runs" / "pre-trained-source-at-t-0" / "model.safetensors"
    model = make_icve(budget)
    for start in (prior, pretrained):
        model.load_state_dict(load_file(start))


def test_unpaired_clips_are_asked_for_as_the_pipeline_asks():
    """Text and pooled text of training items are those that the pipeline makes of the instructions."""
    coded = frozen_models()
    pool = draw_micro_unpaired(coded, 2, 5)
    data = micro_items([pool], 0, coded.embed([""])[0], pooled=True)
    pipeline = IcvePipeline(
        tokenizer=coded.tokenizer, text_encoder=coded.text, vae=coded.vae, scheduler=coded.pipeline.scheduler,
        transformer=make_icve(ICVE_BUDGETS["smoke"]), defaults={"text_layer": -1, "max_text_tokens": 56, "window": 17,
                                                                "overlap": 2, "prompt_prefix": ""},
    )  # fmt: skip
    for i in (0, 1):
        words = pipeline.encode_text(plan_micro_unpaired(5 + i).instruction)
        torch.testing.assert_close(data[i]["text"].float(), words["encoder_hidden_states"][0], atol=2e-3, rtol=2e-3)
        torch.testing.assert_close(data[i]["pooled"], words["pooled_projections"][0], atol=2e-3, rtol=2e-3)
        assert data[i]["source"].shape == data[i]["target"].shape == (192, 3, 4, 4)
    assert len(data.nothing["text"]) < len(data[0]["text"])
