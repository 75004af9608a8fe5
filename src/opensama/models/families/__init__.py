"""The families of editors, one file each: those in this folder are found, others are added by `register`."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

from opensama.models.families.family import Base, Family, Rows, Shapes, imported
from opensama.values import UserError

if TYPE_CHECKING:
    from diffusers import ModelMixin

__all__ = ["FAMILIES", "Base", "Family", "Rows", "Shapes", "family_of", "find_family", "imported", "register"]

MODEL_FAMILIES: dict[str, Family] = {}
"""By name."""


def register(family: Family) -> Family:
    """Adds a family, which from then on is loaded, edited with, trained and planned for like those of this folder."""
    MODEL_FAMILIES[family.name] = family
    return family


for _module in sorted(module.name for module in iter_modules(__path__)):
    if hasattr(_found := import_module(f"{__name__}.{_module}"), "FAMILY"):
        register(_found.FAMILY)


def find_family(name: str) -> Family:
    """The family of that name. UserError that lists those there are."""
    if name not in MODEL_FAMILIES:
        raise UserError(f"There is no family {name!r}: choose {', '.join(MODEL_FAMILIES)}.")
    return MODEL_FAMILIES[name]


def family_of(model: ModelMixin | type[ModelMixin]) -> Family:
    """The family of a transformer or of a transformer's class, sharded or not: the nearest among its bases."""
    known = {family.transformer_class: family for family in MODEL_FAMILIES.values()}
    for base in (model if isinstance(model, type) else type(model)).__mro__:
        if family := known.get(f"{base.__module__}:{base.__name__}"):
            return family
    raise UserError(f"A {type(model).__name__} is of no family: {', '.join(MODEL_FAMILIES)} are known.")
