"""Latents made beforehand give the same loss as latents made in the step, bit for bit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open

from opensama.data import latents
from opensama.data.latents import LiveItems, ShardedItems, changed_share
from opensama.training.dataset import open_data
from opensama.training.edit_stage import EditStage
from opensama.training.sources import ItemSource
from opensama.training.train_editor import encode_data
from opensama.values import UserError
from tests.data.making import make_transformer

CPU = torch.device("cpu")


@pytest.mark.parametrize("keep", ["bfloat16"])
def test_the_same_loss(config, tmp_path, keep):
    config.data.keep = keep
    live, settings = open_data(config, CPU)
    assert not encode_data(config, tmp_path / "latents", device="cpu")
    config.data.latents = tmp_path / "latents"
    cached, again = open_data(config, CPU)
    assert settings == again
    assert isinstance(cached, ShardedItems)
    transformer = make_transformer(config)
    stages = [EditStage.of("a", transformer, ItemSource(data, config)) for data in (live, cached)]
    assert stages[0].passes == 4
    for index in (0, 3):
        for key, value in stages[0].batch(index).items():
            assert torch.equal(value, stages[1].batch(index)[key]), key
    with safe_open(tmp_path / "latents" / "shard-00000.safetensors", "pt") as shard:
        kept = [key for key in shard.keys() if key.endswith("/target")]  # noqa: SIM118
    assert sorted(kept) == [f"{line}/target" for line in range(1, 6)], "a clip's variants share their target"
    losses = [stage.step(2)["loss"] for stage in stages]
    assert torch.equal(*losses)

    # what was made for other settings, another manifest, or in part, is refused by name
    config.data.pretext = {"cube": 1}
    with pytest.raises(UserError, match="pretext"):
        open_data(config, CPU)
    config.data.pretext = {"none": 1, "cube": 2, "speed": 3, "tube": 4}
    assert config.data.manifest is not None
    other = tmp_path / "data.jsonl"
    other.write_text(config.data.manifest.read_text() + "\n")
    config.data.manifest = other
    with pytest.raises(UserError, match="manifest"):
        open_data(config, CPU)
    (tmp_path / "latents" / "shard-00000.safetensors").unlink()
    with pytest.raises(UserError, match="lack shard-00000"):
        ShardedItems(tmp_path / "latents", settings)
    with pytest.raises(UserError, match="no latents"):
        ShardedItems(tmp_path, settings)


def test_bad_items_are_left_out_and_listed(config, tmp_path, manifest):
    rows = [json.loads(line) for line in manifest.read_text().splitlines()[3:]]
    rows = [{k: str(manifest.parent / v) if v.endswith("png") else v for k, v in row.items()} for row in rows]
    size = {"width": 64, "height": 48, "frames": 1}
    rows.append({"source": "none.png", "target": "none.png", "instruction": "x", **size})
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config.data.manifest, config.data.videos = tmp_path / "data.jsonl", 0
    whole, config.model.base = config.model.base, str(tmp_path / "base")
    shutil.copytree(whole, config.model.base)
    bad = encode_data(config, tmp_path / "latents", device="cpu")
    assert list(bad) == ["3"]
    config.data.latents = tmp_path / "latents"
    for encoder in ("text_encoder", "vae", "siglip"):  # nothing asks for them any more
        shutil.rmtree(tmp_path / "base" / encoder)
    data, _ = open_data(config, CPU)
    stage = EditStage.of("a", make_transformer(config), ItemSource(data, config))
    for index in range(6):
        stage.batch(index)
    assert [name for name, _ in stage.skipped] == ["3"]


def test_a_clips_target_is_encoded_once_for_all_its_variants(config, tmp_path, monkeypatch):
    """Also where a shard ends between them; every variant reads what it would have been encoded to alone."""
    config.data.pretext = {"cube": 1, "tube": 1}  # no source is its target
    live, settings = open_data(config, CPU)
    assert isinstance(live, LiveItems)
    alone = [live[number] for number in range(len(live.items))]
    pixels: list[bytes] = []
    images: list[bytes] = []
    video, semantic = live.encoders.video, live.encoders.semantic
    assert semantic is not None

    def video_noted(x: torch.Tensor) -> torch.Tensor:
        pixels.append(x.numpy().tobytes())
        return video(x)

    def semantic_noted(x: torch.Tensor) -> torch.Tensor:
        images.append(x.numpy().tobytes())
        return semantic(x)

    live.encoders = replace(live.encoders, video=video_noted, semantic=semantic_noted)
    monkeypatch.setattr(latents, "SHARD_ITEMS", 2)  # of three variants a clip
    assert not latents.precompute(tmp_path, live, settings)
    clips = [item for item in live.items if "." in item.name]
    edits = len(live.items) - len(clips)
    assert len(clips) == 6
    assert len(pixels) == 2 * edits + len(clips) + 2, "both sides of an edit, each source of a clip, its target once"
    assert len(images) == edits + 2
    cached = ShardedItems(tmp_path, settings)
    for number, wanted in enumerate(alone):
        got = cached[number]
        assert got.keys() == wanted.keys()
        assert all(torch.equal(got[key], wanted[key]) for key in wanted), number


def test_changed_share_of_cells():
    changed = torch.zeros(1, 5, 32, 32, dtype=torch.bool)
    changed[0, 0, :16, :16] = True
    changed[0, 1:3, 16:, 16:] = True
    (share,) = changed_share(changed, (2, 2, 2))
    assert share[0, 0, 0] == 1
    assert share[1, 1, 1] == 0.5
    assert share.sum() == 1.5
