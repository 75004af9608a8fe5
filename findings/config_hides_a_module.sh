#!/usr/bin/env bash
# A part of a diffusers model that has the name of one of its arguments cannot be reached.
#
# Guess, written down first: `self.gate = nn.Linear(...)` after `register_to_config` has kept an argument `gate=True` is
# an ordinary submodule: `self.gate(x)` computes, as in any torch module, and as for a plain attribute of that name.
#
# What happens (diffusers 0.42.1): ModelMixin looks a name up in the config before it looks among submodules, so
# `self.gate` is True, with a warning that speaks of deprecation. The layer is there all the same: its weights are listed,
# saved, loaded and trained; only the name leads elsewhere. A parameter of an argument's name is refused by torch, which
# says that the attribute exists already, and an attribute that is neither wins over the config: three kinds, three ends.
#
# Output seen:
#   diffusers 0.42.1, torch 2.13.0+cpu
#   weights: ['gate.bias', 'gate.weight']
#   model.gate is the layer: False, it is True
#   a parameter of an argument's name: KeyError "attribute 'scale' already exists"
#   model.plain is the attribute: True
#   the same without ModelMixin: True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 diffusers==0.42.1 transformers==5.23.0 accelerate==1.15.0 safetensors
cat > "$work/probe.py" <<'PY'
import sys
import warnings

import diffusers
import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import nn

warnings.simplefilter("ignore")
print(f"diffusers {diffusers.__version__}, torch {torch.__version__}")


class Gated(ModelMixin, ConfigMixin):
    @register_to_config
    def __init__(self, gate: bool = True, scale: bool = True, plain: bool = True):
        super().__init__()
        self.gate = nn.Linear(2, 2)
        self.plain = "an attribute"


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(2, 2)


model = Gated()
names = [name for name in model.state_dict() if name.startswith("gate")]
print(f"weights: {sorted(names)}")
found = [isinstance(model.gate, nn.Linear), model.plain == "an attribute"]
print(f"model.gate is the layer: {found[0]}, it is {model.gate}")
try:
    model.scale = nn.Parameter(torch.zeros(2))
    said = "none"
except KeyError as error:
    said = f"KeyError {error}"
print(f"a parameter of an argument's name: {said}")
print(f"model.plain is the attribute: {found[1]}")
plain = isinstance(Plain().gate, nn.Linear)
print(f"the same without ModelMixin: {plain}")
sys.exit(0 if (*found, plain) == (False, True, True) and len(names) == 2 and said.startswith("KeyError") else 1)
PY
"$work/venv/bin/python" "$work/probe.py"
