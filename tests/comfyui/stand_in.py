"""What the node pack needs of ComfyUI, small: schemas, the VIDEO type, folders, progress, cancelling."""

from __future__ import annotations

import io as streams
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

PACK = Path(__file__).resolve().parents[2] / "comfyui"
NAME = "opensama_comfyui_pack"


class Socket:
    """An input or an output: what it was declared with."""

    def __init__(self, kind: str, id: str = "", *, optional: bool = False, options: Any = None, **said: Any) -> None:
        self.kind, self.id, self.optional, self.options, self.said = kind, id, optional, options, said


def kind(name: str) -> Any:
    """A type as the V3 schema has them, with an Input and an Output."""

    class Input(Socket):
        def __init__(self, id: str, **said: Any) -> None:
            super().__init__(name, id, **said)

    class Output(Socket):
        def __init__(self, id: str = "", **said: Any) -> None:
            super().__init__(name, id, **said)

    return SimpleNamespace(Input=Input, Output=Output, io_type=name)


class Schema:
    def __init__(self, node_id: str, *, inputs: Sequence[Socket], outputs: Sequence[Socket], **said: Any) -> None:
        self.node_id, self.inputs, self.outputs, self.said = node_id, list(inputs), list(outputs), said


class NodeOutput:
    def __init__(self, *values: Any, ui: Any = None) -> None:
        self.values, self.ui = values, ui


class ComfyNode:
    pass


class ComfyExtension:
    pass


class FolderType(Enum):
    input, output, temp = "input", "output", "temp"


class Interrupted(Exception):
    """ComfyUI's own, for a node whose person pressed cancel."""


class VideoFromFile:
    """A file, or a part of one; `pending` is what ComfyUI would make of it, and the file does not hold yet."""

    def __init__(
        self, file: str | streams.BytesIO, *, start_time: float = 0, duration: float = 0, pending: Path | None = None
    ) -> None:
        self.file, self.window, self.pending = file, (start_time, duration), pending

    def get_stream_source(self) -> str | streams.BytesIO:
        return self.file

    def get_active_trim_window(self) -> tuple[float, float]:
        return self.window

    def has_pending_frame_edits(self) -> bool:
        return self.pending is not None

    def save_to(self, path: str, format: str = "auto", codec: str = "auto", crf: float | None = None) -> None:
        assert self.pending is not None
        assert crf is not None
        Path(path).write_bytes(self.pending.read_bytes())


class OldVideoFromFile:
    """As ComfyUI had it in 2025: no trimming, no edits that wait."""

    def __init__(self, file: str) -> None:
        self.file = file

    def get_stream_source(self) -> str:
        return self.file


class VideoFromComponents:
    """Frames in memory, which ComfyUI knows how to write."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def save_to(self, path: str, format: str = "auto", codec: str = "auto") -> None:
        Path(path).write_bytes(self.made.read_bytes())


class Comfy:
    """The modules, the folders below `root`, what was shown, and whether cancel was pressed."""

    def __init__(self, root: Path) -> None:
        self.root, self.shown, self.cancel_at = root, list[tuple[float, Any]](), 101.0
        self.folders = {
            name: [str(root / "models" / name)] for name in ("diffusion_models", "unet_gguf", "loras", "diffusers")
        }
        for folder in (*(one for (one,) in self.folders.values()), *(str(root / one.value) for one in FolderType)):
            Path(folder).mkdir(parents=True)

    def modules(self) -> dict[str, ModuleType]:
        comfy = self

        class ProgressBar:
            def __init__(self, total: float) -> None:
                self.total = total

            def update_absolute(self, value: float, total: float, preview: Any = None) -> None:
                assert total == self.total
                comfy.shown.append((value, preview))

        def new_name(prefix: str, root: str, width: int, height: int) -> tuple[str, str, int, str, str]:
            folder, name = os.path.join(root, os.path.dirname(prefix)), os.path.basename(prefix)
            os.makedirs(folder, exist_ok=True)
            taken = [file for file in os.listdir(folder) if file.startswith(f"{name}_")]
            return folder, name, len(taken) + 1, os.path.dirname(prefix), prefix

        def search(folder: str, excluded_dir_names: list[str]) -> tuple[list[str], dict[str, float]]:
            files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
            return [path.relative_to(folder).as_posix() for path in files], {}

        types = {name: kind(name.upper()) for name in ("Combo", "String", "Int", "Float", "Boolean")}
        types |= {name: kind(name.upper()) for name in ("Image", "Mask", "Audio", "Video")}
        schema = {"Schema": Schema, "ComfyNode": ComfyNode, "NodeOutput": NodeOutput, "FolderType": FolderType}
        found: dict[str, dict[str, Any]] = {
            "comfy_api": {},
            "comfy_api.latest": {
                "ComfyExtension": ComfyExtension,
                "io": SimpleNamespace(Custom=kind, **types, **schema),
                "ui": SimpleNamespace(
                    SavedResult=lambda filename, subfolder, type: {
                        "filename": filename, "subfolder": subfolder, "type": type.value,
                    },
                    PreviewVideo=lambda values: {"images": values},
                ),
                "InputImpl": SimpleNamespace(VideoFromFile=VideoFromFile, VideoFromComponents=VideoFromComponents),
            },
            "comfy": {},
            "comfy.utils": {"ProgressBar": ProgressBar},
            "comfy.model_management": {
                "processing_interrupted": lambda: bool(self.shown) and self.shown[-1][0] >= self.cancel_at,
                "InterruptProcessingException": Interrupted,
                "get_torch_device": lambda: "cpu",
                "unload_all_models": lambda: None,
                "soft_empty_cache": lambda: None,
            },
            "folder_paths": {
                "folder_names_and_paths": self.folders,
                "get_folder_paths": lambda name: self.folders[name],
                "recursive_search": search,
                "filter_files_extensions": lambda names, ends: [n for n in names if n.endswith(tuple(ends))],
                "get_output_directory": lambda: str(self.root / "output"),
                "get_temp_directory": lambda: str(self.root / "temp"),
                "get_save_image_path": new_name,
            },
        }  # fmt: skip
        made = {name: ModuleType(name) for name in found}
        for name, members in found.items():
            vars(made[name]).update(members)
            parent, _, child = name.rpartition(".")
            if parent:
                setattr(made[parent], child, made[name])
        return made

    @contextmanager
    def pack(self) -> Iterator[Any]:
        """The node pack, imported as ComfyUI imports one."""
        before, made = set(sys.modules), self.modules()
        sys.modules.update(made)
        try:
            spec = spec_from_file_location(NAME, PACK / "__init__.py", submodule_search_locations=[str(PACK)])
            assert spec is not None
            assert spec.loader is not None
            module = module_from_spec(spec)
            sys.modules[NAME] = module
            spec.loader.exec_module(module)
            yield module
        finally:
            for name in [*made, *(name for name in sys.modules if name.split(".")[0] == NAME)]:
                if name not in before:
                    sys.modules.pop(name, None)
