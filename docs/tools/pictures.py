"""Draws the documentation's pictures of the report: opens a page in headless Chromium and keeps parts of it.

    python docs/tools/pictures.py report.html

The page is that of the tutorial (docs/tutorial.md). docs/report.png becomes its first screen, and docs/pictures/ID.png
each section named below.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
from pathlib import Path

from PIL import Image

DOCS = Path(__file__).parents[1]
BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome")
SECTIONS = ("activity", "chip", "cost")
"""What is kept beside the first screen, by the ids of the page's sections."""
WIDTH, HEIGHT = 1200, 860
"""Of the first screen, in pixels."""
TALLEST = 900
"""Of a section, in pixels: what is below is cut."""
COLOURS = 128


def keep(png: bytes, path: Path) -> None:
    """Write a picture, no taller than it needs to be and in few colours."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture = picture.crop((0, 0, picture.width, min(picture.height, TALLEST)))
    path.parent.mkdir(exist_ok=True)
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


def main(page: Path) -> None:
    """Draw them."""
    from playwright.sync_api import sync_playwright

    browser = os.environ.get("RESFORMER_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)))
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"], timeout=300_000)
        view = chromium.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        view.set_default_timeout(300_000)
        view.goto(page.resolve().as_uri())
        keep(view.screenshot(), DOCS / "report.png")
        for name in SECTIONS:
            keep(view.locator(f"section#{name}").screenshot(), DOCS / "pictures" / f"{name}.png")
        chromium.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
