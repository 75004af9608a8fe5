"""`opensama evaluate vote`: over real HTTP, what it keeps, what it refuses, what it never tells; and in a browser."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opensama.apps.cli import main as opensama
from opensama.apps.vote import VoteSession, find_pairs, serve
from opensama.evaluation.results import read_results
from opensama.evaluation.votes import tally_votes
from opensama.media.video_io import read_video
from tests.browser import CHROMIUM, has_browser
from tests.evaluation.benchmarks import clip, darker, save

MARKS = {"secret-best": 5.0, "secret-good": 3.0, "secret-bad": 1.0}
SHADES = {"secret-best": 0.2, "secret-good": 0.5, "secret-bad": 0.8}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Three systems' edits of two items; one edit is of another size, one file is gone."""
    systems = []
    for name, mark in MARKS.items():
        items = []
        for index in range(2):
            item = f"i{index}"
            save(clip(index), tmp_path / f"{item}.mp4")
            frames = clip(index, size=(48, 64)) if name == "secret-good" else clip(index)
            save(darker(frames, SHADES[name]), tmp_path / name / f"{item}.mp4")
            items.append(
                {"id": item, "task": "add", "instruction": f"Do <b>{item}</b>", "source": f"{item}.mp4"}
                | {"edited": f"{name}/{item}.mp4", "state": "scored", "scores": {"mean": mark}}
            )
        systems.append({"name": name, "items": items, "summary": {"headline": "mean"}, "faults": []})
    (tmp_path / "secret-bad" / "i1.mp4").unlink()
    results = {"benchmark": "vie", "title": "VIE", "judge": "pixels", "systems": systems}
    (tmp_path / "results.json").write_text(json.dumps(results))
    return tmp_path


def opened(out: Path, voter: str = "") -> VoteSession:
    results = read_results(out)
    return VoteSession(find_pairs(results, out, f"0:{voter}"), out / "votes.jsonl", voter)


@contextmanager
def served(session: VoteSession) -> Iterator[int]:
    server = serve(session, 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def ask(port: int, path: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        kind = {} if body is None else {"Content-Type": "application/json"}
        said = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("GET" if body is None else "POST", path, data, kind | said)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def better(session: VoteSession, place: int) -> str:
    pair = session.pairs[place]
    return "left" if MARKS[pair.left] > MARKS[pair.right] else "right"


def test_a_session_over_http(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session = opened(out)
    assert len(session.pairs) == 4
    with served(session) as port:
        told_to_browser = ask(port, "/")[1]
        state = json.loads(ask(port, "/next")[1])
        while "pair" in state:
            told_to_browser += json.dumps(state).encode()
            state = json.loads(ask(port, "/vote", {"pair": state["pair"], "vote": better(session, state["pair"])})[1])
        assert (state["done"], state["total"]) == (4, 4)
        state = json.loads(ask(port, "/back", {})[1])
        assert state["done"] == 3
        ask(port, "/vote", {"pair": state["pair"], "vote": "tie"})
    assert b"secret" not in told_to_browser
    lines = [json.loads(line) for line in (out / "votes.jsonl").read_text().splitlines()]
    assert [line["vote"] for line in lines][-2:] == ["none", "tie"]
    assert opened(out).done == 4, "the same command goes on"
    assert opened(out, "another").done == 0
    assert opensama(["evaluate", "vote", str(out), "--tally"]) == 0
    said = capsys.readouterr().out
    assert "4 votes of 1 voter\n" in said
    assert "marked higher in 1.00 of 3 votes" in said


def test_clips_are_alike_and_tell_nothing(out: Path, tmp_path: Path) -> None:
    session = opened(out)
    sizes = set()
    with served(session) as port:
        for side in ("source", "left", "right"):
            status, data = ask(port, f"/clip/0/{side}")
            assert status == 200
            assert b"secret" not in data
            (tmp_path / "clip.mp4").write_bytes(data)
            video = read_video(tmp_path / "clip.mp4")
            sizes.add(video.height)
            if side != "source":
                whose = getattr(session.pairs[0], side)
                light = np.mean([frame.mean() for frame in video.frames(0, 3)])
                assert light == pytest.approx(128 * (1 - SHADES[whose]), rel=0.15), "the side shows whose it is kept as"
        session.pairs[0].files["left"].write_bytes(b"broken")
        session._clips.clear()
        status, data = ask(port, "/clip/0/left")
        assert status == 422
        assert b"secret" not in data
    assert sizes == {320}


def test_nothing_else_is_served_and_no_other_site_may_vote(out: Path) -> None:
    (out / "private.txt").write_text("private")
    with served(opened(out)) as port:
        for path in ("/private.txt", "/../private.txt", "/clip/0/../../private.txt", "/clip/0/%2e%2e", "/clip/-1/left"):
            assert ask(port, path)[0] == 404
        for path in (
            "/clip/4/left",
            "/clip/%D9%A3/left",
            "/clip/00/left",
            "/clip/0/files",
            "/clip/" + "9" * 5000 + "/left",
        ):
            assert ask(port, path)[0] == 404
        good = {"pair": 0, "vote": "left"}
        assert ask(port, "/vote", good, Origin="http://evil.example")[0] == 403
        assert ask(port, "/vote", good, Host="evil.example")[0] == 403
        assert ask(port, "/next", None, Host=f"evil.example:{port}")[0] == 403
        assert ask(port, "/vote", good, Content_Type="text/plain")[0] == 403
        assert ask(port, "/vote", b"x" * 5000)[0] == 413
        assert ask(port, "/vote", good, Content_Length="-5")[0] == 411
        bads: list[Any] = [{"pair": 99, "vote": "left"}, {"pair": True, "vote": "left"}, {"pair": 0, "vote": "../x"}]
        bads += [[], b"{"]
        for bad in bads:
            assert ask(port, "/vote", bad)[0] == 400
        assert ask(port, "/vote", b"[" * 1999)[0] == 400
        assert not (out / "votes.jsonl").exists()
        assert ask(port, "/vote", good, Origin=f"http://127.0.0.1:{port}")[0] == 200
        assert len((out / "votes.jsonl").read_text().splitlines()) == 1


def test_a_cut_off_or_strange_line_costs_only_itself(out: Path) -> None:
    session = opened(out)
    session.keep(0, "left")
    with (out / "votes.jsonl").open("ab") as file:
        file.write(b'\xff\n[1]\n{"item": "i9", "left": "x", "right": "y", "vote": "left"}\n{"item": "i0", "le')
    again = opened(out)
    assert again.votes == {0: "left"}
    again.keep(1, "right")
    assert opened(out).votes == {0: "left", 1: "right"}
    found = tally_votes(read_results(out), out)
    assert found.votes == 2
    assert "2 votes" in found.lines()


def test_sides_are_drawn_and_the_order_too(out: Path) -> None:
    results = json.loads((out / "results.json").read_text())
    drawn = [find_pairs(results, out, str(seed)) for seed in range(40)]
    left = sum(pair.left == "secret-best" for pairs in drawn for pair in pairs)
    right = sum(pair.right == "secret-best" for pairs in drawn for pair in pairs)
    assert left + right == 40 * 3
    assert 40 < left < 80
    assert len({(pairs[0].item, frozenset((pairs[0].left, pairs[0].right))) for pairs in drawn}) == 4
    assert drawn[3] == find_pairs(results, out, "3")


def test_what_cannot_be_voted_on_is_said_in_one_sentence(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert opensama(["evaluate", "vote", str(out), "--tally"]) == 0
    assert "No votes yet" in capsys.readouterr().out
    with served(opened(out)) as port:
        assert opensama(["evaluate", "vote", str(out), "--port", str(port)]) == 2
    assert "cannot be used" in capsys.readouterr().err
    results = json.loads((out / "results.json").read_text())
    for systems, sentence in [(results["systems"][:1], "there is one"), ([], "no items")]:
        (out / "results.json").write_text(json.dumps(results | {"systems": systems}))
        assert opensama(["evaluate", "vote", str(out)]) == 2
        said = capsys.readouterr().err
        assert sentence in said
        assert said.count("\n") == 1


def until(view: Any, expression: str) -> None:
    """Waits as `wait_for_function` does, which the page's own policy forbids."""
    for _ in range(600):
        if view.evaluate(expression):
            return
        view.wait_for_timeout(50)
    pytest.fail(f"never: {expression}")


@pytest.mark.slow
@has_browser
def test_a_browser_votes_by_keys(out: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    session = opened(out)
    with served(session) as port, sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        view = browser.new_page(viewport={"width": 1100, "height": 800}, color_scheme="dark")
        faults: list[str] = []
        view.on("pageerror", lambda error: faults.append(str(error)))
        view.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
        view.goto(f"http://127.0.0.1:{port}/")
        playing = "[...document.querySelectorAll('video')].every(v => v.readyState >= 2 && !v.paused && !v.error)"
        until(view, playing)
        assert view.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 23, 26)"
        assert view.inner_text("#said").startswith("Do <b>i")
        for number, key in enumerate(("ArrowLeft", "ArrowRight", "ArrowDown"), 1):
            view.keyboard.press(key)
            until(view, f"document.getElementById('count').textContent.startsWith('{number} of 4')")
            until(view, "!document.body.hasAttribute('aria-busy')")
        assert list(session.votes.values()) == ["left", "right", "tie"]
        view.keyboard.press("Backspace")
        until(view, "document.getElementById('count').textContent.startsWith('2 of 4')")
        until(view, "!document.body.hasAttribute('aria-busy')")
        view.keyboard.press("Space")
        until(view, "[...document.querySelectorAll('video')].every(v => v.paused)")
        for _ in range(2):
            view.click("[data-vote=right]")
            until(view, "!document.body.hasAttribute('aria-busy')")
        assert view.is_visible("#end")
        assert view.is_hidden("#session")
        assert list(session.votes.values()) == ["left", "right", "right", "right"]
        assert view.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert not faults
        browser.close()
