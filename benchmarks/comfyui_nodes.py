"""The node pack in a real ComfyUI on the CPU: each example workflow through its HTTP API, held against the command.

    python benchmarks/comfyui_nodes.py --comfyui CHECKOUT --python ITS_PYTHON   # example workflows, cancel, mistakes
    python benchmarks/comfyui_nodes.py --comfyui CHECKOUT --python ITS_PYTHON --long 1000 --width 1920 --height 1080

ITS_PYTHON is one in which that ComfyUI starts and `opensama` is installed. It is started on the loopback alone, in a
folder of its own with this pack in it, without other nodes. `--long` edits a film of so many frames through the node
and by the command, and compares the most memory that either took (Linux). The exit code is 1 where anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import av
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

import opensama
from opensama.media.video_io import read_video, write_video
from opensama.models.registry import find
from opensama.models.weights import TensorFiles
from opensama.values import Video

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
PACK = ROOT / "comfyui"
COMMANDS = {
    "edit-a-video": ["--seed", "1"],
    "mask-and-span": ["--seed", "2", "--mask", "{folder}/input/mask.png", "--from", "0.5", "--to", "2", "--steps", "1"],
    "lora-and-box": ["--seed", "3", "--box", "16,16,120,96", "--lora", "{folder}/models/loras/example.safetensors:0.5"],
}
"""What to say to `opensama edit` for what a workflow does."""
ASK = "Make the scene look like sunset."


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, required=True, help="a checkout of ComfyUI")
    parser.add_argument("--python", type=Path, required=True, help="the Python that it runs in")
    parser.add_argument("--long", type=int, metavar="FRAMES", help="compare memory over so long a film instead")
    parser.add_argument("--width", type=int, default=1920)
    parser.add_argument("--height", type=int, default=1080)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="comfyui-") as name:
        folder = Path(name)
        for part in ("custom_nodes", "input", "output", "temp", "user", "models/loras", "models/diffusion_models"):
            (folder / part).mkdir(parents=True)
        (folder / "custom_nodes" / "opensama").symlink_to(PACK)
        if given.long:
            make_film(folder / "input" / "clip.mp4", given.long, given.width, given.height)
        else:
            make_inputs(folder)
        with served(given.comfyui, given.python, folder) as server:
            print(f"ComfyUI {server.version}, PyTorch {torch.__version__}, opensama {opensama.__version__}")
            wrong = (
                compare_memory(server) if given.long else [*workflows(server), *mistakes(server), *cancelling(server)]
            )
    print("\n".join(wrong) if wrong else "all equal")
    return 1 if wrong else 0


# --- what goes in


def make_inputs(folder: Path) -> None:
    """A clip with sound, a mask, and a LoRA of small random numbers for the embedded model."""
    from tests.footage import record, shot

    frames = shot(3, 40)
    record(folder / "input" / "clip.mp4", frames)
    rows, columns = np.mgrid[: frames.shape[1], : frames.shape[2]]
    disc = ((columns - 70) ** 2 + (rows - 70) ** 2 < 50**2) * np.uint8(255)
    Image.fromarray(disc).save(folder / "input" / "mask.png")
    model = find("tiny").folder
    assert model is not None
    weights, generator = TensorFiles(model / "transformer"), torch.Generator().manual_seed(0)
    lora = {}
    for name, shape in weights.shapes.items():
        if name.endswith("attn1.to_q.weight"):
            stem = "transformer." + name.removesuffix(".weight")
            lora[f"{stem}.lora_A.weight"] = torch.randn(4, shape[1], generator=generator)
            lora[f"{stem}.lora_B.weight"] = torch.randn(shape[0], 4, generator=generator) / 10
    save_file(lora, folder / "models" / "loras" / "example.safetensors")


def make_film(path: Path, frames: int, width: int, height: int) -> None:
    """A still texture that a square crosses, with a tone."""
    from tests.media.making import add_sound

    still = np.random.default_rng(0).integers(60, 190, (height // 8, width // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)

    def source(start: int, stop: int) -> Iterator[np.ndarray]:
        for index in range(start, stop):
            frame, left = still.copy(), index * (still.shape[1] - 200) // frames
            frame[200:400, left : left + 200] = (200, 60, 40)
            yield frame

    film = Video(still.shape[1], still.shape[0], tuple(range(frames)), Fraction(1, 25), Fraction(frames, 25), source)
    silent = path.with_name("silent.mp4")
    write_video(film, silent, on_note=lambda note: None)
    add_sound(silent, path)
    silent.unlink()


# --- ComfyUI


class Server:
    """A ComfyUI that was started: prompts in, histories out."""

    def __init__(self, folder: Path, address: str, process: subprocess.Popen[bytes]) -> None:
        self.folder, self.address, self.process = folder, address, process
        self.version = self.call("/system_stats")["system"]["comfyui_version"]
        self.nodes = self.call("/object_info")

    def call(self, path: str, data: object = None) -> Any:
        body = None if data is None else json.dumps(data).encode()
        try:
            with urlopen(Request(self.address + path, body, {"Content-Type": "application/json"}), timeout=60) as reply:
                text = reply.read()
        except HTTPError as error:
            text = error.read()
        return json.loads(text) if text else None

    def queue(self, prompt: Mapping[str, Any]) -> str:
        reply = self.call("/prompt", {"prompt": prompt})
        if "prompt_id" not in reply:
            raise RuntimeError(json.dumps(reply)[:2000])
        return str(reply["prompt_id"])

    def wait(self, number: str) -> dict[str, Any]:
        while not (found := self.call(f"/history/{number}")):
            time.sleep(0.2)
        return dict(found[number])

    def file(self, outputs: Mapping[str, Any], node: str) -> Path:
        (saved,) = outputs[node]["images"]
        return self.folder / saved["type"] / saved["subfolder"] / saved["filename"]

    def prompt(self, graph: Mapping[str, Any]) -> dict[str, Any]:
        """A workflow as the page saves it, as the API wants it: by the declared order of inputs and widgets."""
        links = {link[0]: [str(link[1]), link[2]] for link in graph["links"]}
        prompt = {}
        for node in graph["nodes"]:
            declared = self.nodes[node["type"]]
            kinds = declared["input"].get("required", {}) | declared["input"].get("optional", {})
            linked = {one["name"]: links[one["link"]] for one in node["inputs"] if one.get("link") is not None}
            values, inputs = iter(node.get("widgets_values", ())), dict(linked)
            for name, (kind, *more) in kinds.items():
                if not (isinstance(kind, list) or kind in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")):
                    continue
                value = next(values)
                inputs.setdefault(name, value)
                if more and more[0].get("control_after_generate"):
                    next(values)
            prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
        return prompt


@contextmanager
def served(comfyui: Path, python: Path, folder: Path) -> Iterator[Server]:
    """ComfyUI on a free port of the loopback, ended at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "comfyui.log"
    command = [
        str(python.absolute()), "main.py", "--cpu", "--listen", "127.0.0.1", "--port", str(port),
        "--disable-auto-launch", "--disable-api-nodes", "--base-directory", str(folder),
        "--database-url", "sqlite:///:memory:",
    ]  # fmt: skip
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=comfyui, stdout=out, stderr=out, env=environment())
    try:
        for _ in range(300):
            time.sleep(1)
            if process.poll() is not None:
                raise RuntimeError(log.read_text(errors="replace")[-3000:])
            try:
                server = Server(folder, f"http://127.0.0.1:{port}", process)
                break
            except OSError:
                continue
        yield server
    finally:
        process.terminate()
        process.wait(60)


def environment() -> dict[str, str]:
    """The same numbers of threads for both, and this source."""
    return os.environ | {
        "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip


def command_line(*words: str) -> list[str]:
    return [sys.executable, "-m", "opensama", "edit", *words]


# --- what is compared


def workflows(server: Server) -> list[str]:
    """What is wrong with the result of each example workflow."""
    files = sorted((PACK / "example_workflows").glob("*.json"))
    offered = server.call("/workflow_templates").get("opensama", [])
    wrong = [f"{file.stem} is not among the templates" for file in files if file.stem not in offered]
    for file in files:
        begun, history = time.monotonic(), server.wait(server.queue(server.prompt(json.loads(file.read_text()))))
        if history["status"]["status_str"] != "success":
            wrong.append(f"{file.stem}: {error_of(history)}")
            continue
        outputs, found = history["outputs"], list[str]()
        if file.stem in COMMANDS:
            made, expected = server.file(outputs, "3"), server.folder / f"{file.stem}.mp4"
            words = [word.format(folder=server.folder) for word in COMMANDS[file.stem]]
            source = str(server.folder / "input" / "clip.mp4")
            subprocess.run(
                command_line(source, ASK, "-o", str(expected), *words),
                check=True,
                capture_output=True,
                env=environment(),
            )
            found = differences(made, expected)
            told = "the same bytes" if made.read_bytes() == expected.read_bytes() else "other bytes"
        elif file.stem == "look-at-a-key-frame":
            edited = opensama.edit(server.folder / "input" / "clip.mp4", ASK, seed=1, frames=(12, 13))
            told = "the picture's"
            found = pictures_differ(server.file(outputs, "4"), next(edited.frames(12, 13)))
        else:
            told, found = frames_and_sound(server.folder / "input" / "clip.mp4", server.file(outputs, "7"))
        print(f"{file.stem}: {'; '.join(found) or 'equal'} ({told}), {time.monotonic() - begun:.0f} s")
        wrong += [f"{file.stem}: {one}" for one in found]
    return wrong


def differences(made: Path, expected: Path) -> list[str]:
    """Between two videos: frames, time stamps, rate, sizes, each pixel, each packet of sound."""
    one, other = read_video(made), read_video(expected)
    said = [
        f"{name} {getattr(one, name)}, not {getattr(other, name)}"
        for name in ("frame_count", "timestamps", "time_base", "fps", "width", "height", "has_audio")
        if getattr(one, name) != getattr(other, name)
    ]
    if not said:
        unlike = sum(not np.array_equal(a, b) for a, b in zip(one.frames(), other.frames(), strict=True))
        said += [f"{unlike} frames differ"] if unlike else []
    return said + (["the sound differs"] if sound_of(made) != sound_of(expected) else [])


def sound_of(path: Path) -> list[tuple[int | None, bytes]]:
    with av.open(str(path)) as container:
        return [(packet.pts, bytes(packet)) for packet in container.demux(audio=0) if packet.size]


def pictures_differ(made: Path, expected: np.ndarray) -> list[str]:
    """ComfyUI's own PNG of an IMAGE cuts where others round: one level is not counted."""
    away = int(np.abs(np.asarray(Image.open(made).convert("RGB")).astype(int) - expected).max())
    return [] if away <= 1 else [f"up to {away} levels away"]


def frames_and_sound(source: Path, made: Path) -> tuple[str, list[str]]:
    """Through IMAGE and AUDIO, ComfyUI reads, codes and times: frames and rate must stay, pixels come near."""
    given, got = read_video(source), read_video(made)
    edited = opensama.edit(source, ASK, seed=1)
    error = np.mean([np.mean((a.astype(float) - b) ** 2) for a, b in zip(got.frames(), edited.frames(), strict=True)])
    decibels = 10 * np.log10(255**2 / max(float(error), 1e-9))
    said = [] if (got.frame_count, got.fps) == (given.frame_count, given.fps) else [f"{got.frame_count} at {got.fps}"]
    said += [] if got.has_audio else ["no sound"]
    return f"coded again by ComfyUI: {decibels:.1f} dB", said + ([] if decibels > 28 else [f"{decibels:.1f} dB"])


def first_edit(server: Server, **changes: Any) -> dict[str, Any]:
    prompt = server.prompt(json.loads((PACK / "example_workflows" / "edit-a-video.json").read_text()))
    prompt.pop("4")
    prompt["3"]["inputs"] |= changes
    return prompt


def error_of(history: Mapping[str, Any]) -> str:
    for kind, told in history["status"]["messages"]:
        if kind == "execution_error":
            return f"{told['exception_type'].rsplit('.', 1)[-1]}: {told['exception_message'].strip()}"
    return str(history["status"]["messages"][-1][0])


def mistakes(server: Server) -> list[str]:
    """A mistake is one sentence in ComfyUI's own report, and no file."""
    before, wrong = files_in(server), []
    for changes in ({"instruction": "Remove the football."}, {"instruction": " "}, {"filename_prefix": "../out"}):
        said = error_of(server.wait(server.queue(first_edit(server, **changes))))
        print(f"mistake: {said}")
        if not said.startswith("UserError: ") or "\n" in said:
            wrong.append(f"a mistake was answered by {said}")
    return wrong + (["a mistake left a file"] if files_in(server) != before else [])


def cancelling(server: Server) -> list[str]:
    """Cancel ends an edit on its way, and leaves nothing."""
    before = files_in(server)
    number = server.queue(first_edit(server, seed=77))
    while not server.call("/queue")["queue_running"]:
        time.sleep(0.02)
    time.sleep(0.5)
    server.call("/interrupt", {})
    said = error_of(server.wait(number))
    print(f"cancelled: {said}")
    wrong = [] if said == "execution_interrupted" else [f"cancelling was answered by {said}"]
    return wrong + (["a cancelled edit left a file"] if files_in(server) != before else [])


def files_in(server: Server) -> list[Path]:
    return sorted(path for part in ("output", "temp") for path in (server.folder / part).rglob("*"))


# --- memory


def compare_memory(server: Server) -> list[str]:
    """The most memory that the node takes beyond the loaded model, and what the command takes beyond its own."""
    source = read_video(server.folder / "input" / "clip.mp4")
    print(source)
    short = first_edit(server, span=["6", 0], seed=5) | span_node(0, 5)  # loads and warms up
    server.wait(server.queue(short))
    before = resident(server.process.pid)
    with Watching(server.process.pid) as node:
        begun = time.monotonic()
        history = server.wait(server.queue(first_edit(server)))
    if history["status"]["status_str"] != "success":
        return [error_of(history)]
    print(f"node: {node.most / 1e6:.0f} MB at most, {before / 1e6:.0f} before; {time.monotonic() - begun:.0f} s")
    made, expected, begun = server.file(history["outputs"], "3"), server.folder / "command.mp4", time.monotonic()
    with subprocess.Popen(
        command_line(str(source.path), ASK, "--seed", "1", "-o", str(expected)),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment(),
    ) as process, Watching(process.pid) as command:  # fmt: skip
        process.wait()
    ratio = node.most / command.most
    print(f"command: {command.most / 1e6:.0f} MB at most; {time.monotonic() - begun:.0f} s")
    print(f"node / command: {ratio:.2f}")
    found = differences(made, expected)
    return found + ([] if ratio <= 1.2 else [f"the node takes {ratio:.2f} times the command's memory"])


def span_node(begin: float, end: float) -> dict[str, Any]:
    inputs = {"unit": "frames", "begin": float(begin), "end": float(end)}
    return {"6": {"class_type": "OpenSAMASpan", "inputs": inputs}}


class Watching:
    """The most resident memory of a process meanwhile, looked at ten times a second."""

    def __init__(self, pid: int) -> None:
        self.pid, self.most, self._over = pid, 0, threading.Event()

    def __enter__(self) -> Watching:
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._over.wait(0.1):
            self.most = max(self.most, resident(self.pid))

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def resident(pid: int) -> int:
    """Bytes of a process that are in memory; 0 where it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    sys.exit(main())
