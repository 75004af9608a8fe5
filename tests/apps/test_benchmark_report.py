"""`opensama evaluate report`: what the page says of a benchmark with failures, and that it works in a browser."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from opensama.apps.cli import main as opensama
from opensama.evaluation.report import compare_results, report_items, score_range, score_text, standings
from opensama.values import UserError, how_many
from tests.browser import CHROMIUM, has_browser
from tests.evaluation.benchmarks import clip, darker, make_vie, save

TASKS = ("add", "swap", "style", "add", "add", "style")
MARKS = {"timid": 3, "bold": 8}


def run(folder: Path, out: Path, bold: int = 8) -> dict[str, Any]:
    """Two systems before a judge whose replies are recorded; one reply is no answer, one edit missing, one broken."""
    data = make_vie(folder / "data", TASKS)
    lines = []
    asked = ["evaluate", "vie", "--data", str(data), "--out", str(out), "--metrics", "unedited_psnr,edit_strength"]
    for name, level in (MARKS | {"bold": bold}).items():
        for index in range(len(TASKS)):
            frames = clip(index, frames=12)
            save(frames, data / "sources" / f"{index}.mp4")
            save(darker(frames, level / 20), folder / name / f"v{index}.mp4")
            names = ("Instruction follow", "Preservation", "Quality")
            said = {f"{n} score (1-10)": min(10, level + index % 2) for n in names} | {
                "reason": f"<b>{name}</b> saw {index}"
            }
            broken = name == "timid" and index == 2
            lines.append({"item": f"v{index}", "system": name, "reply": "I cannot." if broken else json.dumps(said)})
        asked += ["--edits", str(folder / name)]
    (folder / "timid" / "v4.mp4").unlink()
    (folder / "bold" / "v5.mp4").write_bytes(b"no video")
    (folder / "replies.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert opensama([*asked, "--judge-replies", str(folder / "replies.jsonl")]) == 0
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    return found


def lines_of(path: Path) -> Iterator[dict[str, str]]:
    return iter(list(csv.DictReader(path.read_text().splitlines())))


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    run(folder / "one", folder / "before", bold=6)
    run(folder / "two", folder / "out")
    assert opensama(["evaluate", "report", str(folder / "out"), "--against", str(folder / "before")]) == 0
    return folder / "out"


def test_the_page_holds_everything_itself_and_failures_first(out: Path) -> None:
    text = (out / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:|#)', text), "the page leads outside"
    assert re.findall(r'data-state="(\w+)"', text) == ["failed", "missing", "missing", "scored", "scored", "scored"]
    assert text.count("data:video/mp4") == 6 + 10
    assert "&lt;b&gt;bold&lt;/b&gt; saw 0" in text
    assert "<b>bold</b> saw" not in text
    assert "v5.mp4" in text
    assert "I cannot." in text
    assert "What has changed" in text
    assert (out / "report.html").stat().st_size < 1_500_000


def test_pages_print_shares_in_percent_as_the_console_does_and_videos_before_tables(out: Path) -> None:
    assert (score_text("success", 0.0454), score_range("parts", 0.0, 0.22)) == ("4.5 %", "0.0 to 22.0 %")
    assert score_text("Quality", 0.0454) == "0.045"
    assert (how_many(1, "item"), how_many(1200, "item")) == ("1 item", "1,200 items")
    text = (out / "report.html").read_text()
    assert text.index("<video") < text.index('<h2 id="standings">') < text.index("<table")


def test_tables_for_other_programs(out: Path) -> None:
    lines = list(lines_of(out / "report.csv"))
    assert len(lines) == 12
    assert {line["state"] for line in lines} == {"scored", "failed", "missing"}
    bold = next(line for line in lines if (line["system"], line["id"]) == ("bold", "v1"))
    assert float(bold["mean"]) == 9
    assert float(bold["metric edit_strength"]) > 0
    ranks = {
        line["system"]: line["rank"]
        for line in lines_of(out / "standings.csv")
        if line["score"] == "mean" and line["group"] == "add"
    }
    assert ranks == {"bold": "1", "timid": "2"}


def test_a_rank_is_a_range_where_intervals_touch(out: Path) -> None:
    results = json.loads((out / "results.json").read_text())
    cells = {(cell.group, cell.score, cell.system): cell for cell in standings(results)}
    assert cells["add", "mean", "bold"].rank == "1"
    alone = [cell for cell in standings(results) if cell.n == 1]
    assert alone
    assert all(cell.rank in ("", "1-2") for cell in alone)
    assert all(cell.best is None for key, cell in cells.items() if key[1] == "edit_strength")
    assert [row.id for row in report_items(results)][:3] == ["v2", "v5", "v4"]


def test_two_results_differ_item_by_item(out: Path) -> None:
    results, other = (json.loads((folder / "results.json").read_text()) for folder in (out, out.with_name("before")))
    other["passes"] = 3
    found = compare_results(results, other)
    change = {(c.system, c.group, c.score): c for c in found.changes}
    bold, timid = change["bold", "all", "mean"], change["timid", "all", "mean"]
    assert (bold.n, bold.difference, bold.sure) == (5, pytest.approx(2), True)
    assert (timid.n, timid.difference, timid.sure) == (4, 0, False)
    assert [name for name, before, after in bold.moved if after - before == 2] == ["v0", "v1", "v2", "v3", "v4"]
    assert any(note.startswith("passes: 1 here, 3 there") for note in found.notes)
    with pytest.raises(UserError, match="results of vie and of reco"):
        compare_results(results, other | {"benchmark": "reco"})


def test_formulas_and_odd_names_stay_text(out: Path, tmp_path: Path) -> None:
    results = json.loads((out / "results.json").read_text())
    for system in results["systems"]:
        system["items"] = system["items"][:1]
        system["items"][0] |= {
            "instruction": "=1+1</script><script>alert(1)</script>",
            "edited": "../" * 9 + "etc/passwd",
        }
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert opensama(["evaluate", "report", str(tmp_path), "-n", "1"]) == 0
    assert "\n" not in next(lines_of(tmp_path / "report.csv"))["instruction"]
    assert next(lines_of(tmp_path / "report.csv"))["instruction"].startswith("'=")
    text = (tmp_path / "report.html").read_text()
    assert "<script>alert" not in text
    assert "root:" not in text


def test_what_cannot_be_shown_is_said_in_one_sentence(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results.json").write_text('{"benchmark": "vie", "title": "", "systems": [{"name": "a"}]}')
    capsys.readouterr()
    for arguments, sentence in [
        ([str(tmp_path / "none")], "There is no"),
        ([str(tmp_path)], "is not the results.json of a benchmark"),
        ([str(out), "-n", "999"], "from 0 to 200"),
        ([str(out), "--page", str(tmp_path / "x.pdf")], "is written as .html"),
        ([str(out), "--page", str(tmp_path / "no" / "x.html")], "There is no folder"),
        ([str(out)], "report.html exists; choose another with --page, or write over it with --overwrite"),
    ]:
        assert opensama(["evaluate", "report", *arguments]) == 2
        said = capsys.readouterr().err
        assert sentence in said
        assert said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.slow
@has_browser
def test_a_browser_plays_rows_together(out: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        faults: list[str] = []
        grounds = []
        for scheme in ("light", "dark"):
            view = browser.new_page(
                viewport={"width": 1200, "height": 1000}, color_scheme=scheme, reduced_motion="reduce"
            )
            view.on("pageerror", lambda error: faults.append(str(error)))
            view.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
            view.goto((out / "report.html").as_uri())
            grounds.append(view.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert grounds == ["rgb(251, 251, 250)", "rgb(21, 23, 26)"]
        assert view.inner_text("#found") == "6 of 6 items"
        view.set_viewport_size({"width": 800, "height": 1000})
        tops = "[...document.querySelector('.item').querySelectorAll('video')].map(v => v.getBoundingClientRect().top)"
        assert len(set(view.evaluate(tops))) == 1, "what is to be compared stands in one row"
        view.wait_for_function("[...document.querySelectorAll('video')].every(v => v.readyState >= 2 && !v.error)")
        row = view.locator(".item").first
        row.scroll_into_view_if_needed()
        times = "[...document.querySelector('.item').querySelectorAll('video')].map(v => v.currentTime)"
        states = "[...document.querySelector('.item').querySelectorAll('video')].map(v => v.paused)"
        assert view.evaluate(states) == [True, True, True], "nothing moves for who asked for less motion"
        row.locator(".play").click()
        view.wait_for_function(f"{times}.every(t => t > 0.05) && !{states}.includes(true)")
        row.locator(".play").click()
        view.wait_for_function(f"!{states}.includes(false)")
        row.locator("input[type=range]").fill("0.5")
        found = view.evaluate(times)
        assert max(found) - min(found) < 0.01
        assert found[0] > 0.3
        row.locator("video").first.focus()
        view.keyboard.press("ArrowRight")
        after = view.evaluate(times)
        assert all(a == pytest.approx(b + 1 / 8, abs=0.02) for a, b in zip(after, found, strict=True))
        view.keyboard.press("Space")
        view.wait_for_function(f"!{states}.includes(true)")
        view.keyboard.press("Space")
        view.wait_for_function(f"!{states}.includes(false)")
        view.keyboard.press("j")
        assert (
            view.evaluate("[...document.querySelectorAll('.item')].indexOf(document.activeElement.closest('.item'))")
            == 1
        )
        view.select_option("[data-filter=state]", "missing")
        assert view.locator(".item:not([hidden])").count() == 2
        view.click("button[type=reset]")
        view.wait_for_function("document.querySelectorAll('.item:not([hidden])').length == 6")
        view.fill("#text", "i cannot")
        assert view.locator(".item:not([hidden])").count() == 1
        for width in (1200, 380):
            view.set_viewport_size({"width": width, "height": 800})
            assert view.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"it fits {width} pixels"
        assert not faults
        browser.close()
