"""Editing pairs from raw clips by masked editing, in the order of ICVE's fine-tuning data.

    clips -> elements -> segmentation -> mask filter -> caption -> inpainting -> instructions, there and back
          -> (public pairs join) -> instruction filter -> quality filter -> the same for the reverse edit -> balance

    make_pairs(Path("clips"), Path("pairs"), partial(open_vlm, url), open_segmenter(), [open_inpainter()])

One clip gives several edits, and an edit two pairs: from the clip to what was painted, and back, where the real clip is
what a model learns to make. Several inpainters each make a candidate, and the filters keep the best one. What comes
out, in the folder `out`:

    manifest.parquet   the pairs, ready for `opensama train`
    report.json        per stage what came in and went out, reasons, and what balancing left
    edited/ masks/     the painted clips and the masks they were painted in
    making/            the graph's own state and files: killed at any point, a second call goes on
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from opensama.curation import pair_stages
from opensama.curation.balancing import balance
from opensama.curation.clips import video_files
from opensama.curation.elements import EDIT_KINDS
from opensama.curation.graph import GraphReport, run_graph
from opensama.curation.inpainting import Inpainter
from opensama.curation.masks import MaskRules
from opensama.curation.rubrics import THRESHOLDS
from opensama.curation.segmentation import Segmenter
from opensama.curation.settings import PairOptions
from opensama.curation.stage import GraphItem, GraphStage, StageState, make_state
from opensama.data.manifest import Record, iter_records, read_manifest_table, write_manifest
from opensama.media import VIDEO_SUFFIXES
from opensama.runtime import whole_file
from opensama.values import Progress, UserError
from opensama.vlm import Vlm, check_connection


@dataclass(frozen=True)
class PairSettings(PairOptions):
    """What decides the result, beside the models. The papers leave all of it open; these are our own defaults."""

    kinds: tuple[str, ...] = EDIT_KINDS
    rules: MaskRules = field(default_factory=MaskRules)
    margin: float = 0.02
    """By how much a mask is grown before it is painted, of the short side."""
    least: float = 6.0
    """Mean difference inside the mask (of 255) below which nothing was changed."""
    judged_frames: int = 8
    thresholds: dict[str, float] = field(default_factory=lambda: dict(THRESHOLDS["video"]))

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [kind for kind in self.kinds if kind not in EDIT_KINDS]
        if unknown or not self.kinds:
            wrong = ", ".join(unknown) or "left"
            raise UserError(f"There is no kind of edit {wrong}: choose from {', '.join(EDIT_KINDS)}.")


@dataclass(frozen=True)
class PairsReport:
    """What was made, and what balancing left of it."""

    graph: GraphReport
    made: dict[str, int]
    kept: dict[str, int]

    @property
    def stopped(self) -> str:
        return self.graph.stopped

    def table(self) -> str:
        """For people: stage by stage, then type by type."""
        lines = [self.graph.table(), "", f"{'type':<20}{'made':>7}{'kept':>7}"]
        lines += [f"{task or '-':<20}{self.made[task]:>7}{self.kept.get(task, 0):>7}" for task in sorted(self.made)]
        return "\n".join(lines)


def make_pairs(
    clips: Path,
    out: Path,
    vlm: Callable[[], Vlm],
    segmenter: Segmenter,
    inpainters: Sequence[Inpainter],
    *,
    judge: Callable[[], Vlm] | None = None,
    public: Path | None = None,
    settings: PairSettings | None = None,
    on_cpu: bool = False,
    runner: Literal["local", "ray"] = "local",
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> PairsReport:
    """Makes pairs of a folder of clips, or of a manifest's clips; see above for the files.

    `vlm` makes the model that names, captions and words, `judge` (the same, if not given) the one that scores; on Ray
    they are made once a worker. `public` is a manifest of pairs from elsewhere, filtered and balanced along with ours.
    `on_cpu`: on Ray, segmenter and inpainters ask for no GPU. UserError where nobody answers, or a model is not there.
    """
    if not inpainters or len({inpainter.name for inpainter in inpainters}) < len(inpainters):
        names = ", ".join(inpainter.name for inpainter in inpainters) or "none"
        raise UserError(f"Name at least one inpainter, and each once, not {names}.")
    settings = settings or PairSettings()
    place = out / "making"
    sources = [*clip_items(clips), *(public_pair_items(public) if public else ())]
    asked, judging = vlm(), (judge or vlm)()
    for model in {id(model): model for model in (asked, judging)}.values():
        check_connection(model)
    for folder in (place, out / "edited", out / "masks"):
        folder.mkdir(parents=True, exist_ok=True)
    here = str(out.resolve())
    alone = runner == "local"
    state = partial(StageState, here)
    ask = partial(state, asked) if alone else partial(make_state, here, vlm)
    score = partial(state, judging) if alone else partial(make_state, here, judge or vlm)

    def share(model: Segmenter | Inpainter) -> float:
        """Of a GPU, for one worker: whoever asks for any is given to one thread at a time; the world's needs none."""
        return 0.0 if model.name == "world" or (on_cpu and not alone) else 1.0

    size = pair_stages.ClipSize(settings.frames, settings.short_side)
    judge_settings = pair_stages.JudgeSettings(
        judging.name, settings.turns, settings.judged_frames, settings.thresholds
    )
    stages = [
        GraphStage("elements", partial(pair_stages.elements, model=asked.name, size=size), ask, cpus=0.25),
        GraphStage(
            "segmentation",
            partial(
                pair_stages.segmentation,
                model=_lasting(segmenter),
                kinds=settings.kinds,
                elements=settings.elements,
                size=size,
            ),
            partial(pair_stages.load_state, here, segmenter),
            gpus=share(segmenter),
        ),
        GraphStage(
            "mask filter",
            partial(
                pair_stages.mask_filter,
                rules=settings.rules,
                kinds=settings.kinds,
                each=settings.each,
                seed=settings.seed,
            ),
            partial(state, None),
        ),
        GraphStage("caption", partial(pair_stages.caption, model=asked.name, size=size), ask, cpus=0.25),
        *(
            GraphStage(
                "inpainting" if len(inpainters) == 1 else f"inpainting by {inpainter.name}",
                partial(
                    pair_stages.inpainting,
                    model=_lasting(inpainter),
                    margin=settings.margin,
                    least=settings.least,
                    seed=settings.seed,
                    size=size,
                    last=inpainter is inpainters[-1],
                ),
                partial(pair_stages.load_state, here, inpainter),
                gpus=share(inpainter),
            )
            for inpainter in inpainters
        ),
        GraphStage("instruction", partial(pair_stages.instruction, reverse=settings.reverse), ask, cpus=0.25),
        GraphStage("instruction filter", pair_stages.instruction_filter),
        GraphStage("quality filter", partial(pair_stages.quality_filter, judge=judge_settings), score, cpus=0.25),
        GraphStage("reverse filter", partial(pair_stages.reverse_filter, judge=judge_settings), score, cpus=0.25),
    ]
    graph = run_graph(stages, sources, place, runner=runner, workers=workers, progress=progress)
    return _balanced(out, graph, settings.balance)


def _lasting(model: Segmenter | Inpainter) -> str:
    """A model's name with what else decides its pictures: another one makes everything anew."""
    shown = {name: value for name, value in sorted(vars(model).items()) if not name.startswith("_")}
    return json.dumps({"name": model.name} | shown, default=str)


def _balanced(out: Path, graph: GraphReport, ratio: float) -> PairsReport:
    made = [record.with_paths(_one_up) for record in read_manifest_table(out / "making" / "manifest.parquet")]
    kept = [made[i] for i in balance(made, ratio)]
    write_manifest(out / "manifest.parquet", kept, {"made_by": "opensama curate pairs", "balance": ratio})
    report = PairsReport(graph, *(dict(Counter(record.task for record in records)) for records in (made, kept)))
    with whole_file(out / "report.json") as temporary:
        said = asdict(graph) | {"made": report.made, "kept": report.kept}
        temporary.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    return report


def _one_up(path: str) -> str:
    """A path from making/ seen from the folder above."""
    return path if os.path.isabs(path) else os.path.normpath(os.path.join("making", path))


def clip_items(path: Path) -> Iterator[GraphItem]:
    """The videos of a folder, with all its folders, by name; or each clip of a manifest once."""
    if path.is_dir():
        files = sorted(video_files(path, (*VIDEO_SUFFIXES, ".gif")))
        if not files:
            raise UserError(f"The folder {path} has no videos ({', '.join(VIDEO_SUFFIXES[:4])}...): choose another.")
        dataset = path.resolve().name
        for file in files:
            name = file.relative_to(path).with_suffix("").as_posix()
            names = {"id": f"{dataset}/{name}", "target": str(file.resolve()), "dataset": dataset}
            yield Record("-", "clip", "-").to_dict() | names  # some names no record takes; that is the stages' to say
        return
    if not path.exists():
        raise UserError(f"There is no folder or manifest {path}: check the name.")
    seen = set()
    for record in iter_records(path):
        record = record.where(path.parent.resolve())
        stretch = record.target, record.target_start, record.target_end
        if stretch not in seen and record.media == "video":
            seen.add(stretch)
            yield Record(
                record.id,
                "clip",
                record.target,
                target_start=record.target_start,
                target_end=record.target_end,
                dataset=record.dataset,
                license=record.license,
            ).to_dict()
    if not seen:
        raise UserError(f"The manifest {path} has no clips: choose one that has.")


def public_pair_items(path: Path) -> Iterator[GraphItem]:
    """The pairs of a manifest from elsewhere, as they join the graph."""
    count = 0
    for record in iter_records(path):
        if record.kind == "pair":
            count += 1
            yield record.where(path.parent.resolve()).to_dict() | {"_public": True}
    if not count:
        raise UserError(f"The manifest {path} has no pairs to go with ours: choose one that has.")
