"""A procedural world where every edit has an exact answer: scenes, rendering, edits and their instructions."""

from opensama.world.edits import (
    FAMILIES,
    PHRASINGS,
    EditBatch,
    EditPlan,
    EditSample,
    held_out,
    pairs,
    plan_edit,
    render_edits,
    sample_edit,
    to_uint8,
)
from opensama.world.render import render
from opensama.world.scenes import BACKGROUNDS, COLORS, PLACES, Scene, Thing, sample_scene
from opensama.world.shapes import KINDS
from opensama.world.styles import STYLES, apply_style

__all__ = [
    "BACKGROUNDS",
    "COLORS",
    "FAMILIES",
    "KINDS",
    "PHRASINGS",
    "PLACES",
    "STYLES",
    "EditBatch",
    "EditPlan",
    "EditSample",
    "Scene",
    "Thing",
    "apply_style",
    "held_out",
    "pairs",
    "plan_edit",
    "render",
    "render_edits",
    "sample_edit",
    "sample_scene",
    "to_uint8",
]
