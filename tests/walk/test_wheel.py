"""The wheel, installed in an empty environment: it holds all that the package needs, and its demo edits a clip."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(next(WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("dist")))))


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    source = ROOT / "src"
    listed = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    assert held == {name for name in listed if "__pycache__" not in name}
    assert "opensama/py.typed" in held


CODE = """
import opensama, sys

assert opensama.__file__.startswith(sys.argv[1])
print(type(opensama.load("tiny", device="cpu").pipeline).__name__)
from opensama.apps.cli import main

sys.exit(main(["demo"]))
"""


@pytest.mark.slow
def test_the_demo_runs_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    """The libraries are this environment's, by a line in a `.pth` file; the package is the wheel's.

    The first thing is to load a model: diffusers refuses components of modules that are not imported.
    """
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    place = {"base": str(tmp_path / "env"), "platbase": str(tmp_path / "env")}
    packages = Path(sysconfig.get_path("purelib", "venv", place))
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = Path(sysconfig.get_path("scripts", "venv", place)) / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(pip, check=True)
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([python.with_name("opensama"), "--version"], check=True, cwd=tmp_path, env=alone)
    done = subprocess.run([python, "-c", CODE, packages], cwd=tmp_path, env=alone, capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "SamaPipeline"), done.stderr
    assert {path.suffix for path in (tmp_path / "demo-output").iterdir()} >= {".mp4", ".png"}
