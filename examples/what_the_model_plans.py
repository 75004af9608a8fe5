"""Looks at Semantic Anchoring: the denoised semantic tokens are compared with those of many drawn frames.

SAMA denoises tokens that describe the edited first frame while it denoises the video. Here they are read back
(`output_semantic=True`) and the drawn frames whose own tokens are nearest are named: what the model was planning.

    python examples/what_the_model_plans.py [--model MODEL_FOLDER] [--frames 300]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import SiglipVisionModel

from opensama import load
from opensama.models.registry import ASSETS
from opensama.pipeline.sama import SamaPipeline
from opensama.runtime import quiet_loading
from opensama.training.semantic_encoder import semantic_tokens
from opensama.world import plan_edit, render_edits, sample_edit


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=ASSETS / "tiny")
    parser.add_argument("--frames", type=int, default=300)
    options = parser.parse_args()
    pipeline = load(str(options.model)).pipeline
    assert isinstance(pipeline, SamaPipeline), "an ICVE has no semantic tokens"
    with quiet_loading():
        encoder = SiglipVisionModel.from_pretrained(options.model / "semantic_encoder", dtype=torch.float32)

    sample = sample_edit(1, "test", "replace")
    source = torch.from_numpy(sample.source).movedim(-1, 0)[None].float() / 127.5 - 1
    planned = pipeline(video=source, prompt=sample.instruction, output_semantic=True).semantic[0, -1]

    plans = [sample.plan] + [plan_edit(i) for i in range(options.frames)]
    drawn = render_edits(plans, 1)
    known = semantic_tokens(encoder, drawn.target[:, 0] * 2 - 1)[:, -1]
    order = (torch.nn.functional.normalize(known, dim=1) @ torch.nn.functional.normalize(planned, dim=0)).argsort()
    print(sample.instruction)
    for place, index in enumerate(order.flip(0)[:5].tolist(), start=1):
        print(f"{place}. {plans[index].caption}{'   <- the exact answer' if index == 0 else ''}")
    rank = int((order.flip(0) == 0).nonzero()[0, 0]) + 1
    print(f"the exact answer is number {rank} of {len(plans)}")


if __name__ == "__main__":
    main()
