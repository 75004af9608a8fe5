"""Metrics by networks, a CLIP and a DINO of a few thousand random weights: what is reckoned with features is exact."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from opensama.apps.cli import main
from opensama.evaluation.metrics.networks import Network, measure_by_network
from opensama.media import write_video
from opensama.values import UserError, Video
from opensama.world import sample_edit

pytest.importorskip("cv2")


def processor(folder: Path) -> None:
    CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}).save_pretrained(folder)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.add_special_tokens(["<pad>", "<end>"])
    end = [("<end>", bpe.token_to_id("<end>"))]
    bpe.post_processor = processors.TemplateProcessing(single="$A <end>", special_tokens=end)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", eos_token="<end>")
    tokenizer.save_pretrained(folder)
    processor(folder)
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={
            **small, "vocab_size": len(tokenizer), "max_position_embeddings": 24, "initializer_range": 0.3,
            "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None,
        },
        vision_config={**small, "image_size": 28, "patch_size": 7, "initializer_range": 0.3},
        projection_dim=16,
    )  # fmt: skip
    CLIPModel(config).save_pretrained(folder)
    return folder


def videos() -> tuple[Video, Video]:
    one = sample_edit(1, "test", "replace", frames=11, size=(48, 64))
    return Video.from_frames(one.source, fps=16), Video.from_frames(one.target, fps=16)


def test_features_of_a_clip_are_reckoned_with_exactly(clip: Path) -> None:
    source, edited = videos()
    network = Network(clip, device="cpu")
    found = measure_by_network(source, edited, network, text="a red ball", source_text="a blue star")
    f, g = (network.images(list(video.frames())) for video in (edited, source))
    p, q = network.text("a red ball"), network.text("a blue star")
    assert np.linalg.norm(f, axis=1) == pytest.approx(1)
    assert found["likeness"] == pytest.approx((f * g).sum(1).mean(), abs=1e-4)
    assert found["alignment"] == pytest.approx((f @ p).mean(), abs=1e-4)
    moved = (f - g) / np.linalg.norm(f - g, axis=1, keepdims=True)
    assert found["direction"] == pytest.approx((moved @ (p - q)).mean() / np.linalg.norm(p - q), abs=1e-4)
    steps = [(max(0, f[t - 1] @ f[t]) + max(0, f[0] @ f[t])) / 2 for t in range(1, len(f))]
    assert found["consistency"] == pytest.approx(np.mean(steps), abs=1e-4)


def test_weights_saved_in_half_precision_compute_in_float32(clip: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(clip, tmp_path / "half")
    whole = CLIPModel.from_pretrained(clip)
    whole.to(torch.bfloat16).save_pretrained(folder)
    rounded = CLIPModel.from_pretrained(folder).float()
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    network = Network(folder, device="cpu")
    frames = list(videos()[0].frames())[:2]
    pixels = CLIPImageProcessorPil.from_pretrained(folder)(images=frames, return_tensors="pt")
    with torch.no_grad():
        wanted = rounded.get_image_features(**pixels).pooler_output.double().numpy()
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(network.images(frames), wanted, rtol=0, atol=1e-6)


def test_a_copy_goes_in_no_direction_and_a_still_video_is_consistent(clip: Path) -> None:
    source, _ = videos()
    found = measure_by_network(source, source, Network(clip, device="cpu"), text="a", source_text="b")
    assert found.keys() == {"consistency", "likeness", "alignment"}
    assert found["likeness"] == pytest.approx(1)
    still = Video.from_frames(np.repeat(source.array(0, 1), 5, 0), fps=16)
    assert measure_by_network(still, still, Network(clip, device="cpu"))["consistency"] == pytest.approx(1)


def test_a_network_without_text_measures_consistency_alone(tmp_path: Path) -> None:
    config = Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=7)
    torch.manual_seed(0)
    Dinov2Model(config).save_pretrained(tmp_path)
    processor(tmp_path)
    network = Network(tmp_path, device="cpu")
    source, edited = videos()
    found = measure_by_network(source, edited, network)
    assert found.keys() == {"consistency", "likeness"}
    assert -1 <= found["likeness"] < 1
    with pytest.raises(UserError, match="knows no text"):
        measure_by_network(source, edited, network, text="a ball")


def test_a_folder_that_holds_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json"):
        Network(tmp_path)


def test_the_command_measures_by_a_network(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / "source.mp4", tmp_path / "edited.mp4"]
    for one, file in zip(videos(), files, strict=True):
        write_video(one, file)
    arguments = ["evaluate", "metrics", *map(str, files), "--metrics", "flicker"]
    assert main([*arguments, "--weights", str(clip), "--text", "a ball", "--source-text", "a star"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("consistency", "likeness", "alignment", "direction"))
    assert main([*arguments, "--text", "a ball"]) == 2
    assert "--weights" in capsys.readouterr().err
