"""Names that settings choose among, apart from what they name, so that recipes are read without PyTorch."""

from __future__ import annotations

from typing import Literal

TierName = Literal["core", "full"]
"""How much of the drawn world: `TIERS` in `opensama.world.scenes` says what each is."""
SemanticRotary = Literal["zero", "identity", "grid"]
"""Where SAMA's semantic tokens sit: see its transformer."""
