"""`opensama web` in a browser: a clip with sound from upload to refined result, and what may go wrong on the way."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest

from opensama.apps.edit_settings import LoadSettings
from opensama.apps.jobs.engine import JobEngine
from opensama.apps.jobs.limits import JobLimits
from opensama.apps.jobs.worker import WorkerSettings
from opensama.apps.service.access import COOKIE, Access
from opensama.apps.service.application import create_app
from opensama.apps.service.page import EXAMPLES
from opensama.media.video_io import read_video, write_video
from opensama.models.registry import find, unknown_words
from opensama.pipeline.changes import kept_part
from opensama.values import Video
from tests.apps.serving import Service, serving
from tests.apps.test_vote import until
from tests.browser import CHROMIUM, has_browser
from tests.media.making import add_sound, hear, make_video
from tests.pipeline.conftest import moving_picture

NAMES = """[...document.querySelectorAll("button, input, select, textarea, a[href], video, [tabindex]")].filter(one =>
  one.checkVisibility() && !(one.ariaHidden || one.labels?.length || one.ariaLabel || one.innerText?.trim())
).map(one => one.outerHTML)"""


class Site:
    """The page's server, which may be ended and begun again where it was, and people before it."""

    def __init__(self, settings: WorkerSettings, browser: Any) -> None:
        self.settings, self.browser, self.port = settings, browser, 0
        self.faults: list[str] = []
        self.hosts: set[str] = set()
        self.begin()

    def begin(self) -> None:
        self._running = ExitStack()
        self.service: Service = self._running.enter_context(serving(self.settings, page=True, port=self.port))
        self.port = int(self.service.url.rpartition(":")[2])

    def end(self) -> None:
        self._running.close()

    def person(self, **context: Any) -> Any:
        """A page before somebody whose browser has never been here."""
        view = self.browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | context).new_page()
        view.on("pageerror", lambda error: self.faults.append(str(error)))
        view.on("request", lambda asked: self.hosts.add(re.split("[/:]", asked.url)[3] or asked.url))
        view.goto(self.service.url)
        view.wait_for_selector("#work:not([hidden])")
        return view

    def jobs(self) -> list[Any]:
        """Everybody's, the oldest first."""
        store = self.service.engine.store
        owners = [row["owner"] for row in store._read("SELECT DISTINCT owner FROM jobs")]
        return sorted((job for owner in owners for job in store.page(owner, None, 100)), key=lambda job: job.number)


@pytest.fixture(scope="module")
def site(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    sync_api = pytest.importorskip("playwright.sync_api")
    limits = JobLimits(free_disk=1, max_seconds=6, keep_hours=1)
    models = {"model": str(folder), "tiny": "tiny", "bernini-1.3b": "bernini-1.3b"}
    settings = WorkerSettings(tmp_path_factory.mktemp("web"), models, LoadSettings(device="cpu"), limits)
    given = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=given)
        running = Site(settings, browser)
        yield running
        running.end()
        browser.close()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine frames of 64x48, and a tone as long."""
    folder = tmp_path_factory.mktemp("clip")
    write_video(Video.from_frames(moving_picture(), 8), folder / "silent.mp4")
    return add_sound(folder / "silent.mp4", folder / "clip.mp4")


def uploaded(view: Any, clip: Path) -> None:
    before = view.locator("#tree .node").count()
    view.set_input_files("#file", clip)
    view.locator("#tree .node").nth(before).wait_for()


def frames_of(address: str, view: Any, path: Path) -> Path:
    """A file that the browser is offered, saved."""
    answer = view.request.get(view.url.partition("?")[0].rstrip("/").partition("#")[0] + address)
    assert answer.ok, answer.text()
    path.write_bytes(answer.body())
    return path


@pytest.mark.slow
@has_browser
def test_from_an_upload_to_a_refined_result(site: Site, clip: Path, tmp_path: Path) -> None:
    view = site.person()
    uploaded(view, clip)
    assert "64x48, 9 frames" in view.inner_text("#base")
    view.fill("#prompt", "make the ball blue")
    view.fill("#steps", "1")
    view.click("#key-frame")
    view.wait_for_selector("#accept:visible")
    assert view.inner_text("#said") == "Key frame: “make the ball blue”"
    view.click("#reseed")  # not that one
    until(view, "document.querySelectorAll('#tree ul .node').length === 2")
    view.wait_for_selector("#accept:visible")
    view.click("#accept")
    view.wait_for_selector("#further:visible")
    source, first, second, whole = site.jobs()
    assert [job.media["frames"] for job in (first, second, whole)] == [1, 1, 9]
    files = site.service.engine.store.files
    alone = read_video(files(first.id) / "source.png").array()
    assert np.array_equal(alone, read_video(clip).array()[:1])
    assert [job.asked["settings"]["seed"] for job in (first, second, whole)] == [0, 1, 1]
    assert {job.remixed_from for job in (first, second, whole)} == {source.id}
    assert re.match(
        r"Kept untouched: [\d.]+ % of the picture(, at [\d.]+ dB)?\. Made in .* seed 1\.", view.inner_text("#kept")
    )

    result = "document.querySelector('.result video')"
    view.click("[data-do=play]")
    until(view, f"{result}.ended")
    assert view.evaluate(f"{result}.webkitAudioDecodedByteCount") > 1000
    assert not view.evaluate(f"{result}.muted")
    times = view.evaluate("[...document.querySelectorAll('.pane video')].map(clip => clip.currentTime)")
    assert times == pytest.approx([9 / 8] * 2, abs=0.09)
    saved = frames_of(view.get_attribute("#download", "href"), view, tmp_path / "result.mp4")
    assert read_video(saved).frame_count == 9
    assert len(hear(saved)[1]) == pytest.approx(44_100 * 9 / 8, rel=0.05)

    box = view.locator(".frame").bounding_box()
    view.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    view.mouse.down()
    view.mouse.move(box["x"] + box["width"] / 4, box["y"] + 40, steps=4)
    view.mouse.up()
    divider = view.locator(".divider")
    assert divider.get_attribute("aria-valuenow") == "25"
    assert (
        view.evaluate("getComputedStyle(document.querySelector('.pane.result')).clipPath") == "inset(0px 0px 0px 25%)"
    )
    divider.press("ArrowRight")
    assert divider.get_attribute("aria-valuenow") == "27"
    view.locator(".frame").press("Home")
    for key, name in ("2", "side"), ("3", "difference"), ("4", "source"), ("5", "result"), ("1", "divider"):
        view.locator(".frame").press(key)
        assert view.get_attribute("#viewer", "data-view") == name
    number = int(view.inner_text(".controls output").rpartition(" ")[2])
    view.locator(".frame").press("ArrowLeft")
    until(view, f"document.querySelector('.controls output').value.endsWith('frame {number - 1}')")

    view.click("#further")
    view.fill("#prompt", "remove the green box")
    view.select_option("#n", "2")
    view.click("#whole")
    view.wait_for_selector("#variants button >> nth=1")
    view.click("#variants button >> nth=1")
    until(view, "document.querySelector('.result video').src.endsWith('index=1')")
    refined = site.jobs()[-1]
    assert (refined.remixed_from, refined.outputs, refined.asked["settings"]["seed"]) == (whole.id, 2, 1)
    view.click("#further")  # the second variant
    view.fill("#prompt", "make the box red")
    view.select_option("#n", "1")
    view.click("#whole")
    until(view, "document.querySelectorAll('#tree .node').length === 6")
    view.wait_for_selector("#further:visible")
    branch = site.jobs()[-1]
    assert (files(branch.id) / "source.mp4").read_bytes() == (files(refined.id) / "result-1.mp4").read_bytes()
    view.click("#undo")
    assert view.url.endswith(f"#{refined.id}/1")
    assert "goes on from “remove the green box”" in view.inner_text("#base")

    assert "prompt=make+the+box+red" in view.url
    view.reload()
    until(view, "document.querySelectorAll('#tree .node').length === 6")
    assert view.input_value("#prompt") == "make the box red"
    assert view.input_value("#steps") == "1"
    until(view, "document.querySelector('.result video')?.src.endsWith('index=1')")
    assert view.evaluate(NAMES) == []
    view.set_viewport_size({"width": 390, "height": 800})
    assert view.evaluate("document.documentElement.scrollWidth <= innerWidth")
    view.emulate_media(color_scheme="dark")
    assert view.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 23, 26)"
    assert site.hosts == {"127.0.0.1"}
    assert not site.faults
    view.context.close()


@pytest.mark.slow
@has_browser
def test_a_part_of_the_picture_and_of_the_time(site: Site, clip: Path, tmp_path: Path) -> None:
    """A box by mouse, a painted mask, a span on the strip; and sources that the browser itself cannot play."""
    view = site.person()
    view.click("#key-frame")
    assert view.inner_text("#fault") == "Choose a video first: drop one, or try the sample clip."
    uploaded(view, make_video(tmp_path / "old.avi", codec="mpeg4", size=(64, 48), sound="libmp3lame"))
    until(view, "document.querySelector('.source video')?.dataset.other")
    until(view, "document.querySelector('.source video').videoWidth === 64")
    view.fill("#steps", "1")
    view.fill("#prompt", "make the ball blue")
    view.select_option("#speed", "balanced")
    view.click("text=In a box")
    view.click("#whole")
    assert view.inner_text("#fault") == "Drag a box on the picture first, or choose Everywhere."
    canvas = view.locator("canvas.draw")
    box = canvas.bounding_box()

    def drag(points: list[tuple[float, float]]) -> None:
        for place, (x, y) in enumerate(points):
            view.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
            if not place:
                view.mouse.down()
        view.mouse.up()

    drag([(0.25, 0.25), (0.5, 0.4), (0.75, 0.75)])
    for _ in range(3):
        view.locator("#last").press("ArrowLeft")
    view.locator("#first").press("ArrowRight")
    assert view.inner_text("#span").startswith("Frames 1 to 8 are edited")
    view.click("#whole")
    view.wait_for_selector("#further:visible")
    asked = site.jobs()[-1].asked["settings"]
    assert (asked["box"], asked["frames"], asked["speed"]) == ("16,12,32,24", "1:9", "balanced")
    assert "speed=balanced" in view.url
    assert "box=16%2C12%2C32%2C24&frames=1%3A9" in view.url

    view.click("#tree .node >> nth=0")
    view.click("text=Where I paint")
    drag([(0.1, 0.5), (0.5, 0.5), (0.9, 0.5)])
    view.click("#key-frame")
    view.wait_for_selector("#accept:visible")
    view.click("#accept")
    view.wait_for_selector("#further:visible")
    key, whole = site.jobs()[-2:]
    assert whole.asked["settings"]["frames"] == "1:9"
    second = read_video(site.service.engine.store.files(key.remixed_from) / "source.avi").array()[1:2]
    assert np.array_equal(read_video(site.service.engine.store.files(key.id) / "source.png").array(), second)
    masks = [
        read_video(site.service.engine.store.files(job.id) / "mask.png").array()[0, :, :, 0] for job in (key, whole)
    ]
    assert np.array_equal(*masks)
    assert (masks[0][24, 10:54] == 255).all()
    assert not masks[0][:10].any()

    view.click("#tree .node >> nth=0")  # two edits: all where is painted from frame to frame, one in a file's mask, too
    view.check("#moving")
    for _ in range(4):
        view.locator(".frame").press("ArrowRight")
    until(view, "/frame [3-6]$/.test(document.querySelector('.controls output').value)")
    began = int(view.inner_text(".controls output").rpartition(" ")[2])
    drag([(0.5, 0.1), (0.5, 0.9)])
    view.fill("#prompt", "make the ball blue and remove the green box")
    view.fill("#negative", "blurred")
    view.select_option("#split", "rules")
    view.wait_for_selector("#edits li >> nth=1")
    view.select_option("#of", "2")
    white = np.zeros((48, 64, 3), np.uint8)
    white[20:40] = 255
    Video.from_frames(white[None], 1).save(tmp_path / "white.png")
    view.click("text=Mask from a file")
    view.set_input_files("#mask-file", tmp_path / "white.png")
    assert view.inner_text("#edits li >> nth=1") == "Remove the green box. (in a mask of its own)"
    view.click("#whole")
    view.wait_for_selector("#steps-made li >> nth=1")
    view.wait_for_selector("#further:visible")
    both = site.jobs()[-1]
    asked = both.asked["settings"]
    assert (asked["split"], asked["regions"], asked["negative_prompt"]) == ("rules", ["2:mask-2.png"], "blurred")
    assert re.fullmatch(r"Remove the green box\. \(changed [\d.]+ %\)", view.inner_text("#steps-made li >> nth=1"))
    files = site.service.engine.store.files(both.id)
    film = read_video(files / "mask.avi").array()[..., 0]
    assert len(film) == both.media["frames"]
    assert np.array_equal(film[began - 1], masks[0])
    assert (film[began:, 10:40, 32] == 255).all()
    assert not film[began:, :, :20].any()
    assert np.array_equal(read_video(files / "mask-2.png").array()[0], white)

    assert view.is_hidden("#references")
    view.select_option("#model", "bernini-1.3b")
    view.set_input_files("#references", tmp_path / "white.png")
    view.click("#key-frame")
    until(view, "document.querySelectorAll('#tree .node').length === 6")
    sent = site.jobs()[-1]
    files = site.service.engine.store.files(sent.id)
    assert sent.asked["settings"]["references"] == ["reference-0.png"]
    assert np.array_equal(read_video(files / "reference-0.png").array()[0], white)
    assert np.array_equal(read_video(files / "mask.png").array()[0, ..., 0], film[1])  # of the key frame alone
    view.select_option("#model", "model")

    view.click("#camera")
    view.wait_for_selector("#camera >> text=Stop recording")
    view.wait_for_timeout(300)
    view.click("#camera")
    until(view, "document.querySelectorAll('#tree > li').length === 2")
    assert site.jobs()[-1].asked["source"] == "source.webm"
    view.context.close()


@pytest.mark.slow
@has_browser
def test_what_cannot_be_done_is_one_sentence(site: Site, clip: Path, tmp_path: Path) -> None:
    view = site.person()
    write_video(Video.from_frames(np.zeros((49, 16, 16, 3), np.uint8), 8), tmp_path / "long.mp4")
    (tmp_path / "bad.mp4").write_bytes(b"PK\x03\x04" + bytes(99))
    (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[:700])
    before = len(site.jobs())
    for name, sentence in (
        ("bad", "neither a video nor a picture"),
        ("cut", "The video "),
        ("long", "lasts 6.1 s, of 6 that"),
    ):
        view.set_input_files("#file", tmp_path / f"{name}.mp4")
        until(view, f"document.getElementById('fault').textContent.includes('{sentence}')")
        assert "Traceback" not in view.inner_text("#fault")
    assert len(site.jobs()) == before
    uploaded(view, clip)
    assert view.is_hidden("#fault")
    view.select_option("#model", "tiny")
    view.fill("#prompt", "Make it a football.")
    view.click("#key-frame")
    view.wait_for_selector("#fault button")
    assert "The model tiny has never been taught 'football'" in view.inner_text("#fault")
    view.select_option("#model", "model")
    view.fill("#seed", "-3")
    view.evaluate("document.getElementById('seed').removeAttribute('min')")
    view.click("#whole")
    until(view, "/seed/i.test(document.getElementById('fault').textContent)")
    view.context.close()


@pytest.mark.slow
@has_browser
def test_two_people_a_cancelled_edit_and_a_server_that_goes(site: Site, clip: Path) -> None:
    """Neither sees the other's; a cancelled edit ends; the page goes on where the server comes back."""
    alice, bob = site.person(), site.person()
    for view in (alice, bob):
        uploaded(view, clip)
        view.fill("#prompt", "make the ball blue")
    alice.fill("#steps", "200")
    alice.select_option("#n", "4")
    alice.click("#whole")
    until(alice, "/^Editing/.test(document.getElementById('stage').textContent)")
    bob.fill("#steps", "1")
    bob.click("#whole")
    until(bob, "/^Waiting: next/.test(document.getElementById('stage').textContent)")
    assert (alice.locator(".node").count(), bob.locator(".node").count()) == (2, 2)
    long = site.jobs()[-2]
    assert bob.request.get(f"{site.service.url}/v1/videos/{long.id}/content?variant=source").status == 404
    alice.click("#cancel")
    bob.wait_for_selector("#further:visible")
    until(alice, "document.querySelectorAll('.node').length === 1")
    assert not (site.service.engine.store.files(long.id)).exists()

    site.end()
    bob.wait_for_selector("#banner:visible")
    bob.click("#whole")  # waits with the page
    site.begin()
    bob.wait_for_selector("#banner", state="hidden")
    until(bob, "document.querySelectorAll('.node').length === 3")
    bob.wait_for_selector("#further:visible")
    assert len([job for job in site.jobs() if job.owner == site.jobs()[-1].owner]) == 3
    assert not site.faults
    alice.context.close()
    bob.context.close()


@pytest.mark.slow
@has_browser
def test_a_person_signs_in_with_a_key(site: Site, clip: Path, tmp_path: Path) -> None:
    """The page shows nothing before, keeps the key from its scripts, and forgets it when told."""
    with serving(replace(site.settings, folder=tmp_path), "alice", page=True, devices=()) as service:
        view = site.browser.new_page()
        view.goto(service.url)
        view.wait_for_selector("#login:not([hidden])")
        assert view.is_hidden("#work")
        view.fill("#secret", "key-mallory")
        view.keyboard.press("Enter")
        until(view, "/no API key of this service/.test(document.getElementById('no-key').textContent)")
        view.fill("#secret", "key-alice")
        view.keyboard.press("Enter")
        view.wait_for_selector("#work:not([hidden])")
        assert view.evaluate("document.cookie") == ""
        uploaded(view, clip)
        assert [one["prompt"] for one in service.of("alice").get("/v1/videos").json()["data"]] == [""]
        view.click("#leave")
        view.wait_for_selector("#login:not([hidden])")
        view.context.close()


def test_browsers_are_owners_and_keys_sign_in(folder: Path, tmp_path: Path) -> None:
    """Without keys a cookie of chance, with keys one that a key was given for; no other site, no script gets at it."""
    settings = WorkerSettings(tmp_path, {"tiny": "tiny"}, LoadSettings(), JobLimits())
    keys = Access.of(None, [f"alice {hashlib.sha256(b'secret').hexdigest()}"])

    async def ask(access: Access, method: str, path: str, cookie: str = "", **given: Any) -> httpx.Response:
        transport = httpx.ASGITransport(create_app(JobEngine(settings), access, page=True))
        given["headers"] = given.get("headers", {}) | ({"Cookie": f"{COOKIE}={cookie}"} if cookie else {})
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, **given)

    def asked(*rest: Any, **given: Any) -> httpx.Response:
        with ThreadPoolExecutor(1) as pool:  # the browser's own loop may run in this thread
            return pool.submit(asyncio.run, ask(*rest, **given)).result()

    first = asked(Access(), "GET", "/")
    assert "'self'" in first.headers["Content-Security-Policy"]
    assert {"HttpOnly", "SameSite=lax"} <= set(first.headers["Set-Cookie"].split("; "))
    cookie = first.headers["Set-Cookie"].partition("=")[2].partition(";")[0]
    assert "Set-Cookie" not in asked(Access(), "GET", "/", cookie).headers
    owners = {Access().owner_of("", one).name for one in (cookie, "A" * 43, "", "no token")}  # type: ignore[union-attr]
    assert len(owners) == 3
    assert "local" in owners

    assert "Set-Cookie" not in asked(keys, "GET", "/").headers
    assert [asked(keys, "GET", "/page/facts", one).status_code for one in ("", cookie, "secret")] == [401, 401, 200]
    wrong = asked(keys, "POST", "/page/session", content="guess")
    assert (wrong.status_code, "no API key of this service" in wrong.text) == (401, True)
    right = asked(keys, "POST", "/page/session", content=" secret ")
    assert right.headers["Set-Cookie"].startswith(f"{COOKIE}=secret; HttpOnly")
    assert asked(keys, "POST", "/page/session", content=b" " * 5000).status_code == 413
    foreign = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document"}
    assert asked(keys, "GET", "/", headers=foreign).status_code == 200
    assert asked(keys, "GET", "/", headers=foreign | {"Sec-Fetch-Dest": "iframe"}).status_code == 403
    assert asked(keys, "GET", "/page/facts", "secret", headers=foreign).status_code == 403
    assert asked(keys, "POST", "/page/session", content="secret", headers={"Origin": "http://x.y"}).status_code == 403


def test_the_embedded_model_knows_the_examples() -> None:
    assert {
        text: words for kind in EXAMPLES.values() for text in kind if (words := unknown_words(find("tiny"), text))
    } == {}


@pytest.mark.parametrize(
    ("off", "step", "share", "psnr"), [(0, 1, 1.0, 99.0), (2, 1, 1.0, 42.11), (40, 1, 0.5, 99.0), (40, 2, 0.5, 99.0)]
)
def test_what_an_edit_kept(off: int, step: int, share: float, psnr: float) -> None:
    """A small difference everywhere is a matter of dB; a visible one in the lower half is a matter of share, also where
    it leaves the mean colour as it was."""
    frames = np.full((3, 64, 64, 3), 100, np.uint8)
    edited = frames.copy()
    edited[:, (32 if off == 40 else 0) :, ::step] += off
    if step == 2:
        edited[:, 32:, 1::step] -= off
    kept = kept_part(Video.from_frames(frames, 8), Video.from_frames(edited, 8))
    assert kept == pytest.approx((share, psnr), abs=0.01)
