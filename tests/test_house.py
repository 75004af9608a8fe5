"""The house keeps its rules: floors, doors, file sizes, quick starts, nothing that belongs to one machine only."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "opensama"

# One door per dependency: whoever needs it goes through this file.
DOORS = {
    "av": {"media/video_io"},
    "ray": {"curation/graph", "pipeline/batch"},
    "gradio": {"apps/web"},
    "fastapi": {"apps/service"},
    "c2pa": {"media/credentials"},
    "cryptography": {"media/credentials"},
    "starlette": {"apps/service"},
    "uvicorn": {"apps/service"},
    "python_multipart": {"apps/service"},
    "wandb": {"training/monitor"},
    "tensorboard": {"training/monitor"},
    "trackio": {"training/monitor"},
}


def tracked(*patterns: str) -> list[Path]:
    """The files that git tracks; in a tree without git (an unpacked archive), the files that are there."""
    try:
        listing = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", *patterns],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        found = {path for pattern in patterns or ("*",) for path in ROOT.rglob(pattern)}
        hidden = {".venv", ".git", "__pycache__"}
        return sorted(path for path in found if path.is_file() and not hidden & set(path.parts))
    return [path for name in listing.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def imported(path: Path) -> set[str]:
    """The top-level names of the packages that a file imports anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def fastest(command: list[str], runs: int = 5) -> float:
    """Seconds of computing of the quickest of several fresh processes: what else the machine does is left out."""
    times = []
    for _ in range(runs):
        before = os.times()
        subprocess.run(command, check=True, capture_output=True)
        after = os.times()
        times.append(after.children_user + after.children_system - before.children_user - before.children_system)
    return min(times)


def test_floors() -> None:
    """The contract in pyproject.toml: floors import downwards only, and every package has a floor."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports; raise SystemExit(lint_imports())"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_doors() -> None:
    for path in sorted(SOURCE.rglob("*.py")):
        for name in imported(path) & DOORS.keys():
            place = path.relative_to(SOURCE).as_posix()
            through = any(place.removesuffix(".py") == door or place.startswith(f"{door}/") for door in DOORS[name])
            assert through, f"{place} imports {name}: only {DOORS[name]} may"


def test_no_file_is_too_long() -> None:
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in tracked("*.py")}
    long = {name: n for name, n in lines.items() if n > 600}
    assert not long, f"more than 600 lines, make each a folder of the same name: {long}"


def test_import_is_quick() -> None:
    assert fastest([sys.executable, "-c", "import opensama"]) < 0.3


@pytest.mark.parametrize("arguments", [["--help"], ["edit", "--help"], ["--version"]])
def test_help_is_quick(arguments: list[str]) -> None:
    assert fastest([sys.executable, "-m", "opensama.apps.cli", *arguments], runs=3) < 1.0


def test_import_is_light() -> None:
    """The front door and the command line load no heavy library before one is needed."""
    code = (
        "import sys, opensama, opensama.values, opensama.apps.cli, opensama.apps.edit, opensama.apps.models;"
        "import opensama.apps.train, opensama.recipes.sama, opensama.recipes.icve, opensama.recipes.tiny;"
        "print(sorted({'torch', 'diffusers', 'transformers', 'av', 'scipy'} & sys.modules.keys()))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_tree_speaks_of_itself_only() -> None:
    """No path of somebody's machine and no package host is written anywhere: who installs chooses where from."""
    forbidden = re.compile(
        r"(?<![\w.~-])/(work\b|home/\w|root/|Users/\w|tmp/venv|opt/(pypi|wheels))"
        r"|https?://(pypi|files\.pythonhosted|download\.pytorch|test\.pypi|deb\.debian|archive\.ubuntu|registry\.npmjs)"
    )
    here = Path(__file__).resolve()
    for path in tracked():
        if path.resolve() == here or path.suffix in {".safetensors", ".png", ".jpg", ".mp4", ".gif", ".webp"}:
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found = forbidden.search(text)
        assert found is None, f"{path.relative_to(ROOT)} names {found.group()!r}"


def test_version_is_said_once() -> None:
    import opensama

    assert "version" in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dynamic"]
    assert opensama.__version__ in (ROOT / "CHANGELOG.md").read_text()


SAME_BY_DESIGN = {"FAMILY", "RECIPES", "app", "main"}  # one a family, a module of recipes, a group of commands


def test_no_public_name_stands_twice():
    found: dict[str, set[str]] = {}
    for path in SOURCE.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names = [node.name]
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names = [target.id for target in targets if isinstance(target, ast.Name)]
            else:
                continue
            for name in names:
                if not name.startswith("_") and name not in SAME_BY_DESIGN:
                    found.setdefault(name, set()).add(str(path.relative_to(SOURCE)))
    twice = {name: sorted(places) for name, places in found.items() if len(places) > 1}
    assert not twice, f"give what is new another name: {twice}"
