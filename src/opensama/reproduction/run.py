"""The runs: prior, stage 0 and stage 1 of every arm and seed, by the trainer that trains the 14B model, each scored.

    OUT/plan.json                     the budget, fixed before anything is trained; a folder goes on only with its own
    OUT/pools/*.safetensors           the data, drawn once for all
    OUT/prior-SEED/                   text-to-video weights that all arms of a seed begin from
    OUT/runs/ARM-SEED/result.json     scores, curves, seconds, memory; a run that has it is done
    OUT/shipped.json                  the embedded model's scores, see `shipped`

Runs are shared among processes of one thread each. Killed at any point, a second call goes on.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from opensama import load
from opensama.evaluation.world.report import through
from opensama.models.registry import find
from opensama.models.sama import SamaTransformer3DModel
from opensama.reproduction.arms import MODULES, PRIOR, Arm, Budget, runs
from opensama.reproduction.data import FIRST, POOLS, TEXT_TOKENS, Frozen, MicroData, Pool, clips, edits
from opensama.reproduction.score import Exam, sit
from opensama.reproduction.shipped import probe_shipped
from opensama.runtime import whole_file
from opensama.training.config import DataSettings, EditConfig, LossSettings, ModelSettings, SamaConfig, TinyConfig
from opensama.training.loop import LoopConfig, Trainer
from opensama.training.sources import Items
from opensama.training.stages import EditStage
from opensama.training.tiny import importance
from opensama.values import UserError

Say = Callable[[str], None]
VIDEOS_OF_IMAGES = 113 / 49  # tokens of a clip, in tokens of an image edit: both sides and one anchor


class Steps(Protocol):
    """What every budget says of a step."""

    @property
    def lr(self) -> float: ...
    @property
    def shift(self) -> float: ...


class _Recorded(Trainer):
    """A trainer that keeps the flow loss, the gradient's norm and the operations of every step."""

    def __init__(self, *args: Any, **more: Any):
        super().__init__(*args, **more)
        saved = self.out / "curve.json"
        self.curve: list[list[float]] = json.loads(saved.read_text()) if saved.exists() else []
        del self.curve[self.progress.step :]

    def step(self) -> dict[str, float]:
        values = super().step()
        self.curve.append([round(values["flow"], 5), round(values["norm"], 5), values["flops"]])
        return values

    def save(self) -> None:
        write_json(self.curve, self.out / "curve.json")
        super().save()


def reproduce(out: Path, budget: Budget, *, workers: int = 2, arms: list[tuple[Arm, int]] | None = None,
              say: Say = print) -> None:  # fmt: skip
    """Carries out all runs that have no result yet."""
    fix(out, budget)
    wanted = [(arm, seed) for arm, seed in arms or runs() if not result_file(out, arm.name, seed).exists()]
    if not wanted:
        return
    write_json({"machine": platform_name(), "workers": workers}, out / "machine.json")
    seeds = sorted({seed for _, seed in wanted})
    began = time.monotonic()
    with processes(workers) as pool:
        for _ in pool.map(partial(make_pool, out, budget), POOLS):
            pass
        for _ in pool.map(partial(train_prior, out, budget), seeds):
            pass
        say(f"data and priors are ready after {(time.monotonic() - began) / 60:.1f} minutes")
        jobs = {pool.submit(train_arm, out, budget, arm, seed): (arm, seed) for arm, seed in wanted}
        for done, job in enumerate(as_completed(jobs), 1):
            (arm, seed), result = jobs[job], job.result()
            left = (time.monotonic() - began) / done * (len(jobs) - done) / 60
            say(
                f"{done} of {len(jobs)}: {arm.name}, seed {seed}: {100 * result['stage1']['success']:.1f} % right, "
                f"{100 * result['stage0']['success']:.1f} % after stage 0; about {left:.0f} minutes left"
            )


def processes(n: int) -> ProcessPoolExecutor:
    """Of one thread each, from one that has imported everything and done nothing."""
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return ProcessPoolExecutor(n, context, initializer=torch.set_num_threads, initargs=(1,))


def fix(out: Path, budget: Any) -> None:
    """Writes the budget down, before anything is trained. UserError where the folder was begun with another."""
    out.mkdir(parents=True, exist_ok=True)
    plan = out / "plan.json"
    if plan.exists() and json.loads(plan.read_text()) != asdict(budget):
        raise UserError(f"{out} was begun with another budget (see {plan}): choose another --out folder.")
    write_json(asdict(budget), plan)


def platform_name() -> str:
    """The processor, in words."""
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines()] if info.exists() else []
    return f"{os.cpu_count()} cores" + (f" of {names[4]}" if len(names) > 4 else "")


def measure(out: Path, say: Say, steps: int = 12) -> None:
    """Seconds of a core and peak memory of a step, each arm and stage in a process of its own, into OUT/cost.json."""
    if (out / "cost.json").exists():
        return
    budget = Budget(**json.loads((out / "plan.json").read_text()))
    steps = min(steps, budget.stage1)
    few = replace(budget, image_edits=3 * budget.images, clips=10 * budget.videos, video_edits=3 * budget.stage1_videos)
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in POOLS:
            make_pool(Path(folder), few, name)
        for arm in MODULES:
            for stage in ("stage0", "stage1"):
                with processes(1) as pool:
                    cost = pool.submit(step_cost, Path(folder), few, arm, stage, steps).result()
                found.setdefault(arm.name, {})[stage] = cost
    write_json(found, out / "cost.json")
    say("measured what steps cost")


def step_cost(out: Path, budget: Budget, arm: Arm, stage: str, steps: int) -> dict[str, float]:
    """Of training steps on little data: tokens, seconds of computing, and by how many bytes the process grew."""
    first = stage == "stage0"
    pools = [pool_of(out, "images"), *(spoilt(out, budget, arm) if first else [pool_of(out, "videos")])]
    images, videos = (budget.images, budget.videos) if first else (budget.stage1_images, budget.stage1_videos)
    model = make_sama(arm, budget)
    frozen()
    begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # what is made once is made
    train_sama("first", model, pools, arm, 0, budget, images, videos, 2, out / arm.name / stage)
    began = time.process_time()
    train_sama("cost", model, pools, arm, 0, budget, images, videos, steps, out / arm.name / stage)
    seconds = (time.process_time() - began) / steps
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - begun) * 1024
    return {"tokens": tokens(arm, images, videos), "seconds": seconds, "memory": grown}


def probe(out: Path, say: Say) -> None:
    """Probes the embedded model, once."""
    file = out / "shipped.json"
    if not file.exists():
        editor = load("tiny", device="cpu")
        budget = Budget(**json.loads((out / "plan.json").read_text()))
        write_json(probe_shipped(editor.edit, through(editor), budget.probes, say), file)


# --- data


def make_pool(out: Path, budget: Budget, name: str) -> Path:
    file = out / "pools" / f"{name}.safetensors"
    if not file.exists():
        at = FIRST[name]
        if name == "images":
            pool = edits(frozen(), budget.image_edits, 1, at)
        elif name == "videos":
            pool = edits(frozen(), budget.video_edits, 9, at)
        else:
            pool = clips(frozen(), budget.clips, None if name == "prior" else name, at)
        write_tensors(pool, file)
    return file


@cache
def frozen() -> Frozen:
    folder = find("tiny").folder
    assert folder is not None
    return Frozen(folder)


@cache
def pool_of(out: Path, name: str) -> Pool:
    return load_file(out / "pools" / f"{name}.safetensors")


@cache
def exam(items: int, fast: bool) -> Exam:
    return Exam.make(frozen(), items, fast=fast)


# --- training


def make_sama(arm: Arm, budget: Budget) -> SamaTransformer3DModel:
    """An arm's transformer: of the embedded model's kind, in small."""
    sizes = TinyConfig(width=budget.width, head=32, layers=budget.layers).transformer_sizes | {
        "type_embedding": arm.type_embedding,
        "source_rotary": arm.source_rotary,
        "semantic_rotary": arm.semantic_rotary,
        "semantic_dim": 96 if arm.anchors else None,
        "num_anchors": max(arm.anchors, 1),
    }
    return SamaTransformer3DModel(**sizes)


def train(
    stage: str, model: Any, data: MicroData, config: EditConfig, budget: Steps, steps: int, folder: Path
) -> dict[str, Any]:  # fmt: skip
    """One stage; the model then holds the averaged weights. Its curve, cost and operations come out."""
    passes = EditStage.of(stage, model, Items(data, config), importance=importance(frozen().vae).sqrt())
    loop = LoopConfig(
        steps=steps, lr=budget.lr, muon=2 * budget.lr, decay=0.4, ema=0.995, accumulate=passes.passes,
        log_every=60, save_every=60,
    )  # fmt: skip
    model.train()
    trainer = _Recorded(passes, loop, folder, quiet)
    progress = trainer.run()
    curve = [step[:2] for step in trainer.curve]
    return {"curve": curve, "seconds": progress.seconds, "flops": sum(step[2] for step in trainer.curve)}


def loss_settings(budget: Steps) -> dict[str, float]:
    return {"shift": budget.shift, "emphasis": 9.0, "ease": 0.3}


def train_sama(
    stage: str, model: SamaTransformer3DModel, pools: Sequence[Pool], arm: Arm, seed: int, budget: Budget,
    images: int, videos: int, steps: int, folder: Path
) -> dict[str, Any]:  # fmt: skip
    """One stage of an arm."""
    config = SamaConfig(
        seed=seed,
        model=ModelSettings(base="micro", semantic_rotary=arm.semantic_rotary),
        data=DataSettings(
            images=images,
            videos=videos,
            image_batch=max(images, 1),
            video_batch=max(videos, 1),
            text_tokens=TEXT_TOKENS,
        ),
        loss=LossSettings(**loss_settings(budget)),
    )
    data = MicroData(pools, arm.anchors, frozen().words([""])[0])
    return train(stage, model, data, config, budget, steps, folder)


def tokens(arm: Arm, images: int, videos: int) -> int:
    """Tokens of a step, a clip's source at full length."""
    return images * (2 * 16 + 17 * min(arm.anchors, 1)) + videos * (2 * 48 + 17 * arm.anchors)


def train_prior(out: Path, budget: Budget, seed: int) -> Path:
    """Text-to-video on plain clips: what a seed's arms begin from."""
    folder = out / f"prior-{seed}"
    file = folder / "prior.safetensors"
    if not file.exists():
        torch.manual_seed(seed)
        model = make_sama(PRIOR, budget)
        pools = [pool_of(out, "prior")]
        train_sama("prior", model, pools, PRIOR, seed, budget, 0, budget.prior_videos, budget.prior, folder)
        write_tensors(model.state_dict(), file)
    return file


def write_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as part:
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, part)


def result_file(out: Path, name: str, seed: int) -> Path:
    """Of the arm of that name."""
    return out / "runs" / f"{re.sub('[^a-zA-Z0-9+]+', '-', name)}-{seed}" / "result.json"


def train_arm(out: Path, budget: Budget, arm: Arm, seed: int) -> dict[str, Any]:
    """Stage 0 and stage 1 of one run, scored after each."""
    file = result_file(out, arm.name, seed)
    folder = file.parent
    if file.exists():
        return json.loads(file.read_text())
    began = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    model = make_sama(arm, budget)
    begin(model, load_file(out / f"prior-{seed}" / "prior.safetensors"))
    result: dict[str, Any] = {"arm": arm.name, "seed": seed}
    images, videos = stage0_batches(arm, budget)
    edited = pool_of(out, "images")
    for stage, pools, b_images, b_videos, steps in (
        ("stage0", [edited, *spoilt(out, budget, arm)], images, videos, budget.stage0),
        ("stage1", [edited, pool_of(out, "videos")], budget.stage1_images, budget.stage1_videos, budget.stage1),
    ):
        cost = train_sama(stage, model, pools, arm, seed, budget, b_images, b_videos, steps, folder)
        marks = sit(exam(budget.items, False), model, frozen(), seed)
        result[stage] = cost | marks
    result["fast"] = sit(exam(budget.items // 2, True), model, frozen(), seed)
    result["minutes"] = (time.monotonic() - began) / 60
    write_json(result, file)
    tidy(folder)
    return result


def tidy(folder: Path) -> None:
    """Takes the checkpoints of a run's stages away."""
    for step in folder.glob("**/step-*"):
        shutil.rmtree(step)


def spoilt(out: Path, budget: Budget, arm: Arm) -> list[Pool]:
    """As many clips for every arm, split by its shares of pretext tasks."""
    whole = sum(arm.pretext.values())
    counts = {name: round(budget.clips * share / whole) for name, share in arm.pretext.items()}
    return [{key: tensor[:n] for key, tensor in pool_of(out, name).items()} for name, n in counts.items()]


def begin(model: SamaTransformer3DModel, prior: Mapping[str, Tensor]) -> None:
    """The prior's weights; what it has not (type embedding, semantic modules) stays as it was made."""
    own = model.state_dict()
    unknown = sorted(set(prior) - set(own))
    assert not unknown, unknown
    model.load_state_dict({**own, **prior})


def stage0_batches(arm: Arm, budget: Budget) -> tuple[int, int]:
    """Images and videos of a step of stage 0; other shares of images take about as many tokens."""
    if arm.images is None:
        return budget.images, budget.videos
    whole = budget.images + VIDEOS_OF_IMAGES * budget.videos
    return round(arm.images * whole), round((1 - arm.images) * whole / VIDEOS_OF_IMAGES)


def quiet(line: str) -> None:
    pass


def write_json(value: object, file: Path) -> None:
    with whole_file(file) as part:
        part.write_text(json.dumps(value))
