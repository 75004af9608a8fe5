"""A procedural world where every edit has an exact answer: scenes, rendering, edits and their instructions."""

from opensama.world.edit_planner import plan_edit
from opensama.world.edit_samples import EditBatch, EditSample, render_edits, sample_edit, to_uint8
from opensama.world.edits import CONTROL_FAMILIES, EDIT_FAMILIES, EditPart, EditPlan, held_out, pairs
from opensama.world.kinds import KINDS
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
from opensama.world.styled_scenes import StyledScene, render_styled
from opensama.world.styles import STYLES, apply_style
from opensama.world.wearables import WEARABLES

__all__ = [
    "BACKGROUNDS",
    "COLORS",
    "CONTROL_FAMILIES",
    "EDIT_FAMILIES",
    "KINDS",
    "PLACES",
    "STYLES",
    "TEXTURES",
    "TIERS",
    "WEARABLES",
    "EditBatch",
    "EditPart",
    "EditPlan",
    "EditSample",
    "Scene",
    "StyledScene",
    "Thing",
    "Tier",
    "TierName",
    "apply_style",
    "held_out",
    "pairs",
    "plan_edit",
    "render",
    "render_edits",
    "render_styled",
    "sample_edit",
    "sample_scene",
    "to_uint8",
]
