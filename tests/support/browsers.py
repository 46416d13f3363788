"""The browser that opens pages in tests."""

from __future__ import annotations

import os
import shutil

import pytest

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


def browser_path() -> str:
    """The browser's path; skips the test if there is none."""
    path = os.environ.get("RESFORMER_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(
            f"no browser: none of {', '.join(BROWSERS)} is installed (make browser), nor named by RESFORMER_BROWSER"
        )
    return path
