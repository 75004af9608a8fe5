"""Names that settings choose among, apart from what they name, so that recipes are read without PyTorch."""

from __future__ import annotations

from typing import Literal

TierName = Literal["core", "full"]
"""How much of the drawn world: `TIERS` in `opensama.world.scenes` says what each is."""
SourceRotary = Literal["shared", "shifted", "phase"]
"""How SAMA tells a source's positions from its target's: see its transformer."""
SemanticRotary = Literal["zero", "identity", "grid"]
"""Where SAMA's semantic tokens sit: see its transformer."""
TimeSampling = Literal["uniform", "logit_normal", "mode"]
"""How noise levels of training are drawn: see `opensama.flow.sample_sigma`."""
