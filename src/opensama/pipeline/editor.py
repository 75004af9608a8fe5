"""load() and Editor: an edit request in, a Video of the source's own size, length, time stamps and sound out.

    source frames -> bucket size -> latents of windows -> denoised together -> decoded -> carried to full size

Everything up to the decoded small pictures happens in `edit`; full-size frames are made when the result's frames are
asked for, one at a time, so a long full-HD clip needs the memory of one window and a few frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from opensama import runtime
from opensama.models.families import find_family
from opensama.models.lora_files import Lora
from opensama.models.registry import ModelEntry, find, unknown_words
from opensama.models.vocabulary import check_words, politeness_note, without_politeness
from opensama.pipeline.advice import advice
from opensama.pipeline.assemble import build_pipeline
from opensama.pipeline.buckets import Placement
from opensama.pipeline.changes import Changes
from opensama.pipeline.diffusion import EditPipeline
from opensama.pipeline.enhance import enhanced, enhanced_note, enhancer_at
from opensama.pipeline.frame_rate import BetweenCompositor, PickedFrames
from opensama.pipeline.masks import limits_of
from opensama.pipeline.memory import (
    MemoryFull,
    back_on_device,
    back_to_computer,
    enough_memory,
    place_on_device,
    without_text_encoders,
)
from opensama.pipeline.memory_plans import MemoryPlan, plans_for
from opensama.pipeline.part_store import PartStore, StoredRows
from opensama.pipeline.preserve import ChangeCounter, Compositor, FrameBuffer, PreserveSettings, change, luminance
from opensama.pipeline.previews import EditReporter, LatentPreview
from opensama.pipeline.recording import record_of, weights_named
from opensama.pipeline.request_checks import check_family, check_request, reference_pictures, source_of
from opensama.pipeline.room import check_model, download_notice, to_download, unpacked, weighed
from opensama.pipeline.sampling import SamplingLoop
from opensama.pipeline.sharing import Alone, join_for_edits, share_edits
from opensama.pipeline.speed import SPEED_MODES, step_cache, steps_of
from opensama.pipeline.split import Splitting
from opensama.pipeline.unfinished import Unfinished, identity_of
from opensama.pipeline.windows import WindowPlan
from opensama.values import EditedVideo, EditRecord, EditRequest, MadeWith, Progress, Span, Video
from opensama.vlm import Vlm

if TYPE_CHECKING:
    from opensama.pipeline.split import Region

_T = TypeVar("_T")
_Triple = tuple[np.ndarray, np.ndarray, Tensor | None]
_StoreOf = Callable[[tuple[int, int], int, int], PartStore]
KEPT = 7
"""Numbers that are kept for one of the source's latents at most: it, a velocity, what a solver of two orders knows."""


def edit(
    video: Video | Path | str,
    instruction: str,
    model: str | Path | Editor = "tiny",
    *,
    seed: int = 0,
    steps: int | None = None,
    guidance: float | None = None,
    shift: float | None = None,
    source_guidance: float | None = None,
    speed: str = "exact",
    negative_prompt: str | None = None,
    frames: tuple[int, int] | None = None,
    size: int | None = None,
    mask: str | Path | np.ndarray | None = None,
    box: tuple[int, int, int, int] | None = None,
    references: Sequence[str | Path | np.ndarray] = (),
    task: str | None = None,
    model_fps: float | None = None,
    preserve: bool | None = None,
    background: str = "white",
    alpha: str = "flatten",
    enhance: str | Vlm | None = None,
    split: str | Vlm = "off",
    one_pass: bool = False,
    regions: Mapping[int, Region] | None = None,
    progress: Callable[[Progress], None] | None = None,
    device: str | None = None,
    dtype: str | None = None,
    weights: str | Path | None = None,
    base: str | Path | None = None,
    offload: str = "auto",
    memory: str | None = None,
    vae_tiling: bool = False,
    float8: bool = False,
    lora: Sequence[str | Path | Lora] = (),
    anyway: bool = False,
    notice: Callable[[str], object] = print,
    unfinished: Unfinished | None = None,
) -> EditedVideo:
    """The video edited by the instruction: `EditRequest` says what the settings mean, `load` those of the model.

    What can be wrong is said, and what a person should know of how the video was read and of the model goes to
    `notice`, before the model is loaded. UserError also for words that a model of few words does not know, and where
    this machine is too small for the model, unless `anyway`. `enhance` is the address of a server, or a `Vlm`, that
    first puts the instruction into words that the model was trained with; these go to `notice` too. `split` takes
    several edits in one instruction apart, by "rules" or as such a server says, and makes them one after the other, or
    in `one_pass`; `regions` limit single ones, by number from 1 on, see `opensama.pipeline.split`. A `model` that is an
    `Editor` is loaded already, and the settings of loading say nothing. An edit that was broken off goes on where
    `unfinished` kept it.
    """
    if isinstance(model, Editor):
        loaded, name, entry, anyway = model, model.entry.name, model.entry, anyway or model.anyway
    else:
        loaded, name, entry = None, str(model), find(model)
    instruction, left_out = without_politeness(name, instruction)
    check_words(name, instruction, anyway or enhance is not None)
    request = EditRequest(
        video,
        instruction,
        seed=seed,
        steps=steps,
        guidance=guidance,
        shift=shift,
        source_guidance=source_guidance,
        speed=speed,
        negative_prompt=negative_prompt,
        frames=frames,
        size=size,
        mask=mask,
        box=box,
        references=references,
        task=task,
        model_fps=model_fps,
        preserve=preserve,
        background=background,
        alpha=alpha,
        one_pass=one_pass,
        progress=progress,
    )
    splitting = Splitting(split, regions or {}, one_pass)
    request = splitting.by_rules(request)
    check_family(entry, request, anyway)
    asked = check_request(request)
    check_family(entry, asked, anyway)
    asked = splitting.by_server(asked, name, anyway)
    if enhance is not None:
        asked = enhanced(asked, name, enhancer_at(enhance) if isinstance(enhance, str) else enhance, anyway=anyway)
    notes = asked.video.notes if isinstance(asked.video, Video) else ()
    said = politeness_note(name, left_out), splitting.note(asked), enhanced_note(asked)
    for note in filter(None, (*notes, *said, *advice(entry, asked))):
        notice(note)
    editor = loaded or load(
        name, device=device, dtype=dtype, weights=weights, base=base, offload=offload, memory=memory,
        vae_tiling=vae_tiling, float8=float8, lora=lora, anyway=anyway, notice=notice,
    )  # fmt: skip
    return replace(editor.edit(asked, unfinished), notes=())  # which are said


def load(
    name: str | Path = "tiny",
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    weights: str | Path | None = None,
    base: str | Path | None = None,
    offload: str = "auto",
    memory: str | None = None,
    vae_tiling: bool = False,
    float8: bool = False,
    lora: Sequence[str | Path | Lora] = (),
    context_parallel: bool = False,
    anyway: bool = False,
    notice: Callable[[str], object] = print,
) -> Editor:
    """An editor with a model of the registry, with the one in a folder, or with a transformer's single file.

    A model that consists of a base and a single file takes them from the hub; `base` (a folder) and `weights` (a file,
    or the folder it is in) name local ones. `offload` says where weights lie while others compute (see `memory_plans`):
    "auto" is the quickest way whose predicted peak fits into the GPU's memory, or into `memory` of it, such as "12GB",
    and goes on to the next where it is full all the same. `vae_tiling` has the autoencoder work piece by piece;
    `float8` keeps the transformer's weights in 8 bits, which halves them and changes the edit a little. `lora` adds
    LoRAs to the weights, each FILE, "FILE:SCALE", (file, scale), or a folder that training wrote; for one trained
    from plain Wan, `weights` is Wan's transformer folder. Before anything is downloaded its size and licence go to
    `notice`. `context_parallel` shares each edit among the processes that torchrun has started, see `sharing`. Raises
    UserError for unknown names, for missing or wrong files, where the device's memory is full, and, unless `anyway`,
    where the model needs more memory or disk than there is.
    """
    entry = find(name)
    loras = [one if isinstance(one, tuple) else runtime.lora_and_scale(str(one)) for one in lora]
    check_model(entry, device, dtype, weights=weights, base=base, offload=offload, float8=float8, anyway=anyway)
    where = join_for_edits(device) if context_parallel else runtime.pick_device(device)
    number_type = runtime.pick_dtype(dtype, where, entry.defaults.dtype)
    real = unpacked(entry) if loras else weighed(entry, weights=weights)
    plans = plans_for(
        real, where, number_type, offload=offload, vae_tiling=vae_tiling, float8=float8, memory=memory
    )  # fmt: skip
    runtime.say_once(download_notice(entry, to_download(entry, weights=weights, base=base)), notice)
    runtime.say_once(entry.licence.notice, notice)
    pipeline = build_pipeline(entry, number_type, weights=weights, base=base, loras=loras)
    if context_parallel:
        share_edits(pipeline, where)
        del plans[1:]  # processes do not go on by different ones
    made_with: MadeWith = {"dtype": str(number_type).removeprefix("torch."), **weights_named(entry, weights, loras)}
    return Editor(pipeline, entry, where, plans=plans, notice=notice, anyway=anyway, made_with=made_with)


class Editor:
    """A loaded model that edits videos: `edit(request)`. The diffusers pipeline below it is `pipeline`.

    It lies on `device` by the first of the `plans`; where memory is full, by the next, which `notice` hears. Its edits'
    records have what it was `made_with`: number type, weights and LoRAs.
    """

    def __init__(
        self,
        pipeline: EditPipeline,
        entry: ModelEntry,
        device: torch.device | str = "cpu",
        *,
        plans: Sequence[MemoryPlan] = (MemoryPlan(),),
        notice: Callable[[str], object] = print,
        anyway: bool = False,
        made_with: MadeWith | None = None,
    ):
        self.pipeline, self.entry, self.device, self.notice = pipeline, entry, torch.device(device), notice
        self.plans, self.anyway, self.made_with = list(plans), anyway, made_with or MadeWith()
        pipeline.set_progress_bar_config(disable=True)
        self._within_memory(self._place)

    @property
    def offload(self) -> str:
        """Where weights lie while others compute."""
        return self.plans[0].offload

    def unknown_words(self, instruction: str) -> tuple[str, ...]:
        """Words that a model of few words has never been taught: what it makes of them is chance."""
        return unknown_words(self.entry, instruction)

    @torch.no_grad()
    def edit(self, request: EditRequest, unfinished: Unfinished | None = None) -> EditedVideo:
        """The edited video. Same seed, same result. Stops with `Cancelled` when the request's callback raises it.

        What is done lies with `unfinished` meanwhile, and an edit that was broken off there goes on.
        """
        video = source_of(request)
        check_family(self.entry, replace(request, video=video), self.anyway)
        store = self._store_of(request, video, unfinished)
        start, stop = request.frame_range(video)
        if request.edits and not request.one_pass:
            edited = self._chain(request, video, store)
        else:
            edited = self._edit(request, video, partial(store, (0, 1)))
        if (start, stop) != (0, video.frame_count):
            edited = replace(edited, span=Span(video, start, stop))
        record = self._record(request)
        if video.is_clip:
            record["shows"] = "only a part of its source"
        edited = replace(edited, record=record)
        return edited if request.alpha == "keep" else replace(edited, transparency=None)

    def _chain(self, request: EditRequest, video: Video, store: _StoreOf) -> EditedVideo:
        """Each edit over the result of the one before, whose frames are made again when they are asked for."""
        singles, made = request.single_edits(), list[EditedVideo]()
        for number, single in enumerate(singles):
            edit, tell = (number, len(singles)), request.progress
            single = replace(single, progress=None if tell is None else partial(_tell_of_chain, tell, edit))
            made.append(self._edit(single, made[-1] if made else video, partial(store, edit)))
        last, limits = made[-1], limits_of(request, video)

        def triples(first: int, stop: int) -> Iterator[_Triple]:
            return zip(video.frames(first, stop), last.frames(first, stop), limits(first, stop), strict=True)

        changes = Changes(triples, *request.frame_range(video))
        return EditedVideo.of(last, changes.share, self.unknown_words(request.instruction), tuple(made))

    def _edit(self, request: EditRequest, video: Video, store: Callable[[int, int], PartStore]) -> EditedVideo:
        start, stop = request.frame_range(video)
        limits = limits_of(request, video)
        with self.pipeline.freed():
            carrier = self._within_memory(partial(self._small_edit, request, video, start, stop, store))

        def triples(first: int, last: int) -> Iterator[_Triple]:
            weights = limits(first, last)
            for index, source in enumerate(video.frames(first, last), first):
                limit = next(weights)
                yield source, carrier.frame(index - start, source, limit) if start <= index < stop else source, limit

        changes = Changes(triples, start, stop)

        def frames(first: int, last: int) -> Iterator[np.ndarray]:
            for index, (source, frame, limit) in enumerate(triples(first, last), first):
                changes.see(index, source, frame, limit)
                yield frame

        return EditedVideo.of(video.with_frames(frames), changes.share, self.unknown_words(request.instruction))

    def _store_of(self, request: EditRequest, video: Video, unfinished: Unfinished | None) -> _StoreOf:
        """Gives the store of one of the request's edits, of a size and so many steps."""
        if unfinished is None or type(self.pipeline.sharing) is not Alone:  # several would not end at one place
            return lambda edit, size, steps: PartStore()
        return lambda edit, size, steps: unfinished.store(
            identity_of(request, video, self._record(request)), size, steps, edit
        )

    def _record(self, request: EditRequest) -> EditRecord:
        steps = steps_of(request, self.pipeline.defaults)
        made_with = self.made_with.copy()
        if self.plans[0].float8:
            made_with["float8"] = True
        return record_of(self.entry, request, steps, self.device.type, made_with)

    def _place(self) -> None:
        plan = self.plans[0]
        how = {"vae_tiling": plan.vae_tiling, "float8": plan.float8}
        place_on_device(self.pipeline, self.device, plan.offload, **how)

    def _within_memory(self, run: Callable[[], _T]) -> _T:
        """What `run` gives, by the first plan whose memory is enough."""
        while True:
            try:
                return run()
            except MemoryFull:
                if len(self.plans) == 1:
                    raise
            full, *self.plans = self.plans  # after the handler, which holds what the attempt had allocated
            note = f"The memory of {self.device} is full with {full.options}: going on with {self.plans[0].options}."
            self.notice(note)
            back_to_computer(self.pipeline)
            if run != self._place:
                self._within_memory(self._place)

    def _small_edit(
        self,
        request: EditRequest,
        video: Video,
        start: int,
        stop: int,
        stored: Callable[[int, int], PartStore],
    ) -> Compositor:
        """The edit at model size, ready to be carried to full size."""
        pipe, defaults = self.pipeline, self.pipeline.defaults
        area = request.size**2 if request.size else defaults.area
        multiple = max(defaults.multiple, pipe.multiple)
        placement = Placement.of(video.width, video.height, area, multiple)
        picked = PickedFrames.of(video, start, stop, request.model_fps)
        plan = WindowPlan.of(len(picked), defaults.window, defaults.overlap, defaults.shortest)
        mode, steps = SPEED_MODES[request.speed], steps_of(request, defaults)
        pictures = reference_pictures(request)
        task = request.task or pipe.default_task(plan.frames, len(pictures))
        guidance = pipe.guidance(request.guidance, request.source_guidance, task=task)
        preserve = defaults.preserve if request.preserve is None else request.preserve
        report = EditReporter(request.progress, plan.frames)

        room = partial(
            enough_memory, pipe._execution_device, self.offload, side=int(area**0.5),
            vae_tiling=getattr(pipe.vae, "use_tiling", False),
        )  # fmt: skip
        with room():
            back_on_device(pipe, self.offload)
            prefix = find_family(self.entry.family).tasks.get(task) if task else None
            text = pipe.encode_text(request.instruction, prefix=prefix)
            negative = pipe.encode_negative(request.negative_prompt, 1, guidance)
        small = (placement.enter(frame) for frame in picked.pick(video.frames(start, stop)))
        store = stored(KEPT * 4 * len(plan) * plan.length * _cells(pipe, placement), steps)
        with room(decoding=True):
            source = self._encoded(plan, small, store, report)
            placed = (Placement.of_reference(one.shape[1], one.shape[0], area, multiple).enter(one) for one in pictures)
            shown = pipe.with_references(source[:] if len(plan) == 1 else source, list(placed))
        noise, semantic = pipe.draw(plan, source, runtime.seeded(request.seed))
        shift = defaults.shift if request.shift is None else request.shift
        if request.progress is not None:
            first = placement.enter(next(picked.pick(video.frames(start, stop))))
            sigmas = pipe.make_scheduler(steps, shift, None, torch.device("cpu")).sigmas.tolist()
            report.look = partial(LatentPreview(source[:1][0, :, 0], first).of, store, noise, sigmas)
        loop = partial(
            SamplingLoop, pipe, store, noise, semantic, shown, text, negative,
            steps=steps, shift=shift, guidance=guidance, sampler=mode.sampler, guided=mode.guided, plan=plan,
        )  # fmt: skip
        with room(), step_cache(pipe.experts, defaults.cache if mode.cached else None):
            on_part = partial(report, "Editing", None)
            latents, _ = without_text_encoders(pipe, self.offload, lambda: loop().run(on_part=on_part))
        with room(decoding=True):
            kept = preserve or request.model_fps is not None
            return self._decode(plan, picked, placement, latents, source if kept else None, report)

    def _encoded(self, plan: WindowPlan, small: Iterator[Tensor], store: PartStore, report: EditReporter) -> StoredRows:
        """The source's windows as latents, which are not encoded again where the store has all of them."""
        pipe = self.pipeline
        if len(StoredRows(store, "source", "latents")) == len(plan):
            return StoredRows(store, "source", "latents")
        held: list[Tensor] = []
        for done, window in enumerate(pipe.encode_windows(plan, small), 1):
            held.append(report("Reading", window, done / len(plan)))
            if done == len(plan) or len(held) == pipe.windows_at_once(window):
                store.put("source", done - len(held), 0, {"latents": torch.cat(held)})
                held.clear()
        return StoredRows(store, "source", "latents")

    def _decode(
        self,
        plan: WindowPlan,
        picked: PickedFrames,
        placement: Placement,
        latents: StoredRows,
        source: StoredRows | None,
        report: EditReporter,
    ) -> Compositor:
        pipe, size = self.pipeline, (placement.height, placement.width)
        edited = FrameBuffer(plan.frames, 3, *size)
        pictures = pipe.decode_windows(plan, latents)
        if source is None:
            for done, chunk in enumerate(pictures, 1):
                edited.append(report("Decoding", chunk, done / len(plan)))
            return Compositor(placement, edited)
        guide, counter = FrameBuffer(plan.frames, 2, *size), ChangeCounter()
        for done, (chunk, rebuilt) in enumerate(zip(pictures, pipe.decode_windows(plan, source), strict=True), 1):
            changed = change(chunk, rebuilt)
            counter.add(placement.leave(changed))
            edited.append(report("Decoding", chunk, done / len(plan)))
            guide.append(torch.cat([luminance(rebuilt), changed[None]]))
        settings = PreserveSettings()
        kind = Compositor if picked.are_all else partial(BetweenCompositor, picked)
        return kind(placement, edited, guide, counter.rule(settings), settings)


def _cells(pipe: EditPipeline, placement: Placement) -> int:
    """Numbers of one latent frame."""
    return pipe.transformer.config.out_channels * placement.height * placement.width // pipe.spatial**2


def _tell_of_chain(tell: Callable[[Progress], None], edit: tuple[int, int], progress: Progress) -> None:
    tell(replace(progress, stage=f"{progress.stage} {edit[0] + 1} of {edit[1]}", edit=edit))
