"""The embedded model's recipe at smoke size: it runs through, goes on where it stopped, and its folder edits."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from opensama.models.tiny import PatchAutoencoder
from opensama.recipes.tiny import RECIPES, SMOKE, TINY
from opensama.training.autoencoder import drawn_clips, set_latent_statistics
from opensama.training.checkpoint import newest
from opensama.training.config import StageConfig, TinyConfig
from opensama.training.editing import EditingStage
from opensama.training.pool import build_pool, changed_share
from opensama.training.semantic_encoder import make_semantic_encoder, semantic_tokens
from opensama.training.text import encode_text, make_text_encoder, tokenize, train_tokenizer
from opensama.training.tiny import make_transformer, train_tiny
from opensama.values import UserError
from opensama.world import plan_edit


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


def test_changed_share():
    mask = torch.zeros(1, 5, 1, 32, 32, dtype=torch.bool)
    mask[0, 0, 0, :16, :16] = True
    mask[0, 1:3, 0, 16:, 16:] = True
    share = changed_share(mask)
    assert share.shape == (1, 2, 2, 2)
    assert share[0, 0, 0, 0] == 1
    assert share[0, 1, 1, 1] == 0.5
    assert share.sum() == 1.5


def test_a_pool_is_written_once_and_read_again(tmp_path, tokenizer, parts):
    vae, encoder, *_ = parts
    said = []
    path = tmp_path / "pools" / "five.safetensors"
    made = build_pool(path, 6, vae, encoder, tokenizer, frames=5, size=(64, 32), say=said.append)
    assert made["source"].shape == made["target"].shape == (6, 192, 2, 4, 2)
    assert made["change"].shape == (6, 2, 4, 2)
    assert made["semantic"].shape == (6, 17, 32)
    again = build_pool(path, 6, vae, encoder, tokenizer, frames=5, size=(64, 32))
    for key, value in made.items():
        torch.testing.assert_close(again[key], value)


def test_editing_learns_one_batch_and_its_data_is_a_function_of_the_step(tokenizer, parts):
    vae, encoder, text, transformer = parts
    pool = build_pool(None, 8, vae, encoder, tokenizer, frames=5, size=(32, 32))
    stage = EditingStage("images", transformer, text, tokenizer, [(pool, 8, 1.0)], text_dropout=0.0)
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


def test_recipes_are_saved_and_read(tmp_path):
    for config in RECIPES.values():
        config.save(tmp_path / "config.yaml")
        assert TinyConfig.read(tmp_path / "config.yaml") == config
    with pytest.raises(ValueError, match="extra"):
        TinyConfig(colour="red")  # type: ignore[call-arg]
    assert TINY.width % 64 == 0


@pytest.mark.slow
def test_the_whole_recipe_stops_goes_on_and_edits(tmp_path):
    from opensama import EditRequest, Video, load
    from opensama.world import sample_edit

    folder = train_tiny(SMOKE, tmp_path, say=lambda _: None)
    before = load_file(newest(tmp_path / "videos") / "weights.safetensors")
    longer = SMOKE.model_copy(update={"videos": StageConfig(minutes=5, max_steps=3)})
    assert train_tiny(longer, tmp_path, say=lambda _: None) == folder
    after = load_file(newest(tmp_path / "videos") / "weights.safetensors")
    assert any(not torch.equal(before[k], after[k]) for k in before)
    with pytest.raises(UserError, match="other settings"):
        train_tiny(SMOKE.model_copy(update={"width": 128}), tmp_path)
    assert (
        load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors").popitem()[1].dtype == torch.bfloat16
    )

    further = train_tiny(SMOKE, tmp_path / "further", start_from=folder, say=lambda _: None)
    weights = load_file(newest(tmp_path / "further" / "videos") / "weights.safetensors")
    assert {w.dtype for w in weights.values()} == {torch.float32}
    same = [load_file(f / "vae" / "diffusion_pytorch_model.safetensors") for f in (folder, further)]
    torch.testing.assert_close(*same)

    sample = sample_edit(0, frames=5)
    edited = load(folder).edit(EditRequest(Video.from_frames(sample.source, 16), sample.instruction, steps=2))
    assert sum(1 for _ in edited.frames()) == 5
