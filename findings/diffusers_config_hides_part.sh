#!/usr/bin/env bash
# diffusers 0.42.1: a model's part that bears the name of one of its settings is gone: `self.NAME` gives the setting.
#
# Guess, written down first: a model `__init__(self, tint: int = 0)` that sets `self.tint = nn.Linear(...)`, as one writes
# with torch for a part that may be absent, finds its layer under `self.tint`; settings are under `self.config` alone, and
# the old way to them by attribute gives way to attributes that exist.
#
# Seen with diffusers 0.42.1 and torch 2.13.0:
#   expected: self.tint is a Linear, as with torch alone
#   torch alone: Linear; diffusers: int 4, under a FutureWarning; the layer is in the state dict: True, and trained: True
#   with another name for the setting: Linear
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q torch==2.13.0 diffusers==0.42.1 numpy==2.3.5
cd "$place"
"$place/venv/bin/python" - <<'PYTHON'
import warnings

import diffusers
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn


class Plain(nn.Module):
    def __init__(self, tint=4):
        super().__init__()
        self.tint = nn.Linear(tint, 2)


class Tinted(ModelMixin, ConfigMixin):
    @register_to_config
    def __init__(self, tint=4):
        super().__init__()
        self.tint = nn.Linear(tint, 2)


class Renamed(ModelMixin, ConfigMixin):
    @register_to_config
    def __init__(self, width=4):
        super().__init__()
        self.tint = nn.Linear(width, 2)


print(f"diffusers {diffusers.__version__}")
print("expected: self.tint is a Linear, as with torch alone")
model = Tinted()
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    found = model.tint
kinds = {warning.category.__name__ for warning in said}
kept, trained = "tint.weight" in model.state_dict(), any(name == "tint.weight" for name, _ in model.named_parameters())
print(
    f"torch alone: {type(Plain().tint).__name__}; diffusers: {type(found).__name__} {found}, under a {' '.join(kinds)}; "
    f"the layer is in the state dict: {kept}, and trained: {trained}"
)
print(f"with another name for the setting: {type(Renamed().tint).__name__}")
assert found == 4 and kinds == {"FutureWarning"} and kept and trained
assert isinstance(Plain().tint, nn.Linear) and isinstance(Renamed().tint, nn.Linear)
PYTHON
