"""`opensama evaluate vie` and its like: the field's benchmarks, for any model and anybody's edits, before any judge."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from opensama.apps.options import HOW_MANY, OUT, check_writable_folder
from opensama.apps.progress import Display, loading
from opensama.values import UserError

if TYPE_CHECKING:
    from opensama.evaluation.benchmarks.benchmark import Benchmark, BenchmarkData, System
    from opensama.evaluation.judge import Judge
    from opensama.evaluation.protocols import JudgingProtocol
    from opensama.evaluation.run import Benchmarked


@Parameter(name="*")
@dataclass(frozen=True)
class Judging:
    """Who judges, and how.

    Parameters
    ----------
    judge_url
        An OpenAI-compatible server (http://localhost:8000/v1, key in OPENAI_API_KEY) or a Gemini-style one (an address
        that ends in /v1beta, key in GEMINI_API_KEY).
    judge_model
        The server's name of the model; without --judge-url a transformers folder or hub id, run here.
    judge_replies
        A file of recorded replies instead, or the results.json of an earlier run.
    passes
        How often each question is asked; the scores are averaged.
    protocol
        Another way to judge: openve-long for openve. By default the benchmark's own.
    rubric
        Text to use in place of ours: a file, or a folder of TASK.txt and default.txt; {instruction} is filled in.
    cache
        Where replies are kept, so that none is paid for twice. By default OUT/answers.
    budget
        How many questions may be asked; then the run stops, and the same command goes on.
    retries
        How often a question is asked again when the server is busy or gone.
    timeout
        Seconds that one reply may take.
    workers
        Items that are judged at once. By default 4 for a server, else 1.
    agreement
        The results.json of another judge: compare the two.
    """

    judge_url: str | None = None
    judge_model: str | None = None
    judge_replies: Path | None = None
    passes: int = 1
    protocol: str | None = None
    rubric: Path | None = None
    cache: Path | None = None
    budget: int | None = None
    retries: int = 5
    timeout: float = 180.0
    workers: int | None = None
    agreement: Path | None = None

    def check(self, data: BenchmarkData) -> JudgingProtocol | None:
        """How the judge is asked; None where the benchmark needs none. UserError for what a person must mend."""
        if self.judge_replies is not None and (self.judge_url is not None or self.judge_model is not None):
            raise UserError("Recorded replies and a judge to ask were both given; choose one.")
        if self.passes < 1:
            raise UserError(f"There must be at least one pass, not {self.passes}.")
        if not data.benchmark.protocols:
            return None
        from opensama.evaluation.protocols import with_rubrics

        protocol = data.benchmark.protocol(self.protocol)
        if self.rubric is not None:
            protocol = with_rubrics(protocol, self.rubric)
            protocol.rubrics(data.items[0])  # a person's that do not fit
        return protocol

    def judge(self, protocol: JudgingProtocol | None, out: Path, device: str | None) -> Judge | None:
        """Who is asked, if anybody; a server has been checked."""
        from opensama.evaluation.judge import RecordedJudge, VlmJudge

        if protocol is not None and self.judge_replies is not None:
            return RecordedJudge(self.judge_replies, protocol, self.passes)
        if protocol is None or (self.judge_url is None and self.judge_model is None):
            return None
        from opensama.vlm import check_connection, open_vlm

        vlm = open_vlm(
            self.judge_url,
            self.judge_model,
            cache=self.cache or out / "answers",
            budget=self.budget,
            retries=self.retries,
            timeout=self.timeout,
            device=device,
        )
        if self.judge_url is not None:
            check_connection(vlm)
        return VlmJudge(vlm, protocol, self.passes)


@Parameter(name="*")
@dataclass(frozen=True)
class Given:
    """What is scored.

    Parameters
    ----------
    data
        The folder in which the benchmark lies.
    out
        Folder of the results: results.json, ledger.jsonl, edited/.
    model
        A model that edits: a name that `opensama models list` shows, or a pipeline folder; may be given again.
    edits
        A folder of edits that any system made, or NAME=FOLDER; may be given again.
    metrics
        Measured without a judge: all, none, or names with commas between.
    metric_file
        What the benchmark's own networks measured, a table: FILE, or NAME=FILE for one of several systems.
    tasks
        Only these, with commas between.
    number
        Only the first so many items of each task.
    seed
        Of the model's edits.
    device
        Where models run, such as cpu or cuda:1. By default the best there is.
    """

    data: Annotated[Path, Parameter(name=["--data", "-d"])]
    out: Annotated[Path, OUT]
    model: Annotated[list[str] | None, Parameter(name=["--model", "-m"], negative=())] = None
    edits: Annotated[list[str] | None, Parameter(negative=())] = None
    metrics: str = "all"
    metric_file: Annotated[list[str] | None, Parameter(negative=())] = None
    tasks: str | None = None
    number: Annotated[int | None, HOW_MANY] = None
    seed: int = 0
    device: str | None = None

    def folders(self) -> dict[str, Path]:
        """The folders of edits by the systems' names. UserError unless they are there, of one name each."""
        from opensama.evaluation.tabular import check_edits

        folders = dict(_named(said) for said in self.edits or [])
        if len(folders) != len(self.edits or []):
            raise UserError("Two folders of edits have one name: say NAME=FOLDER.")
        for folder in folders.values():
            check_edits(folder)
        return folders

    def systems(self, show: Display, benchmark: Benchmark) -> list[System]:
        from opensama.evaluation.benchmarks.benchmark import System

        folders = self.folders()
        files = dict(_named(said) for said in self.metric_file or [])
        only = next(iter(files.values())) if len(files) == 1 and "=" not in (self.metric_file or [""])[0] else None
        systems = [System(name, edits=folder, metric_file=files.get(name) or only) for name, folder in folders.items()]
        if not folders:
            systems = [System(name, edits=self.data) for name in benchmark.systems_in(self.data)]
        systems += [self._editing(model, show) for model in self.model or []]
        if not systems and only is not None:
            systems = [System(only.stem, metric_file=only)]
        if not systems:
            raise UserError("Say what to score: --model for one that edits, or --edits for a folder of edits.")
        return systems

    def _editing(self, model: str, show: Display) -> System:
        from opensama.models.registry import find

        entry = find(model)
        loading(model)
        from opensama import load
        from opensama.evaluation.benchmarks.benchmark import System
        from opensama.evaluation.world import through

        editor = load(model, device=self.device, notice=show.note)
        identity = _identity(model, *filter(None, (entry.folder, entry.shared)))
        return System(Path(model).name, edit=editor.edit, identity=identity, through=through(editor))

    def measured(self) -> tuple[str, ...]:
        if self.metrics == "none":
            return ()
        from opensama.evaluation.metrics import METRICS
        from opensama.evaluation.metrics.measuring import known

        return known(METRICS if self.metrics == "all" else [name.strip() for name in self.metrics.split(",")])


def vie_bench(*, given: Given, judging: Judging | None = None) -> int:
    """Score a model, or anybody's edits, on VIE-Bench."""
    return run("vie", given, judging)[1]


def openve_bench(*, given: Given, judging: Judging | None = None) -> int:
    """Score a model, or anybody's edits, on OpenVE-Bench."""
    return run("openve", given, judging)[1]


def reco_bench(*, given: Given, judging: Judging | None = None) -> int:
    """Score a model, or anybody's edits, on ReCo-Bench."""
    return run("reco", given, judging)[1]


def ive_bench(*, given: Given, judging: Judging | None = None) -> int:
    """Score a model, or anybody's edits, on IVEBench."""
    return run("ive", given, judging)[1]


def editverse_bench(*, given: Given, judging: Judging | None = None) -> int:
    """Score a model, or anybody's edits, on EditVerseBench."""
    return run("editverse", given, judging)[1]


def clips_bench(*, given: Given, judging: Judging | None = None) -> int:
    """Score a model, or anybody's edits, on clips of your own.

    The folder holds NAME--source.mp4 and, for each system that edited it, NAME--SYSTEM.mp4; what was asked stands in a
    table (.json, .jsonl, .csv) of id, instruction and task beside them. A judge is asked in the style of VIE-Bench.
    """
    return run("clips", given, judging)[1]


def run(benchmark: str, given: Given, judging: Judging | None = None) -> tuple[Benchmarked, int]:
    """Scores what is given, prints and writes it; the results and the exit code."""
    judging = judging or Judging()
    from opensama.evaluation.agreement import agreement, agreement_table
    from opensama.evaluation.benchmarks.registry import read_benchmark
    from opensama.evaluation.results import read_results
    from opensama.evaluation.run import evaluate_benchmark
    from opensama.models.registry import find
    from opensama.pipeline.room import check_model

    other = read_results(judging.agreement) if judging.agreement is not None else None
    metrics = given.measured()
    tasks = [task.strip() for task in given.tasks.split(",")] if given.tasks else []
    workers = judging.workers if judging.workers is not None else 4 if judging.judge_url is not None else 1
    for model in given.model or ():
        check_model(find(model), given.device)
    check_writable_folder(given.out)
    given.folders()  # all of this before a judge is greeted or a model loaded
    data = read_benchmark(benchmark, given.data, tasks=tasks, limit=given.number)
    protocol = judging.check(data)
    with Display() as show:
        systems = given.systems(show, data.benchmark)
        judge = judging.judge(protocol, given.out, given.device)
        report = evaluate_benchmark(
            data, systems, given.out, judge=judge, metrics=metrics, seed=given.seed, workers=workers, progress=show
        )
    print(report.table())
    if other is not None:
        import json

        found = agreement(report.results, other)
        (given.out / "agreement.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
        print(f"\n{agreement_table(found)}\n\nwritten: {given.out / 'agreement.json'}, every edit's scores by both")
    print(f"\nwritten: {given.out / 'results.json'}")
    from opensama.apps.cli import ended

    return report, ended(report.stopped, report.left)


def _identity(model: str, *folders: Path) -> str:
    """Of a model that edits: its name, and what its folders hold."""
    files = [file for folder in folders for file in sorted(folder.rglob("*.safetensors"))]
    return f"{model}:{[(file.stat().st_size, file.stat().st_mtime_ns) for file in files]}"


def _named(said: str) -> tuple[str, Path]:
    """`NAME=PLACE`, or a place that gives its own name."""
    name, equals, place = said.partition("=")
    if equals and name and "/" not in name:
        return name, Path(place)
    return Path(said).absolute().name, Path(said)
