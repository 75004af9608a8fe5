"""`opensama reproduce`: whether the paper's claims hold in small, and the report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from opensama.apps.options import OUT
from opensama.apps.progress import log_lines
from opensama.values import UserError, nearest


def reproduce(
    *,
    out: Annotated[Path, OUT] = Path("runs/reproduction"),
    paper: Literal["sama", "icve", "bernini"] = "sama",
    budget: Literal["full", "smoke"] = "full",
    workers: int = 2,
    shipped: Annotated[bool, Parameter(negative=())] = False,
    report: Path | None = None,
    set: Annotated[list[str] | None, Parameter(negative=(), consume_multiple=True)] = None,
) -> None:
    """Train a paper's variants on a micro world and report whether its claims hold there.

    Says what the budget can tell before anything is trained. Stopped at any point, the same command goes on; runs that
    are finished are not made again.

    Parameters
    ----------
    out
        The folder of all runs.
    paper
        Whose variants to train; bernini: ways of telling source and target apart. The report has what the folder has.
    budget
        full: what docs/reproduction.md was made with, up to hours on two cores; smoke: two steps each, teaches nothing.
    workers
        Processes that train at the same time, of one thread each.
    shipped
        With SAMA's, also probe the embedded model: fast motion, long clips, unknown backgrounds.
    report
        Write the report into this Markdown file, its pictures beside it in images/. By default OUT/reproduction.md.
    set
        Numbers of the budget, as in --set stage0=2000 images=500; may be given more than once.
    """
    from dataclasses import replace

    from opensama.reproduction import bernini, icve
    from opensama.reproduction.arms import SAMA_BUDGETS, announce, sama_runs
    from opensama.reproduction.report import write_reproduction
    from opensama.reproduction.runner import run_experiment
    from opensama.reproduction.sama import SamaExperiment, measure_step_costs, score_shipped

    budgets: dict[str, Any] = {
        "sama": SAMA_BUDGETS, "icve": icve.ICVE_BUDGETS, "bernini": bernini.BERNINI_BUDGETS,
    }  # fmt: skip
    chosen = budgets[paper][budget]
    known = vars(chosen)
    for assignment in set or []:
        name, _, value = assignment.partition("=")
        if name not in known:
            raise UserError(f"--set {assignment} names no part of the budget; {nearest(name, known)}")
        try:
            number = type(known[name])(value)
        except ValueError:
            number = 0
        if not number > 0:
            raise UserError(f"The value in --set {assignment} must be a number above 0, such as {known[name]}.")
        chosen = replace(chosen, **{name: number})
    if not 1 <= workers <= 64:
        raise UserError(f"The number of workers must be from 1 to 64, not {workers}.")
    if shipped and paper != "sama":
        raise UserError(f"--shipped goes with SAMA's runs: leave it or --paper {paper} away.")
    with log_lines("opensama.reproduction"):
        if paper == "icve":
            print(icve.plan_of(chosen), flush=True)
            run_experiment(icve.IcveExperiment(out / icve.FOLDER, chosen), workers=workers)
        elif paper == "bernini":
            print(announce(chosen, len(bernini.STREAM_ARMS) * chosen.seeds), flush=True)
            run_experiment(bernini.BerniniExperiment(out / bernini.STREAMS_FOLDER, chosen), workers=workers)
        else:
            print(announce(chosen, len(sama_runs(chosen.seeds))), flush=True)
            run_experiment(SamaExperiment(out, chosen), workers=workers)
            measure_step_costs(out)
            if shipped:
                score_shipped(out)
    file = report or out / "reproduction.md"
    write_reproduction(out, file)
    print(f"written: {file}")
