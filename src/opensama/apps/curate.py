"""`opensama curate`: raw videos to clips, clips to pairs, pairs to good pairs; here or on a cluster."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from opensama.apps.cli import ended
from opensama.apps.options import HOW_MANY, OUT
from opensama.apps.progress import Display, duration
from opensama.curation.settings import ClipRules, FilterSettings, PairOptions
from opensama.values import UserError, how_many

if TYPE_CHECKING:
    from opensama.vlm import Vlm

FLAT = Parameter(name="*")  # the fields of a class are options of their own
Runner = Literal["local", "ray"]

app = App(name="curate", help="Make training data: cut raw videos, make pairs of clips, keep the good pairs.")


@Parameter(name="*")
@dataclass(frozen=True)
class VlmOptions:
    """Whom to ask about pictures, and how much.

    Parameters
    ----------
    vlm_url
        An OpenAI-compatible server, such as http://localhost:8000/v1; its key is in OPENAI_API_KEY.
    vlm_model
        The server's name of the model; without --vlm-url a transformers folder or hub id, run here.
    cache
        Where answers are kept, so that no question is paid for twice. By default OUT/answers.
    budget
        How many questions may be asked; then the run stops, and the same command goes on.
    retries
        How often a question is asked again when the server is busy or gone.
    timeout
        Seconds that one answer may take.
    device
        Where models of one's own run, such as cuda:1 or cpu. By default the best there is.
    """

    vlm_url: str | None = None
    vlm_model: str | None = None
    cache: Path | None = None
    budget: int | None = None
    retries: int = 5
    timeout: float = 120.0
    device: str | None = None

    @property
    def given(self) -> bool:
        return self.vlm_url is not None or self.vlm_model is not None

    def required(self) -> VlmOptions:
        """Itself. UserError where it names nobody to ask."""
        if not self.given:
            raise UserError("Say whom to ask: --vlm-url for a server, or --vlm-model for a model that runs here.")
        return self

    @property
    def gpus(self) -> float:
        """Of a worker: a server's are elsewhere."""
        return 0 if self.vlm_url is not None or self.device == "cpu" or not self.given else 1

    def vlm(self, out: Path, url: str | None = None, model: str | None = None) -> Callable[[], Vlm]:
        """What makes the model, in this process or another; another url and model with all else the same."""
        from opensama.vlm import open_vlm

        return partial(
            open_vlm,
            url or self.vlm_url,
            model or self.vlm_model,
            key=os.environ.get("OPENAI_API_KEY"),
            cache=(self.cache or out / "answers").absolute(),
            budget=self.budget,
            budget_id=secrets.token_hex(8),  # which workers of one call share
            retries=self.retries,
            timeout=self.timeout,
            device=self.device,
        )


@Parameter(name="*")
@dataclass(frozen=True)
class RunnerOptions:
    """Where stages run.

    Parameters
    ----------
    runner
        local: in this process; ray: on Ray Data, on this machine or the cluster that RAY_ADDRESS names.
    workers
        Videos or pairs at once here; CPUs of this machine for ray. By default as many as it has cores.
    """

    runner: Runner = "local"
    workers: int | None = None

    @property
    def count(self) -> int | None:
        """How many workers: threads of this process, or what Ray is to take."""
        if self.workers is not None and self.workers < 1:
            raise UserError(f"There must be at least one worker, not {self.workers}.")
        return self.workers or (os.cpu_count() if self.runner == "local" else None)


@app.command(name="clips")
def clips_command(
    folder: Path,
    /,
    *,
    out: Annotated[Path, OUT],
    rules: Annotated[ClipRules | None, FLAT] = None,
    vlm_options: VlmOptions | None = None,
    runner_options: RunnerOptions | None = None,
) -> int:
    """Cut a folder of raw videos into clips, and pair clips of one scene: ICVE's pre-training data.

    Without a VLM the manifest has clips, for `opensama curate pairs` or for captions of your own. With one (--vlm-url
    or --vlm-model) it has pairs: two random clips of a scene, and what the VLM says leads from the one to the other.
    Videos are not encoded again; the manifest says from when to when. A video that cannot be read is listed in
    OUT/failed.jsonl. Killed, the same command goes on.

    Parameters
    ----------
    folder
        Searched through for video files.
    out
        Folder of the results: manifest.parquet, failed.jsonl, report.json.
    """
    vlm_options, runner_options = vlm_options or VlmOptions(), runner_options or RunnerOptions()
    from opensama.curation.clips import curate_clips

    with Display() as show:
        report = curate_clips(
            folder,
            out,
            rules,
            vlm=vlm_options.vlm(out) if vlm_options.given else None,
            gpus=vlm_options.gpus,
            runner=runner_options.runner,
            workers=runner_options.count,
            progress=show,
        )
    print(report.table())
    made = how_many(report.records, "pair" if vlm_options.given else "clip")
    print(f"\nwritten: {out / 'manifest.parquet'}, {made} in {duration(report.seconds)}")
    if not report.records:
        print("Nothing came out: the table says what was dropped and why; --help lists the limits, such as --frames.")
    if report.failed:
        print(f"failed: {report.failed:,}, with their reasons in {out / 'failed.jsonl'}")
    return ended(report.stopped, report.left)


@app.command(name="filter")
def filter_command(
    manifest: Path,
    /,
    *,
    out: Annotated[Path, OUT],
    image_thresholds: str | None = None,
    video_thresholds: str | None = None,
    number: Annotated[int | None, HOW_MANY] = None,
    settings: Annotated[FilterSettings | None, Parameter(name="*", negative=())] = None,
    vlm_options: VlmOptions | None = None,
    runner_options: RunnerOptions | None = None,
) -> int:
    """Keep the pairs that a VLM finds good, by SAMA's three questions: `opensama curate filter M.parquet --out OUT`.

    Parameters
    ----------
    manifest
        Pairs: .parquet, .jsonl or .csv.
    out
        Folder of the results: manifest.parquet (kept), refused.parquet, failed.jsonl, report.html, report.json.
    image_thresholds
        Least scores of images for instruction, quality, preservation. By default 9,9,9.
    video_thresholds
        Least scores of videos for instruction, quality, preservation, motion. By default 8,9,8,8.
    number
        Only the first so many rows.
    """
    vlm_options, runner_options = (vlm_options or VlmOptions()).required(), runner_options or RunnerOptions()
    from opensama.curation.filters import filter_manifest
    from opensama.curation.scoring import thresholds_of

    with Display() as show:
        report = filter_manifest(
            manifest,
            out,
            vlm_options.vlm(out),
            settings,
            number,
            thresholds=thresholds_of(image_thresholds, video_thresholds),
            runner=runner_options.runner,
            workers=runner_options.workers,
            gpus=vlm_options.gpus,
            progress=show,
        )
    print(report.table())
    print(f"written: {out / 'manifest.parquet'}, look at {out / 'report.html'}")
    return ended(report.stopped, report.left)


@app.command(name="pairs")
def pairs_command(
    clips: Path,
    /,
    *,
    out: Annotated[Path, OUT],
    segmenter: str = "",
    inpainter: Annotated[list[str] | None, Parameter(name=("--editor", "--inpainter"), negative=())] = None,
    steps: int = 30,
    offload: str = "auto",
    judge_url: str | None = None,
    judge_model: str | None = None,
    public: Annotated[Path | None, Parameter(name="--with")] = None,
    kinds: str = "remove,replace,recolor,background",
    video_thresholds: str | None = None,
    options: Annotated[PairOptions | None, FLAT] = None,
    vlm_options: VlmOptions | None = None,
    runner_options: RunnerOptions | None = None,
) -> int:
    """Make pairs of clips: find things, mask them, paint over them, say what changed. ICVE's fine-tuning data.

    A rehearsal without weights, on clips that the drawn world made: --vlm-url, --segmenter and --editor are `world`.

    Parameters
    ----------
    clips
        A folder of video clips, or a manifest of clips, such as `opensama curate clips` writes.
    out
        Folder of the results: manifest.parquet, edited/, masks/, report.json.
    segmenter
        DETECTOR,TRACKER: folders or hub ids of Grounding DINO and SAM 2, or: world. By default the published ones.
    inpainter
        Who makes the edits: a model such as sama-14b or bernini-1.3b, the folder of one's pipeline, a folder or hub id
        of VACE, or: world. By default the published VACE of 1.3B. Given several times, each makes a candidate, and the
        one with the best scores is kept.
    steps
        Of VACE.
    offload
        Where the weights of models lie while others compute, as in `opensama edit`; VACE's stay on the device.
    judge_url
        Another server that scores the pairs. By default the one of --vlm-url.
    judge_model
        Another model that scores the pairs. By default the one of --vlm-model.
    public
        A manifest of pairs from elsewhere, which are filtered and balanced along.
    kinds
        Which edits to make, with commas between.
    video_thresholds
        Least scores for instruction, quality, preservation, motion. By default 8,9,8,8.
    """
    vlm_options, runner_options = (vlm_options or VlmOptions()).required(), runner_options or RunnerOptions()
    from opensama.curation import pairs
    from opensama.curation.inpainting import open_inpainter
    from opensama.curation.scoring import thresholds_of
    from opensama.curation.segmentation import open_segmenter

    settings = pairs.PairSettings(
        **vars(options or PairOptions()),
        kinds=tuple(kind.strip() for kind in kinds.split(",")),
        thresholds=thresholds_of(video=video_thresholds)["video"],
    )
    vlm: Callable[[], Vlm] = vlm_options.vlm(out)
    if vlm_options.vlm_url == "world":
        from opensama.curation.oracles import WorldVlm

        vlm = partial(WorldVlm, clips, settings.frames)
    with Display() as show:
        report = pairs.make_pairs(
            clips,
            out,
            vlm,
            open_segmenter(segmenter, vlm_options.device),
            [open_inpainter(name, vlm_options.device, steps=steps, offload=offload) for name in inpainter or [""]],
            judge=vlm_options.vlm(out, judge_url, judge_model) if judge_url or judge_model else None,
            public=public,
            settings=settings,
            on_cpu=vlm_options.device == "cpu",
            runner=runner_options.runner,
            workers=runner_options.workers,
            progress=show,
        )
    print(report.table())
    print(f"\nwritten: {out / 'manifest.parquet'}")
    return ended(report.stopped, report.graph.left)
