"""`opensama inspect`: what is in a file, how it was edited, and the same edit once more."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from opensama.apps.edit_settings import FLAG, LoadSettings
from opensama.apps.options import OUT, OVERWRITE
from opensama.values import EditRecord, UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opensama.media.credentials import Credentials


def inspect_command(
    file: Path,
    /,
    *,
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
    repeat: Annotated[bool, FLAG] = False,
    out: Annotated[Path | None, OUT] = None,
    source: Path | None = None,
    instruction: str | None = None,
    model: Annotated[str | None, Parameter(name=["--model", "-m"])] = None,
    trust: Path | None = None,
    overwrite: Annotated[bool, OVERWRITE] = False,
    anyway: Annotated[bool, FLAG] = False,
    load_settings: LoadSettings | None = None,
) -> int:
    """Say what is in a file and how OpenSAMA edited it: `opensama inspect holiday-edited.mp4`.

    Parameters
    ----------
    file
        A video or a picture.
    as_json
        Say it as JSON.
    repeat
        Make the edit again, from the same source with the same settings, and say whether the result is the same.
    out
        Where the repeated edit goes. By default NAME-repeated beside the file.
    source
        What was edited, where it does not lie beside the file. It must be the same, byte by byte.
    instruction
        What was asked for, where the file does not tell it.
    model
        The model's folder, where it was made with one of your own.
    trust
        Certificates of those who sign and whom you trust, PEM.
    overwrite
        Replace the output where it exists.
    anyway
        Repeat, though the instruction has words that the model does not know, the model is known to fail at such a
        size, or it needs more memory or disk than this machine has.
    """
    from opensama.media.video_io.edit_record import read_record
    from opensama.media.video_io.listing import streams_of

    streams, record = streams_of(file), read_record(file)
    if repeat:
        if as_json:
            raise UserError("--json says what is in a file: leave it out with --repeat.")
        from opensama.apps.repeat import Repetition

        found = Repetition.of(file, record, source, instruction, model, load_settings or LoadSettings())
        return found.run(out or file.with_name(f"{file.stem}-repeated{file.suffix}"), overwrite, anyway)
    if given := [name for name, value in {"out": out, "source": source, "instruction": instruction}.items() if value]:
        raise UserError(f"`{given[0]}` is for an edit that is made again: add `repeat=True`.")
    signed = _credentials(file, trust)
    if as_json:
        told = {"state": signed} if isinstance(signed, str) else asdict(signed)
        print(json.dumps({"file": str(file), "streams": streams, "edit": record, "credentials": told}, indent=2))
    else:
        print("\n".join((*_lines(file, streams, record), _signed_line(signed))))
    return 0


def _lines(file: Path, streams: list[dict[str, object]], record: EditRecord | None) -> Iterator[str]:
    yield f"{file}:"
    for stream in streams:
        yield f"  {_stream(stream)}"
    if record is None:
        yield "  edited: it says nothing of an edit by OpenSAMA"
        return
    model = record["model"]
    weights = ", ".join(f"{_plain(name)} {_short(digest)}" for name, digest in model.get("weights", {}).items())
    by = f"by OpenSAMA {_plain(record.get('opensama'))} with {_plain(model.get('name'))}"
    yield f"  edited: {by} ({weights})" if weights else f"  edited: {by}"
    for lora in model.get("loras", ()):
        yield f"  LoRA: {_plain(lora.get('name'))}:{_plain(lora.get('scale'))} {_short(lora.get('sha256'))}"
    yield f"  computed: on {_plain(record.get('device'))} in {_plain(model.get('dtype'))}"
    if "shows" in record:
        yield f"  shows: {_plain(record['shows'])}"
    yield f"  instruction: {json.dumps(record['instruction']) if 'instruction' in record else 'not told'}"
    yield "  settings: " + ", ".join(
        f"{_plain(name)} {json.dumps(value)}" for name, value in record["settings"].items()
    )
    if source := record.get("source"):
        yield f"  source: {_plain(source.get('name'))}, SHA-256 {_plain(source.get('sha256'))}"


def _credentials(file: Path, trust: Path | None) -> Credentials | str:
    """What they say, or why they were not looked at."""
    from opensama.media.credentials import check_installed, credentials_of

    try:
        check_installed()
    except UserError as error:
        if trust is not None:
            raise
        return f"not looked at ({error})"
    return credentials_of(file, trust)


def _signed_line(signed: Credentials | str) -> str:
    if isinstance(signed, str):
        return f"  credentials: {_plain(signed)}"
    said = [signed.state, f"signed by {signed.signer}" if signed.signer else "", ", ".join(signed.actions)]
    said += [f"made of {signed.parent}" if signed.parent else ""]
    return "  credentials: " + "; ".join(_plain(one) for one in said if one)


def _stream(stream: dict[str, object]) -> str:
    said = [str(stream.get("codec", "unknown codec"))]
    if "width" in stream:
        said.append(f"{stream['width']}x{stream['height']}")
    if "frames" in stream:
        said += [f"{stream['frames']} frames", f"{stream['fps']:g} frames a second", f"{stream['seconds']:g} s"]
    if "rate" in stream:
        said += [f"{stream['rate']} Hz", f"{stream['channels']} channel{'s' if stream['channels'] != 1 else ''}"]
    return f"{stream['kind']}: {', '.join(said)}"


def _short(digest: object) -> str:
    return _plain(digest)[:12] if digest else "without a hash"


def _plain(told: object) -> str:
    """What a file tells, without characters that would steer a terminal."""
    return json.dumps(str(told))[1:-1]
