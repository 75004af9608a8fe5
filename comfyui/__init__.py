"""OpenSAMA in ComfyUI: nodes that edit videos, file to file. Each is a thin call into `opensama`."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

try:
    import opensama  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError(
        "OpenSAMA's nodes need the package opensama in ComfyUI's own Python: install it there as docs/comfyui.md says, "
        "and start ComfyUI again."
    ) from error

from .nodes_edit import Compare, EditFrames, EditVideo, KeyFrame
from .nodes_model import AddLora, ConvertWeights, LoadEditor
from .nodes_settings import Box, Settings, Span

NODES: list[type[io.ComfyNode]] = [
    LoadEditor,
    AddLora,
    EditVideo,
    EditFrames,
    KeyFrame,
    Box,
    Span,
    Settings,
    Compare,
    ConvertWeights,
]


class OpenSAMAExtension(ComfyExtension):
    """All nodes of the pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> OpenSAMAExtension:
    """What ComfyUI asks a pack for."""
    return OpenSAMAExtension()
