"""The loop from noise to data, part by part of a batch's windows, with all that it knows in a store between two parts.

    every part:   v, u = guided(transformer(x, source, words, y, 1000 sigma))
    every part:   x, y = scheduler(x, blend(v)), its twin(y, u)               blend: over windows that overlap

A loop that finds the parts of an earlier one in the store goes on where that one ended, and gives the same numbers.

Letters: `b` videos or windows, `c` channels, `t h w` latent time, rows, columns, `s` semantic tokens, `e` their width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from opensama.models.acceleration import check_steps, sigma_of
from opensama.pipeline.guidance import AnyGuidance, CleanSource, ForwardPass, SamplingPoint
from opensama.pipeline.part_store import PartStore, StoredRows, Values, moved
from opensama.pipeline.windows import WindowPlan

if TYPE_CHECKING:
    from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer

    from opensama.pipeline.diffusion import EditPipeline, OnStep, SamplerName, TextCondition


class Solver:
    """A scheduler that takes one part's step after the other's: what it knows of a part goes out and in as values."""

    def __init__(self, scheduler: SchedulerMixin):
        self.scheduler = scheduler
        fixed = (Tensor, dict)  # noise levels and settings
        self._fixed = {name for name, value in vars(scheduler).items() if isinstance(value, fixed)}
        self.fresh = self._values()

    def step(self, known: Values, velocity: Tensor, t: Tensor, x: Tensor) -> tuple[Tensor, Values]:
        """A part after the step, and what is known then."""
        own = vars(self.scheduler)
        for name in own.keys() - self._fixed:
            del own[name]
        own.update(moved(known, x.device))
        return self.scheduler.step(velocity, t, x, return_dict=False)[0], self._values()

    def _values(self) -> Values:
        own = vars(self.scheduler)
        return {name: list(x) if isinstance(x, list) else x for name, x in own.items() if name not in self._fixed}


class SamplingLoop:
    """One edit's loop; see `EditPipeline.denoise` for what it takes. What is kept of a part stands in `store`,
    and what an earlier loop left there is not computed again."""

    def __init__(
        self,
        pipe: EditPipeline,
        store: PartStore,
        latents: Tensor,
        semantic: Tensor | None,
        source: CleanSource | None,
        text: TextCondition,
        negative: TextCondition | None,
        *,
        steps: int,
        shift: float,
        guidance: AnyGuidance,
        sampler: SamplerName | None = None,
        guided: float = 1.0,
        plan: WindowPlan | None = None,
        attention_kwargs: dict[str, object] | None = None,
    ):
        check_steps(pipe.experts, steps)
        self.pipe, self.store, self.device = pipe, store, pipe._execution_device
        self.latents, self.semantic, self.source = latents, semantic, source
        self.text, self.negative, self.guidance, self.guided = text, negative, guidance, guided
        self.plan, self.attention_kwargs = plan, attention_kwargs
        self.solver, self.semantic_solver = (
            Solver(pipe.make_scheduler(steps, shift, sampler, self.device)) for _ in range(2)
        )
        b, size = len(latents), pipe.windows_at_once(latents)
        self.parts = [slice(start, min(start + size, b)) for start in range(0, b, size)]

    def run(
        self, on_step: OnStep | None = None, on_part: Callable[[float], object] | None = None
    ) -> tuple[StoredRows, StoredRows | None]:
        """Data: latents, and semantic tokens where the model has some."""
        timesteps = self.solver.scheduler.timesteps
        steps, b = len(timesteps), len(self.latents)
        with self.pipe.progress_bar(total=steps) as bar:
            for i, t in enumerate(timesteps):
                for part in self.parts:
                    taken = self.store.step("state", part.start) > i
                    if not taken and self.store.step("velocity", part.start) != i:
                        self._ask(part, i, t)
                        if on_part is not None:
                            on_part((i + part.stop / b) / steps)
                for part in self.parts:
                    if self.store.step("state", part.start) <= i:
                        self._step(part, i, t)
                if on_step is not None:
                    self._tell(on_step, i, t)
                bar.update()
        return self._rows("latents"), None if self.semantic is None else self._rows("semantic")

    def _rows(self, name: str) -> StoredRows:
        return StoredRows(self.store, "state", name)

    def _state(self, part: slice) -> Values:
        """A part's, as it is before the step that comes."""
        if self.store.step("state", part.start) >= 0:
            return moved(self.store.get("state", part.start), self.device)
        x = {"latents": self.latents, "semantic": self.semantic}
        begun = {name: x[part].to(self.device, torch.float32) for name, x in x.items() if x is not None}
        return begun | {"solver": self.solver.fresh, "semantic_solver": self.semantic_solver.fresh}

    def _ask(self, part: slice, i: int, t: Tensor) -> None:
        """Keeps a part's guided velocities, and what guidance keeps from step to step."""
        pipe, state = self.pipe, self._state(part)
        model, guidance = pipe.expert(t, self.guidance)
        if i >= self.guided * len(self.solver.scheduler.timesteps):
            guidance = guidance.unguided()
        latents, semantic = state["latents"], state.get("semantic")
        dtype, b, rows = model.dtype, len(self.latents), len(latents)
        sigma = sigma_of(self.solver.scheduler, i)
        place = {"step_index": i, "num_inference_steps": len(self.solver.scheduler.timesteps), "sigma": sigma}

        def ask(given: ForwardPass) -> list[Tensor]:
            words = self.negative if given.negative else self.text
            assert words is not None, "guidance asks for a negative prompt"
            call = {
                key: expand_batch(x, b)[part].to(self.device, kept_dtype(key, x) or dtype) for key, x in words.items()
            }
            if semantic is not None:
                call["semantic_hidden_states"] = semantic.to(dtype)
            noisy = latents.to(dtype)
            with model.cache_context(f"{given} {part.start}", timestep=t, **place):
                answer = model(
                    hidden_states=noisy,
                    timestep=t.to(self.device, torch.float32).expand(rows),
                    source_hidden_states=pipe.shown(self.source, given.streams, part, noisy),
                    attention_kwargs=self.attention_kwargs,
                    return_dict=False,
                    **call,
                )
            return [x.float() for x in answer if x is not None]

        momentum = self._momentum(part)
        at = SamplingPoint(latents, sigma, momentum)
        answers = pipe.sharing.answers(guidance.passes, ask, [x for x in (latents, semantic) if x is not None])
        v, *u = guidance.combine(answers.__getitem__, at)
        kept = {str(link): [buffer.momentum, buffer.running_average] for link, buffer in momentum.items()}
        self.store.put("velocity", part.start, i, {"latents": v, "semantic": u[0] if u else None, "momentum": kept})

    def _momentum(self, part: slice) -> dict[int, MomentumBuffer]:
        """What guidance has kept of the steps before."""
        if self.store.step("velocity", part.start) < 0:
            return {}
        from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer

        found = {}
        for link, (momentum, average) in self.store.get("velocity", part.start)["momentum"].items():
            found[int(link)] = buffer = MomentumBuffer(momentum)
            buffer.running_average = moved(average, self.device)
        return found

    def _step(self, part: slice, i: int, t: Tensor) -> None:
        state, kept = self._state(part), StoredRows(self.store, "velocity", "latents")
        v = (kept[part] if self.plan is None else self.plan.blend(kept, part)).to(self.device)
        after: Values = {}
        after["latents"], after["solver"] = self.solver.step(state["solver"], v, t, state["latents"])
        if self.semantic is not None:
            u = self.store.rows("velocity", part.start, "semantic").to(self.device)
            after["semantic"], after["semantic_solver"] = self.semantic_solver.step(
                state["semantic_solver"], u, t, state["semantic"]
            )
        self.store.put("state", part.start, i + 1, after)

    def _tell(self, on_step: OnStep, i: int, t: Tensor) -> None:
        """Shows all of the batch to a callback, and keeps what it gives back."""
        names = ["latents"] if self.semantic is None else ["latents", "semantic"]
        shown = {name: self._rows(name)[:] for name in names}
        changed = on_step(self.pipe, i, t, shown) or {}
        if changed:
            for part in self.parts:
                new = {name: x[part] for name, x in changed.items() if name in names}
                self.store.put("state", part.start, i + 1, self.store.get("state", part.start) | new)


def expand_batch(x: Tensor, b: int) -> Tensor:
    """[1 ...] for all alike, or [b ...], as [b ...]."""
    return x.expand(b, *x.shape[1:]) if len(x) == 1 else x


def kept_dtype(key: str, x: Tensor) -> torch.dtype | None:
    """The type of what goes into a model as it is: masks, and numbers that it embeds as it does time."""
    return x.dtype if key == "guidance" or not x.is_floating_point() else None
