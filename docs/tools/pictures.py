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
SECTIONS = ("activity", "membrane", "chip")
"""What is kept beside the first screen, by the ids of the page's sections."""
WIDTH, HEIGHT = 1200, 635
"""Of the first screen, in pixels."""
TALLEST = 900
"""Of a section, in pixels: what is below is cut."""
MARGIN = 20
"""Left and right of a section."""
COLOURS = 128


def keep(png: bytes, path: Path) -> None:
    """Write a picture, in few colours."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
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
            box = view.locator(f"section#{name}").bounding_box()
            around = {
                "x": box["x"] - MARGIN,
                "y": box["y"],
                "width": box["width"] + 2 * MARGIN,
                "height": min(box["height"], TALLEST),
            }
            keep(view.screenshot(clip=around, full_page=True), DOCS / "pictures" / f"{name}.png")
        chromium.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
