"""A procedural world where every edit has an exact answer: scenes, rendering, edits and their instructions."""

from opensama.world.edits import (
    CONTROLS,
    FAMILIES,
    EditBatch,
    EditPlan,
    EditSample,
    Part,
    held_out,
    pairs,
    plan_edit,
    render_edits,
    sample_edit,
    to_uint8,
)
from opensama.world.looks import Look, render_looks
from opensama.world.render import render
from opensama.world.scenes import (
    BACKGROUNDS,
    COLORS,
    PLACES,
    TEXTURES,
    TIERS,
    Scene,
    Thing,
    Tier,
    TierName,
    sample_scene,
)
from opensama.world.shapes import KINDS, WEARABLES
from opensama.world.styles import STYLES, apply_style

__all__ = [
    "BACKGROUNDS",
    "COLORS",
    "CONTROLS",
    "FAMILIES",
    "KINDS",
    "PLACES",
    "STYLES",
    "TEXTURES",
    "TIERS",
    "WEARABLES",
    "EditBatch",
    "EditPlan",
    "EditSample",
    "Look",
    "Part",
    "Scene",
    "Thing",
    "Tier",
    "TierName",
    "apply_style",
    "held_out",
    "pairs",
    "plan_edit",
    "render",
    "render_edits",
    "render_looks",
    "sample_edit",
    "sample_scene",
    "to_uint8",
]
