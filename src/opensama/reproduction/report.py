"""docs/reproduction.md and its plots, written from the results of the runs; the prose is in report.md beside this."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from opensama.reproduction import bernini, icve, tables
from opensama.reproduction.arms import (
    ANCHOR_ARMS,
    BASELINE,
    MODULES,
    PRETEXT_ARMS,
    ROTARY,
    SAMA,
    SHARE_ARMS,
    TYPES,
    announce,
    sama_runs,
)
from opensama.reproduction.icve_report import icve_part
from opensama.reproduction.sama import make_sama, step_tokens
from opensama.reproduction.shipped import FAST, PROBED_FAMILIES, SLOW
from opensama.reproduction.statistics import detectable, smooth
from opensama.reproduction.tables import STAGE_NAMES, SamaResults
from opensama.runtime import whole_file
from opensama.world.micro import MICRO_COLORS, MICRO_FAMILIES, MICRO_FRAMES, MICRO_KINDS, MICRO_SIZE

_TEMPLATE = Path(__file__).parent / "report.md"


def write_reproduction(out: Path, file: Path) -> None:
    """The report, of all that the folder has, and its plots in images/ beside it. UserError where runs are missing."""
    parts = []
    if (out / "plan.json").exists():
        parts.append(sama_part(out, file.parent / "images"))
    if (out / bernini.STREAMS_FOLDER / "plan.json").exists():
        parts.append(bernini.bernini_part(out))
    if (out / icve.FOLDER / "plan.json").exists():
        parts.append(icve_part(out, file.parent / "images"))
    with whole_file(file) as part:
        part.write_text("\n".join(parts))


def sama_part(out: Path, images: Path) -> str:
    """The text; its plots go into `images`."""
    r = SamaResults(out)
    b, items = r.budget, r.budget.items * len(MICRO_FAMILIES)
    machine = json.loads((out / "machine.json").read_text())
    plain, anchored = (step_tokens(arm, b.stage1_images, b.stage1_videos) for arm in (BASELINE, SAMA))
    plots(r, images)
    return _TEMPLATE.read_text().format(
        machine=f"Measured on {machine['machine']}, {machine['workers']} runs at a time: {r.minutes:.0f} minutes.",
        millions=sum(p.numel() for p in make_sama(SAMA, b).parameters()) / 1e6,
        size=MICRO_SIZE,
        frames=MICRO_FRAMES,
        kinds=len(MICRO_KINDS),
        colors=len(MICRO_COLORS),
        families=", ".join(MICRO_FAMILIES),
        plan=announce(b, len(sama_runs(b.seeds))),
        lr=b.lr,
        extra=100 * (anchored / plain - 1),
        modules=tables.modules(r),
        curves=tables.curves(r),
        zero_shot=tables.zero_shot(r),
        types=tables.against_sama(r, TYPES, b.seeds),
        types_verdict=tables.over(r, TYPES[0], "a type embedding is better"),
        rotary=tables.against_sama(r, ROTARY, b.seeds),
        rotary_verdict=tables.over(r, ROTARY[0], "`grid` is better"),
        one=100 * detectable(items, 1),
        latents=(MICRO_FRAMES - 1) // 4 + 1,
        anchors=tables.against_sama(r, ANCHOR_ARMS, 1),
        tasks=tables.against_sama(r, PRETEXT_ARMS, 1),
        shares=tables.against_sama(r, SHARE_ARMS, 1),
        share=100 * step_tokens(SAMA, b.images, 0) / step_tokens(SAMA, b.images, b.videos),
        shipped=tables.shipped(out),
        shipped_families=", ".join(PROBED_FAMILIES),
        slow=SLOW,
        fast=FAST,
        cost=tables.cost(out),
        summary=tables.sama_summary(r),
    )


def plots(r: SamaResults, folder: Path) -> None:
    """reproduction-success.png and reproduction-loss.png."""
    pyplot = tables.plotter()
    figure, axes = pyplot.subplots(1, 3, figsize=(11, 3.6), sharey=True)
    titles = {"stage0": "stage 0 alone", "stage1": "after stage 1", "fast": "after stage 1, fast motion"}
    for axis, (stage, title) in zip(axes, titles.items(), strict=True):
        tables.plot_success(axis, {arm.name: r.marks(arm, stage) for arm in (*MODULES, *TYPES, *ROTARY)})
        axis.set_title(title, fontsize=10)
    axes[0].invert_yaxis()
    tables.save_plot(figure, folder / "reproduction-success.png")
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 3.6))
    for axis, (stage, name) in zip(axes, STAGE_NAMES.items(), strict=True):
        for arm in MODULES:
            lines = np.array([smooth(c) for c in r.curves(arm, stage, 0)])
            x = np.arange(lines.shape[1])
            (line,) = axis.plot(x, lines.mean(0), label=arm.name, linewidth=1)
            axis.fill_between(x, lines.min(0), lines.max(0), color=line.get_color(), alpha=0.2, linewidth=0)
        axis.set_yscale("log")
        axis.set_title(f"{name}: loss of the video's velocity, mean and range of the seeds", fontsize=9)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    tables.save_plot(figure, folder / "reproduction-loss.png")
