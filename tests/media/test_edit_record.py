"""What an edit was made by, in the edited file: where each kind of file has a place, and what is told."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from opensama.media.video_io import edit_record, read_video, write_video
from opensama.media.video_io.edit_record import COMPOSITE, read_record
from opensama.values import Span, UserError, Video
from tests.media.making import make_video, picture

SETTINGS = {"seed": 7, "steps": 2, "negative_prompt": "no & <never>"}
RECORD = {
    "opensama": "0",
    "model": {"name": "tiny"},
    "instruction": "Make the bälle \ue000 night.",
    "settings": SETTINGS,
}


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("films") / "film.mp4", options={"preset": "ultrafast", "g": "6"})


def edited(film: Path, ending: str) -> Video:
    video = replace(read_video(film), record=RECORD)
    if ending not in (".png", ".jpg", ".webp"):
        return video
    still = picture(0, 32, 24)
    deep = ending == ".png"
    made = Video.from_frames([still.astype(np.uint16) * 257 if deep else still], 1, bit_depth=16 if deep else 8)
    return replace(made, record=RECORD, path=film)


@pytest.mark.parametrize("ending", [".mp4", ".m4v", ".mov", ".mkv", ".webm", ".png", ".jpg", ".webp"])
def test_every_kind_of_file_tells_its_settings_and_its_source_and_words_only_where_asked(film, tmp_path, ending):
    told = {"name": "film.mp4", "sha256": hashlib.sha256(film.read_bytes()).hexdigest()}
    video, out = edited(film, ending), tmp_path / f"out{ending}"
    write_video(video, out, quality=60)
    without = {"seed": 7, "steps": 2, "quality": 60}
    assert read_record(out) == {"opensama": "0", "model": {"name": "tiny"}, "settings": without, "source": told}
    assert b"never" not in out.read_bytes()
    assert read_video(out).frame_count == video.frame_count
    if ending in (".mp4", ".m4v", ".mov"):
        data = out.read_bytes()
        assert data.index(b"moov") < data.index(b"mdat")  # a player can begin before all has arrived
    if ending not in (".mkv", ".webm"):
        assert COMPOSITE.encode() in out.read_bytes()
    if ending in (".mp4", ".mkv", ".jpg"):
        write_video(video, out, record="instruction", overwrite=True)
        assert read_record(out) == {**RECORD, "source": told}
        write_video(video, out, record="none", overwrite=True)
        assert read_record(out) is None
        assert b"tiny" not in out.read_bytes()
    assert video.record == RECORD


def test_eight_bits_in_png_too(film, tmp_path):
    write_video(replace(edited(film, ".jpg")), tmp_path / "out.png")
    assert read_record(tmp_path / "out.png")["settings"] == {"seed": 7, "steps": 2}


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_a_span_is_told_in_the_copy_and_the_source_s_own_record_is_not_copied(film, tmp_path, ending):
    first, second = tmp_path / f"first{ending}", tmp_path / f"second{ending}"
    write_video(replace(read_video(film), record=RECORD | {"device": "first"}), first)
    source = read_video(first)
    span = replace(source, span=Span(source, 9, 12), record=RECORD)
    write_video(span, second, on_note=(said := []).append)
    assert any("all else is copied from" in note for note in said)
    assert read_record(second) == {
        "opensama": "0", "model": {"name": "tiny"}, "settings": {"seed": 7, "steps": 2},
        "source": {"name": first.name, "sha256": hashlib.sha256(first.read_bytes()).hexdigest()},
    }  # fmt: skip
    write_video(replace(span, record=None), second, overwrite=True, on_note=(notes := []).append)
    assert read_record(second) is None
    assert not [note for note in notes if "opensama" in note.lower()]


@pytest.mark.parametrize(
    "said",
    ["[]", "{", '{"settings": {}}', '{"model": [], "settings": {}}', '{"model": {"weights": 1}, "settings": {}}'],
)
def test_what_is_no_record_is_none(tmp_path, said):
    """Of a box, too, that ends before it begins, of one that is cut off, and of a packet with entities of its own."""
    path = tmp_path / "tagged.mkv"
    with av.open(str(path), "w") as container:
        container.metadata["OPENSAMA_EDIT"] = said
        stream = container.add_stream("ffv1", rate=1)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
        for packet in stream.encode(av.VideoFrame(16, 16, "yuv420p")):
            container.mux(packet)
    assert read_record(path) is None
    path = tmp_path / "boxes.mp4"
    good = edit_record.xmp_of(replace(Video.from_frames([picture(0, 16, 16)], 1), record=RECORD))
    assert good is not None
    entities = good.replace(b"<x:xmpmeta", b'<!DOCTYPE x [<!ENTITY a "b">]><x:xmpmeta', 1)
    other = re.sub(rb"(?<=<opensama:edit>).*(?=</opensama:edit>)", said.encode(), good)
    assert other != good
    for packet, size in ((entities, None), (other, None), (good, 3), (good, 0xFFFFFF)):
        length = 24 + len(packet) if size is None else size
        box = length.to_bytes(4, "big") + b"uuid" + bytes.fromhex("be7acfcb97a942e89c71999491e3afac") + packet
        path.write_bytes(b"\0\0\0\x08ftyp" + box)
        assert size == 0xFFFFFF or read_record(path) is None


def test_another_record_gets_a_sentence(film, tmp_path):
    with pytest.raises(UserError, match="choose settings, instruction, none"):
        write_video(edited(film, ".mp4"), tmp_path / "out.mp4", record="all")
