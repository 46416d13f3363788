"""The tiny network that the tests here share, and fixtures that open pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.browsers import browser_path
from support.builds import tiny as tiny
from support.made_pages import edited as edited
from support.made_pages import shown as shown

OPEN_TIMEOUT_MS = 300_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    path = browser_path()
    # Chromium's sandbox does not run as root, the user of containers; the browser opens only files of ours
    options = {"executable_path": path, "args": ["--no-sandbox"], "timeout": OPEN_TIMEOUT_MS}
    with playwright.sync_playwright() as running, running.chromium.launch(**options) as started:
        yield started


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """A function that opens a page; when the test ends, no page may have logged, failed at or loaded anything."""
    said: list[str] = []
    opened = []

    def open_(path: Path, **options: Any) -> Any:
        page = browser.new_page(**options)
        page.set_default_timeout(OPEN_TIMEOUT_MS)
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(f"error: {error}"))
        page.on("request", lambda each: None if each.url.startswith(("file:", "data:")) else said.append(each.url))
        page.goto(path.as_uri())
        opened.append(page)
        return page

    yield open_
    for page in opened:
        page.close()
    assert said == []
