"""The published numbers come out of the published marks, to the last printed digit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opensama.evaluation.aggregation import Aggregation, Line, macro, mean_of, plain_overall, summarise
from opensama.evaluation.benchmarks.editverse import third_frames
from opensama.evaluation.benchmarks.ive import ive_dimensions, ive_overall
from opensama.evaluation.benchmarks.openve import openve_overall
from opensama.evaluation.benchmarks.reco import eleven_frames, geometric_mean, reco_groups
from opensama.evaluation.benchmarks.registry import BENCHMARKS
from opensama.evaluation.benchmarks.vie import VIE_PROTOCOL

# ICVE's row of IVEBench, short subset, raw
ICVE = {
    "subject_consistency": 0.95,
    "background_consistency": 0.97,
    "temporal_flickering": 0.99,
    "motion_smoothness": 1.00,
    "vtss": 0.017,
    "overall_semantic_consistency": 0.23,
    "phrase_semantic_consistency": 0.23,
    "instruction_satisfaction": 3.62,
    "quantity_accuracy": 0.30,
    "semantic_fidelity": 0.85,
    "motion_fidelity": 0.46,
    "content_fidelity": 3.55,
}


def test_reco_s_of_the_published_groups() -> None:
    assert mean_of([9.43, 8.33, 9.00]) == pytest.approx(8.92, abs=1e-9)


def test_reco_groups_are_geometric_means() -> None:
    marks = {"SA": 8, "SP": 4, "CP": 2, "VF": 9, "TS": 9, "ES": 9, "AN": 10, "SN": 5, "MN": 4}
    groups = reco_groups(marks)
    assert groups["S_EA"] == pytest.approx(4.0)  # (8 * 4 * 2) ** (1/3)
    assert groups["S_VQ"] == pytest.approx(9.0)
    assert groups["S_VN"] == pytest.approx(200 ** (1 / 3))
    assert groups["S"] == pytest.approx((4 + 9 + 200 ** (1 / 3)) / 3)


@pytest.mark.parametrize("bad", [0, -1, None, "7", math.nan, True])
def test_reco_group_is_zero_where_a_mark_is_none(bad: object) -> None:
    assert geometric_mean([9, 9, bad]) == 0
    assert reco_groups({"SA": 9, "SP": 9, "CP": 9, "VF": 9, "TS": 9, "ES": bad})["S_VQ"] == 0


@given(st.lists(st.floats(1, 10), min_size=3, max_size=3))
def test_geometric_mean_is_at_most_the_mean(marks: list[float]) -> None:
    assert min(marks) - 1e-9 <= geometric_mean(marks) <= mean_of(marks) + 1e-9


def test_ive_row_of_icve() -> None:
    found = ive_dimensions(ICVE)
    assert found["quality"] == pytest.approx(0.712, abs=5e-4)
    assert found["compliance"] == pytest.approx(0.454, abs=5e-4)
    assert found["fidelity"] == pytest.approx(0.645, abs=1e-3)  # .6445 of the rounded row
    assert found["total"] == pytest.approx(0.604, abs=5e-4)


def test_ive_dimension_needs_all_its_columns() -> None:
    some = {name: value for name, value in ICVE.items() if name != "vtss"}
    assert set(ive_dimensions(some)) == {"compliance", "fidelity"}
    assert set(ive_overall({"short": ICVE})) == {"short quality", "short compliance", "short fidelity", "short total"}


def test_openve_macro_mean() -> None:
    types = ("global_style", "background_change", "local_change", "local_remove", "local_add")
    means = {name: {"mean": value} for name, value in zip(types, (3.16, 2.36, 2.98, 1.85, 2.15), strict=True)}
    assert macro(means) == pytest.approx(2.50, abs=1e-9)
    assert openve_overall(means) == {"overall of 5 types": pytest.approx(2.50)}
    more = openve_overall(means | {"camera_edit": {"mean": 1.0}})
    assert more["overall of 6 types"] == pytest.approx((12.5 + 1) / 6)
    assert more["overall of the usual 5 types"] == pytest.approx(2.50)


def test_vie_item_is_the_mean_of_its_marks() -> None:
    marks = {"instruct": 8.467, "preservation": 9.422, "quality": 8.244}
    assert VIE_PROTOCOL.derive(marks)["mean"] == pytest.approx(8.711, abs=5e-4)


def test_reco_shows_eleven_of_81() -> None:
    assert eleven_frames(81, 16) == [0, 8, 16, 24, 32, 40, 48, 56, 64, 72, 80]
    assert eleven_frames(5, 16) == [0, 1, 2, 3, 4]


def test_editverse_shows_three_or_four() -> None:
    assert third_frames(81, 24) == [0, 27, 54]
    assert third_frames(82, 24) == [0, 27, 54, 81]
    assert third_frames(2, 24) == [0, 1]


@given(st.integers(1, 400), st.floats(1, 120))
def test_samplers_stay_inside(frames: int, fps: float) -> None:
    most = {"vie": 8, "clips": 8, "openve": 16, "openve-long": 16, "reco": 19, "ive": 20, "editverse": 5}
    protocols = {protocol.name: protocol for benchmark in BENCHMARKS.values() for protocol in benchmark.protocols}
    assert most.keys() == protocols.keys()
    for name, protocol in protocols.items():
        picked = protocol.presentation.sampling.pick(frames, fps)
        assert picked == sorted(set(picked))
        assert 0 <= picked[0] <= picked[-1] < frames
        assert len(picked) <= most[name], name


def test_summary_counts_and_intervals() -> None:
    values = [1.0, 2.0, 3.0, 4.0]
    lines = [Line("a", "scored", {"x": value}) for value in values]
    lines += [Line("a", "failed", {}), Line("a", "missing", {}), Line("b", "missing", {})]
    found = summarise(lines)
    assert found["counts"] == {"items": 7, "scored": 4, "failed": 1, "missing": 2}
    a = found["groups"]["a"]
    assert (a["scored"], a["failed"], a["missing"]) == (4, 1, 1)
    assert a["scores"]["x"]["mean"] == 2.5
    assert a["scores"]["x"]["n"] == 4
    assert 1 <= a["scores"]["x"]["low"] < 2.5 < a["scores"]["x"]["high"] <= 4
    assert found["groups"]["b"]["scores"] == {}


def test_shares_have_wilsons_interval_and_groups_may_stand_aside() -> None:
    lines = [Line(group, "scored", {"success": right}) for group in ("a", "b", "aside") for right in (0.0, 0.0)]
    found = summarise(lines, Aggregation("success", plain_overall, aside=("aside",), shares=("success",)))
    assert found["groups"]["a"]["scores"]["success"] == {
        "mean": 0,
        "low": 0,
        "high": pytest.approx(0.658, abs=1e-3),
        "n": 2,
    }
    assert found["overall"]["success"]["n"] == 4
    assert found["overall"]["success"]["high"] == pytest.approx(0.49, abs=1e-2)


def test_one_item_has_no_interval() -> None:
    lines = [Line("a", "scored", {"x": 1.0, "y": 2.0}), Line("a", "scored", {"x": 3.0})]
    found = summarise(lines, Aggregation("x", plain_overall))
    assert found["groups"]["a"]["scores"]["y"] == {"mean": 2, "low": None, "high": None, "n": 1}
    assert found["groups"]["a"]["scores"]["x"]["low"] is not None


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    hits, widths = 0, []
    for _ in range(60):
        lines = [Line("a", "scored", {"x": value}) for value in rng.normal(5, 1, 40)]
        score = summarise(lines)["groups"]["a"]["scores"]["x"]
        hits += score["low"] <= 5 <= score["high"]
        widths.append(score["high"] - score["low"])
    assert hits >= 54
    assert np.mean(widths) == pytest.approx(2 * 1.96 / math.sqrt(40), rel=0.05), "no wider than it must be"


def test_failures_count_zero_in_reco_and_are_left_out_elsewhere() -> None:
    lines = [Line("add", "scored", {"S": 8.0}), Line("add", "failed", {}), Line("add", "missing", {})]
    assert summarise(lines, zeros=("S",))["groups"]["add"]["scores"]["S"]["mean"] == 4
    assert summarise(lines)["groups"]["add"]["scores"]["S"]["mean"] == 8


def test_means_are_of_those_that_have_the_score() -> None:
    lines = [Line("short", "scored", {"x": 1.0, "quantity_accuracy": 1.0}), Line("short", "scored", {"x": 3.0})]
    scores = summarise(lines)["groups"]["short"]["scores"]
    assert (scores["x"]["mean"], scores["x"]["n"]) == (2, 2)
    assert (scores["quantity_accuracy"]["mean"], scores["quantity_accuracy"]["n"]) == (1, 1)


def test_overall_has_an_interval_over_all_groups() -> None:
    lines = [Line(name, "scored", {"mean": value}) for name in ("p", "q") for value in (1.0, 2.0, 3.0)]
    (overall,) = summarise(lines, Aggregation("mean", openve_overall))["overall"].values()
    assert overall["mean"] == 2
    assert overall["n"] == 6
    assert overall["low"] < 2 < overall["high"]
