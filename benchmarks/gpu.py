"""What a GPU makes of the large model, of training and of a preview, in at most eight minutes.

    python benchmarks/gpu.py --out gpu.json             on the best device there is; again: goes on with what is missing
    python benchmarks/gpu.py --out cpu.json --rehearse  every piece at the smallest size, on the CPU

Each piece is a process of its own with a budget of seconds, and its row is written when it ends, so that a run that was
cut short loses one piece, and one that fails stops no other. Weights are random: seconds and memory do not depend on
them. The peer of a pass is a bfloat16 matrix product on the same device (`ceiling`): the share of it is printed. A step
of an edit is two passes with guidance; each piece runs two, and counts the second. Beside the peak of a pass stands the
one that is predicted when `offload` is chosen (`pipeline/memory_plans.py`).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler
from torch import nn

from opensama import runtime
from opensama.apps.bench import fill_randomly
from opensama.media.video_io import write_video
from opensama.models.costs import TransformerConfig
from opensama.models.families import find_family
from opensama.models.families.sama import SamaSizes
from opensama.models.parallel import blocks
from opensama.models.sama import SamaTransformer3DModel
from opensama.pipeline.guidance import Guidance
from opensama.pipeline.memory import place_on_device, tensors_of
from opensama.pipeline.memory_plans import MemoryPlan
from opensama.pipeline.peaks import EditMemory, peak_of_step
from opensama.pipeline.sama import SamaPipeline
from opensama.recipes.sama import RECIPES
from opensama.recipes.tiny import SMOKE
from opensama.runtime import whole_file
from opensama.training.dataset import open_data
from opensama.training.edit_stage import EditStage
from opensama.training.embedded_config import StageConfig
from opensama.training.frozen import make_vae
from opensama.training.loading import initial_transformer
from opensama.training.loop import LoopConfig, Trainer
from opensama.training.parallel import make_room, parallelise
from opensama.training.preview import Preview
from opensama.training.stage import Batch, ReadySource
from opensama.training.tiny import train_tiny
from opensama.values import Video
from opensama.world import sample_edit

Row = dict[str, float | str]
SMALL: dict[str, Any] = {
    "num_attention_heads": 2, "attention_head_dim": 24, "text_dim": 16, "freq_dim": 32, "ffn_dim": 64, "num_layers": 2,
    "semantic_dim": 12, "semantic_hidden": 20,
}  # fmt: skip


def ceiling(device: torch.device, small: bool) -> Row:
    """Operations a second of a large matrix product."""
    n, times = (256, 2) if small else (8192, 30)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    seconds = timed(device, lambda: [a @ b for _ in range(times)], warm=1)
    return {"tflops": 2 * n**3 * times / seconds / 1e12}


def forward_pass(device: torch.device, small: bool, *, frames: int, offload: str = "none", float8: bool = False) -> Row:
    """One pass of the 14B transformer over source and target of 480x832, and the sampler."""
    sizes, dtype = (SMALL, torch.float32) if device.type == "cpu" else ({}, torch.bfloat16)
    model = random_weights(sizes, dtype, device)
    vae = AutoencoderKLWan(base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    pipe = SamaPipeline(None, None, vae, model, FlowMatchEulerDiscreteScheduler())
    pipe.set_progress_bar_config(disable=True)
    if offload != "none":
        nn.Module.to(model, "cpu")
    place_on_device(pipe, device, offload, float8=float8)
    t, h, w = (2, 4, 6) if small else ((frames - 1) // 4 + 1, 60, 104)
    config, text = model.config, torch.randn(1, 512, model.config["text_dim"])
    noise, source = torch.randn(2, 1, 16, t, h, w).unbind()
    semantic = torch.randn(1, 65, config["semantic_dim"])
    row: Row = {"predicted GB": predicted(model, (t, h, w), dtype, offload, float8) / 1e9}
    forget_peak(device)
    ends: list[float] = []

    def on_step(*_: Any) -> None:
        synchronize(device)
        ends.append(time.perf_counter())

    words = {"encoder_hidden_states": text}
    pipe.denoise(noise, semantic, source, words, None, steps=2, shift=5.0, guidance=Guidance(1.0), on_step=on_step)
    tokens = 2 * t * h * w // 4 + 65
    flops = sum(SamaSizes.of(config).operations(tokens, 512, 65, (tokens - 65) // 2))
    return row | {"seconds": ends[1] - ends[0], "tflops": flops / (ends[1] - ends[0]) / 1e12}


def predicted(
    model: SamaTransformer3DModel, grid: tuple[int, int, int], dtype: torch.dtype, offload: str, float8: bool
) -> int:
    """Bytes of the hungriest moment of a pass, by what chooses among the plans of `offload`."""
    inside = [sum(tensor.nbytes for tensor in tensors_of(block)) for block in blocks(model)]
    whole = sum(tensor.nbytes for tensor in tensors_of(model))
    config = cast(TransformerConfig, {name: x for name, x in dict(model.config).items() if not name.startswith("_")})
    need = EditMemory(
        transformer=whole, transformers=1, text_encoders=0, autoencoder=0, block=max(inside), ends=whole - sum(inside),
        text_layer=0, coding=0, coding_tiled=0,
        denoising=peak_of_step(find_family("sama"), config, grid, 512, dtype, "float8" if float8 else ""),
    )  # fmt: skip
    return MemoryPlan(offload).peak(need)


class _Random(ReadySource):
    """One sample of random latents, again and again."""

    def __init__(self, config: Any, grid: tuple[int, int, int]):
        super().__init__()
        latents, semantic = (1, 16, *grid), (1, 65, config["semantic_dim"])
        shapes = {"target": latents, "source": latents, "noise": latents, "text": (1, 512, config["text_dim"])}
        shapes |= {"semantic": semantic, "semantic_noise": semantic}
        self.made = {name: torch.randn(shape) for name, shape in shapes.items()} | {"sigma": torch.full((1,), 0.5)}

    def read(self, index: int) -> Batch:
        return dict(self.made)


def training_step(device: torch.device, small: bool) -> Row:
    """One step of `opensama train edit --recipe sama-1.3b-stage1` on one process, so without FSDP, at 49 frames."""
    config = RECIPES["sama-1.3b-stage1"]
    sizes = SMALL if device.type == "cpu" else dict(find_family("sama").bases[config.model.base].sizes)
    model = random_weights(sizes, torch.float32, device).requires_grad_(True).train()
    grid = (2, 4, 6) if small else (13, 60, 104)
    with tempfile.TemporaryDirectory() as folder:
        parallelise(model, config.mesh)
        nn.Module.to(model, device)
        stage = EditStage("step", model, _Random(model.config, grid), config.loss, compute=config.compute)
        trainer = Trainer(stage, LoopConfig(steps=3), Path(folder))
        trainer.step()
        forget_peak(device)
        values: dict[str, float] = {}
        seconds = timed(device, lambda: values.update(trainer.step()))
        stage.close()
    return {"seconds": seconds, "tflops": values["flops"] / seconds / 1e12}


def training(device: torch.device, small: bool) -> Row:
    """Ten steps of each stage of `opensama train tiny` from nothing, its pools and its model's folder included."""
    stage = StageConfig(minutes=5, max_steps=1 if small else 10)
    stages: dict[str, Any] = dict.fromkeys(("autoencoder", "semantic", "images", "videos"), stage)
    few = {"image_edits": 8, "video_edits": 4, "pretext_clips": 4, "image_batch": 2, "video_batch": 1} if small else {}
    with tempfile.TemporaryDirectory() as folder:
        config = SMOKE.model_copy(update=stages | few)
        began = time.perf_counter()
        train_tiny(config, Path(folder), device=device)
        whole = time.perf_counter() - began
        row: Row = {"seconds": whole}
        for name in stages:
            state = json.loads((Path(folder) / name / "state.json").read_text())
            row[f"{name} seconds a step"] = state["seconds"] / state["step"]
    return row


def preview(device: torch.device, small: bool) -> Row:
    """Previews of a training run: two clips of the drawn world, edited by the embedded model."""
    with tempfile.TemporaryDirectory() as name:
        folder, rows = Path(name), []
        for i in range(1 if small else 2):
            made = sample_edit(i, "test", "recolor", frames=17, size=(128, 128))
            for side, frames in (("source", made.source), ("target", made.target)):
                write_video(Video.from_frames(frames, 16), folder / f"{side}-{i}.mp4", on_note=lambda _: None)
            files = {"source": f"source-{i}.mp4", "target": f"target-{i}.mp4", "instruction": made.instruction}
            rows.append(json.dumps(files) + "\n")
        (folder / "data.jsonl").write_text("".join(rows))
        config = RECIPES["tiny-stage1"].model_copy(deep=True)
        config.data.manifest = folder / "data.jsonl"
        data, _ = open_data(config, device)
        initial = initial_transformer(config)
        make_room(initial.model, device)
        initial.fill(initial.model)
        model = initial.model
        vae = make_vae(config.family, config.model.base, device)
        show = Preview(model, vae, data, shift=config.loss.shift, condition_kwargs={}, count=len(rows), steps=2)
        seconds = timed(device, lambda: show(folder / "preview"))
        assert len(list((folder / "preview").glob("*.mp4"))) == len(rows)
    return {"seconds": seconds / len(rows)}


Piece = Callable[[torch.device, bool], Row]
PIECES: dict[str, tuple[Piece, int]] = {  # what, and seconds that it may take
    "ceiling": (ceiling, 25),
    "14B pass, 49 frames": (partial(forward_pass, frames=49), 40),
    "14B pass, 81 frames": (partial(forward_pass, frames=81), 60),
    "14B pass, 81 frames, FP8": (partial(forward_pass, frames=81, float8=True), 60),
    "14B pass, 81 frames, group offload": (partial(forward_pass, frames=81, offload="group"), 75),
    "14B pass, 81 frames, group offload, FP8": (partial(forward_pass, frames=81, offload="group", float8=True), 70),
    "1.3B training step, 49 frames": (training_step, 55),
    "ten steps of train tiny": (training, 65),
    "preview": (preview, 30),
}


def random_weights(sizes: dict[str, Any], dtype: torch.dtype, device: torch.device) -> SamaTransformer3DModel:
    with torch.device("meta"):
        model = SamaTransformer3DModel(**sizes)
    fill_randomly(model, dtype, device)
    return model


def timed(device: torch.device, run: Callable[[], Any], warm: int = 0) -> float:
    for _ in range(warm):
        run()
    synchronize(device)
    began = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - began


def forget_peak(device: torch.device) -> None:
    """What is allocated from here on tells the peak, and what is there."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(name: str, small: bool) -> Row:
    """One piece in this process: its row, with the peak of memory."""
    device = torch.device("cpu") if small else runtime.pick_device()
    row = PIECES[name][0](device, small)
    if device.type == "cuda":
        row["peak GB"] = torch.cuda.max_memory_allocated(device) / 1e9
    else:
        row["peak GB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return row | {"device": where, "torch": torch.__version__}


def run_all(out: Path, small: bool) -> dict[str, Row]:
    """All rows, but those that `out` has; a piece that failed or took too long says so, and is made next time."""
    rows: dict[str, Row] = json.loads(out.read_text()) if out.exists() else {}
    for name, (_, budget) in PIECES.items():
        if name not in rows or "error" in rows[name]:
            command = [sys.executable, __file__, "--out", str(out), "--piece", name, *(["--rehearse"] if small else [])]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=None if small else budget)
                failed = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
                rows[name] = json.loads(done.stdout.splitlines()[-1]) if not done.returncode else {"error": failed}
            except subprocess.TimeoutExpired:
                rows[name] = {"error": f"took more than {budget} s"}
            with whole_file(out) as temporary:
                temporary.write_text(json.dumps(rows, indent=1) + "\n")
        print(f"{name:<42}{line(rows[name], rows.get('ceiling', {}))}", flush=True)
    return rows


def line(row: Row, top: Row) -> str:
    parts = [f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()]
    if "seconds" in row and "tflops" in row and "tflops" in top:
        parts.append(f"share of the ceiling {float(row['tflops']) / float(top['tflops']):.0%}")
    return "   ".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--piece", choices=PIECES, help="one piece, in this process; its row is printed as JSON")
    options = parser.parse_args()
    if options.piece:
        print(json.dumps(measure(options.piece, options.rehearse)))
        return 0
    return int(any("error" in row for row in run_all(options.out, options.rehearse).values()))


if __name__ == "__main__":
    raise SystemExit(main())
