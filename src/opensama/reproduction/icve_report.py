"""The report's part on ICVE: tables, sentences and plot, computed from the runs' results; the prose is in icve.md."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from opensama.reproduction.icve import (
    BOTH,
    EQUAL,
    FOLDER,
    LONGER,
    ONLY,
    PRETRAINED,
    SAME,
    SAME_PRETRAINED,
    WHOLE,
    IcveBudget,
    IcveExperiment,
    icve_runs,
    make_icve,
    plan_of,
    sama_budget,
)
from opensama.reproduction.sama import make_sama
from opensama.reproduction.statistics import MeanInterval, bootstrap_mean, detectable, paired_difference, smooth
from opensama.reproduction.tables import (
    VERDICTS,
    claim_verdict,
    markdown_table,
    plot_success,
    plotter,
    points,
    save_plot,
)
from opensama.world.micro import MICRO_FAMILIES

_TEMPLATE = Path(__file__).parent / "icve.md"


class IcveResults:
    """All runs' results, by an arm's name. `k` seeds, `n` items."""

    def __init__(self, out: Path):
        self.out = out / FOLDER
        self.budget = IcveBudget(**json.loads((self.out / "plan.json").read_text()))
        self.runs = IcveExperiment(self.out, self.budget)
        self.of = self.runs.results

    def marks(self, name: str, key: str = "right") -> np.ndarray:
        """[k n]"""
        return np.array([row[key] for row in self.of(name)], float)

    @property
    def minutes(self) -> float:
        """Minutes of pre-training and fine-tuning, added up."""
        return sum(row["seconds"] for arm in {arm.name for arm, _ in icve_runs()} for row in self.of(arm)) / 60

    def row(self, name: str, over: str | None = None) -> list[str]:
        """Success, of each family, error; and the success over another arm's, on the seeds that both have."""
        marks = self.marks(name)
        families = np.mean([[row["families"][f] for f in MICRO_FAMILIES] for row in self.of(name)], axis=0)
        gain = ""
        if over is not None:
            k = min(len(marks), len(self.of(over)))
            gain = points(paired_difference(marks[:k], self.marks(over)[:k]), True)
        return [
            name, points(bootstrap_mean(marks)), *(f"{100 * f:.0f}" for f in families), gain,
            f"{self.marks(name, 'error').mean():.2f}",
        ]  # fmt: skip

    def table(self, rows: list[list[str]], over: str) -> str:
        return markdown_table(["", "success, %", *MICRO_FAMILIES, f"over {over}, points", "error"], rows)


def icve_part(out: Path, images: Path) -> str:
    """The text; its plot goes into `images`. UserError where runs are missing."""
    r = IcveResults(out)
    b = r.budget
    machine = json.loads((r.out / "machine.json").read_text())
    items = b.items * len(MICRO_FAMILIES)
    sama = r.of(EQUAL)[0]
    plot(r, images)
    both = BOTH["many"].name
    pairs = [row for n in ONLY for row in (r.row(ONLY[n].name), r.row(BOTH[n].name, ONLY[n].name))]
    one_seed = "pre-training and these edits"
    return _TEMPLATE.read_text().format(
        **asdict(b),
        one=100 * detectable(items, 1),
        millions=parameters(make_icve(b)),
        tests=items,
        machine=f"Measured on {machine['machine']}, {machine['workers']} at a time: {r.minutes:.0f} minutes of "
        "pre-training and fine-tuning.",
        plan=plan_of(b),
        arms=r.table([r.row(PRETRAINED.name), *pairs], "the same without pre-training"),
        verdicts="\n".join(f"- {claim_verdict(e, claim)}" for claim, e in gains(r).items()),
        longer=r.table([r.row(LONGER[n].name, BOTH[n].name) for n in ONLY], one_seed),
        times=r.table([r.row(SAME.name, both), r.row(SAME_PRETRAINED.name, PRETRAINED.name)], "t = 0"),
        images=sama_budget(b).image_edits,
        sama_millions=parameters(make_sama(WHOLE, sama_budget(b))),
        share=100 * sum(sama["flops"].values()) / sum(r.runs.flops(both, 0)),
        sama_steps=", ".join(f"{name} {steps:,}" for name, steps in sama["steps"].items()),
        sama=r.table([r.row(EQUAL, both)], f"ICVE ({both})"),
        summary=icve_summary(r),
    )


def gains(r: IcveResults) -> dict[str, MeanInterval]:
    """The paper's claim, at both numbers of edits: what pre-training adds."""
    return {
        f"pre-training helps with {getattr(r.budget, n):,} edits": paired_difference(
            r.marks(BOTH[n].name), r.marks(ONLY[n].name)
        )
        for n in ONLY
    }


def icve_summary(r: IcveResults) -> str:
    """Where the small world agrees, disagrees or cannot tell; one seed tells only what is large, see `detectable`."""
    both = BOTH["many"].name
    claims = gains(r)
    claims["pre-training alone edits (a copy is never right)"] = bootstrap_mean(r.marks(PRETRAINED.name))
    rows = [[claim, f"{points(e, True)} points", f"**{VERDICTS[e.tendency]}**"] for claim, e in claims.items()]
    least = detectable(r.budget.items * len(MICRO_FAMILIES), 1)
    for claim, arm, other in (
        *(
            (f"it beats as many more steps on {getattr(r.budget, n):,} edits", BOTH[n].name, LONGER[n].name)
            for n in ONLY
        ),
        ("t = 0 is better than the edit's time", both, SAME.name),
        ("ICVE beats SAMA at equal compute", both, EQUAL),
    ):
        e = paired_difference(r.marks(arm)[:1], r.marks(other))
        told = VERDICTS[e.tendency] if abs(e.mean) >= least else "cannot tell"
        rows.append([f"{claim} (one seed)", f"{points(e, True)} points", f"**{told}**"])
    best = bootstrap_mean(r.marks(both))
    reached = "reached" if best.mean >= 0.8 else "not reached with this budget"
    note = f"The aim of 80 % after fine-tuning was {reached}: {points(best)} % with {r.budget.many:,} edits."
    return markdown_table(["claim", "measured", "the small world"], rows) + f"\n\n{note}"


def parameters(model: torch.nn.Module) -> float:
    """In millions."""
    return sum(p.numel() for p in model.parameters()) / 1e6


def plot(r: IcveResults, folder: Path) -> None:
    """reproduction-icve.png: success of each arm, and the loss of fine-tuning with and without pre-training."""
    figure, (left, right) = plotter().subplots(1, 2, figsize=(11, 3.8))
    arms = [PRETRAINED, *ONLY.values(), *BOTH.values(), *LONGER.values(), SAME]
    plot_success(left, {name: r.marks(name) for name in (*(arm.name for arm in arms), EQUAL)})
    left.invert_yaxis()
    for arm in (*ONLY.values(), *BOTH.values()):
        lines = np.array([smooth([step[0] for step in row["curve"]]) for row in r.of(arm.name)])
        right.plot(lines.mean(0), label=arm.name, linewidth=1)
    right.set_yscale("log")
    right.set_title("loss of fine-tuning, mean of the seeds", fontsize=9)
    right.set_xlabel("step")
    right.legend(fontsize=8)
    right.grid(alpha=0.3)
    save_plot(figure, folder / "reproduction-icve.png")
