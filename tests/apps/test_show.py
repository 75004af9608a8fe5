"""`opensama data show`: the page counts rightly, holds everything itself, and works in a browser."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from opensama.apps.cli import main as opensama
from opensama.apps.show import ManifestSummary, value_histogram
from opensama.data.manifest import Record, read_manifest_table, write_manifest
from tests.browser import CHROMIUM, has_browser
from tests.data import making

EDIT = Record(
    "0", "pair", "b.mp4", "a.mp4", width=64, height=48, frames=10, fps=8.0, seconds=1.25, dataset="one", task="recolor",
    instruction="Make the <b> ball blue", scores={"quality": 9.0}, license="CC0",
)  # fmt: skip
RECORDS = [
    EDIT,
    replace(EDIT, id="1", scores={"quality": 4.0}, target_start=0.5, source_start=0.5),
    replace(EDIT, id="2", task="remove", dataset="two", target="gone.mp4", instruction="Remove the box", scores={}),
    Record("3", "clip", "c.mp4", caption="A ball rolls", dataset="two", frames=10),
    replace(
        EDIT, id="4", source="a.png", target="b.png", media="image", frames=1, seconds=None, fps=None, task="style"
    ),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a manifest with a row of each sort."""
    folder = tmp_path_factory.mktemp("show")
    making.save_manifest(folder)
    write_manifest(folder / "m.parquet", RECORDS)
    assert opensama(["data", "show", str(folder / "m.parquet"), "--out", str(folder / "m.html")]) == 0
    return folder / "m.html"


def test_the_page_counts_and_holds_everything_itself(page):
    text = page.read_text()
    assert not re.search(r'(src|href)="(?!data:|#)', text), "the page leads outside"
    assert "5 rows: 4 pairs, 1 clip, 4 seconds." in text
    assert "<th>recolor</th><td>2</td><td>40.0 %</td>" in text
    assert text.count("data:video/mp4") == 3
    assert text.count("data:image/jpeg") == 1
    assert "There is no file" in text
    assert "gone.mp4" in text
    assert "Make the &lt;b&gt; ball" in text
    assert "<b> ball" not in text
    assert "Histogram of quality" in text
    assert page.stat().st_size < 200_000


def test_samples_are_drawn_from_every_group():
    found = ManifestSummary()
    for number in range(500):
        found.add(replace(EDIT, id=str(number)), 6)
    for number, task in enumerate(("style", "add", "remove")):
        found.add(replace(EDIT, id=f"rare {number}", task=task), 6)
    drawn = found.samples(6)
    assert [record.task for record in drawn[:4]] == ["add", "recolor", "remove", "style"]
    assert len({record.id for record in drawn}) == 6
    assert found.rows == 503


def test_histograms_put_outliers_into_the_last_bar():
    text = value_histogram("seconds", [*range(100), 1e6])
    counts = [int(count) for count in re.findall(r": (\d+)</title>", text)]
    assert sum(counts) == 101
    assert "99 or more" in text
    assert len(re.findall("<rect", value_histogram("fps", [24.0] * 5))) == 1


def test_what_cannot_be_shown_is_said_in_one_sentence(page, capsys, tmp_path):
    manifest = str(page.with_name("m.parquet"))
    (tmp_path / "empty.jsonl").write_text("")
    for arguments, sentence in [
        ([manifest, "-o", str(tmp_path / "no" / "x.html")], "There is no folder"),
        ([manifest, "-o", str(tmp_path / "x.pdf")], "is written as .html"),
        ([manifest, "-n", "1000", "-o", str(tmp_path / "x.html")], "from 0 to 300"),
        ([str(tmp_path / "none.parquet"), "-o", str(tmp_path / "x.html")], "There is no manifest"),
        ([str(tmp_path / "empty.jsonl"), "-o", str(tmp_path / "x.html")], "has no rows"),
    ]:
        assert opensama(["data", "show", *arguments]) == 2
        said = capsys.readouterr().err
        assert sentence in said
        assert said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["empty.jsonl"]


def test_shards_from_the_command_line(page, capsys, tmp_path):
    assert opensama(["data", "shard", str(page.with_name("m.parquet")), "--out", str(tmp_path / "s")]) == 0
    said = capsys.readouterr().out
    assert "left out 2: " in said
    assert "4 rows in 1 shard," in said
    shown = ["data", "show", str(tmp_path / "s" / "manifest.parquet"), "--out", str(tmp_path / "s.html")]
    assert opensama(shown) == 0
    assert (tmp_path / "s.html").read_text().count("data:video/mp4") == 3
    assert len(read_manifest_table(tmp_path / "s" / "manifest.parquet")) == 4


@pytest.mark.slow
@has_browser
def test_a_browser_plays_and_filters(page):
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        view = browser.new_page(viewport={"width": 1200, "height": 1400}, color_scheme="dark")
        faults: list[str] = []
        view.on("pageerror", lambda error: faults.append(str(error)))
        view.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
        view.goto(page.as_uri())
        assert view.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 23, 26)"
        assert view.inner_text("#found").startswith("5 of 5 samples, 5 rows")
        view.wait_for_function("[...document.querySelectorAll('video')].every(v => v.readyState >= 2 && !v.error)")
        clip = view.locator("video").first
        clip.scroll_into_view_if_needed()
        view.wait_for_function("document.querySelector('video').currentTime > 0")
        shown = view.locator(".sample:not([hidden])")
        view.select_option("[data-filter=task]", "recolor")
        assert shown.count() == 2
        assert view.inner_text("#found").startswith("2 of 5 samples, 2 rows")
        view.select_option("#score", "quality")
        view.fill("#low", "8")
        assert shown.count() == 1
        assert json.loads(shown.first.get_attribute("data-scores")) == {"quality": 9.0}
        view.click("button[type=reset]")
        view.wait_for_function("document.querySelectorAll('.sample:not([hidden])').length == 5")
        view.fill("#text", "remove the")
        assert shown.count() == 1
        assert view.evaluate("document.documentElement.scrollWidth <= innerWidth")
        view.set_viewport_size({"width": 380, "height": 800})
        assert view.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it fits a telephone"
        assert not faults
        browser.close()
