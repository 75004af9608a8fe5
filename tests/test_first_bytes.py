"""What stands in for a wanted file is named, whatever opens it; what may be the wanted one passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from opensama.first_bytes import check_first_bytes, kind_of, stand_in
from opensama.models.weights import TensorFiles
from opensama.values import UserError

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d" * 32 + b"\nsize 28600000000\n"

STAND_INS = [
    (POINTER, "is a Git LFS pointer to 28,600,000,000 bytes"),
    (b"version https://hawser.github.com/spec/v1\n", "is a Git LFS pointer:"),
    (b"/annex/objects/SHA256E-s1048576--abc.mp4\n", "git-annex pointer"),
    (b"<!DOCTYPE html>\n<html><body>404</body></html>", "is a web page"),
    (b"\xef\xbb\xbf \r\n<HTML lang='en'>", "is a web page"),
    (b'<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN">', "is a web page"),
    (b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code><Message>No.</Message></Error>', "AccessDenied"),
    (b"", "is empty"),
    (bytes(5000), "nothing but zeros"),
]

WANTED = [
    b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41",
    b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81\x01",
    b"\0\0\1\xba\x44\0\4\0\4\1",  # MPEG-PS
    b"\0\0\0\1\x67\x42\xc0\x1e",  # bare H.264
    b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    b'source,target,instruction\n<a href="x.mp4">,y.mp4,Make it red.\n',
    b"instruction\nversion https://git-lfs.github.com/spec/v1\n",
    bytes(300) + b"\1" * 300,  # zeros, but not nothing else
]


@pytest.mark.parametrize(("data", "words"), STAND_INS, ids=[words for _, words in STAND_INS])
def test_a_stand_in_is_named(data: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        check_first_bytes(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("data", WANTED)
def test_a_file_that_may_be_the_wanted_one_passes(data: bytes) -> None:
    assert stand_in(data[:1024], len(data)) == ""


def test_what_is_not_there_is_said_by_the_opener(tmp_path: Path) -> None:
    check_first_bytes(tmp_path / "nothing.mp4")
    check_first_bytes(tmp_path)


def test_kinds() -> None:
    assert kind_of(b"PK\x03\x04\x14\0") == "a ZIP archive"
    assert kind_of(b"%PDF-1.7") == "a PDF document"
    assert kind_of(b"\0\0\0\x20ftyp") == ""


@pytest.mark.parametrize(("data", "words"), STAND_INS[:1] + STAND_INS[3:4] + STAND_INS[7:])
def test_weights_are_asked_too(data: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    path.write_bytes(data)
    with pytest.raises(UserError, match=words):
        TensorFiles(path)
    with pytest.raises(UserError, match=words):
        TensorFiles(tmp_path)
