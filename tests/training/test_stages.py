"""SAMA's step with the real classes at tiny size: from Wan weights, on real files, images and videos in turn."""

from __future__ import annotations

import json
import threading
from dataclasses import replace

import pytest
import torch
from diffusers import WanTransformer3DModel

from opensama.models.families.sama import _condition
from opensama.training.config import SamaConfig
from opensama.training.dataset import open_data
from opensama.training.edit_stage import EditStage, with_noise
from opensama.training.loop import LoopConfig, Trainer
from opensama.training.sources import ItemSource
from opensama.training.train_editor import encode_data
from opensama.values import UserError
from tests.data.making import make_transformer

CPU = torch.device("cpu")


def stage_of(config: SamaConfig, **changes: object) -> EditStage:
    data, _ = open_data(config, CPU)
    return EditStage.of("stage0", make_transformer(config), ItemSource(data, config, **changes))  # type: ignore[arg-type]


def test_a_zero_type_embedding_reproduces_the_base(config, base):
    """Without source and semantic tokens, before the first step, the velocity is Wan's own, bit for bit."""
    wan = WanTransformer3DModel.from_pretrained(base / "transformer").eval()
    sama = make_transformer(config).eval()
    assert sama.token_types is not None
    assert (sama.token_types.weight == 0).all()
    x, text = torch.randn(1, 4, 3, 4, 4), torch.randn(1, 6, 16)
    with torch.no_grad():
        expected = wan(x, torch.tensor([300.0]), text).sample
        torch.testing.assert_close(sama(x, torch.tensor([300.0]), text).sample, expected, atol=2e-6, rtol=0)
    state = sama.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in wan.state_dict().items())


def test_passes_are_images_then_videos_and_samples_count_the_same(config):
    stage = stage_of(config)
    assert stage.passes == 4
    batches = [stage.batch(i) for i in range(4)]
    assert [x["target"].shape[2] for x in batches] == [1, 1, 3, 3]
    assert [len(x["target"]) for x in batches] == [1, 1, 2, 2]
    weights = [float(x["weight"]) for x in batches]
    assert sum(weights) == pytest.approx(4)
    assert weights[2] == 2 * weights[0]
    assert batches[0]["semantic"].shape == (1, 5, 8), "an image has one anchor"
    assert batches[2]["semantic"].shape == (2, 10, 8)


def test_a_batch_is_a_function_of_the_pass_however_many_share_it(config):
    stage = stage_of(config)
    for rank in range(2):
        part = stage_of(config, rank=rank, world=2)
        assert part.passes == 2
        for mine, alone in ((0, rank), (1, 2 + rank), (2, 4 + rank)):
            expected = stage.batch(alone)
            for key, value in part.batch(mine).items():
                torch.testing.assert_close(value, expected[key], atol=0, rtol=0)
    assert not torch.equal(stage.batch(0)["noise"], stage.batch(4)["noise"])


@pytest.mark.parametrize("workers", [1, 4])
def test_a_pass_sees_the_same_batch_whatever_the_threads(config, tmp_path, workers):
    """Also with a bad file among the data, cached or live; encoding stays in the thread that trains."""
    config.machine.workers, before, order = workers, threading.enumerate(), (0, 2, 3, 2, 9)
    encode_data(config, tmp_path / "latents", device="cpu")
    for latents in (None, tmp_path / "latents"):
        config.data.latents = latents
        stage = stage_of(config)
        seen = seen_by(stage)
        if stage.loader.source.live is not None:
            threads = set()
            video = stage.loader.source.live.encoders.video

            def noting(pixels: torch.Tensor, video=video, threads=threads) -> torch.Tensor:
                threads.add(threading.current_thread())
                return video(pixels)

            stage.loader.source.live.encoders = replace(stage.loader.source.live.encoders, video=noting)
        for index in order:
            stage.step(index)
        if stage.loader.source.live is not None:
            assert threads == {threading.current_thread()}
        for index, x in zip(order, seen, strict=True):
            wanted = stage.batch(index)
            asked = _condition(with_noise(wanted))
            assert all(torch.equal(x[key], asked[key]) for key in asked if asked[key] is not None), index
        stage.close()
    assert not set(threading.enumerate()) - set(before)


def encoding_once(stage: EditStage) -> EditStage:
    """The stage, which encodes a pass's data when it is first asked for it."""
    source, encoded = stage.loader.source, {}
    encode = source.encode

    def once(index: int, *found: object) -> object:
        if index not in encoded:
            encoded[index] = encode(index, *found)
        return encoded[index]

    source.encode = once
    return stage


def seen_by(stage: EditStage) -> list[dict[str, torch.Tensor]]:
    """What the transformer is called with, from now on."""
    seen: list[dict[str, torch.Tensor]] = []
    stage.transformer.register_forward_pre_hook(lambda _, __, called: seen.append(called), with_kwargs=True)
    return seen


def test_no_thread_outlives_a_run_that_ends_or_breaks_off(config, tmp_path, manifest):
    before = threading.enumerate()
    stage = stage_of(config)
    Trainer(stage, LoopConfig(steps=1, accumulate=stage.passes), tmp_path / "whole").run()
    only = tmp_path / "only.jsonl"
    size = {"width": 64, "height": 48, "frames": 1}
    only.write_text(json.dumps({"source": "none.png", "target": "none.png", "instruction": "x", **size}))
    config.data.manifest, config.data.videos = only, 0
    stage = stage_of(config)
    with pytest.raises(UserError, match="samples in a row could not be read"):
        Trainer(stage, LoopConfig(steps=1, accumulate=stage.passes), tmp_path / "broken").run()
    assert not set(threading.enumerate()) - set(before)


def test_two_steps_and_one_batch_is_learnt(config):
    stage = encoding_once(stage_of(config))
    optimizer = torch.optim.Adam(stage.transformer.parameters(), lr=1e-2)
    for index in range(2 * stage.passes):
        losses = stage.step(index)
        assert losses["tokens"] > 0
        losses["loss"].backward()
    assert all(p.grad is not None for p in stage.transformer.parameters()), "a weight that learns nothing"
    history = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = stage.step(2)["loss"]
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.75 * history[0]


def test_dropped_text_is_the_negative_prompt(config):
    config.data.text_dropout = 1.0
    stage = stage_of(config)
    nothing = stage.loader.source.data.nothing["text"]
    for row in stage.batch(2)["text"]:
        torch.testing.assert_close(row[: len(nothing)], nothing.float())
        assert (row[len(nothing) :] == 0).all()


def test_the_source_may_have_a_time_of_its_own_in_training_and_in_sampling(config, tmp_path):
    """`model.source_time` is the transformer's: saved, loaded, and the same to whoever calls it."""
    config.model.source_time = "zero"
    stage = stage_of(config)
    stage.transformer.save_pretrained(tmp_path)
    loaded = type(stage.transformer).from_pretrained(tmp_path)
    assert loaded.config["source_time"] == "zero"
    x = stage.batch(2)
    asked = _condition(with_noise(x))
    assert asked["timestep"].shape == (2,)
    n = x["source"][0, 0].numel() // 4
    rest = x["target"][0, 0].numel() // 4 + x["semantic"].shape[1]
    each = asked["timestep"][:, None].expand(-1, rest)
    explicit = torch.cat([torch.zeros(2, n), each], dim=1)
    config.model.source_time = None
    plain = make_transformer(config).eval()
    assert plain.config["source_time"] == "same"
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(**asked).sample, plain(**asked | {"timestep": explicit}).sample)
        assert not torch.allclose(loaded(**asked).sample, plain(**asked).sample)


def test_what_costs_no_tensor_is_kept_from_the_weights(config, tmp_path):
    """Rotary positions and the source's time stay what the weights were trained with, unless the settings say other."""
    assert make_transformer(config).config["semantic_rotary"] == "zero"
    config.model.semantic_rotary, config.model.source_time, config.model.source_rotary = "grid", "zero", "shifted"
    make_transformer(config).save_pretrained(tmp_path / "grid")
    config.model.semantic_rotary = config.model.source_time = config.model.source_rotary = None
    config.model.start, config.model.weights = "sama", tmp_path / "grid"
    kept = make_transformer(config).config
    assert (kept["semantic_rotary"], kept["source_time"], kept["source_rotary"]) == ("grid", "zero", "shifted")
    config.model.semantic_rotary = "identity"
    assert make_transformer(config).config["semantic_rotary"] == "identity"
    config.model.semantic_rotary, config.semantic.order = None, "global_first"
    with pytest.raises(UserError, match=r"semantic_rotary grid, and semantic.order global_first"):
        make_transformer(config)


@pytest.mark.parametrize("how", ["uniform", "logit_normal"])
def test_time_is_drawn_as_told(config, how):
    config.loss.time = how
    source = stage_of(config).loader.source
    encoded = source.encode(2, source.read_part(2))

    def drawn(shift: float) -> torch.Tensor:
        config.loss.shift = shift
        return torch.cat([source.collate(i, encoded)["sigma"] for i in range(64) if i % 4 > 1])

    low, high = drawn(1.0), drawn(20.0)
    assert 0.3 < low.mean() < 0.7 < 0.85 < high.mean() < 1


def test_emphasis_and_ease_change_only_the_loss_to_descend(config):
    plain = stage_of(config)
    config = config.model_copy(deep=True)
    config.loss.emphasis = 9.0
    weighted = stage_of(config)
    index = next(i for i in range(2, 40) if plain.batch(i)["change"].any())
    a, b = plain.step(index), weighted.step(index)
    assert a["flow"] == pytest.approx(b["flow"].item())
    assert a["loss"].item() != pytest.approx(b["loss"].item())


def test_impossible_splits_are_said(config):
    config.data.images = 3
    with pytest.raises(UserError, match=r"3 images a step do not split over 2 .* multiple of 2"):
        stage_of(config, world=2)


def test_missing_kinds_are_said(config, tmp_path, manifest):
    only = tmp_path / "only.jsonl"
    row = manifest.read_text().splitlines()[1].replace("a.mp4", str(manifest.parent / "a.mp4"))
    only.write_text(row)
    config.data.manifest = only
    with pytest.raises(UserError, match=r"no images.*data.images=0"):
        stage_of(config)


def test_a_bad_sample_is_passed_over_and_listed(config, tmp_path, manifest):
    lines = manifest.read_text().splitlines()
    cut = tmp_path / "cut.png"
    cut.write_bytes((manifest.parent / "a.png").read_bytes()[:200])
    folder = str(manifest.parent)
    rows = [line.replace('": "a.', f'": "{folder}/a.').replace('": "b.', f'": "{folder}/b.') for line in lines]
    rows = [row.replace('": "c.', f'": "{folder}/c.') for row in rows]
    bad = '{"source": "cut.png", "target": "cut.png", "instruction": "x", "width": 64, "height": 48, "frames": 1}'
    (tmp_path / "data.jsonl").write_text("\n".join([*rows, bad]))
    config.data.manifest = tmp_path / "data.jsonl"
    stage, calls = stage_of(config), []
    stage.transformer.register_forward_pre_hook(lambda _, __, called: calls.append(called), with_kwargs=True)
    for index in (0, 1, 4, 5, 8, 9):
        stage.step(index)
    sources = {tuple(called["source_hidden_states"].flatten().tolist()) for called in calls}
    assert len(calls) == 6
    assert 1 < len(sources) <= 4, "pictures that are there: in place of the one that is not, no zeros and no noise"
    assert not any(len(set(source)) == 1 for source in sources)
    (listed,) = stage.skipped
    assert listed[0] == "6"
    assert "cut.png" in listed[1]
