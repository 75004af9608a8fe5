#!/usr/bin/env bash
# diffusers 0.42.1: a subclass whose __init__ hands its arguments on (*args, **sizes) saves and is built as one would
# think, but comes back from its own saved config as another model: with the parent's default sizes, while its config
# goes on to state the saved ones. A line of the log says that sizes "are not expected and will be ignored".
#
# The guess before running: the parent's __init__ is the decorated one and notes the sizes, so a model of two blocks comes
# back with two; or, if the sizes cannot be found, from_config raises.
#
# Seen:
#   torch 2.13.0, diffusers 0.42.1
#   expected: 2 blocks, 2 heads, as saved, whether __init__ is inherited or hands its arguments on
#   inherited:              config 2 blocks, modules 2 blocks, 19,832 parameters
#   *args, **sizes:         config 2 blocks, modules 40 blocks, 14,288,491,584 parameters
#   with __wrapped__ set:   config 2 blocks, modules 2 blocks, 19,832 parameters
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q torch==2.13.0 diffusers==0.42.1 transformers==5.23.0 numpy==2.3.5
"$place/venv/bin/python" - <<'PYTHON'
import diffusers
import torch
from diffusers import WanTransformer3DModel

diffusers.utils.logging.set_verbosity_error()  # a warning says that the sizes "are not expected and will be ignored"
print(f"torch {torch.__version__.partition('+')[0]}, diffusers {diffusers.__version__}")
print("expected: 2 blocks, 2 heads, as saved, whether __init__ is inherited or hands its arguments on")


class Inherited(WanTransformer3DModel):
    pass


class HandedOn(WanTransformer3DModel):
    def __init__(self, *args, **sizes):
        super().__init__(*args, **sizes)


class Wrapped(HandedOn):
    def __init__(self, *args, **sizes):
        super().__init__(*args, **sizes)


Wrapped.__init__.__wrapped__ = WanTransformer3DModel.__init__
sizes = dict(
    num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=16, freq_dim=16, ffn_dim=32,
    num_layers=2,
)
seen = []
for name, kind in (("inherited", Inherited), ("*args, **sizes", HandedOn), ("with __wrapped__ set", Wrapped)):
    with torch.device("meta"):
        first = kind(**sizes)
        again = kind.from_config(dict(first.config))
    assert (first.config.num_layers, len(first.blocks)) == (2, 2)
    seen.append((again.config.num_layers, len(again.blocks)))
    parameters = sum(p.numel() for p in again.parameters())
    print(f"{name + ':':<23} config {seen[-1][0]} blocks, modules {seen[-1][1]} blocks, {parameters:,} parameters")
assert seen == [(2, 2), (2, 40), (2, 2)], "diffusers behaves otherwise now"
PYTHON
