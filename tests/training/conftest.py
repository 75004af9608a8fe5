"""The fixtures of tests/data/making.py."""

from tests.data.making import base, config, manifest

__all__ = ["base", "config", "manifest"]
