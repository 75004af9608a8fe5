"""What is written for people is true: generated pages are fresh, links lead somewhere, and quoted commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cyclopts import CycloptsError

from opensama.apps import reference
from opensama.apps.cli import app

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text())


def commands(page: Path) -> list[str]:
    """The lines of a page's console blocks, without prompts and remarks; continued lines are joined."""
    blocks = [body for language, body in FENCE.findall(page.read_text()) if language in ("console", "bash", "sh")]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split("  #")[0].split(" # ")[0].removeprefix("$ ").strip() for line in lines if line.strip()]


def anchors(page: Path) -> set[str]:
    """What GitHub calls a page's headings in links."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_command_reference_is_fresh() -> None:
    assert (ROOT / "docs/commands.md").read_text() == reference.command_page(), (
        "docs/commands.md is stale: run `make docs`"
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = page.parent / name if name else page
        assert linked.exists(), f"{page.name} links to {target}, which is not there"
        if anchor:
            assert anchor in anchors(linked), f"{page.name} links to {target}, which has no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_prose_is_wrapped(page: Path) -> None:
    """Lines of at most 140 characters, tables apart, and what cannot be broken: a link, a quoted command."""
    lines = [line for line in prose(page).splitlines() if not line.lstrip().startswith("|")]
    assert not [line for line in lines if len(re.sub(r"`[^`]*`", "", LINK.sub("", line))) > 140]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    quoted = re.findall(r"`make ([a-z]+)[^`]*`", prose(page))
    quoted += [line.split()[1] for line in commands(page) if line.startswith("make ")]
    assert set(quoted) <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_quoted_commands_parse(page: Path) -> None:
    """Every `opensama ...` line of a page is one that the command line understands (it is bound, not run)."""
    if page.name == "commands.md":  # its lines are patterns with words in capitals, and generated
        return
    for line in commands(page):
        program, _, arguments = line.partition(" ")
        if program.rpartition("/")[2] != "opensama":
            continue
        try:
            app.parse_args(arguments, print_error=False, exit_on_error=False)
        except CycloptsError as error:
            pytest.fail(f"{page.name} says `{line}`: {error}")


def test_readme_opens_with_pictures_and_two_commands() -> None:
    first_screen = "\n".join((ROOT / "README.md").read_text().splitlines()[:30])
    assert "docs/images/" in first_screen
    assert "make demo" in first_screen
    assert "make test" in first_screen
