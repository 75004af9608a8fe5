"""Checks of numbers that people give: UserError says which one, and what it may be."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from numbers import Integral, Real

from opensama.values.progress import UserError


def check_int(name: str, value: int | None, low: int, high: int) -> None:
    if value is not None and not (_is_a(Integral, value) and low <= value <= high):
        raise UserError(f"The {name} must be a whole number from {low} to {high}, not {value!r}.")


def check_number(name: str, value: Fraction | float | None, low: float, high: float) -> None:
    if value is not None and not (_is_a(Real, value) and low <= value <= high):
        raise UserError(f"The {name} must be a number from {low:g} to {high:g}, not {value!r}.")


def whole_numbers(name: str, values: Sequence[int], wanted: str) -> tuple[int, ...]:
    numbers = tuple(values) if isinstance(values, Sequence) else ()
    if len(numbers) != len(wanted.split(", ")) or not all(_is_a(Integral, number) for number in numbers):
        raise UserError(f"The {name} must be whole numbers ({wanted}), not {values!r}.")
    return numbers


def _is_a(kind: type, value: object) -> bool:
    """Whether a value, Python's or numpy's, is such a number; truth values are none."""
    return isinstance(value, kind) and not isinstance(value, bool)
