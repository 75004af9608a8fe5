"""ICVE's recipes: the paper's two stages on HunyuanVideo, and LoRA.

    pretrain    pairs of clips of one scene, with an instruction for their difference; from text-to-video weights
    sft         pairs that are edits, once over all of them; begins from the first stage's weights

The paper's rates, batches and steps are not known: they are ours, and so is the share of dropped text. What is the
paper's is marked field by field in `training/config.py`.
"""

from __future__ import annotations

from typing import Literal

from opensama.models.families.icve import FAMILY
from opensama.models.registry import TINY, TINY_ICVE
from opensama.recipes.tiny import ICVE_CORE as EMBEDDED
from opensama.training.config import (
    IcveConfig,
    IcveDataSettings,
    IcveLossSettings,
    IcveModelSettings,
    LoraSettings,
    MachineSettings,
    MeshSettings,
    OptimizerSettings,
)

HUNYUAN = "hunyuanvideo-community/HunyuanVideo"
PAIRS, EDITS = 1_000_000, 150_000  # about so many clips of stage 1, fewer than so many pairs of stage 2 [paper]


def pretrain() -> IcveConfig:
    """From text-to-video weights, on the manifest that `opensama curate pairs` writes."""
    data = IcveDataSettings()
    optimizer = OptimizerSettings(lr=5e-6, steps=PAIRS // data.videos)
    return IcveConfig(model=IcveModelSettings(base=HUNYUAN), data=data, optimizer=optimizer)


def sft() -> IcveConfig:
    """Once over the edits. `--set model.weights=PRETRAINED` goes on from the first stage.

    Without data, --dry-run reckons with as many pairs as the paper had.
    """
    data = IcveDataSettings()
    optimizer = OptimizerSettings(lr=5e-6, steps=-(-EDITS // data.videos), epochs=1, ema_warmup=None)
    return IcveConfig(model=IcveModelSettings(base=HUNYUAN, start="icve"), data=data, optimizer=optimizer)


LORA = LoraSettings(targets=FAMILY.lora_targets)


def _tiny(start: Literal["icve", "nothing"], **optimizer: float | None) -> IcveConfig:
    """Beside the embedded SAMA's frozen parts and with its loss, from random weights or the embedded ICVE's."""
    base = TINY.folder if start == "nothing" else TINY_ICVE.folder
    return IcveConfig(
        model=IcveModelSettings(base=str(base), start=start, sizes=EMBEDDED.transformer_sizes, text_layer=-1),
        data=IcveDataSettings(
            area=128 * 128,
            frames=17,
            videos=16,
            video_batch=16,
            text_tokens=TINY.defaults.max_text_tokens,
        ),
        loss=IcveLossSettings(shift=12.0, emphasis=9.0, ease=0.3),
        optimizer=OptimizerSettings(**{"lr": 1e-3, "ema": 0.995, "ema_warmup": None, "decay": 0.4} | optimizer),
        mesh=MeshSettings(checkpointing="none"),
        machine=MachineSettings(gpus=1, memory=16.0, tflops=0.2, price=0.0),  # a laptop's two cores
        save_every=120.0,
    )


RECIPES: dict[str, IcveConfig] = {"icve-13b-pretrain": pretrain(), "icve-13b-sft": sft()}
RECIPES |= {f"{name}-lora": config.with_lora(LORA) for name, config in list(RECIPES.items())}
RECIPES |= {"tiny-icve-pretrain": _tiny("nothing", steps=20_000), "tiny-icve-sft": _tiny("icve", steps=200, lr=2e-4)}
RECIPES["tiny-icve-sft-lora"] = RECIPES["tiny-icve-sft"].with_lora(LORA)
