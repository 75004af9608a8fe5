"""ICVE in small: does learning from two clips of one scene help, and must the source's time be zero?

    prior      text-to-video on plain clips, no source; one a seed, as HunyuanVideo is ICVE's beginning
    pretrain   unpaired clips: one scene at two times, with an instruction for the difference
    SFT        edits, of which there are few or many

    OUT/icve/plan.json                         the budget, fixed before anything is trained
    OUT/icve/pools/*.safetensors               the data, drawn once for all
    OUT/icve/prior-SEED/                       what all arms of a seed begin from
    OUT/icve/runs/ARM-SEED/result.json         scores, curve, seconds, operations
    OUT/icve/runs/ARM-SEED/model.safetensors   of an arm that others go on from

Trainer, exam and statistics are those of SAMA's runs. Killed at any point, a second call goes on.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file

from opensama.models.icve import IcveTransformer3DModel
from opensama.reproduction.arms import PRIOR, SEEDS, Budget
from opensama.reproduction.arms import SAMA as WHOLE
from opensama.reproduction.data import FIRST, POOLS, TEXT_TOKENS, UNPAIRED, MicroData, Pool, unpaired
from opensama.reproduction.run import (
    Say,
    begin,
    exam,
    fix,
    frozen,
    loss_settings,
    make_pool,
    make_sama,
    platform_name,
    pool_of,
    processes,
    result_file,
    spoilt,
    tidy,
    train,
    train_sama,
    write_json,
    write_tensors,
)
from opensama.reproduction.score import sit
from opensama.reproduction.statistics import foretell
from opensama.training.config import IcveConfig, IcveDataSettings, IcveLossSettings, IcveModelSettings, TinyConfig
from opensama.world.micro import MICRO_FAMILIES

FOLDER = "icve"


@dataclass(frozen=True)
class IcveBudget:
    """Steps of each stage and what a step takes; the data; the test; the model's size."""

    prior: int = 400
    pretrain: int = 700
    sft: int = 400
    videos: int = 12
    """Clips, or pairs of them, of a step."""
    clips: int = 2_000
    unpaired: int = 8_000
    few: int = 1_000
    many: int = 5_000
    items: int = 40
    """Test edits of each family."""
    width: int = 128
    joint_layers: int = 1
    layers: int = 3
    lr: float = 1e-3
    shift: float = 5.0


@dataclass(frozen=True)
class IcveArm:
    """One way to train: whether on unpaired clips first, on how many edits then, and the source's time."""

    name: str
    pretrain: bool = True
    pairs: Literal["few", "many"] | None = None
    source_time: Literal["zero", "same"] = "zero"
    longer: bool = False
    """Fine-tuned for as many steps as both stages have."""


PRETRAINED = IcveArm("pre-trained")
BOTH = {
    "few": IcveArm("pre-training, few edits", pairs="few"),
    "many": IcveArm("pre-training, many edits", pairs="many"),
}
ONLY = {
    "few": IcveArm("few edits", pretrain=False, pairs="few"),
    "many": IcveArm("many edits", pretrain=False, pairs="many"),
}
LONGER = {
    "few": IcveArm("few edits, all the steps", pretrain=False, pairs="few", longer=True),
    "many": IcveArm("many edits, all the steps", pretrain=False, pairs="many", longer=True),
}
SAME_PRETRAINED = IcveArm("pre-trained, source at t", source_time="same")
SAME = IcveArm("source at t", pairs="many", source_time="same")
EQUAL = "SAMA, equal compute"

ICVE_BUDGETS = {
    "full": IcveBudget(),
    "smoke": IcveBudget(
        prior=2, pretrain=2, sft=2, videos=2, clips=4, unpaired=6, few=3, many=6, items=2, width=64, layers=1
    ),
}  # fmt: skip


def icve_runs() -> list[tuple[IcveArm, int]]:
    """All runs but SAMA's, each after those that it goes on from."""
    three = [(arm, seed) for seed in SEEDS for arm in (PRETRAINED, *BOTH.values(), *ONLY.values())]
    return [*three, (SAME_PRETRAINED, SEEDS[0]), (SAME, SEEDS[0]), *((arm, SEEDS[0]) for arm in LONGER.values())]


def plan_of(budget: IcveBudget) -> str:
    """What the budget can tell, said before anything is trained."""
    return foretell(budget.items * len(MICRO_FAMILIES), len(SEEDS))


def reproduce_icve(out: Path, budget: IcveBudget, *, workers: int = 2, say: Say = print) -> None:
    """Carries out all runs that have no result yet, in OUT/icve."""
    out = out / FOLDER
    fix(out, budget)
    wanted = [(arm, seed) for arm, seed in icve_runs() if not result_file(out, arm.name, seed).exists()]
    if not wanted and result_file(out, EQUAL, SEEDS[0]).exists():
        return
    write_json({"machine": platform_name(), "workers": workers}, out / "machine.json")
    first = [(arm, seed) for arm, seed in wanted if arm.pairs is None]
    rest = [(arm, seed) for arm, seed in wanted if arm.pairs is not None]
    began, done = time.monotonic(), 0
    with processes(workers) as pool:
        for _ in pool.map(partial(draw_pool, out, budget), (*POOLS, UNPAIRED)):
            pass
        for _ in pool.map(partial(train_prior, out, budget), sorted({seed for _, seed in wanted})):
            pass
        say(f"data and priors are ready after {(time.monotonic() - began) / 60:.1f} minutes")
        for jobs in (first, rest):
            for (arm, seed), result in zip(jobs, pool.map(partial(train_arm, out, budget), jobs), strict=True):
                done += 1
                minutes = (time.monotonic() - began) / 60
                left = minutes / done * (len(wanted) + 1 - done)
                say(
                    f"{done} of {len(wanted) + 1}: {arm.name}, seed {seed}: {100 * result['success']:.1f} % right; "
                    f"about {left:.0f} minutes left"
                )
        result = pool.submit(train_equal_sama, out, budget).result()
        say(f"{EQUAL}: {100 * result['success']:.1f} % right")


def sama_budget(budget: IcveBudget) -> Budget:
    """Data and sizes for SAMA in the same place: a model of about as many parameters."""
    return Budget(
        image_edits=budget.unpaired, clips=budget.clips, video_edits=budget.many, width=budget.width,
        layers=budget.joint_layers + budget.layers + 1, lr=budget.lr, shift=budget.shift,
    )  # fmt: skip


def draw_pool(out: Path, budget: IcveBudget, name: str) -> None:
    if name != UNPAIRED:
        make_pool(out, sama_budget(budget), name)
        return
    file = out / "pools" / f"{name}.safetensors"
    if not file.exists():
        write_tensors(unpaired(frozen(), budget.unpaired, FIRST[name]), file)


def edits_of(out: Path, budget: IcveBudget, pairs: str) -> Pool:
    n = budget.few if pairs == "few" else budget.many
    return {key: tensor[:n] for key, tensor in pool_of(out, "videos").items()}


def make_icve(budget: IcveBudget, source_time: Literal["zero", "same"] = "zero") -> IcveTransformer3DModel:
    width, layers = budget.width, budget.layers
    sizes = TinyConfig(
        family="icve", width=width, head=64, layers=layers, joint_layers=budget.joint_layers
    ).transformer_sizes
    return IcveTransformer3DModel(**sizes, source_time=source_time)


def train_icve(
    stage: str, model: IcveTransformer3DModel, pool: Pool, seed: int, budget: IcveBudget, steps: int, folder: Path
) -> dict[str, Any]:
    """One stage of an arm."""
    config = IcveConfig(
        seed=seed,
        model=IcveModelSettings(base="micro", start="nothing", sizes={}),
        data=IcveDataSettings(videos=budget.videos, video_batch=budget.videos, text_tokens=TEXT_TOKENS),
        loss=IcveLossSettings(**loss_settings(budget)),
    )
    data = MicroData([pool], 0, frozen().words([""])[0], pooled=True)
    return train(stage, model, data, config, budget, steps, folder)


def train_prior(out: Path, budget: IcveBudget, seed: int) -> Path:
    """Text-to-video on plain clips: what a seed's arms begin from."""
    folder = out / f"prior-{seed}"
    file = folder / "prior.safetensors"
    if not file.exists():
        torch.manual_seed(seed)
        model = make_icve(budget)
        cost = train_icve("prior", model, pool_of(out, "prior"), seed, budget, budget.prior, folder)
        write_json({"flops": cost["flops"], "seconds": cost["seconds"]}, folder / "cost.json")
        write_tensors(model.state_dict(), file)
        tidy(folder)
    return file


def start_of(out: Path, arm: IcveArm, seed: int) -> Path:
    """The weights that an arm goes on from."""
    if arm.pairs and arm.pretrain:
        before = PRETRAINED if arm.source_time == "zero" else SAME_PRETRAINED
        return result_file(out, before.name, seed).parent / "model.safetensors"
    return out / f"prior-{seed}" / "prior.safetensors"


def train_arm(out: Path, budget: IcveBudget, job: tuple[IcveArm, int]) -> dict[str, Any]:
    """One run, scored. It goes on from its seed's pre-training, or from the prior."""
    arm, seed = job
    file = result_file(out, arm.name, seed)
    if file.exists():
        return json.loads(file.read_text())
    folder = file.parent
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    model = make_icve(budget, arm.source_time)
    model.load_state_dict(load_file(start_of(out, arm, seed)))
    if arm.pairs:
        pool, steps = edits_of(out, budget, arm.pairs), budget.sft + arm.longer * budget.pretrain
    else:
        pool, steps = pool_of(out, UNPAIRED), budget.pretrain
    result = {"arm": arm.name, "seed": seed, "steps": steps}
    result |= train_icve("train", model, pool, seed, budget, steps, folder)
    if not arm.pairs:
        write_tensors(model.state_dict(), folder / "model.safetensors")
    result |= sit(exam(budget.items, False), model, frozen(), seed)
    write_json(result, file)
    tidy(folder)
    return result


def train_equal_sama(out: Path, budget: IcveBudget) -> dict[str, Any]:
    """SAMA's prior, stage 0 (image edits and clips) and stage 1 (many edits), each with ICVE's operations."""
    seed = SEEDS[0]
    file = result_file(out, EQUAL, seed)
    if file.exists():
        return json.loads(file.read_text())
    folder = file.parent
    runs = [result_file(out, arm.name, seed) for arm in (PRETRAINED, BOTH["many"])]
    wanted = [json.loads(f.read_text())["flops"] for f in (out / f"prior-{seed}" / "cost.json", *runs)]
    sizes = sama_budget(budget)
    images, videos, n = pool_of(out, "images"), pool_of(out, "videos"), budget.videos
    plan = (
        ("prior", PRIOR, [pool_of(out, "prior")], 0, n),
        ("stage0", WHOLE, [images, *spoilt(out, sizes, WHOLE)], 2 * n, n // 2),
        ("stage1", WHOLE, [images, videos], 2 * n // 3, n),
    )
    steps: dict[str, int] = {}
    spent: dict[str, float] = {}
    torch.manual_seed(seed)
    model = make_sama(PRIOR, sizes)
    for (stage, arm, pools, n_images, n_videos), flops in zip(plan, wanted, strict=True):
        if stage == "stage0":
            prior, model = model.state_dict(), make_sama(WHOLE, sizes)
            begin(model, prior)
        given = (pools, arm, seed, sizes, n_images, n_videos)
        some = min(12, budget.sft)  # a step's operations vary with what its pretext tasks left of the sources
        one = train_sama(stage, make_sama(arm, sizes), *given, some, folder / "cost")["flops"] / some
        steps[stage] = max(1, round(flops / one))
        spent[stage] = train_sama(stage, model, *given, steps[stage], folder)["flops"]
    result = {"arm": EQUAL, "seed": seed, "steps": steps, "flops": spent} | sit(
        exam(budget.items, False), model, frozen(), seed
    )
    write_json(result, file)
    tidy(folder)
    return result
