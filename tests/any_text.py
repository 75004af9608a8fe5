"""Any text, for property tests."""

from __future__ import annotations

from hypothesis import strategies as st


def any_text(max_size: int) -> st.SearchStrategy[str]:
    """What `st.text` gives, whose own alphabet takes three seconds to find: it tries to encode every code point."""
    return st.text(st.characters(exclude_categories=("Cs",)), max_size=max_size)
