"""The embedded models' recipes at smoke size: they run through, go on where they stopped, and their folders edit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import inf

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast

from opensama.models.families import find_family
from opensama.models.registry import TINY as EMBEDDED
from opensama.models.registry import TINY_ICVE
from opensama.models.tiny import PatchAutoencoder
from opensama.pretext import PAPER_SHARES
from opensama.recipes.tiny import CORE, DECODER, ICVE_CORE, LAPTOP, RECIPES, SMOKE
from opensama.training.autoencoder import EditorAnswers, drawn_clips, set_latent_statistics
from opensama.training.budget import TimeBudget
from opensama.training.checkpoint import latest_checkpoint
from opensama.training.drawing import (
    PRETEXT,
    DrawSettings,
    draw_clips,
    draw_core,
    draw_edits,
    draw_in_turn,
    draw_plan,
    draw_unpaired,
    hold_last_frame,
)
from opensama.training.embedded_config import StageConfig, TinyConfig
from opensama.training.pool import PoolEncoders, PoolWorkers, RenewedPool, build_pool
from opensama.training.scores import HeldOut, held_out_scores
from opensama.training.semantic_encoder import make_semantic_encoder, semantic_tokens
from opensama.training.sources import PoolStream
from opensama.training.text import (
    encode_text,
    make_text_encoder,
    tokenize,
    train_tokenizer,
)
from opensama.training.tiny import drawn_stage, train_tiny
from opensama.values import UserError
from opensama.world import TIERS, plan_edit
from opensama.world.unpaired import plan_unpaired


def make_transformer(config: TinyConfig) -> torch.nn.Module:
    return find_family(config.family).transformer(**config.transformer_sizes)


@pytest.fixture(scope="module")
def tokenizer():
    plans = [plan_edit(i) for i in range(300)]
    return train_tokenizer([p.instruction for p in plans] + [p.caption for p in plans], 400)


@pytest.fixture(scope="module")
def parts(tokenizer):
    torch.manual_seed(0)
    vae = PatchAutoencoder(widths=(8, 8, 8), decoder_blocks=(1, 1, 1))
    vae.start_from_components(drawn_clips(8, 0))
    set_latent_statistics(vae, drawn_clips(4, 0))
    encoder = make_semantic_encoder(32, 1).eval()
    text = make_text_encoder(tokenizer, 32, 1)
    config = TinyConfig(width=64, layers=2, text_width=32, semantic_width=32)
    return vae, encoder, text, make_transformer(config)


@pytest.fixture(scope="module")
def encoders(tokenizer, parts):
    return PoolEncoders(*parts[:2], tokenizer)


def test_any_text_has_tokens_and_ends(tokenizer):
    for text in ("Make the red car blue.", "", "Zażółć gęślą jaźń 🎬"):
        ids, mask = tokenize(tokenizer, [text], 48)
        assert ids.shape == mask.shape == (1, 48)
        assert ids[0, mask.sum() - 1] == tokenizer.eos_token_id
    assert tokenizer.decode(
        tokenize(tokenizer, ["remove the red car."], 32)[0][0], skip_special_tokens=True
    ).strip() == ("remove the red car.")


def test_text_is_zero_past_its_end(tokenizer, parts):
    ids, mask = tokenize(tokenizer, ["Remove the car."], 16)
    hidden = encode_text(parts[2], ids, mask)
    assert hidden.shape == (1, 16, 32)
    assert (hidden[0, mask.sum() :] == 0).all()
    assert hidden[0, 0].abs().sum() > 0


def test_semantic_tokens_of_any_shape(parts):
    assert semantic_tokens(parts[1], torch.zeros(2, 3, 96, 176)).shape == (2, 17, 32)


def test_a_pool_is_written_once_and_read_again(tmp_path, encoders):
    path = tmp_path / "pools" / "five.safetensors"
    made = build_pool(path, 6, encoders, frames=5, size=(64, 32))
    assert made["source"].shape == made["target"].shape == (6, 192, 2, 4, 2)
    assert made["change"].shape == (6, 2, 4, 2)
    assert made["semantic"].shape == (6, 17, 32)
    again = build_pool(path, 6, encoders, frames=5, size=(64, 32))
    for key, value in made.items():
        torch.testing.assert_close(again[key], value)


def test_a_pool_that_was_interrupted_goes_on_and_one_without_time_is_what_there_is(
    tmp_path, tokenizer, parts, encoders, caplog
):
    drawn: list[str] = []
    interrupted: list[str] = []

    def draw(names, *asked):
        if names[0] == "(32, 32)-4" and names[0] not in interrupted:
            interrupted.extend(names)
            raise KeyboardInterrupt
        drawn.extend(names)
        return draw_edits(names, *asked)

    how = {"size": (32, 32), "batch": 2}
    path = tmp_path / "pool.safetensors"
    with pytest.raises(KeyboardInterrupt):
        build_pool(path, 8, encoders, draw=draw, **how)
    assert not path.exists()
    drawn.clear()
    whole = build_pool(path, 8, encoders, draw=draw, **how)
    assert drawn == [f"(32, 32)-{i}" for i in range(4, 8)]
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    torch.testing.assert_close(whole, build_pool(None, 8, encoders, **how))

    caplog.set_level("INFO")
    late = tmp_path / "late.safetensors"
    less = build_pool(late, 10**4, encoders, until=0.0, **how)
    torch.testing.assert_close(less, {key: value[:2] for key, value in whole.items()})
    assert caplog.messages == ["drawing late: 2 of 10,000, which is all that there is time for"]
    torch.testing.assert_close(build_pool(late, 10**4, encoders, **how), less)


def test_a_budget_is_shared_out_and_holds_over_resumptions(tmp_path):
    now = [100.0]
    shares = {"autoencoder": 1.0, "pretrain": 0.0, "images": 3.0}

    def budget(minutes: float = 10) -> TimeBudget:
        return TimeBudget(tmp_path / "budget.json", minutes, shares, clock=lambda: now[0])

    first = budget()
    first.begin("autoencoder")
    assert first.left() == pytest.approx(600 * 0.94 / 4)
    now[0] += 41
    first.end("autoencoder")
    now[0] += 1000  # between the two processes
    later = budget()
    assert later.used == pytest.approx(41)
    assert later.ended == ["autoencoder"]
    later.begin("images", pools=2)
    assert later.left() == pytest.approx(600 * 0.94 - 41), "what one leaves over is for those after it"
    for part in (0.5, 1.0):
        assert later.pool_deadline() - now[0] == pytest.approx(part * 0.4 * (600 * 0.94 - 41))
    more = budget(20)
    assert more.ended == [], "with more minutes every stage goes on"
    assert more.scaled(20_000, least=2_000, a_minute=500) == 5_000, "and reads what was made once"
    assert TimeBudget(tmp_path / "none.json", 0, shares).pool_deadline() == inf
    loaded = TimeBudget(tmp_path / "loaded.json", 10, shares, clock=lambda: 100.0, began=85.0)
    loaded.begin("autoencoder")
    assert loaded.used == 15, "what the libraries took to load is time of the run, too"
    assert loaded.left() == pytest.approx((600 * 0.94 - 15) / 4)


def test_a_run_that_took_longer_or_learnt_little_says_so_at_its_end(tmp_path):
    now, shares = [0.0], {"autoencoder": 9.0, "images": 54.0}
    budget = TimeBudget(tmp_path / "budget.json", 2, shares, clock=lambda: now[0])
    now[0] = 170
    assert budget.closing(1234, from_nothing=False) == "", "a shipped model that was trained on is no worse for that"
    short = budget.closing(1234, from_nothing=True)
    assert "1,234 steps in 2 of the recipe's 63 minutes" in short
    assert "took" not in short
    now[0] = 190
    assert budget.closing(1234, from_nothing=False).startswith("The run took 3.2 minutes where it was given 2: ")
    assert "; the model has learnt for 1,234 steps" in budget.closing(1234, from_nothing=True)
    whole = TimeBudget(tmp_path / "whole.json", 60, shares, clock=lambda: now[0])
    none = TimeBudget(tmp_path / "none.json", 0, shares, clock=lambda: now[0])
    now[0] += 3600
    assert whole.closing(9, from_nothing=True) == none.closing(9, from_nothing=True) == ""


@pytest.mark.slow
def test_a_run_ends_in_its_minutes_however_much_there_is_to_draw(tmp_path, capfd, caplog):
    """Pools and stages that would take days; the shipped weights are read without the libraries' bars and warnings."""
    small = {"image_edits": 10**6, "video_edits": 10**5, "pretext_clips": 10**5, "image_batch": 1, "video_batch": 1}
    endless = {"images": StageConfig(minutes=1000), "videos": StageConfig(minutes=1000)}
    config = SMOKE.model_copy(update=small | endless | {"minutes": 0.1})
    caplog.set_level("INFO")
    folder = train_tiny(config.model_copy(update={"start_from": EMBEDDED.folder}), tmp_path / "run")
    assert capfd.readouterr() == ("", "")
    names = [stage["name"] for stage in json.loads((folder / "training.json").read_text())["stages"]]
    assert names[-2:] == ["images", "videos"]
    assert any("all that there is time for" in line for line in caplog.messages)
    assert json.loads((tmp_path / "run" / "budget.json").read_text())["ended"] == ["images", "videos"]


def test_editing_learns_one_batch_and_its_data_is_a_function_of_the_step(tokenizer, parts, encoders):
    *_, text, transformer = parts
    pool = build_pool(None, 8, encoders, frames=5, size=(32, 32))
    stage = drawn_stage("images", transformer, text, tokenizer, [PoolStream(pool, 8, 1.0)], text_dropout=0.0)
    a, b = stage.batch(3), stage.batch(3)
    torch.testing.assert_close(a, b)
    assert not torch.equal(a["noise"], stage.batch(4)["noise"])
    optimizer = torch.optim.Adam([*transformer.parameters(), *text.parameters()], lr=3e-3)
    losses = []
    for _ in range(30):
        loss = stage.step(3)["loss"]
        loss.backward()
        assert all(p.grad is not None for p in transformer.parameters()), "a weight that learns nothing"
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.75 * losses[0]


def test_a_renewed_pool_holds_the_newest_chunks_and_is_a_function_of_the_step():
    drawn = []

    def make(number: int) -> dict[str, torch.Tensor]:
        drawn.append(number)
        return {"ids": torch.arange(3) + 10 * number}

    with ThreadPoolExecutor(1) as threads:
        pool = RenewedPool(make, steps=4, kept=2, threads=threads)
        assert pool(0)["ids"].tolist() == [0, 1, 2]
        assert sorted(pool(4)["ids"].tolist()) == [0, 1, 2, 10, 11, 12]
        assert sorted(pool(11)["ids"].tolist()) == [10, 11, 12, 20, 21, 22]
        later = RenewedPool(make, steps=4, kept=2, threads=threads)(11)
        assert torch.equal(later["ids"], pool(11)["ids"])
    assert sorted(drawn) == [0, 1, 1, 2, 2, 3, 3], "each once for each of the two, and the next one beforehand"


@pytest.mark.slow
def test_processes_draw_what_threads_draw(encoders):
    workers = PoolWorkers(1, encoders)
    how = {"draw": draw_core, "size": (32, 48), "batch": 2}
    ours, theirs = (build_pool(None, 3, encoders, workers=w, **how) for w in (None, workers))
    workers.close()
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        assert value.dtype == theirs[key].dtype
        torch.testing.assert_close(theirs[key], value)


def test_half_of_the_texts_lose_a_word_here_and_there(tokenizer, parts, encoders):
    """What is left keeps its order and its end; the same step loses the same words."""
    *_, text, transformer = parts
    pool = build_pool(None, 8, encoders, size=(32, 32), text_tokens=40)
    whole = {tuple(row[said > 0].tolist()) for row, said in zip(pool["ids"], pool["mask"], strict=True)}
    stage = drawn_stage(
        "x", transformer, text, tokenizer, [PoolStream(pool, 40, 1.0)], text_dropout=0.0, word_dropout=0.3
    )
    x = stage.batch(0)
    assert torch.equal(x["ids"], stage.batch(0)["ids"])
    said = [tuple(row[mask > 0].tolist()) for row, mask in zip(x["ids"], x["mask"], strict=True)]
    assert set(said[::2]) <= whole
    shorter = [words for words in said[1::2] if words not in whole]
    assert len(shorter) > 15
    for words in shorter:
        assert words[-1] == tokenizer.eos_token_id
        assert any(_in_order(words, full) for full in whole)
    assert (x["ids"][x["mask"] == 0] == tokenizer.pad_token_id).all()


def _in_order(some: Sequence[int], of: Sequence[int]) -> bool:
    left = iter(of)
    return all(word in left for word in some)


def test_pictures_come_from_their_captions_and_windows_without_semantic_tokens(tokenizer, parts, encoders):
    *_, text, transformer = parts
    pool = build_pool(None, 8, encoders, draw=draw_core, size=(96, 96), text_tokens=40)
    captions = [draw_plan(f"(96, 96)-{i}", tier="core").caption for i in range(8)]
    ids, mask = tokenize(tokenizer, captions, 40)
    streams = [PoolStream(pool, 5, 0.5, pictures=True, shift=1.0), PoolStream(pool, 6, 0.5, sides=(4,))]
    stage = drawn_stage("x", transformer, text, tokenizer, streams, text_dropout=0.0)
    batches = [stage.batch(i) for i in range(8)]
    pictures, windows = ([x for x in batches if len(x["ids"]) == n] for n in (5, 6))
    assert pictures
    assert windows
    for x in pictures:
        assert "source" not in x
        assert not x["change"].any()
        for row, said in zip(x["ids"], x["mask"], strict=True):
            assert (torch.cat((row, said)) == torch.cat((ids, mask), 1)).all(1).any()
    for x in windows:
        assert "semantic" not in x
        assert x["target"].shape == (6, 192, 1, 1, 16)
        assert x["source"].shape == (6, 192, 1, 1, 24)
    assert all(torch.isfinite(stage.step(i)["loss"]) for i in range(8))


def test_scores_are_errors_over_the_sources_own(tokenizer, parts, encoders):
    *_, text, transformer = parts
    draw = partial(draw_in_turn, tier="core")
    pool = build_pool(None, 12, encoders, draw=draw, split="test", size=(32, 32), text_tokens=40)
    families = TIERS["core"].families
    assert torch.equal(
        pool["ids"][7], tokenize(tokenizer, [plan_edit(1, "test", "add", tier="core").instruction], 40)[0][0]
    )
    copies = make_transformer(TinyConfig(width=64, layers=1, text_width=32, semantic_width=32))
    torch.nn.init.zeros_(copies.proj_out.weight)
    with torch.no_grad():
        copies.proj_out.bias.copy_(torch.cat((torch.zeros(192), torch.full((192,), 30.0))))  # keeps the source
    stage = drawn_stage("x", copies, text, tokenizer, [PoolStream(pool, 2, 1.0)])
    stage_tests = {"core": HeldOut(pool, families)}
    scores = held_out_scores(stage, stage_tests, 5)
    assert set(scores) == {"core", *(f"core {family}" for family in families)}
    assert all(score == pytest.approx(1, abs=0.01) for score in scores.values())
    other = drawn_stage("x", transformer, text, tokenizer, stage.loader.source.streams, tests=stage_tests)
    assert other.measure() == other.measure() != scores


NAMES = [f"clip {i}" for i in range(40)]


@pytest.fixture(scope="module")
def clips():
    """Each drawn clip's source, target [t 3 h w] and change, by the prompt of its task."""
    drawn = draw_clips(NAMES, DrawSettings(frames=17, height=32, width=48))
    rows: dict[str, list] = {}
    pictures = drawn.pictures
    for text, *row in zip(drawn.texts, pictures.source, pictures.target, pictures.mask[:, :, 0], strict=True):
        prompt = text.split("]")[0] + "]" if text.startswith("[") else ""
        assert text.removeprefix(prompt).strip(), "a caption stands behind the prompt"
        rows.setdefault(prompt, []).append(row)
    return {task.name: rows[task.prompt] for task in PRETEXT.tasks}


def test_clips_come_under_every_task_of_the_paper(clips):
    assert set(clips) == set(PAPER_SHARES)
    assert len(clips["none"]) < len(clips["tube"])
    for rows in clips.values():
        for source, target, change in rows:
            assert source.shape == target.shape == (17, 3, 32, 48)
            assert torch.equal(change, (source - target).abs().amax(1) > 0.02)


def test_what_each_task_does_to_a_source(clips):
    assert all(torch.equal(source, target) and not change.any() for source, target, change in clips["none"])
    for source, target, change in clips["cube"]:
        hidden = [t for t in range(17) if not source[t].any()]
        assert hidden[0] > 0
        assert hidden == list(range(hidden[0], hidden[0] + 5))
        assert all(torch.equal(source[t], target[t]) for t in range(17) if t not in hidden)
        assert not change[0].any()
        assert change[hidden].float().mean() > 0.5
    for source, target, _ in clips["speed"]:
        assert torch.equal(source[:9], target[::2])
        assert (source[9:] == target[-1]).all()
    for source, target, _ in clips["tube"]:
        assert torch.equal(source[-1], target[-1])
        places = [
            [v[8 * i : 8 * i + 8, :, y : y + 16, x : x + 24] for i in (0, 1) for y in (0, 16) for x in (0, 24)]
            for v in (source, target)
        ]
        assert all(any(torch.equal(a, b) for b in places[1]) for a in places[0])


def test_a_short_source_stands_still_at_its_end():
    video = torch.rand(3, 5, 2, 2)
    assert torch.equal(hold_last_frame(video, 5), video)
    assert torch.equal(hold_last_frame(video, 9)[:, 5:], video[:, -1:].expand(-1, 4, -1, -1))


def test_every_prompt_fits_the_embedded_model_and_leaves_room_for_words():
    tokenizer = PreTrainedTokenizerFast.from_pretrained(EMBEDDED.folder / "tokenizer")
    for task in PRETEXT.tasks:
        whole = (
            f"{task.prompt} A yellow giraffe and much more behind it, far more than there is room for.".strip().lower()
        )
        ids, mask = tokenize(tokenizer, [whole], LAPTOP.text_tokens)
        read = tokenizer.decode(ids[0][: mask.sum() - 1]).strip()
        assert whole.startswith(read)
        assert read.startswith(f"{task.prompt} a yellow".strip().lower())
        assert ids[0, mask.sum() - 1] == tokenizer.eos_token_id


def test_clips_make_a_pool_and_a_stream_that_is_never_cut(tokenizer, parts, encoders):
    *_, text, transformer = parts
    pool = build_pool(None, 6, encoders, draw=draw_clips, frames=9, size=(32, 32), text_tokens=40)
    assert pool["source"].shape == pool["target"].shape == (6, 192, 3, 2, 2)
    assert pool["change"].shape == (6, 3, 2, 2)
    same = (pool["source"] == pool["target"]).flatten(1).all(1)
    assert not same.all()
    assert (pool["change"][same] == 0).all()
    assert pool["change"][~same].any()
    edits = build_pool(None, 4, encoders, frames=9, size=(32, 32), text_tokens=40)
    streams = [PoolStream(edits, 2, 0.5), PoolStream(pool, 3, 0.5, cut=False)]
    stage = drawn_stage("videos", transformer, text, tokenizer, streams)
    shapes = {(len(x["target"]), x["target"].shape[2]) for x in map(stage.batch, range(40))}
    assert shapes == {(2, 2), (2, 3), (3, 3)}


def test_recipes_are_saved_and_read(tmp_path):
    for config in RECIPES.values():
        config.save(tmp_path / "config.yaml")
        assert TinyConfig.read(tmp_path / "config.yaml") == config
    with pytest.raises(ValueError, match="extra"):
        TinyConfig(colour="red")  # type: ignore[call-arg]
    refused: list[tuple[dict[str, object], str]] = [
        ({"full_share": 0.5}, "set tier=core, or leave"), ({"shares": {"add": 1}}, "set tier=core, or leave"),
        ({"tier": "core", "shares": {"add": 1, "text": 1}}, "not of text"), ({"color_shapes": 2}, "set color_rank"),
        ({"tier": "core", "shares": {"add": 0}}, "greater than 0"), ({"window_sides": [4, 0]}, "greater than 0"),
    ]  # fmt: skip
    for wrong, said in refused:
        with pytest.raises(ValidationError, match=said):
            TinyConfig.model_validate(wrong)
    assert LAPTOP.width % 64 == 0


def test_the_shipped_model_is_trained_further_in_one_stage(tmp_path):
    nothing = StageConfig(minutes=0)
    small = {"image_edits": 4, "video_edits": 4, "pretext_clips": 4, "image_batch": 1, "video_batch": 1}
    config = SMOKE.model_copy(update=small | {"images": nothing, "videos": StageConfig(minutes=1, max_steps=1)})
    folder = train_tiny(config.model_copy(update={"start_from": EMBEDDED.folder}), tmp_path / "run")
    sizes = ("128x128", "176x96", "96x176")
    drawn = {"1x128x128", *(f"{kind}17x{size}" for size in sizes for kind in ("", "pretext-"))}
    assert {file.stem for file in (tmp_path / "run" / "pools").iterdir()} == drawn
    assert not (tmp_path / "run" / "images").exists()
    stages = json.loads((folder / "training.json").read_text())["stages"]
    assert stages[:-1] == json.loads((EMBEDDED.folder / "training.json").read_text())["stages"]
    assert (stages[-1]["name"], stages[-1]["steps"]) == ("videos", 1)


def test_the_decoder_is_trained_on_alone(tmp_path):
    """The editor and its code stay to the bit."""
    little = {
        "decoder": DECODER.decoder.model_copy(update={"max_steps": 2}),
        "decoder_answers": 2,
        "textures": 8,
        "start_from": EMBEDDED.folder,
    }
    folder = train_tiny(DECODER.model_copy(update=little), tmp_path / "run")
    assert not (tmp_path / "run" / "pools").exists()
    for part in ("transformer", "text_encoder", "vae"):
        (file,) = (EMBEDDED.folder / part).glob("*.safetensors")
        before, after = load_file(file), load_file(folder / part / file.name)
        other = {name for name, value in after.items() if not torch.equal(before[name], value)}
        assert bool(other) == (part == "vae")
        assert not {name for name in other if name.startswith(("linear", "spread"))}
    stages = json.loads((folder / "training.json").read_text())["stages"]
    assert (stages[-1]["name"], stages[-1]["steps"]) == ("decoder", 2)
    assert stages[-1]["last"]["psnr_answers"] > 10


def test_what_a_decoder_learns_from_is_what_the_editor_answers():
    """Of the same number the same; decoded they are nearer to their own right answers than to each other's."""
    from opensama import load

    editor = load("tiny", device="cpu").pipeline
    answers = EditorAnswers(editor, 2, seed=3)
    batch, again = answers(4), answers(4)
    assert (batch["codes"].shape, batch["answers"].shape) == ((2, 192, 2, 8, 8), (2, 3, 5, 128, 128))
    assert all(torch.equal(batch[name], again[name]) for name in batch)
    assert not torch.equal(batch["answers"], answers(5)["answers"])
    with torch.no_grad():
        decoded = editor.vae.decode(batch["codes"]).sample
    error = (decoded - batch["answers"]).square().mean()
    assert error < 0.5 * (decoded.flip(0) - batch["answers"]).square().mean()


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "start"), [(CORE, EMBEDDED), (ICVE_CORE, TINY_ICVE)], ids=["sama", "icve"])
def test_the_core_recipe_goes_through_its_stages_and_goes_on(tmp_path, recipe, start):
    """Of the shipped weights, a step or two: pools are renewed, scores of both tiers kept."""
    little = {"chunk": 4, "chunk_steps": 1, "chunks": 2, "test_edits": 6, "picture_batch": 1, "window_batch": 2}
    stages = {"pictures": recipe.pictures.model_copy(update={"max_steps": 1, "measure_every": 0})}
    stages |= {"windows": recipe.windows.model_copy(update={"max_steps": 2})}
    nothing = dict.fromkeys(("images", "videos"), StageConfig(minutes=0))
    config = recipe.model_copy(update=little | stages | nothing | {"image_batch": 1, "start_from": start.folder})
    folder = train_tiny(config, tmp_path)
    settings = json.loads((folder / "transformer" / "config.json").read_text())
    assert settings.get("semantic_rotary", "zero") == "zero"
    parts = "color_rank", "color_shapes", "frame_waves"
    assert [settings[name] for name in parts] == [getattr(recipe, name) for name in parts]
    (file,) = (folder / "transformer").glob("*.safetensors")
    assert all(
        value.any() for name, value in load_file(file).items() if name.startswith(("local_color.", "frame_position."))
    )
    rows = [json.loads(line) for line in (tmp_path / "windows" / "scores.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 2]
    assert {"core", "core add", "full", "full text"} < rows[-1].keys()
    assert rows[0]["core"] != rows[1]["core"]

    longer = config.model_copy(update={"windows": stages["windows"].model_copy(update={"max_steps": 3})})
    train_tiny(longer, tmp_path)
    scores = (tmp_path / "windows" / "scores.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in scores] == [0, 2, 3]
    done = [(s["name"], s["steps"]) for s in json.loads((folder / "training.json").read_text())["stages"]]
    assert done[-2:] == [("pictures", 1), ("windows", 3)] if recipe is CORE else done[-1:] == [("windows", 3)]
    numbers = {int(file.stem.split("-")[1]) for file in (tmp_path / "pools").glob("windows-*")}
    assert max(numbers) >= 2, "new edits with every chunk"


def test_unpaired_clips_make_a_pool(tokenizer, encoders):
    pool = build_pool(None, 4, encoders, draw=draw_unpaired, frames=5, size=(64, 64), text_tokens=40)
    plans = [plan_unpaired(f"(64, 64)-{i}") for i in range(4)]
    assert torch.equal(pool["ids"], tokenize(tokenizer, [plan.instruction for plan in plans], 40)[0])
    assert (pool["change"].flatten(1).mean(1) > 0).all()
    assert not torch.equal(pool["source"], pool["target"])


@pytest.mark.slow
def test_the_whole_recipe_stops_goes_on_and_edits(tmp_path):
    from opensama import EditRequest, Video, load
    from opensama.world import sample_edit

    stages = dict.fromkeys(("autoencoder", "semantic", "images", "videos"), StageConfig(minutes=5, max_steps=1))
    config = SMOKE.model_copy(update=stages)
    folder = train_tiny(config, tmp_path)
    before = load_file(latest_checkpoint(tmp_path / "videos") / "weights.safetensors")
    longer = config.model_copy(update={"videos": StageConfig(minutes=5, max_steps=2)})
    assert train_tiny(longer, tmp_path) == folder
    after = load_file(latest_checkpoint(tmp_path / "videos") / "weights.safetensors")
    assert any(not torch.equal(before[k], after[k]) for k in before)
    with pytest.raises(UserError, match="other settings"):
        train_tiny(config.model_copy(update={"width": 128}), tmp_path)
    assert (
        load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors").popitem()[1].dtype == torch.bfloat16
    )

    further = train_tiny(config.model_copy(update={"start_from": folder}), tmp_path / "further")
    weights = load_file(latest_checkpoint(tmp_path / "further" / "videos") / "weights.safetensors")
    assert {w.dtype for w in weights.values()} == {torch.float32}
    same = [load_file(f / "vae" / "diffusion_pytorch_model.safetensors") for f in (folder, further)]
    torch.testing.assert_close(*same)

    sample = sample_edit(0, frames=5)
    edited = load(folder).edit(EditRequest(Video.from_frames(sample.source, 16), sample.instruction, steps=2))
    assert sum(1 for _ in edited.frames()) == 5
