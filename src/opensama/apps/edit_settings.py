"""The settings of an edit and of its model, as `opensama edit` and `opensama batch` take them: each is named once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from opensama.apps.edit_checks import Writing, parse_box, parse_range, parse_regions, parse_times
from opensama.values import EditRequest, UserError, Video

if TYPE_CHECKING:
    from collections.abc import Callable

    from opensama.models.registry import ModelEntry
    from opensama.pipeline.editor import Editor
    from opensama.pipeline.split import Splitting

FLAG = Parameter(negative=())


@Parameter(name="*")
@dataclass(frozen=True)
class EditSettings:
    """How to edit.

    Parameters
    ----------
    seed
        The same seed gives the same edit.
    steps
        Denoising steps. By default the model's own number: for a released model fewer are faster and worse; for the
        embedded ones more are slower and no better.
    guidance
        How strongly the instruction acts. By default the model's own: for the embedded ones that is 1, and more is
        worse.
    shift
        How the noise levels of the steps are spread: more spends more of them on the coarse picture. By default the
        model's own.
    source_guidance
        How strongly the source acts, apart from the instruction; costs a third pass a step. By default the two act
        together.
    speed
        exact: the model's own way. balanced: half its steps, by a solver that looks back, guided in the first six
        tenths. fast: four tenths of its steps, guided in the first four tenths, blocks left out where a step cache was
        measured on the model. Both are quicker and worse; docs/performance.md has how much.
    negative_prompt
        What the result should not look like, in words. By default the model's own.
    frames
        Edit only the frames A:B, from A up to but not including B, counted from 0; the rest passes through. Either may
        be left out. Where the codec allows it, only what these frames need is encoded again, and the rest copied.
    begin
        The same as a time, in seconds or as 00:41:10.5: edit only from there on.
    end
        Edit only up to this time.
    size
        The area at which the model works, as the side of a square: 128 means as many pixels as 128 x 128, in the
        video's own shape.
    mask
        A picture or a video: only where it is white may anything change.
    box
        Only inside this rectangle may anything change: X,Y,W,H in pixels of the source.
    references
        A picture of what the instruction speaks of, for a model that takes some; give it again for more. The
        instruction names them: image0, image1, or the reference image.
    task
        What kind of edit it is, for a model that was trained with other words before the prompts of each: of
        bernini-1.3b v2v, mv2v (styles, motion, poses), rv2v (with references), vrc2v, vi2v, ads2v or i2i (a picture).
        By default what fits what is given.
    model_fps
        Let the model see only so many frames a second, such as the 16 that Wan's models were trained with, and carry
        what it changed to the frames between. By default it sees all.
    split
        Take several edits in one instruction ("Remove the ball and add snow.") apart and make them one after the other.
        rules: by verbs, commas and and, asking nobody. Or the address of an OpenAI-compatible server, as for enhance,
        whose language model says which edits these are. off: the instruction is told as it is.
    one_pass
        Make these edits in one pass of the model, within the regions of all, in place of one after the other.
    regions
        Where one of these edits may change anything: N:X,Y,W,H or N:FILE, a box or a mask for the Nth edit, from 1 on;
        give it again for others. An edit without one may change what mask or box say, else everything.
    enhance
        The address of an OpenAI-compatible server, such as http://localhost:8000/v1 (key in OPENAI_API_KEY), with a
        model that sees pictures: it is shown three frames of the video, and puts the instruction into words that the
        model was trained with, which are printed.
    enhance_model
        That server's name of the model, where it has several.
    compare
        Also write source and result side by side, as NAME-compare.mp4 beside the result.
    preserve
        Keep the source's own pixels where the edit left the picture alone. By default the model's own choice.
    background
        What shows through transparent places while the model works, and in the result unless alpha is kept: a colour's
        name or #rrggbb.
    alpha
        keep: the result has the source's transparency, as ProRes 4444 (.mov) or VP9 (.webm). flatten: it has none.
    quality
        How well the file keeps the pictures, from 0 to 100.
    codec
        What codes the pictures: h264, hevc, av1, vp9, prores (422 HQ) or prores-4444, as the kind of file allows; or an
        encoder of the hardware, such as hevc_nvenc. By default what the ending of the name stands for.
    even
        Pad odd sizes by a pixel, so that every player plays the file.
    record
        What the file's own metadata tell of the edit: settings (those that repeat it, the model, and the source's name
        and SHA-256, but no words), instruction (the words too), or none. `opensama inspect` reads it.
    credentials
        Sign the result, and what the record tells, as Content Credentials (C2PA). What you sign can be told to come
        from one signer.
    certificate
        Your own certificates to sign with, PEM, the signer's first. By default one that is made on first use.
    certificate_key
        The private key of the first of them.
    """

    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    shift: float | None = None
    source_guidance: float | None = None
    speed: str = "exact"
    negative_prompt: str | None = None
    frames: str | None = None
    begin: Annotated[str | None, Parameter(name="--from")] = None
    end: Annotated[str | None, Parameter(name="--to")] = None
    size: int | None = None
    mask: Path | None = None
    box: str | None = None
    references: Annotated[tuple[Path, ...], Parameter(name="--reference", negative=(), show_default=False)] = ()
    task: str | None = None
    model_fps: float | None = None
    split: str = "off"
    one_pass: Annotated[bool, FLAG] = False
    regions: Annotated[tuple[str, ...], Parameter(name="--region", negative=(), show_default=False)] = ()
    enhance: str | None = None
    enhance_model: str | None = None
    compare: Annotated[bool, FLAG] = False
    preserve: bool | None = None
    background: str = "white"
    alpha: str = "flatten"
    quality: float = 80
    codec: str | None = None
    even: Annotated[bool, FLAG] = False
    record: str = "settings"
    credentials: bool = False
    certificate: Path | None = None
    certificate_key: Path | None = None

    def __post_init__(self) -> None:
        if self.frames is not None and self.is_timed:
            raise UserError("The frames to edit were given as numbers and as times: give --frames, or --from and --to.")

    @property
    def is_timed(self) -> bool:
        return self.begin is not None or self.end is not None

    @property
    def is_part(self) -> bool:
        """Whether only a part of a video is to be edited."""
        return self.frames is not None or self.is_timed

    def span(self, video: Video) -> tuple[int, int] | None:
        """The frames of the video that are to be edited, start and stop; None for all. UserError outside of it."""
        if self.frames is not None:
            return parse_range(self.frames, video.frame_count)
        return parse_times(self.begin, self.end, video) if self.is_timed else None

    def request(self, video: str | Path, instruction: str) -> EditRequest:
        """What the model is asked, the span apart, which the video's length must be known for. UserError for a value
        that is wrong whatever the video holds."""
        from opensama.media.video_io.edit_record import check_record

        splitting = self.splitting
        if self.enhance_model is not None and self.enhance is None and not splitting.asks:
            raise UserError("No server was named for `enhance_model`: give its address with `enhance`.")
        check_record(self.record)
        if (self.certificate is None) != (self.certificate_key is None):
            raise UserError("To sign, give both `certificate` and `certificate_key`.")
        if self.certificate is not None and not self.credentials:
            raise UserError("`certificate` is to sign with: add `credentials=True`.")
        request = EditRequest(
            video,
            instruction,
            seed=self.seed,
            steps=self.steps,
            guidance=self.guidance,
            shift=self.shift,
            source_guidance=self.source_guidance,
            speed=self.speed,
            negative_prompt=self.negative_prompt,
            size=self.size,
            mask=self.mask,
            box=None if self.box is None else parse_box(self.box),
            references=self.references,
            task=self.task,
            model_fps=self.model_fps,
            preserve=self.preserve,
            background=self.background,
            alpha=self.alpha,
            one_pass=self.one_pass,
        )
        return splitting.by_rules(request)

    @property
    def splitting(self) -> Splitting:
        """How the instruction is split. UserError for what is none."""
        from opensama.pipeline.split import Splitting

        return Splitting(self.split, parse_regions(self.regions), self.one_pass, self.enhance_model)

    @property
    def masks(self) -> list[Path]:
        """The files of masks, of all or of single edits."""
        own = (region for region in parse_regions(self.regions).values() if isinstance(region, Path))
        return [*filter(None, (self.mask,)), *own]

    def completed(self, request: EditRequest, model: str, anyway: bool) -> EditRequest:
        """The request, its video being read, checked against the model; its instruction split by a server and rewritten
        where that is asked for."""
        from opensama.models.registry import find
        from opensama.pipeline.request_checks import check_family

        check_family(find(model), request, anyway)
        request = self.splitting.by_server(request, model, anyway)
        if self.enhance is None:
            return request
        from opensama.pipeline.enhance import enhanced, enhancer_at

        return enhanced(request, model, enhancer_at(self.enhance, self.enhance_model), anyway=anyway)

    def writing(self, overwrite: bool) -> Writing:
        """How the result is written."""
        identity = None
        if self.credentials:
            from opensama.media.credentials import own_identity, read_identity

            if self.certificate is not None and self.certificate_key is not None:
                identity = read_identity(self.certificate, self.certificate_key)
            else:
                identity = own_identity()
        return Writing(self.quality, self.even, self.codec, overwrite, self.record, identity)


@Parameter(name="*")
@dataclass(frozen=True)
class LoadSettings:
    """Where and in what numbers the model computes, and what belongs to it.

    Parameters
    ----------
    device
        Where to compute, such as cpu or cuda:1. By default the best there is.
    dtype
        The numbers to compute in: float32, bfloat16 or float16. By default the model's own on a GPU, float32 on a CPU.
    offload
        Where weights lie while others compute: none (all on the device), model (the parts that rest are in the
        computer's memory), group (all blocks but the one at work), or disk (the same, in files that go afterwards).
        Each takes less memory and more time than the one before. By default the quickest that fits into the GPU's
        memory by prediction, and the next where it is full all the same.
    memory
        How much of the GPU's memory to use, such as 12GB. By default all that is free.
    vae_tiling
        Let the autoencoder work piece by piece, which takes less memory and more time.
    float8
        Keep the transformer's weights in 8 bits, which halves their memory and changes the edit a little.
    lora
        A LoRA to add to the weights, as FILE or FILE:SCALE, or the folder that training wrote; give it again for more.
    weights
        A released model's own file, when it is not to come from the hub. For a LoRA that was trained from plain Wan:
        the transformer's folder of Wan.
    base
        The folder of the base model that a released model builds on, when it is not to come from the hub.
    """

    device: str | None = None
    dtype: str | None = None
    offload: str = "auto"
    memory: str | None = None
    vae_tiling: Annotated[bool, FLAG] = False
    float8: Annotated[bool, FLAG] = False
    lora: Annotated[list[str] | None, FLAG] = None
    weights: Path | None = None
    base: Path | None = None

    def check(self, entry: ModelEntry, anyway: bool) -> None:
        """UserError for LoRAs or files that are not there, and, unless `anyway`, where this machine is too small."""
        from opensama.pipeline.room import check_model
        from opensama.runtime import lora_and_scale

        for text in self.lora or ():
            lora_and_scale(text)
        check_model(
            entry, self.device, self.dtype, weights=self.weights, base=self.base, offload=self.offload,
            float8=self.float8, anyway=anyway,
        )  # fmt: skip

    def check_ray(self, ray: bool, workers: int | None) -> None:
        """UserError for `workers` without Ray, and for a device that they cannot be told."""
        if workers is not None and not ray:
            raise UserError("`workers` are those of a Ray cluster: add `ray=True`.")
        if ray and self.device not in (None, "cpu", "cuda"):
            raise UserError(f"Ray chooses each worker's device: leave out `device={self.device}`.")

    def load(
        self, model: str, anyway: bool, notice: Callable[[str], object], *, context_parallel: bool = False
    ) -> Editor:
        """The model, loaded, also by several processes together; `notice` hears what a person should know of it."""
        from opensama import load

        return load(
            model, device=self.device, dtype=self.dtype, weights=self.weights, base=self.base, offload=self.offload,
            memory=self.memory, vae_tiling=self.vae_tiling, float8=self.float8, lora=self.lora or (), anyway=anyway,
            context_parallel=context_parallel, notice=notice,
        )  # fmt: skip
