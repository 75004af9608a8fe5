"""Nodes that edit: a VIDEO file to file, IMAGE and AUDIO, one key frame; and two videos side by side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from comfy_api.latest import InputImpl, io, ui

import opensama
from opensama.apps.edit_checks import check_alpha
from opensama.media.frames import side_by_side
from opensama.media.video_io import write_video
from opensama.media.video_io.writing import rehearse
from opensama.pipeline.advice import change_sentence, closing_advice
from opensama.pipeline.editor import Editor
from opensama.pipeline.unfinished import Unfinished
from opensama.values import EditedVideo, EditRequest, UserError, Video
from opensama.values import Span as FrameSpan

from .files import frames_of, image_of, new_file, source_of
from .nodes_model import CATEGORY, EditorType
from .nodes_settings import BoxType, SettingsType, SpanType, TimeSpan
from .running import Watch, own_models

SEED_MAX = 2**53 - 1  # more than that the page's numbers do not hold
ENDINGS = ".mp4", ".mov", ".mkv", ".webm"
EXAMPLE = "Make the scene look like sunset."


def limits() -> list[io.Input]:
    """Sockets for what limits or changes an edit, which all nodes that edit have."""
    return [
        SettingsType.Input("settings", optional=True),
        io.Mask.Input(
            "mask", optional=True, tooltip="Only where it is white may anything change: one, or one a frame."
        ),
        BoxType.Input("box", optional=True, tooltip="Only inside it may anything change."),
        io.Image.Input("references", optional=True, tooltip="Pictures that the instruction speaks of (Bernini-R)."),
    ]


def words() -> list[io.Input]:
    """The instruction and the seed."""
    return [
        io.String.Input("instruction", multiline=True, default=EXAMPLE, tooltip="What to change, in a sentence."),
        io.Int.Input("seed", default=0, min=0, max=SEED_MAX, control_after_generate=True),
    ]


@dataclass
class Edit:
    """One edit as a node runs it: `opensama.edit` with what the sockets give, and the sentences that it said."""

    editor: Editor
    video: Video
    said: list[str] = field(default_factory=list)
    watch: Watch = field(default_factory=Watch)

    def run(
        self,
        instruction: str,
        seed: int,
        settings: dict[str, Any] | None = None,
        mask: torch.Tensor | str | None = None,
        box: tuple[int, int, int, int] | None = None,
        references: torch.Tensor | None = None,
        frames: tuple[int, int] | None = None,
        unfinished: Unfinished | None = None,
    ) -> EditedVideo:
        limited: dict[str, Any] = {"box": box, "frames": frames, "unfinished": unfinished}
        if mask is not None:
            limited["mask"] = mask if isinstance(mask, str) else mask.cpu().float().numpy()
        if references is not None:
            limited["references"] = list(frames_of(references))
        self.asked = EditRequest(self.video, instruction, box=box, mask=limited.get("mask"))
        return opensama.edit(
            self.video, instruction, self.editor, seed=seed, progress=self.watch, notice=self.said.append,
            **limited, **(settings or {}),
        )  # fmt: skip

    def report(self, edited: EditedVideo) -> str:
        """What a person should know of it, a sentence a line, also for the log; the frames having passed."""
        told = f"{change_sentence(edited, self.asked)}.", closing_advice(self.editor.entry, self.asked, edited.changed)
        text = "\n".join(dict.fromkeys(filter(None, (*self.said, *told))))
        print(text)
        return text


class EditVideo(io.ComfyNode):
    """A video edited by an instruction, file to file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OpenSAMAEditVideo",
            display_name="Edit Video (OpenSAMA)",
            category=CATEGORY,
            description="Edits a video of any length by an instruction, from file to file: frame rate, size and sound"
            " stay, and memory holds a window of frames, whatever the length.",
            inputs=[
                EditorType.Input("editor"),
                io.Video.Input("video"),
                *words(),
                io.String.Input("filename_prefix", default="video/opensama", tooltip="In ComfyUI's output folder."),
                io.Combo.Input("format", options=list(ENDINGS), default=".mp4"),
                io.Boolean.Input(
                    "save_output",
                    default=True,
                    tooltip="Off: the file goes into the temporary folder, which ComfyUI empties when it starts.",
                ),
                *limits(),
                SpanType.Input("span", optional=True, tooltip="Only this part changes; the rest is copied."),
                io.Video.Input(
                    "mask_video", optional=True, tooltip="A mask as a video of the same length, of any length, too."
                ),
            ],
            outputs=[
                io.Video.Output(display_name="video"),
                io.Float.Output(display_name="changed", tooltip="Which share of the picture changed, 0 to 1."),
                io.String.Output(display_name="report"),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        editor: Editor,
        video: Any,
        instruction: str,
        seed: int,
        filename_prefix: str,
        format: str,
        save_output: bool,
        settings: dict[str, Any] | None = None,
        mask: torch.Tensor | None = None,
        box: tuple[int, int, int, int] | None = None,
        references: torch.Tensor | None = None,
        span: TimeSpan | None = None,
        mask_video: Any = None,
    ) -> io.NodeOutput:
        if mask is not None and mask_video is not None:
            raise UserError("A mask and a mask video were both given: take one of them off.")
        own = settings or {}
        shown = own.get("background", "white")
        with own_models(editor), source_of(video, shown) as source, mask_of(mask, mask_video) as masked:
            frames, edit = None if span is None else span.frames(source), Edit(editor, source)
            place = new_file(filename_prefix, format, source, keep=save_output)
            check_alpha(EditRequest(source, instruction, alpha=own.get("alpha", "flatten")), place.path)
            trial = source if own.get("alpha") == "keep" else replace(source, transparency=None)
            if frames is not None:
                trial = replace(trial, span=FrameSpan(source, *frames))
            rehearse(trial, place.path, on_note=edit.said.append)
            with Unfinished(place.unnumbered, edit.said.append) as unfinished:
                edited = edit.run(instruction, seed, settings, masked, box, references, frames, unfinished)
                place = new_file(filename_prefix, format, source, keep=save_output)  # others may have written meanwhile
                write_video(edit.watch.frames(edited), place.path, on_note=edit.said.append)
            changed, report = edited.changed, edit.report(edited)
        made, shown = InputImpl.VideoFromFile(str(place.path)), ui.PreviewVideo([place.shown])
        return io.NodeOutput(made, changed, report, ui=shown)


@contextmanager
def mask_of(mask: torch.Tensor | None, video: Any) -> Iterator[torch.Tensor | str | None]:
    """A mask as `opensama.edit` takes it: as it is, or the file of a video, which is read frame by frame."""
    if video is None:
        yield mask
        return
    with source_of(video) as read:
        if read.is_clip or read.path is None:
            raise UserError("The mask video is trimmed: save it first, so that it is a file of the video's own length.")
        yield str(read.path)


class EditFrames(io.ComfyNode):
    """Frames in memory, edited."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OpenSAMAEditFrames",
            display_name="Edit Frames (OpenSAMA)",
            category=CATEGORY,
            description="Edits frames that are in memory already: short clips, or pictures. For files take Edit Video,"
            " since every full-HD frame takes 25 MB here.",
            inputs=[
                EditorType.Input("editor"),
                io.Image.Input("images"),
                *words(),
                io.Float.Input("fps", default=24.0, min=1.0, max=240.0, step=0.001),
                *limits(),
                io.Audio.Input("audio", optional=True, tooltip="Comes out as it is, for Create Video."),
            ],
            outputs=[
                io.Image.Output(display_name="images"),
                io.Audio.Output(display_name="audio"),
                io.Float.Output(display_name="fps"),
                io.String.Output(display_name="report"),
            ],
        )

    @classmethod
    def execute(
        cls,
        editor: Editor,
        images: torch.Tensor,
        instruction: str,
        seed: int,
        fps: float,
        settings: dict[str, Any] | None = None,
        mask: torch.Tensor | None = None,
        box: tuple[int, int, int, int] | None = None,
        references: torch.Tensor | None = None,
        audio: Any = None,
    ) -> io.NodeOutput:
        with own_models(editor):
            edit = Edit(editor, Video.from_frames(frames_of(images), fps))
            edited = edit.run(instruction, seed, settings, mask, box, references)
            made = image_of(edit.watch.frames(edited).frames(), edited.frame_count)
            return io.NodeOutput(made, audio, fps, edit.report(edited))


class KeyFrame(io.ComfyNode):
    """One frame, edited: a look before the whole video."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OpenSAMAKeyFrame",
            display_name="Edit Key Frame (OpenSAMA)",
            category=CATEGORY,
            description="Edits one frame of a video, in seconds: to see what an instruction does before the whole.",
            inputs=[
                EditorType.Input("editor"),
                io.Video.Input("video"),
                *words(),
                io.Int.Input("frame", default=0, min=-(2**31), max=2**31, tooltip="From 0; -1 is the last one."),
                *limits(),
            ],
            outputs=[
                io.Image.Output(display_name="edited"),
                io.Image.Output(display_name="source"),
                io.String.Output(display_name="report"),
            ],
        )

    @classmethod
    def execute(
        cls,
        editor: Editor,
        video: Any,
        instruction: str,
        seed: int,
        frame: int,
        settings: dict[str, Any] | None = None,
        mask: torch.Tensor | None = None,
        box: tuple[int, int, int, int] | None = None,
        references: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        shown = (settings or {}).get("background", "white")
        with own_models(editor), source_of(video, shown) as source:
            count = source.frame_count
            at = frame + count if frame < 0 else frame
            if not 0 <= at < count:
                raise UserError(f"There is no frame {frame}: the video has {count}, from 0 to {count - 1}.")
            edit = Edit(editor, source)
            edited = edit.run(instruction, seed, settings, mask, box, references, (at, at + 1))
            pictures = [image_of(one.frames(at, at + 1), 1) for one in (edited, source)]
            return io.NodeOutput(*pictures, edit.report(edited))


class Compare(io.ComfyNode):
    """Source and result side by side."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OpenSAMACompare",
            display_name="Compare Videos (OpenSAMA)",
            category=CATEGORY,
            description="Source and result side by side in one video, with the source's sound, file to file.",
            inputs=[
                io.Video.Input("source"),
                io.Video.Input("edited"),
                io.String.Input("filename_prefix", default="video/opensama-compare"),
                io.Boolean.Input("save_output", default=False),
            ],
            outputs=[io.Video.Output(display_name="video")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, source: Any, edited: Any, filename_prefix: str, save_output: bool) -> io.NodeOutput:
        with own_models(), source_of(source) as left, source_of(edited) as right:
            both = side_by_side(left, right)
            place = new_file(filename_prefix, ".mp4", both, keep=save_output)
            write_video(Watch().frames(both), place.path)
        return io.NodeOutput(InputImpl.VideoFromFile(str(place.path)), ui=ui.PreviewVideo([place.shown]))
