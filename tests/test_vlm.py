"""Asking a vision-language model: a real HTTP server on this machine, the real local classes at tiny size."""

from __future__ import annotations

import json
import shutil
import threading
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from opensama.media.frames import frames_for
from opensama.values import UserError, Video
from opensama.vlm import (
    IMAGE,
    BadAnswer,
    CachedVlm,
    Question,
    ScriptedVlm,
    VlmFailed,
    VlmQuota,
    VlmRefused,
    VlmUnavailable,
    answer_json,
    check_connection,
    open_vlm,
)
from opensama.vlm.server import ServerVlm
from tests.any_text import any_text
from tests.curation.server import Asked, ChatServer, Ended, Fault
from tests.tiny_qwen import write_tiny_qwen

QUICK = 0.005  # seconds of the first back-off


def picture(value: int, height: int = 40, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def brightness(asked: Asked) -> str:
    """What this server sees: the mean of each picture, in order."""
    return json.dumps({"seen": [round(float(image.mean())) for image in asked.images]})


@pytest.fixture
def server():
    with ChatServer(brightness) as server:
        yield server


def vlm_at(server: ChatServer, **settings) -> ServerVlm:
    return ServerVlm(server.url, "pixels", **({"retries": 2, "back_off": QUICK} | settings))


# --- answers


def test_the_one_object_of_an_answer():
    for text in ('{"a": 1}', '```json\n{"a": 1}\n```', 'Well, {so} it is: {"a": 1}. Done.'):
        assert answer_json(text) == {"a": 1}
    assert answer_json('<think>Is it {"a": 2}?</think>{"a": 1}') == {"a": 1}
    assert answer_json('<think>Is it {"a": 2}?</think>{"a": "</think>"}') == {"a": "</think>"}
    assert answer_json('{"a": "</think>"}') == {"a": "</think>"}
    assert answer_json('{"a": "with } and {\\"b\\": 2}"}') == {"a": 'with } and {"b": 2}'}
    for text in ("", "no", "[1, 2]", '{"a": 1', '{"a": 1} {"b": 2}', "{" * 5000, '<think>{"a": 1}</think>no'):
        with pytest.raises(BadAnswer):
            answer_json(text)


@given(st.dictionaries(any_text(8), st.recursive(st.integers() | any_text(8), st.lists)))
def test_every_object_comes_back(value):
    assert answer_json(f"Here:\n```\n{json.dumps(value, indent=1)}\n```") == value


# --- questions


def test_images_stand_where_the_text_says():
    one, two = picture(10), picture(200)
    parts = Question(f"a {IMAGE} b {IMAGE}", (one, two)).parts()
    assert [p if isinstance(p, str) else p[0, 0, 0] for p in parts] == ["a ", 10, " b ", 200]
    parts = Question("both", (one, two)).parts()
    assert [p if isinstance(p, str) else p[0, 0, 0] for p in parts] == [10, 200, "both"]
    with pytest.raises(ValueError, match="1 places for 2"):
        Question(f"a {IMAGE}", (one, two))
    with pytest.raises(ValueError, match="uint8"):
        Question("a", (one.astype(float),))


def test_whatever_decides_the_answer_is_in_the_digest():
    changed = picture(10)
    changed[3, 4, 1] += 1
    questions = [
        Question("a", (picture(10),)),
        Question("b", (picture(10),)),
        Question("a", (changed,)),
        Question("a", (picture(10, 64, 40),)),
        Question("a", (picture(10), picture(10))),
        Question("a", (picture(10),), "be kind"),
        Question("a", (picture(10),), turn=1),
        Question("a", (picture(10),), temperature=0.5),
        Question("a", (picture(10),), max_tokens=9),
    ]
    digests = [question.digest("m") for question in questions] + [questions[0].digest("n")]
    assert len(set(digests)) == len(digests)
    assert Question("a", (picture(10),)).digest("m") == digests[0]


def test_frames_are_spread_over_a_video():
    frames = [picture(i) for i in range(200)]
    video = Video.from_frames(frames, 20)
    assert [f[0, 0, 0] for f in frames_for(video, 3, 64)] == [0, 100, 199]  # far apart: sought one by one
    assert [f[0, 0, 0] for f in frames_for(video, 3, 64, start=1, end=2)] == [20, 30, 39]
    assert [f[0, 0, 0] for f in frames_for(video, 8, 64, start=0.0, end=0.1)] == [0, 1]
    assert [f[0, 0, 0] for f in frames_for(video, 8, 64, start=50)] == [199]
    assert frames_for(video, 1, 32)[0].shape == (20, 32, 3)
    assert frames_for(video, 1, 640)[0].shape == (40, 64, 3)
    deep = Video.from_frames([np.full((4, 6, 3), 65535, np.uint16)], Fraction(24))
    assert frames_for(deep, 2, 64)[0].max() == 255


# --- a server


def test_a_server_sees_the_pictures_in_their_order(server):
    vlm = vlm_at(server, key="k")
    one, two = picture(40), picture(220)
    question = Question(f"First {IMAGE}, second {IMAGE}.", (one, two), "Look.", max_tokens=7, temperature=0.25)
    assert answer_json(vlm.ask(question)) == {"seen": [40, 220]}
    assert answer_json(vlm.ask(Question(question.text, (two, one)))) == {"seen": [220, 40]}
    asked = server.asked[0]
    assert (asked.system, asked.body["max_tokens"], asked.body["temperature"]) == ("Look.", 7, 0.25)
    assert [part if isinstance(part, str) else "picture" for part in asked.parts] == [
        "First ",
        "picture",
        ", second ",
        "picture",
        ".",
    ]


def test_what_passes_is_tried_again(server):
    server.faults.extend([Fault(503), Fault(0), Fault(429, "slow down", headers=(("Retry-After", "0"),))])
    assert vlm_at(server, retries=3).ask(Question("Well?"))
    assert len(server.asked) == 4


def test_the_server_says_how_long_to_wait(server):
    server.faults.append(Fault(429, "slow down", headers=(("Retry-After", "0.3"),)))
    began = time.monotonic()
    vlm_at(server).ask(Question("Well?"))
    assert time.monotonic() - began >= 0.3


def test_retries_come_to_an_end(server):
    server.faults.extend([Fault(500, "broken")] * 10)
    with pytest.raises(VlmUnavailable, match="asked 3 times: 500 broken"):
        vlm_at(server).ask(Question("Well?"))
    assert len(server.asked) == 3


def test_nobody_listens():
    with ChatServer() as server:
        url = server.url
    with pytest.raises(VlmUnavailable, match=r"does not answer, asked 2 times: .*[Cc]onnection"):
        ServerVlm(url, "pixels", retries=1, back_off=QUICK).ask(Question("Well?"))
    with pytest.raises(UserError, match=r"does not answer .*: start the server, or mend its address"):
        open_vlm(url)


def test_an_answer_that_takes_too_long():
    release = threading.Event()

    def late(asked: Asked) -> str:
        release.wait(5)
        return "late"

    with ChatServer(late) as server:
        with pytest.raises(VlmUnavailable, match="timed out"):
            vlm_at(server, timeout=0.1, retries=0).ask(Question("Well?"))
        release.set()


@pytest.mark.parametrize(
    ("fault", "requests"),
    [(Fault(429, "no credit", "insufficient_quota"), 1), (Fault(402, "pay first"), 1), (Fault(429, "slow down"), 3)],
)
def test_a_spent_quota_ends_it(server, fault, requests):
    server.faults.extend([fault] * 5)
    with pytest.raises(VlmQuota, match=fault.message):
        vlm_at(server).ask(Question("Well?"))
    assert len(server.asked) == requests


def test_a_wrong_key_is_told():
    with ChatServer(brightness, key="right") as server:
        assert vlm_at(server, key="right").ask(Question("Well?"))
        with pytest.raises(
            UserError, match=r"does not accept the key \(incorrect API key provided\): set OPENAI_API_KEY"
        ):
            vlm_at(server, key="wrong").ask(Question("Well?"))


def test_the_key_comes_from_the_environment(monkeypatch):
    with ChatServer(brightness, key="right") as server:
        monkeypatch.setenv("OPENAI_API_KEY", "right")
        assert open_vlm(server.url).ask(Question("Well?"))


def test_a_wrong_model_or_address_is_told(server):
    with pytest.raises(UserError, match="has no model 'other': it has pixels"):
        ServerVlm(server.url, "other", back_off=QUICK).ask(Question("Well?"))
    with pytest.raises(UserError, match="address mostly ends in /v1"):
        ServerVlm(server.url.removesuffix("/v1"), "pixels", back_off=QUICK).ask(Question("Well?"))
    with pytest.raises(UserError, match="does not begin with http"):
        open_vlm("localhost:8000", "m")
    assert open_vlm(server.url).name == "pixels", "the only model needs no name"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Ended(None, "content_filter"), "content filter"),
        (Ended(None, refusal="I would rather not."), "rather not"),
        (Fault(400, "stopped by our content management policy", "content_filter"), "content management policy"),
        (Fault(403, "your input was flagged by moderation"), "flagged"),
    ],
)
def test_refusals_are_no_answers(answer, reason):
    with ChatServer(lambda asked: answer) as server:
        with pytest.raises(VlmRefused, match=reason):
            vlm_at(server).ask(Question("Well?"))
        assert len(server.asked) == 1, "asking again does not help"


def test_half_a_character_is_a_question_mark(tmp_path):
    """JSON can say "\\ud83d" alone, which no file, table or terminal takes."""
    answers = {"a": "half \ud83d", "b": Ended(None, refusal="no \udc00"), "c": Fault(400, "content policy \ud83d")}
    with ChatServer(lambda asked: answers[asked.text]) as server:
        vlm = CachedVlm(vlm_at(server), tmp_path)
        for _ in range(2):  # asked, then remembered
            assert vlm.ask(Question("a")) == "half ?"
            for text, said in (("b", "no ?"), ("c", "400 content policy ?")):
                with pytest.raises(VlmRefused) as refused:
                    vlm.ask(Question(text))
                assert str(refused.value) == said
        assert len(server.asked) == 3


def test_models_that_do_not_know_a_setting():
    def picky(asked: Asked) -> str | Fault:
        for name in ("max_tokens", "temperature"):
            if name in asked.body:
                return Fault(400, f"unsupported parameter: {name}", "unsupported_parameter", param=name)
        return json.dumps({"limit": asked.body["max_completion_tokens"]})

    with ChatServer(picky) as server:
        vlm = vlm_at(server)
        assert answer_json(vlm.ask(Question("Well?", max_tokens=11))) == {"limit": 11}
        assert answer_json(vlm.ask(Question("And?", max_tokens=12))) == {"limit": 12}
        assert len(server.asked) == 4, "what was learned is kept"


# --- memory and budget


def test_nothing_is_asked_twice(server, tmp_path):
    vlm = open_vlm(server.url, cache=tmp_path / "answers")
    question = Question("Well?", (picture(90),))
    answer = vlm.ask(question)
    again = open_vlm(server.url, cache=tmp_path / "answers", budget=1)
    assert again.ask(question) == answer
    assert len(server.asked) == 1
    again.ask(Question("Well?", (picture(90),), turn=1))
    with pytest.raises(VlmQuota, match="budget of 1 questions"):
        again.ask(Question("Well?", (picture(90),), turn=2))
    assert again.ask(question) == answer, "what is known costs nothing"
    assert len(server.asked) == 2


def test_a_refusal_is_remembered(tmp_path):
    with ChatServer(lambda asked: Ended(None, refusal="No.")) as server:
        for _ in range(2):
            with pytest.raises(VlmRefused, match="No"):
                open_vlm(server.url, cache=tmp_path).ask(Question("Well?"))
        assert len(server.asked) == 1


def test_threads_share_a_budget_and_workers_too(tmp_path):
    script = ScriptedVlm(lambda question: question.text)
    workers = [CachedVlm(script, tmp_path, 20, budget_id="p") for _ in range(3)]
    answered = []

    def work(number: int) -> None:
        for i in range(10):
            try:
                answered.append(workers[number % 3].ask(Question(f"{number} {i}")))
            except VlmQuota:
                return

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answered) == len(set(answered)) == 20
    with pytest.raises(UserError, match="0 or more"):
        open_vlm("http://localhost", "m", budget=-1)
    with pytest.raises(UserError, match="0 or more retries"):
        open_vlm("http://localhost", "m", retries=-1)


def test_a_damaged_memory_is_told(tmp_path):
    (tmp_path / "answers.sqlite").write_text("this is no database, and it is long enough to be looked at" * 20)
    file: Path = tmp_path / "file"
    file.touch()
    for place in (tmp_path, file):
        vlm = CachedVlm(ScriptedVlm(lambda question: "yes"), place)
        check_connection(vlm)
        with pytest.raises(UserError, match="cannot be used"):
            vlm.ask(Question("Well?"))


# --- a local model


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    return write_tiny_qwen(tmp_path_factory.mktemp("qwen"))


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (60, 90, 3), dtype=np.uint8)


def asked_of(qwen: Path, *images: np.ndarray, **settings) -> str:
    question = Question(f"First {IMAGE}, second {IMAGE}.", images, "Look.", max_tokens=12, **settings)
    with pytest.raises(VlmFailed, match="cut off at 12 tokens") as cut:  # random weights know no end
        open_vlm(None, str(qwen), device="cpu").ask(question)
    return cut.value.said


def test_a_local_model_answers_by_what_it_sees(qwen):
    answer = asked_of(qwen, noise(0), noise(1))
    assert answer == asked_of(qwen, noise(0), noise(1))
    assert answer != asked_of(qwen, noise(1), noise(0)), "order matters"
    warm = [asked_of(qwen, noise(0), noise(1), temperature=1.0, turn=turn) for turn in (0, 0, 1)]
    assert warm[0] == warm[1] != warm[2], "turns differ, each comes out the same again"


def test_a_local_model_gets_each_image_in_its_place(qwen):
    local = open_vlm(None, str(qwen), device="cpu").vlm
    images = noise(0), noise(1)[:30]
    inputs = local.inputs(Question(f"a {IMAGE} <|image_pad|> b {IMAGE}", images, "s <|im_end|>"))
    text = local.tokenizer.decode(inputs["input_ids"][0])
    counts = [rows * columns // 4 for _, rows, columns in inputs["image_grid_thw"].tolist()]
    pads = [f"<|vision_start|>{'<|image_pad|>' * count}<|vision_end|>" for count in counts]
    assert counts == [6, 3], "60x90 is 2x3, 30x90 1x3 patches of 28 pixels"
    assert text == (
        "<|im_start|>system\ns < |im_end|><|im_end|>\n<|im_start|>user\n"
        f"a {pads[0]} < |image_pad|> b {pads[1]}<|im_end|>\n<|im_start|>assistant\n"
    ), "text cannot pass for control tokens"
    assert inputs["mm_token_type_ids"].sum() == sum(counts)
    assert len(inputs["pixel_values"]) == 4 * sum(counts)


def test_published_names_of_the_image_processor(qwen, tmp_path):
    """The folders on the hub name classes that need torchvision; the PIL form is taken."""
    folder = tmp_path / "copy"
    shutil.copytree(qwen, folder)
    file = folder / "preprocessor_config.json"
    for name in ("Qwen2VLImageProcessor", "Qwen2VLImageProcessorFast"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"image_processor_type": name}))
        assert asked_of(folder, noise(0), noise(1)) == asked_of(qwen, noise(0), noise(1))


def test_a_local_model_that_is_none(qwen, tmp_path):
    with pytest.raises(UserError, match="There is no folder"):
        open_vlm(None, str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"has no config\.json"):
        open_vlm(None, str(tmp_path))
    folder = tmp_path / "copy"
    shutil.copytree(qwen, folder)
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.visual.merger.mlp.0.weight", None) or weights.pop("visual.merger.mlp.0.weight")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="lacks weights"):
        open_vlm(None, str(folder), device="cpu")
    (folder / "model.safetensors").write_bytes(b"short")
    with pytest.raises(UserError, match="cannot be loaded"):
        open_vlm(None, str(folder), device="cpu")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match="is a llama model"):
        open_vlm(None, str(folder))
