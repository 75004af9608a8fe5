"""Nodes that limit or change an edit: a box, a span, settings. What they give travels in types of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io

from opensama.values import UserError, Video

from .nodes_model import CATEGORY, OWN

BoxType = io.Custom("OPENSAMA_BOX")
"""x, y, width, height in pixels of the video."""
SpanType = io.Custom("OPENSAMA_SPAN")
"""A `TimeSpan`."""
SettingsType = io.Custom("OPENSAMA_SETTINGS")
"""Keyword arguments of `opensama.edit`, those that are not the model's own."""


@dataclass(frozen=True)
class TimeSpan:
    """Where an edit may act, in seconds or frames; an end of 0 is the video's own."""

    unit: str
    begin: float
    end: float

    def frames(self, video: Video) -> tuple[int, int]:
        """Start and stop. UserError outside of the video."""
        length = float(video.duration) if self.unit == "seconds" else video.frame_count
        end = self.end or length
        if not 0 <= self.begin < min(end, length) or end > length + 1 / float(video.fps):
            raise UserError(
                f"The span {self.begin:g} to {end:g} does not lie in the video, which has {length:.6g} {self.unit}: "
                "give a beginning before the end, both in it."
            )
        if self.unit == "seconds":
            return video.frame_range(self.begin, end)
        return round(self.begin), min(round(end), video.frame_count)


class Box(io.ComfyNode):
    """A rectangle in which an edit may act."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OpenSAMABox",
            display_name="Box (OpenSAMA)",
            category=CATEGORY,
            description="The rectangle inside which an edit may change the picture, in pixels of the video.",
            inputs=[
                *(io.Int.Input(name, default=0, min=0, max=8192) for name in ("x", "y")),
                *(io.Int.Input(name, default=256, min=1, max=8192) for name in ("width", "height")),
            ],
            outputs=[BoxType.Output(display_name="box")],
        )

    @classmethod
    def execute(cls, x: int, y: int, width: int, height: int) -> io.NodeOutput:
        return io.NodeOutput((x, y, width, height))


class Span(io.ComfyNode):
    """A part of a video."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OpenSAMASpan",
            display_name="Span (OpenSAMA)",
            category=CATEGORY,
            description="The part of a video that is edited. Where the codec allows it, all else is copied as it is.",
            inputs=[
                io.Combo.Input("unit", options=["seconds", "frames"], default="seconds"),
                io.Float.Input("begin", default=0.0, min=0.0, max=1e9, step=0.001),
                io.Float.Input("end", default=0.0, min=0.0, max=1e9, step=0.001, tooltip="0: the video's end."),
            ],
            outputs=[SpanType.Output(display_name="span")],
        )

    @classmethod
    def execute(cls, unit: str, begin: float, end: float) -> io.NodeOutput:
        return io.NodeOutput(TimeSpan(unit, begin, end))


class Settings(io.ComfyNode):
    """What is not the model's own."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OpenSAMASettings",
            display_name="Edit Settings (OpenSAMA)",
            category=CATEGORY,
            description="Settings of an edit. As the node comes, each is the model's own.",
            inputs=[
                io.Int.Input("steps", default=0, min=0, max=1000, tooltip="Denoising steps; 0: the model's own."),
                io.Float.Input("guidance", default=-1.0, min=-1.0, max=100.0, step=0.1, tooltip="-1: the model's own."),
                io.Float.Input("source_guidance", default=-1.0, min=-1.0, max=100.0, step=0.1, tooltip="-1: none."),
                io.Float.Input("shift", default=0.0, min=0.0, max=100.0, step=0.1, tooltip="0: the model's own."),
                io.Int.Input("size", default=0, min=0, max=4096, tooltip="Side of a square; 0: the model's own."),
                io.Float.Input("model_fps", default=0.0, min=0.0, max=240.0, step=0.1, tooltip="0: it sees all."),
                io.Combo.Input(
                    "preserve",
                    options=[OWN, "on", "off"],
                    default=OWN,
                    tooltip="On: the source's own pixels stay where the edit left the picture alone.",
                ),
                io.String.Input("negative_prompt", default="", multiline=True, tooltip="Empty: the model's own."),
                io.String.Input("task", default="", tooltip="Of Bernini-R: v2v, mv2v, rv2v ... Empty: what fits."),
                io.String.Input("background", default="white", tooltip="What shows through transparent places."),
                io.Combo.Input("alpha", options=["flatten", "keep"], default="flatten"),
            ],
            outputs=[SettingsType.Output(display_name="settings")],
        )

    @classmethod
    def execute(cls, preserve: str, background: str, alpha: str, **numbers: Any) -> io.NodeOutput:
        none = {"guidance": -1.0, "source_guidance": -1.0}
        own = {name: value for name, value in numbers.items() if value != none.get(name, type(value)())}
        if preserve != OWN:
            own["preserve"] = preserve == "on"
        return io.NodeOutput(own | {"background": background, "alpha": alpha})
