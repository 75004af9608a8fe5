"""Where weights lie: a cache in the hub's own layout counts only when it is whole, and a cut download goes on."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from opensama import runtime
from opensama.values import UserError

REPO, COMMIT = "some/video-model", "0123456789abcdef0123456789abcdef01234567"
SHARDS = [f"text_encoder/model-{i:05}-of-00005.safetensors" for i in range(1, 6)]
FILES = {
    "text_encoder/config.json": b"{}",
    "text_encoder/model.safetensors.index.json": json.dumps(
        {"weight_map": {f"layer.{i}": Path(name).name for i, name in enumerate(SHARDS)}}
    ).encode(),
    **{name: name.encode() * 9 for name in SHARDS},
    "tokenizer/tokenizer.json": b"{}",
    "tokenizer/tokenizer_config.json": b"{}",
    "vae/config.json": b"{}",
    "vae/diffusion_pytorch_model.safetensors": b"weights",
    "transformer/config.json": b"{}",
    "transformer/diffusion_pytorch_model.safetensors": b"more weights",
}
PARTS = ("text_encoder/*", "tokenizer/*", "vae/*", "transformer/*")


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path / "models--some--video-model"


def keep(cache: Path, *left_out: str) -> Path:
    """A cache as the hub's client leaves it, after a download in which some files had not come."""
    snapshot = cache / "snapshots" / COMMIT
    (cache / "refs").mkdir(parents=True, exist_ok=True)
    (cache / "refs" / "main").write_text(COMMIT)
    (cache / "blobs").mkdir(exist_ok=True)
    for name, content in FILES.items():
        blob = cache / "blobs" / hashlib.sha256(content).hexdigest()
        if name in left_out:
            blob.with_suffix(".incomplete").write_bytes(content[:3])
            continue
        blob.write_bytes(content)
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(Path("../" * (name.count("/") + 2)) / "blobs" / blob.name)
    return snapshot


def test_a_whole_cache_is_used_without_the_network(cache):
    snapshot = keep(cache)
    assert runtime.locate(REPO, PARTS) == snapshot
    assert runtime.locate(REPO, ("*.json", "*/*.safetensors")) == snapshot


@pytest.mark.parametrize(
    ("left_out", "named"),
    [
        (SHARDS[1:], "text_encoder/model-00002-of-00005.safetensors"),
        ([*SHARDS[1:], "text_encoder/model.safetensors.index.json"], "text_encoder/model-00004-of-00005.safetensors"),
        (["transformer/diffusion_pytorch_model.safetensors"], "transformer/diffusion_pytorch_model.safetensors"),
        (["vae/config.json"], "vae/config.json"),
        (["tokenizer/tokenizer.json"], "tokenizer/tokenizer.json"),
        (["transformer/config.json", "transformer/diffusion_pytorch_model.safetensors"], "transformer/*"),
    ],
    ids=["four shards", "shards and index", "weights", "settings", "tokenizer", "a part"],
)
def test_a_cut_download_is_no_whole_cache(cache, left_out, named):
    keep(cache, *left_out)
    with pytest.raises(UserError, match=r"are not in .* and could not be downloaded \(OfflineModeIsEnabled\)") as said:
        runtime.locate(REPO, PARTS)
    assert named in str(said.value)
    whole = {name.partition("/")[0] for name in FILES} - {name.partition("/")[0] for name in left_out}
    assert not any(f"{part}/" in str(said.value) for part in whole), "only what is missing is named"


def test_a_blob_that_was_removed_is_missing(cache):
    snapshot = keep(cache)
    (snapshot / SHARDS[0]).resolve().unlink()
    assert runtime.missing_files(snapshot, PARTS) == [SHARDS[0]]


def test_shards_of_no_diffusers_part_are_counted_too(tmp_path):
    for name in ("config.json", "model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors"):
        (tmp_path / name).write_bytes(b"{}")
    patterns = ("config.json", "*.safetensors")
    assert runtime.missing_files(tmp_path, patterns) == ["model-00002-of-00003.safetensors"]
    with pytest.raises(UserError, match=r"has no model-00002-of-00003\.safetensors: get .* from https"):
        runtime.locate(REPO, patterns, folder=tmp_path)


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does, for one repository; `asked` are the files whose contents were fetched."""

    asked: list[str]

    def do_HEAD(self) -> None:
        self.answer(b"", self.path.split(f"/resolve/{COMMIT}/")[-1])

    def do_GET(self) -> None:
        name = self.path.split(f"/resolve/{COMMIT}/")[-1]
        if "/tree/" in self.path:
            kinds = [{"type": "file", "path": n, "size": len(c), "oid": tag(n)} for n, c in FILES.items()]
            self.answer(json.dumps(kinds).encode())
        elif self.path.startswith("/api/"):
            self.answer(json.dumps({"id": REPO, "sha": COMMIT, "siblings": []}).encode())
        else:
            self.asked.append(name)
            self.answer(FILES[name], name)

    def answer(self, body: bytes, name: str | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(FILES.get(name or "", body))))
        if name is not None:
            self.send_header("ETag", f'"{tag(name)}"')
            self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def tag(name: str) -> str:
    return hashlib.sha1(FILES[name]).hexdigest()


@pytest.fixture
def hub(monkeypatch) -> Iterator[list[str]]:
    Hub.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    yield Hub.asked
    server.shutdown()
    server.server_close()


def test_a_cut_download_goes_on_where_it_stopped(cache, hub):
    snapshot = keep(cache, *SHARDS[1:], "transformer/diffusion_pytorch_model.safetensors")
    assert runtime.locate(REPO, PARTS) == snapshot
    assert sorted(hub) == sorted([*SHARDS[1:], "transformer/diffusion_pytorch_model.safetensors"])
    assert all((snapshot / name).read_bytes() == content for name, content in FILES.items())
    hub.clear()
    assert runtime.locate(REPO, PARTS) == snapshot
    assert hub == []


def test_what_a_repository_never_had_is_named(cache, hub):
    with pytest.raises(UserError, match=r"some/video-model has no image_encoder/\*: name another repository"):
        runtime.locate(REPO, (*PARTS, "image_encoder/*"))
