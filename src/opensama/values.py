"""The values that cross the house: videos, shapes and edit requests. They check themselves and compute."""

from __future__ import annotations


class UserError(ValueError):
    """Something that the person can mend. The message is one sentence: what is wrong, and how to mend it."""
