"""What is asked of a job: settings by the names that clients use, and sentences in the words of who reads them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from opensama.apps.batch_table import value_of
from opensama.apps.edit_checks import check_alpha, default_output, parse_regions
from opensama.apps.edit_settings import EditSettings
from opensama.apps.jobs.limits import JobLimits, Refusal
from opensama.apps.records import JobAsked
from opensama.values import EditRequest, SubEdit, UserError, nearest

OTHER_NAMES = {
    "num_inference_steps": "steps", "guidance_scale": "guidance", "flow_shift": "shift", "span": "frames",
    "from": "begin", "to": "end",
    "num_outputs_per_prompt": "n", "num_outputs": "n",
}  # fmt: skip
"""As other servers call what is a setting here."""
OF_SOURCE = ("seconds", "fps", "num_frames", "width", "height")
"""What other servers let a request choose and a result has from its source."""
SETTINGS = (
    "seed", "steps", "guidance", "shift", "source_guidance", "speed", "negative_prompt", "frames", "begin", "end",
    "size", "box", "task", "model_fps", "preserve", "background", "alpha", "quality", "codec", "even",
    "record", "credentials", "split", "one_pass", "regions",
)  # fmt: skip
"""Those of `EditSettings` that a request may choose."""
NO_SETTINGS = ("mask", "references", "compare", "enhance", "enhance_model", "certificate", "certificate_key")
"""Those that it may not: files come as files, source and result side by side are made when asked for, and nobody from
outside names an address for this machine to send something to."""


@dataclass(frozen=True)
class Wish:
    """What was asked, read and checked as far as words go."""

    model: str
    prompt: str
    settings: EditSettings
    n: int
    anyway: bool
    notes: tuple[str, ...]
    edits: Sequence[SubEdit] = ()
    webhook: str | None = None

    def asked(self, source: str, mask: str | None, references: list[str], regions: list[str]) -> JobAsked:
        """As the queue keeps it; files by their names in the job's folder."""
        asked: JobAsked = {
            "prompt": self.prompt, "n": self.n, "anyway": self.anyway, "notes": list(self.notes), "source": source,
            "settings": asdict(self.settings)
            | {"mask": mask, "references": references, "regions": [*self.settings.regions, *regions]},
            "edits": [{"instruction": edit.instruction, "box": edit.box} for edit in self.edits],
        }  # fmt: skip
        if self.webhook is not None:
            asked["webhook"] = self.webhook
        return asked


def read_wish(
    values: Mapping[str, object],
    models: Mapping[str, str],
    limits: JobLimits,
    anyway: bool,
    webhooks: Sequence[str] = (),
) -> Wish:
    """The settings that a request names, each by its own name or another server's. Refusal or UserError for the rest.

    `models` are the names that may be asked for, the first of them by default, and what each stands for; `webhooks` the
    addresses.
    """
    from opensama.models.registry import find
    from opensama.models.vocabulary import check_words, politeness_note, without_politeness
    from opensama.pipeline.request_checks import check_family

    given = {OTHER_NAMES.get(name, name): value for name, value in values.items() if value not in (None, "")}
    notes = []
    for name in OF_SOURCE:
        if given.pop(name, None) is not None:
            notes.append(f"{name} was left out: a result has its source's own.")
    if re.fullmatch(r"\d+x\d+", str(given.get("size"))):
        notes.append(f"size={given.pop('size')} was left out: a result has its source's own size.")
    known = ("model", "prompt", "n", "anyway", "webhook", *SETTINGS)
    for name in given:
        if name not in known:
            raise UserError(f"There is no setting {name[:40]!r}: {nearest(name, known)}")
    prompt = given.pop("prompt", "")
    if not isinstance(prompt, str) or not prompt.strip():
        raise UserError("The prompt is missing: say in `prompt` what to change.")
    model = given.pop("model", next(iter(models)))
    if not isinstance(model, str) or model not in models:
        raise Refusal(
            "model_not_found", f"The model {str(model)[:80]!r} is not served here; choose {', '.join(models)}."
        )
    webhook = given.pop("webhook", None)
    if webhook is not None and not (isinstance(webhook, str) and webhook in webhooks):
        raise UserError("The webhook is not one that this service sends to; ask whoever runs it to allow the address.")
    n = _whole("n", given.pop("n", 1))
    if not 1 <= n <= limits.max_outputs:
        raise UserError(f"n must be from 1 to {limits.max_outputs}, not {n}.")
    any_words = _flag("anyway", given.pop("anyway", False)) or anyway
    settings = EditSettings(**{name: value_of(name, value) for name, value in given.items()})
    if settings.steps is not None and settings.steps > limits.max_steps:
        raise UserError(f"steps must be at most {limits.max_steps} here, not {settings.steps}.")
    if settings.split not in ("off", "rules"):
        raise UserError(f"Split is off or rules here, not {settings.split[:40]!r}.")
    if len(settings.masks):
        raise UserError("Regions are boxes here, such as 1:40,60,200,200; a mask for an edit is a file, `mask-1`.")
    said, left_out = without_politeness(models[model], prompt)
    request = settings.request(Path("source"), said)
    try:
        check_words(models[model], said, any_words)
    except UserError as error:
        raise Refusal("unknown_words", str(error)) from None
    check_family(find(models[model]), request, anyway)
    if left_out:
        notes.append(politeness_note(model, left_out))
    if split := settings.splitting.note(request):
        notes.append(split)
    return Wish(model, said, settings, n, anyway, tuple(notes), request.edits, webhook)


def chosen_settings(asked: JobAsked) -> dict[str, object]:
    """Those of a job's settings that are not as they are by default, by the names that requests use."""
    plain_ones = asdict(EditSettings())
    kept = {name: asked["settings"].get(name, plain_ones[name]) for name in SETTINGS}
    kept["regions"] = tuple(kept["regions"])
    return {name: value for name, value in kept.items() if value != plain_ones[name]}


def edits_of(asked: JobAsked, status: str, stage: str) -> list[dict[str, object]]:
    """A job's edits, where its instruction asks for several, each with what has become of it."""
    edits = asked.get("edits", [])
    at = re.search(r" (\d+) of \d+$", stage)
    now = int(at[1]) if at is not None else len(edits) + 1 if stage.startswith("Writing") else 1

    def state(number: int) -> str:
        if status != "in_progress" or asked["settings"]["one_pass"]:
            return status
        return "completed" if number < now else "in_progress" if number == now else "queued"

    return [{**edit, "status": state(number)} for number, edit in enumerate(edits, 1)]


@dataclass(frozen=True)
class StoredWish:
    """A job's settings with the files in its folder, ready to be checked or edited."""

    source: Path
    prompt: str
    settings: EditSettings
    n: int

    @classmethod
    def of(cls, asked: JobAsked, folder: Path) -> StoredWish:
        kept = dict(asked["settings"])
        mask = kept["mask"] and folder / kept["mask"]
        references = tuple(folder / name for name in kept["references"])
        regions = tuple(
            f"{number}:{folder / region}" if isinstance(region, Path) else f"{number}:{','.join(map(str, region))}"
            for number, region in parse_regions(kept.get("regions", ())).items()
        )
        given = {"mask": mask, "references": references, "regions": regions}
        settings = EditSettings(**kept | given)
        return cls(folder / asked["source"], asked["prompt"], settings, asked["n"])

    @property
    def files(self) -> list[Path]:
        """All that the edit is made of."""
        return [self.source, *self.settings.masks, *self.settings.references]

    def variant(self, index: int) -> EditRequest:
        """One output of several: the seeds follow one another."""
        return replace(self.settings, seed=self.settings.seed + index).request(self.source, self.prompt)

    def out(self, index: int) -> Path:
        """Where that output goes."""
        ending = default_output(self.source, self.settings.alpha == "keep", self.settings.is_part).suffix
        return self.source.with_name(f"result-{index}{ending}")

    def check_alpha(self) -> None:
        check_alpha(self.variant(0), self.out(0))


def plain(sentence: str, folder: Path) -> str:
    """A sentence of the library for who sends requests: settings by their names, no path of the server."""
    sentence = re.sub(
        rf"{re.escape(str(folder))}/(source|mask|reference|result)(-\d+)?(\.\w+)?",
        lambda found: f"The {'video' if found[1] == 'source' else found[1]}",
        sentence,
    )
    sentence = sentence.replace(str(folder), "the server's folder")
    sentence = re.sub(r"--([a-z][a-z-]*)", lambda found: found[1].replace("-", "_"), sentence)
    return sentence[:1].upper() + sentence[1:]


def _whole(name: str, value: object) -> int:
    try:
        return int(str(value))
    except ValueError:
        raise UserError(f"{name} must be a whole number, not {str(value)[:40]!r}.") from None


def _flag(name: str, value: object) -> bool:
    if str(value).lower() in ("true", "1", "false", "0"):
        return str(value).lower() in ("true", "1")
    raise UserError(f"{name} must be true or false, not {str(value)[:40]!r}.")
