"""What the site has beside the pages in this folder: README.md as its first page, and the API reference."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
WORKFLOWS = "comfyui/example_workflows"
API = "# Python\n\nWhat `import opensama` gives.\n"


def api_page() -> str:
    """A section for each name that the package offers, from its docstring where it is defined."""
    module = ast.parse((ROOT / "src/opensama/__init__.py").read_text())
    imports = (node for node in ast.walk(module) if isinstance(node, ast.ImportFrom))
    found = sorted(
        (name.name.lower(), f"{node.module}.{name.name}")
        for node in imports
        for name in node.names
        if (node.module or "").startswith("opensama.")
    )
    blocks = (f"\n::: {place}\n    options:\n      heading: {place.rpartition('.')[2]}\n" for _, place in found)
    return API + "".join(blocks)


def on_files(files: Files, config: Any) -> Files:
    """Adds the two pages; scripts are no pages."""
    for file in [file for file in files if file.src_uri.endswith(".py")]:
        files.remove(file)
    first = re.sub(r"(\]\()docs/", r"\1", (ROOT / "README.md").read_text())
    for name, content in (("index.md", first), ("api.md", api_page())):
        files.append(File.generated(config, name, content=content))
    for picture in (ROOT / WORKFLOWS).glob("*.jpg"):
        files.append(File.generated(config, f"workflows/{picture.name}", abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links out of this folder keep their words: the site does not have what they lead to."""
    markdown = markdown.replace(f"](../{WORKFLOWS}/", "](workflows/")
    outside = r"(?:\.\./|(?:SECURITY|CHANGELOG|CONTRIBUTING|LICENSE)\b)"
    return re.sub(rf"(?<!!)\[([^\]]+)\]\({outside}[^)]*\)", r"\1", markdown)
