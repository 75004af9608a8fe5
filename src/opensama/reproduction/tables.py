"""The report's tables and sentences: every number and verdict is computed here from the runs' results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from opensama.reproduction.arms import BASELINE, MODULES, ROTARY, SAMA, TYPES, SamaArm, SamaBudget, sama_runs
from opensama.reproduction.runner import RunResult
from opensama.reproduction.sama import SamaExperiment
from opensama.reproduction.statistics import MeanInterval, bootstrap_mean, over_seeds, paired_difference, spikes
from opensama.runtime import install_line
from opensama.values import UserError
from opensama.world.micro import MICRO_FAMILIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAPER = {"baseline": 6.312, "+SA": 6.696, "+MA": 6.711, "SA+MA": 7.095}
"""Table 5, overall, of ten."""
STAGE_NAMES = {"stage0": "stage 0", "stage1": "stage 1"}
VERDICTS = {"more": "agrees", "less": "disagrees", "cannot tell": "cannot tell"}


class SamaResults:
    """All runs' results. `k` seeds, `n` items."""

    def __init__(self, out: Path):
        self.out = out
        self.budget = SamaBudget(**json.loads((out / "plan.json").read_text()))
        self.runs = SamaExperiment(out, self.budget)

    def of(self, arm: SamaArm) -> list[RunResult]:
        """One a seed, as many as there are. UserError where runs are missing."""
        return self.runs.results(arm.name)

    @property
    def minutes(self) -> float:
        """Wall-clock minutes of all runs, added up."""
        return float(
            sum(row["minutes"] for name in {arm.name for arm, _ in sama_runs()} for row in self.runs.results(name))
        )

    def marks(self, arm: SamaArm, stage: str, key: str = "right") -> np.ndarray:
        """[k n]"""
        return np.array([row[stage][key] for row in self.of(arm)], float)

    def families(self, arm: SamaArm, stage: str) -> list[str]:
        """Success of each family, in per cent."""
        means = np.mean([[row[stage]["families"][family] for family in MICRO_FAMILIES] for row in self.of(arm)], axis=0)
        return [f"{100 * mean:.0f}" for mean in means]

    def curves(self, arm: SamaArm, stage: str, column: int) -> np.ndarray:
        """Flow loss (0) or norm of the gradient (1) of every step, [k steps]."""
        return np.array([[step[column] for step in row[stage]["curve"]] for row in self.of(arm)])


def points(e: MeanInterval, sign: bool = False) -> str:
    form = "{:+.1f} ({:+.1f} to {:+.1f})" if sign else "{:.1f} ({:.1f} to {:.1f})"
    return form.format(100 * e.mean, 100 * e.low, 100 * e.high)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [" | ".join(head), " | ".join("---" for _ in head), *(" | ".join(row) for row in rows)]
    return "\n".join(f"| {line} |" for line in lines)


def claim_verdict(e: MeanInterval, claim: str) -> str:
    """A sentence on a claim that the difference is above zero."""
    if e.tendency == "cannot tell":
        return f"**Cannot tell** that {claim}: the interval holds zero."
    return f"**Agrees**: {claim}, here too." if e.tendency == "more" else f"**Disagrees**: it is not so that {claim}."


def over(r: SamaResults, arm: SamaArm, claim: str) -> str:
    """The verdict on SA+MA being better than an arm."""
    return claim_verdict(paired_difference(r.marks(SAMA, "stage1"), r.marks(arm, "stage1")), claim)


def plotter() -> ModuleType:
    """matplotlib's pyplot, for files. UserError where it is not installed."""
    try:
        import matplotlib
    except ImportError:
        raise UserError(f"The plots need matplotlib; run: {install_line('evaluate')}") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def plot_success(axis: Axes, marks: Mapping[str, np.ndarray]) -> None:
    """A row for each name: the mean of its marks [k n] in per cent, its 95 % interval, and a dot for every seed."""
    for at, of_arm in enumerate(marks.values()):
        e = bootstrap_mean(of_arm)
        axis.plot([100 * e.low, 100 * e.high], [at, at], color="black")
        axis.plot(100 * of_arm.mean(1), [at] * len(of_arm), "o", color="tab:blue", alpha=0.5, markersize=4)
        axis.plot(100 * e.mean, at, "D", color="black", markersize=5)
    axis.set_yticks(range(len(marks)), list(marks), fontsize=8)
    axis.set_xlabel("success, % (bar: 95 %; dots: seeds)", fontsize=8)
    axis.grid(axis="x", alpha=0.3)


def save_plot(figure: Figure, file: Path) -> None:
    """Writes a figure, its folder with it, and forgets it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plotter().close(figure)


def modules(r: SamaResults) -> str:
    rows, base = [], r.marks(BASELINE, "stage1")
    for arm in MODULES:
        marks = r.marks(arm, "stage1")
        gain = points(paired_difference(marks, base), True) if arm != BASELINE else ""
        error, kept = r.marks(arm, "stage1", "error").mean(), r.marks(arm, "stage1", "kept")
        lead = r.marks(arm, "stage1", "lead") - r.marks(BASELINE, "stage1", "lead")
        fast = points(bootstrap_mean(r.marks(arm, "fast")))
        more = "{0.mean:+.3f} ({0.low:+.3f} to {0.high:+.3f})".format(bootstrap_mean(lead)) if arm != BASELINE else ""
        numbers = [more, f"{error:.3f}", f"{kept[kept < 99].mean():.1f}", fast, f"{PAPER[arm.name]:.2f}"]
        rows.append([arm.name, points(bootstrap_mean(marks)), *r.families(arm, "stage1"), gain, *numbers])
    head = ["", "success, %", *MICRO_FAMILIES, "over the baseline, points", "lead over the baseline"]
    head += ["error", "kept, dB", "fast motion, %"]
    text = [markdown_table([*head, "paper"], rows), ""]
    claims = ("anchors help", "pretext tasks help", "both together help")
    for arm, claim in zip(MODULES[1:], claims, strict=True):
        text.append(f"- {arm.name}: {claim_verdict(paired_difference(r.marks(arm, 'stage1'), base), claim)}")
    quick = paired_difference(r.marks(MODULES[2], "fast"), r.marks(BASELINE, "fast"))
    said = claim_verdict(quick, "pretext tasks help fast motion")
    text.append(f"- Fast motion, +MA over the baseline: {points(quick, True)} points. {said}")
    return "\n".join(text)


def curves(r: SamaResults) -> str:
    rows = []
    for arm in MODULES:
        row = [arm.name]
        for stage in STAGE_NAMES:
            loss, norm = r.curves(arm, stage, 0), r.curves(arm, stage, 1)
            tail = loss[:, -max(1, loss.shape[1] // 5) :].mean(1)
            share, of_norm = (100 * np.mean([spikes(c, f) for c in x]) for x, f in ((loss, 1.5), (norm, 2.0)))
            last = f"{tail.mean():.4f} (seeds {tail.min():.4f} to {tail.max():.4f})"
            row += [f"{loss.mean():.4f}", last, f"{share:.1f}", f"{of_norm:.1f}"]
        rows.append(row)
    columns = ("mean loss", "last fifth", "loss spikes, %", "norm spikes, %")
    text = [
        markdown_table(["", *(f"{name}: {column}" for name in STAGE_NAMES.values() for column in columns)], rows),
        "",
    ]
    for plain, anchored in ((BASELINE, MODULES[1]), (MODULES[2], SAMA)):
        for stage, name in STAGE_NAMES.items():
            text.append(
                f"- {anchored.name} against {plain.name}, {name}: "
                f"mean loss {lower_by(fall(r, stage, plain, anchored))}."
            )
    return "\n".join(text)


def fall(r: SamaResults, stage: str, plain: SamaArm, anchored: SamaArm) -> MeanInterval:
    """By how much the mean loss of a stage is lower with anchors, as a share of it without, over seeds."""
    without = r.curves(plain, stage, 0).mean(1)
    return over_seeds(1 - r.curves(anchored, stage, 0).mean(1) / without)


def spiking(r: SamaResults, stage: str, plain: SamaArm, anchored: SamaArm) -> MeanInterval:
    """How many fewer steps, as a share of all, are spikes of the loss with anchors, over seeds."""
    shares = [np.array([spikes(c) for c in r.curves(arm, stage, 0)]) for arm in (plain, anchored)]
    return over_seeds(shares[0] - shares[1])


def lower_by(e: MeanInterval) -> str:
    return f"{100 * e.mean:.1f} % lower ({100 * e.low:.1f} to {100 * e.high:.1f})"


def zero_shot(r: SamaResults) -> str:
    rows, base = [], r.marks(BASELINE, "stage0")
    for arm in MODULES:
        marks = r.marks(arm, "stage0")
        gain = points(paired_difference(marks, base), True) if arm != BASELINE else ""
        later = points(paired_difference(r.marks(arm, "stage1"), marks), True)
        error = f"{r.marks(arm, 'stage0', 'error').mean():.2f}"
        rows.append([arm.name, points(bootstrap_mean(marks)), *r.families(arm, "stage0"), gain, error, later])
    head = ["", "after stage 0, %", *MICRO_FAMILIES, "over the baseline, points", "error", "stage 1 adds, points"]
    return markdown_table(head, rows)


def against_sama(r: SamaResults, arms: Sequence[SamaArm], seeds: int) -> str:
    """Arms beside SA+MA after both stages, on the first `seeds` seeds."""
    rows = []
    for arm in (SAMA, *arms):
        row = [arm.name]
        for stage in STAGE_NAMES:
            marks, own = r.marks(arm, stage)[:seeds], r.marks(SAMA, stage)[:seeds]
            row += [points(bootstrap_mean(marks)), points(paired_difference(marks, own), True) if arm != SAMA else ""]
        rows.append([*row, f"{r.marks(arm, 'stage1', 'error')[:seeds].mean():.2f}"])
    first = "one seed" if seeds == 1 else f"{seeds} seeds"
    return markdown_table(
        [first, "after stage 0, %", "against SA+MA", "after stage 1, %", "against SA+MA", "error"], rows
    )


def cost(out: Path) -> str:
    """Tokens, seconds and memory of a step of each arm."""
    found = json.loads((out / "cost.json").read_text())
    rows = []
    for arm in MODULES:
        row = [arm.name]
        for stage in STAGE_NAMES:
            c = found[arm.name][stage]
            row += [
                f"{c['tokens']:,}",
                f"{c['seconds']:.3f}",
                f"{c['tokens'] / c['seconds']:,.0f}",
                f"{c['memory'] / 1e9:.2f}",
            ]
        rows.append(row)
    columns = ("tokens a step", "seconds a step", "tokens a second", "grew by, GB")
    return markdown_table(["", *(f"{name}: {column}" for name in STAGE_NAMES.values() for column in columns)], rows)


def shipped(out: Path) -> str:
    file = out / "shipped.json"
    if not file.exists():
        return "Not run."
    found = json.loads(file.read_text())
    names = sorted({name for s in found.values() for name in s["probes"]})
    rows = []
    for condition, s in found.items():
        low, high = s["success_interval"]
        success = f"{100 * s['success']:.0f} ({100 * low:.0f} to {100 * high:.0f})"
        kept = "-" if s["kept_db"] is None else f"{s['kept_db']:.1f}"
        drift = f"{100 * s['last_minus_first']['mean']:+.0f}"
        probes = [f"{s['probes'][name]:.2f}" if name in s["probes"] else "-" for name in names]
        rows.append([condition, str(s["frames"]), str(s["n"]), success, drift, kept, *probes])
    head = ["", "frames", "n", "success, %", "last third minus first, points", "kept, dB"]
    return markdown_table([*head, *(name.replace("_", " ") for name in names)], rows)


def sama_summary(r: SamaResults) -> str:
    """Where the small world agrees, disagrees or cannot tell."""
    base, whole = r.marks(BASELINE, "stage1"), r.marks(SAMA, "stage1")
    top = bootstrap_mean(base)
    zero, zero_base = r.marks(SAMA, "stage0"), r.marks(BASELINE, "stage0")
    claims = {
        "SA improves editing (+0.38 of 10 in the paper)": paired_difference(r.marks(MODULES[1], "stage1"), base),
        "MA improves editing (+0.40)": paired_difference(r.marks(MODULES[2], "stage1"), base),
        "SA and MA together improve editing (+0.78)": paired_difference(whole, base),
        "MA helps fast motion": paired_difference(r.marks(MODULES[2], "fast"), r.marks(BASELINE, "fast")),
        "stage 0 alone edits videos (a copy is never right)": bootstrap_mean(zero),
        "stage 0 alone: MA helps (no claim of the paper)": paired_difference(r.marks(MODULES[2], "stage0"), zero_base),
        "stage 0 alone: SA helps (no claim of the paper)": paired_difference(r.marks(MODULES[1], "stage0"), zero_base),
        "a type embedding is better than shifted RoPE": paired_difference(whole, r.marks(TYPES[0], "stage1")),
        "`grid` is better than `zero` (our own claim)": paired_difference(whole, r.marks(ROTARY[0], "stage1")),
    }
    rows = [[claim, f"{points(e, True)} points", f"**{VERDICTS[e.tendency]}**"] for claim, e in claims.items()]
    for stage, name in STAGE_NAMES.items():
        e = fall(r, stage, BASELINE, MODULES[1])
        rows.append([f"with SA the diffusion loss falls faster, {name}", lower_by(e), f"**{VERDICTS[e.tendency]}**"])
    for stage, name in STAGE_NAMES.items():
        e = spiking(r, stage, BASELINE, MODULES[1])
        gained = f"{points(e, True)} % of the steps fewer"
        rows.append([f"with SA it spikes less, {name}", gained, f"**{VERDICTS[e.tendency]}**"])
    reached = "above 60 %, as planned" if top.mean > 0.6 else "the plan was above 60 %, which this budget did not reach"
    note = f"The baseline is right in {points(top)} % of the items; {reached}."
    return markdown_table(["claim", "measured", "the small world"], rows) + f"\n\n{note}"
