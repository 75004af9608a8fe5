"""Instructions put into a model's own words by a server: what it is shown, what becomes of it, and how it fails."""

from __future__ import annotations

import json

import numpy as np
import pytest

import opensama
from opensama.apps.cli import main
from opensama.media.video_io import read_video, write_video
from opensama.models.families import MODEL_FAMILIES
from opensama.models.registry import find
from opensama.pipeline.enhance import enhanced, enhancer_at
from opensama.values import EditRequest, UserError, Video
from opensama.vlm import ScriptedVlm
from tests.curation.server import Asked, ChatServer, Ended, Fault

WISH, PROMPT = 'Add "SALE" to the <image> sign, 2 times', "Make the ball blue; the box, its motion and the light stay."


def answer(prompt: object) -> str:
    return f"Here it is: {json.dumps({'prompt': prompt})}"


@pytest.fixture
def clip(picture, tmp_path):
    path = tmp_path / "clip.mp4"
    write_video(Video.from_frames(picture(5, 32, 48), 25), path)
    return path


def test_what_the_server_is_shown_and_asked():
    """Three frames of what is to be edited, the references, the wish as it stands, and what the family says."""
    frames = np.stack([np.full((600, 900, 3), 20 * i, np.uint8) for i in range(10)])
    request = EditRequest(
        Video.from_frames(frames, 25), WISH, frames=(4, 9), references=[np.full((8, 8, 3), 60_000, np.uint16)]
    )
    with ChatServer(lambda asked: answer(f" {PROMPT}\n ")) as server:
        found = enhanced(request, "bernini-1.3b", enhancer_at(server.url))
        assert (found.instruction, found.original_instruction) == (PROMPT, WISH)
        (asked,) = server.asked
    assert [round(float(image.mean())) for image in asked.images] == pytest.approx([80, 120, 160, 233], abs=1)
    assert {image.shape for image in asked.images[:3]} == {(299, 448, 3)}
    assert 'Somebody wishes: Add "SALE" to the image sign, 2 times\n' in asked.text
    assert find("bernini-1.3b").family == "bernini"
    assert MODEL_FAMILIES["bernini"].prompt_guide in asked.text
    assert MODEL_FAMILIES["bernini"].prompt_guide != MODEL_FAMILIES["sama"].prompt_guide


def test_a_model_of_few_words_is_told_in_these():
    """They are listed; an answer with others is asked for again, then refused."""
    answers = iter([answer("Make the ball crimson."), answer("Make the ball red."), *["no"] * 2])
    asked: list[str] = []

    def say(question) -> str:
        asked.append(question.text)
        return next(answers)

    video = Video.from_frames(np.zeros((2, 16, 16, 3), np.uint8), 25)
    found = enhanced(EditRequest(video, "Paint my ball crimson, mate"), "tiny", ScriptedVlm(say))
    assert (found.instruction, len(asked)) == ("Make the ball red.", 2)
    assert "It knows these words and no others: " in asked[0]
    assert ", red, " in asked[0]
    with pytest.raises(UserError, match=r"was not rewritten .*: leave `enhance` out to edit by it as it is"):
        enhanced(EditRequest(video, "Paint it"), "tiny", ScriptedVlm(say))
    crimson = ScriptedVlm(lambda question: answer("Make it crimson."))
    with pytest.raises(UserError, match="tiny has never been taught the answer's crimson"):
        enhanced(EditRequest(video, "Paint it"), "tiny", crimson)
    assert enhanced(EditRequest(video, "Paint it"), "tiny", crimson, anyway=True).instruction == "Make it crimson."


def test_from_the_command_line_and_python(folder, clip, tmp_path, capsys):
    """What is written is the edit by the server's words; both are shown and recorded."""
    out, plain, record = (tmp_path / name for name in ("out.mp4", "plain.mp4", "record.json"))
    ask = ["-m", str(folder), "--no-preserve"]
    with ChatServer(lambda asked: answer(PROMPT)) as server:
        command = ["edit", str(clip), WISH, "-o", str(out), *ask, "--enhance", server.url, "--json", str(record)]
        assert main(command) == 0
    said = capsys.readouterr()
    assert f"For {WISH!r} the model is told: {PROMPT}" in " ".join((said.out + said.err).split())
    assert {key: json.loads(record.read_text())[key] for key in ("instruction", "enhanced")} == {
        "instruction": WISH, "enhanced": PROMPT
    }  # fmt: skip
    assert (
        main(["edit", str(clip), PROMPT, "-o", str(plain), *ask, "--overwrite", "--json", str(tmp_path / "b.json")])
        == 0
    )
    assert "enhanced" not in json.loads((tmp_path / "b.json").read_text())
    assert np.array_equal(read_video(out).array(), read_video(plain).array())
    edited = opensama.edit(
        clip, WISH, folder, device="cpu", preserve=False, enhance=ScriptedVlm(lambda _: answer(PROMPT))
    )
    again = opensama.edit(clip, PROMPT, folder, device="cpu", preserve=False)
    assert np.array_equal(edited.array(), again.array())


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (Fault(400, "it sees no pictures"), "was not rewritten (400 it sees no pictures): leave --enhance out"),
        (Fault(401, "no"), "does not accept the key"),
        (Ended(None, refusal="I will not."), "was not rewritten (I will not): leave --enhance out"),
        (Ended(answer(" ")), "was not rewritten (the answer holds no prompt)"),
        (Ended(answer("x" * 2001)), "was not rewritten (the answer's prompt has 2,001 characters)"),
    ],
    ids=lambda x: type(x).__name__,
)
def test_a_server_that_fails_is_one_sentence_before_the_model_is_loaded(clip, tmp_path, capsys, said, words):
    def reply(asked: Asked) -> object:
        return said

    with ChatServer(reply) as server:
        out = tmp_path / "out.mp4"
        asked = ["--enhance", server.url, "--enhance-model", "pixels"]
        assert main(["edit", str(clip), WISH, "-o", str(out), *asked]) == 2
    told = capsys.readouterr().err.strip()
    assert words in told
    assert "loading" not in told
    assert not out.exists()


def test_a_server_is_named_before_its_model(clip, capsys):
    assert main(["edit", str(clip), WISH, "--enhance-model", "any"]) == 2
    assert "No server was named for --enhance-model: give its address with --enhance." in capsys.readouterr().err
    assert main(["edit", str(clip), WISH, "--enhance", "localhost:8000"]) == 2
    assert "does not begin with http://" in capsys.readouterr().err


def test_rows_of_a_batch(folder, clip, tmp_path):
    """One row asks and is edited by the answer, which its record has; another's server is out of order."""
    with ChatServer(lambda asked: answer(PROMPT)) as server, ChatServer(lambda asked: "no") as other:
        rows = [{"video": "clip.mp4", "instruction": WISH, "out": f"{i}.mp4", "enhance": url}
                for i, url in enumerate((server.url, other.url, None))]  # fmt: skip
        table = tmp_path / "jobs.jsonl"
        table.write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert main(["batch", str(table), "--out", str(tmp_path / "out"), "-m", str(folder)]) == 2
    found = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [one["outcome"] for one in found] == ["done", "failed", "done"]
    assert [one.get("enhanced") for one in found] == [PROMPT, None, None]
    assert "The instruction was not rewritten" in found[1]["error"]
