"""The browser in which tests look at pages: Debian's Chromium."""

from __future__ import annotations

import shutil

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
has_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no browser")
