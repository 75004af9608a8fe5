"""The registry: names and folders are found, wrong ones get a sentence that helps."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import asdict

import pytest

from opensama.models.registry import ASSETS, ICVE_13B, SAMA_14B, TINY, TINY_ICVE, Defaults, entries, find
from opensama.values import UserError
from opensama.world import STYLES


def test_the_rows():
    names = [entry.name for entry in entries()]
    assert names == ["tiny", "tiny-icve", "bernini-1.3b", "bernini-14b", "sama-14b", "icve-13b"]
    for entry in entries():
        assert find(entry.name) == entry
        assert entry.summary
        assert entry.memory
        assert entry.licence.name
        assert (entry.folder is None) == (entry.base is not None) == (entry.edit is not None)


def test_the_released_defaults():
    wanted = {
        "steps": 50, "guidance": 5.0, "shift": 5.0, "area": 832 * 480, "multiple": 32, "window": 81,
        "prompt_prefix": "[Video edit] ", "negative_prompt": "[Video edit]", "max_text_tokens": 512, "preserve": False,
    }  # fmt: skip
    assert wanted.items() <= asdict(SAMA_14B.defaults).items()
    assert "no licence" in SAMA_14B.licence.notice


def test_the_released_defaults_of_icve_and_its_presets():
    wanted = {
        "steps": 50, "guidance": 6.0, "embedded_guidance": 1.0, "shift": 7.0, "area": 768 * 480, "multiple": 16,
        "window": 61, "prompt_prefix": "", "max_text_tokens": 256, "text_layer": -3,
    }  # fmt: skip
    assert wanted.items() <= asdict(ICVE_13B.defaults).items()
    assert ICVE_13B.defaults.negative_prompt.startswith("Aerial view, aerial view, overexposed")
    assert find("icve-13b:768x480x61") == find("icve-13b")
    small = find("icve-13b:384x240x81").defaults
    assert asdict(small) == asdict(ICVE_13B.defaults) | {"area": 384 * 240, "window": 81}
    for word in ("European Union", "South Korea", "100 million", "no licence"):
        assert word in ICVE_13B.licence.notice
    with pytest.raises(UserError, match="choose 768x480x61 or 384x240x81"):
        find("icve-13b:big")
    with pytest.raises(UserError, match="it has none"):
        find("tiny:big")


def test_the_embedded_model_keeps_pixels_and_works_small():
    assert TINY.defaults.preserve
    assert TINY.defaults.area == 128 * 128
    assert TINY.defaults.window == 17
    assert TINY.licence.name == "Apache-2.0"


@pytest.mark.parametrize(("typed", "meant"), [("tini", "tiny"), ("Tiny", "tiny"), ("sama14b", "sama-14b")])
def test_a_near_miss_is_named(typed, meant):
    with pytest.raises(UserError, match=f"did you mean '{meant}'"):
        find(typed)


def test_an_unknown_name_gets_the_choice():
    names = ", ".join(entry.name for entry in entries())
    with pytest.raises(UserError, match=re.escape(f"choose {names} or a model's folder or file")):
        find("xyzzy")


def test_an_embedded_models_folder_is_that_model(monkeypatch):
    monkeypatch.chdir(ASSETS)
    assert find("tiny-icve") == find(TINY_ICVE.folder) == find("./tiny-icve") == find("../assets/tiny-icve")
    assert find("./tiny-icve").shared == TINY.folder


def test_the_embedded_weights_are_small():
    assert sum(file.stat().st_size for file in ASSETS.rglob("*.safetensors")) <= 24_000_000


def test_a_folder_is_a_model_with_its_own_defaults(tmp_path):
    saved = {"_class_name": "SamaPipeline", "defaults": Defaults(steps=4, preserve=True).to_dict()}
    (tmp_path / "model_index.json").write_text(json.dumps(saved))
    entry = find(tmp_path)
    assert entry.folder == tmp_path
    assert entry.defaults == Defaults(steps=4, preserve=True)
    assert entry.family == "sama"
    (tmp_path / "model_index.json").write_text(json.dumps(saved | {"_class_name": "IcvePipeline"}))
    assert find(tmp_path).family == "icve"


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (None, "no model_index.json"),
        ("{", "damaged"),
        ("[]", "no JSON object"),
        ('{"_class_name": "WanPipeline"}', "WanPipeline"),
        ('{"_class_name": "SamaPipeline", "defaults": {"magic": 1}}', "magic"),
    ],
)
def test_folders_that_are_no_models(tmp_path, content, word):
    if content is not None:
        (tmp_path / "model_index.json").write_text(content)
    with pytest.raises(UserError, match=word):
        find(tmp_path)


def test_defaults_check_themselves():
    with pytest.raises(ValueError, match="4k"):
        Defaults(window=80)
    with pytest.raises(ValueError, match="share"):
        Defaults(window=17, overlap=5)


def test_listing_needs_no_torch():
    code = "import sys; from opensama.models.registry import entries; entries(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ["tiny", "tiny-icve"])
def test_explaining_a_model_needs_no_torch_and_names_the_worlds_styles(name):
    code = f"import sys; from opensama.apps.models import info; info({name!r}); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0
    assert f"styles it was taught: {', '.join(STYLES)}\n" in done.stdout
