"""The report's page, read without a browser."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = dict(attrs).get("id") or tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        self.texts[self._inside] = self.texts.get(self._inside, "") + data


def read_page(path: Path) -> tuple[Any, list[tuple[str, dict[str, str | None]]], dict[str, str]]:
    """The data that a page embeds, its tags with attributes, and the text in each element."""
    reader = _Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return json.loads(reader.texts["data"]), reader.tags, reader.texts
