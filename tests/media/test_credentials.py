"""Content Credentials, held to what the C2PA library's own reader says of the files."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path

import av
import pytest
from c2pa import Reader
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from opensama.media.credentials import (
    Credentials,
    SigningIdentity,
    _certificate,
    credentials_of,
    own_folder,
    own_identity,
    read_identity,
    side_file,
)
from opensama.media.video_io import read_video, write_video
from opensama.media.video_io.edit_record import COMPOSITE, read_record
from opensama.values import UserError, Video
from tests.browser import CHROMIUM, has_browser
from tests.media.making import make_video, picture

RECORD = {
    "opensama": "0", "model": {"name": "tiny", "weights": {"a": "b"}}, "instruction": "Make it secret.",
    "settings": {"seed": 7, "steps": 2},
}  # fmt: skip
UNKNOWN = "valid, signer unknown"
SIGNER = "OpenSAMA edits of one person, OpenSAMA"


@pytest.fixture(autouse=True)
def _own_place(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """One identity for all tests of a process, away from the person's own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "configuration"))


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    return make_video(folder / "film.mp4", options={"preset": "ultrafast"}, sound="aac")


def signed(film: Path, out: Path) -> Path:
    write_video(replace(read_video(film), record=RECORD), out, credentials=own_identity(), on_note=[].append)
    return out


def test_a_certificate_of_one_s_own_is_made_once_and_its_key_is_for_its_owner_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    said: list[str] = []
    first, second = own_identity(said.append), own_identity(said.append)
    assert first == second
    (note,) = said
    assert str(tmp_path) in note
    assert [stat.S_IMODE(path.stat().st_mode) for path in (own_folder(), own_folder() / "key.pem")] == [0o700, 0o600]
    assert b"PRIVATE" not in (own_folder() / "root.pem").read_bytes()
    assert "PRIVATE" not in repr(first)


@pytest.mark.parametrize("ending", [".mp4", ".m4v", ".mov", ".jpg"])
def test_a_file_is_signed_last_and_says_what_was_done_to_which_parent(film, tmp_path, ending):
    source = film
    if ending == ".jpg":
        source = tmp_path / "still.png"
        write_video(Video.from_frames([picture(0, 16, 16)], 1), source)
    out = signed(source, tmp_path / f"out{ending}")
    assert credentials_of(out) == Credentials(
        UNKNOWN, SIGNER, ("c2pa.opened", "c2pa.edited"), f"{source.name}, without credentials"
    )
    assert credentials_of(out, own_folder() / "root.pem").state == "trusted"
    record = read_record(out)
    assert record is not None
    with Reader(str(out)) as reader:
        manifest = reader.get_active_manifest()
    (actions,) = [one["data"]["actions"] for one in manifest["assertions"] if one["label"] == "c2pa.actions.v2"]
    edited = actions[1]
    assert edited["digitalSourceType"] == COMPOSITE
    assert edited["parameters"] == {"com.opensama.edit": record}
    assert "secret" not in json.dumps(manifest)
    assert read_video(out).array().shape == read_video(source).array().shape
    if ending == ".jpg":
        return
    with av.open(str(out)) as container:
        assert [stream.type for stream in container.streams] == ["video", "audio"]
    data = bytearray(out.read_bytes())
    assert data.index(b"moov") < data.index(b"mdat")
    data[data.index(b"mdat") + 100] ^= 1
    (changed := tmp_path / f"changed{ending}").write_bytes(data)
    assert credentials_of(changed).state == "changed since"
    assert credentials_of(changed, own_folder() / "root.pem").state == "changed since"
    with av.open(str(out)) as source_file, av.open(str(tmp_path / f"remuxed{ending}"), "w") as target:
        stream = target.add_stream_from_template(source_file.streams.video[0])
        for packet in source_file.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    assert credentials_of(tmp_path / f"remuxed{ending}") == Credentials("none")


@pytest.mark.parametrize("ending", [".mkv", ".webm"])
def test_matroska_has_a_side_file(film, tmp_path, ending):
    out = signed(film, tmp_path / f"out{ending}")
    side = side_file(out)
    assert side == tmp_path / f"out{ending}.c2pa"
    assert credentials_of(out).state == UNKNOWN
    assert credentials_of(out).parent == "film.mp4, without credentials"
    out.write_bytes(out.read_bytes()[:-1] + b"?")
    assert credentials_of(out).state == "changed since"
    side.unlink()
    assert credentials_of(out) == Credentials("none")
    side.write_bytes(b"mine")
    out.unlink()
    with pytest.raises(UserError, match=r"c2pa exists"):
        signed(film, out)
    assert not out.exists()


def test_the_source_s_credentials_are_kept_and_frames_in_memory_have_no_parent(film, tmp_path):
    """Without a parent the library would take the result for its own."""
    second = signed(signed(film, tmp_path / "first.mp4"), tmp_path / "second.mp4")
    assert credentials_of(second).parent == "first.mp4, with credentials of its own"
    with Reader(str(second)) as reader:
        assert len(json.loads(reader.json())["manifests"]) == 2
    data = bytearray((tmp_path / "first.mp4").read_bytes())
    data[data.index(b"mdat") + 100] ^= 1
    (tmp_path / "first.mp4").write_bytes(data)  # its own credentials do not hold any more, which is the parent's matter
    third = signed(tmp_path / "first.mp4", tmp_path / "third.mp4")
    assert (credentials_of(third).state, credentials_of(third).parent[:9]) == (UNKNOWN, "first.mp4")
    old = make_video(tmp_path / "old.mov", options={"preset": "ultrafast"})
    old.write_bytes(old.read_bytes().replace(b"ftyp", b"free", 1))  # as before files said what they are
    assert credentials_of(signed(old, tmp_path / "new.mov")).parent == "old.mov, without credentials"
    made = replace(Video.from_frames([picture(i, 64, 48) for i in range(2)], 8), record=RECORD)
    write_video(made, tmp_path / "made.mp4", credentials=own_identity())
    found = credentials_of(tmp_path / "made.mp4")
    assert (found.state, found.actions, found.parent) == (UNKNOWN, ("c2pa.created", "c2pa.edited"), "")
    write_video(replace(made, record=None), tmp_path / "plain.mp4", credentials=own_identity())
    assert credentials_of(tmp_path / "plain.mp4").state == "none"  # which is no edit


def test_what_c2pa_cannot_sign_leaves_no_file(film, tmp_path):
    broken = SigningIdentity(b"none", b"none", "es256")
    for name in ("out.mp4", "out.mkv"):
        with pytest.raises(UserError, match=rf"{name} could not be signed"):
            write_video(replace(read_video(film), record=RECORD), tmp_path / name, credentials=broken)
    assert not list(tmp_path.iterdir())


def test_certificates_that_will_not_do_get_a_sentence(tmp_path, monkeypatch):
    own_identity(lambda note: None)
    mine = own_folder()
    for certificates, key, sentence in (
        (mine / "root.pem", mine / "key.pem", "is not that of the first certificate"),
        (mine / "key.pem", mine / "key.pem", "no certificates and no open private key"),
        (mine / "chain.pem", mine / "root.pem", "no certificates and no open private key"),
        (mine / "gone.pem", mine / "key.pem", "cannot be read"),
    ):
        with pytest.raises(UserError, match=sentence):
            read_identity(certificates, key)
    key = ec.generate_private_key(ec.SECP384R1())
    (tmp_path / "lone.pem").write_bytes(_certificate("me", key, "me", key, ca=True))  # a root that signs files itself
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "key.pem").write_bytes(pem)
    with pytest.raises(UserError, match=r"C2PA does not take the certificates in .*lone\.pem"):
        read_identity(tmp_path / "lone.pem", tmp_path / "key.pem")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"Content Credentials need c2pa and cryptography; run: .*\[credentials\]"):
        own_identity()


@has_browser
def test_a_browser_plays_a_signed_file_to_its_end(film, tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api")
    out = signed(film, tmp_path / "out.mp4")
    (tmp_path / "page.html").write_text(f'<video src="{out.name}" muted></video>')
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto((tmp_path / "page.html").as_uri())
        ended = "new Promise((ended, failed) => { const v = document.querySelector('video');"
        ended += " v.onended = () => ended(v.videoWidth); v.onerror = () => failed(v.error.message);"
        ended += " v.playbackRate = 4; v.play().catch(failed); })"
        assert page.evaluate(ended) == read_video(out).width
        browser.close()
