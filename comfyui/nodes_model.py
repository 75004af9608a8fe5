"""Nodes that load an editor, which travels to those that edit, and its LoRAs; and one that converts weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.model_management as comfy_models
import folder_paths
from comfy_api.latest import io

import opensama
from opensama.apps.models import convert
from opensama.models.convert import FILE_LAYOUTS
from opensama.models.families import MODEL_FAMILIES
from opensama.models.registry import entries
from opensama.values import UserError

from .files import chosen, model_folders, weight_files
from .running import own_models

EditorType = io.Custom("OPENSAMA_EDITOR")
"""`opensama.Editor`: a loaded model."""
LoraType = io.Custom("OPENSAMA_LORA")
"""LoRAs to load with a model: pairs of file and scale, in order."""

CATEGORY = "OpenSAMA"
HUB, OWN = "from the hub", "the model's own"
FOLDERS = "diffusion_models", "unet_gguf"  # the second is where the node pack for GGUF looks, too
DTYPES = OWN, "float32", "bfloat16", "float16"
OFFLOADS = "auto", "none", "model", "group", "disk"


class LoadEditor(io.ComfyNode):
    """A model, loaded."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        names = [
            name for entry in entries() for name in (entry.name, *(f"{entry.name}:{one}" for one in entry.presets))
        ]
        names += [name for name in model_folders(pipelines=True) if name not in names]
        return io.Schema(
            node_id="OpenSAMALoadEditor",
            display_name="Load Editor (OpenSAMA)",
            category=CATEGORY,
            description="Loads a model that edits videos by an instruction. Models are told apart in docs/models.md.",
            inputs=[
                io.Combo.Input(
                    "model",
                    options=names,
                    default="tiny",
                    tooltip="`tiny` comes with OpenSAMA, edits drawings, and runs on a CPU. Folders of models/diffusers"
                    " that hold a pipeline are listed too.",
                ),
                io.Combo.Input(
                    "weights",
                    options=[HUB, *weight_files(*FOLDERS)],
                    default=HUB,
                    tooltip="A released model's own file, from models/diffusion_models.",
                ),
                io.Combo.Input(
                    "base",
                    options=[HUB, *model_folders(pipelines=False)],
                    default=HUB,
                    tooltip="The folder in models/diffusers with the base model's text encoder and autoencoder.",
                ),
                io.Combo.Input("dtype", options=list(DTYPES), default=OWN, tooltip="The numbers to compute in."),
                io.Combo.Input(
                    "offload",
                    options=list(OFFLOADS),
                    default="auto",
                    tooltip="Where weights lie while others compute. auto: the quickest way that fits into the GPU.",
                ),
                io.String.Input("memory", default="", tooltip="How much of the GPU to use, as 12GB. Empty: all of it."),
                io.Boolean.Input("vae_tiling", default=False, tooltip="The autoencoder works piece by piece."),
                io.Boolean.Input("float8", default=False, tooltip="Keep the transformer's weights in 8 bits."),
                io.Boolean.Input(
                    "anyway",
                    default=False,
                    tooltip="Go on with words that the model does not know, and where this machine seems too small.",
                ),
                LoraType.Input("lora", optional=True),
            ],
            outputs=[EditorType.Output(display_name="editor")],
        )

    @classmethod
    def fingerprint_inputs(cls, **given: Any) -> str:
        files = weight_files(*FOLDERS)
        path = files.get(given.get("weights", HUB))
        return "" if path is None else f"{path.stat().st_mtime_ns} {path.stat().st_size}"

    @classmethod
    def execute(
        cls,
        model: str,
        weights: str,
        base: str,
        dtype: str,
        offload: str,
        memory: str,
        vae_tiling: bool,
        float8: bool,
        anyway: bool,
        lora: list[tuple[Path, float]] | None = None,
    ) -> io.NodeOutput:
        with own_models():
            editor = opensama.load(
                model_folders(pipelines=True).get(model, model),
                device=str(comfy_models.get_torch_device()),
                dtype=None if dtype == OWN else dtype,
                weights=None if weights == HUB else chosen(weights, weight_files(*FOLDERS)),
                base=None if base == HUB else chosen(base, model_folders(pipelines=False)),
                offload=offload,
                memory=memory or None,
                vae_tiling=vae_tiling,
                float8=float8,
                lora=lora or (),
                anyway=anyway,
            )
        return io.NodeOutput(editor)


class AddLora(io.ComfyNode):
    """A LoRA for the editor that is loaded with it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OpenSAMAAddLora",
            display_name="Add LoRA (OpenSAMA)",
            category=CATEGORY,
            description="A LoRA from models/loras for Load Editor; several are put behind one another.",
            inputs=[
                io.Combo.Input("file", options=list(weight_files("loras"))),
                io.Float.Input("scale", default=1.0, min=-10.0, max=10.0, step=0.05),
                LoraType.Input("before", optional=True, tooltip="LoRAs that are added before this one."),
            ],
            outputs=[LoraType.Output(display_name="lora")],
        )

    @classmethod
    def execute(cls, file: str, scale: float, before: list[tuple[Path, float]] | None = None) -> io.NodeOutput:
        return io.NodeOutput([*(before or ()), (chosen(file, weight_files("loras")), scale)])


class ConvertWeights(io.ComfyNode):
    """Weights of one layout written in another."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OpenSAMAConvertWeights",
            display_name="Convert Weights (OpenSAMA)",
            category=CATEGORY,
            description="Writes weights from models/diffusion_models in another layout.",
            inputs=[
                io.Combo.Input("file", options=list(weight_files(*FOLDERS))),
                io.Combo.Input("family", options=[OWN, *MODEL_FAMILIES], default=OWN, tooltip="Else its names say it."),
                io.Combo.Input(
                    "to",
                    options=["ours", *FILE_LAYOUTS],
                    default="comfyui",
                    tooltip="ours: a folder in models/diffusers; the others: a file in models/diffusion_models.",
                ),
                io.String.Input("name", default="converted", tooltip="What to call it, without an ending."),
            ],
            outputs=[io.String.Output(display_name="path")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, file: str, family: str, to: Any, name: str) -> io.NodeOutput:
        if not name or name != Path(name).name or name.startswith("."):
            raise UserError(f"{name!r} is no plain name: give one without slashes.")
        folder = Path(folder_paths.get_folder_paths("diffusers" if to == "ours" else FOLDERS[0])[0])
        folder.mkdir(parents=True, exist_ok=True)
        out = folder / f"{name}{FILE_LAYOUTS.get(to, '')}"
        with own_models():
            convert(chosen(file, weight_files(*FOLDERS)), out, family=None if family == OWN else family, to=to)
        return io.NodeOutput(str(out))
