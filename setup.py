"""What pyproject.toml cannot say of the package: its links must be there, and its README's links lead somewhere.

``src/resformer/`` holds three of its packages as links. Git for Windows writes a link's target into a plain file unless
it is told otherwise, and setuptools would then make a wheel that lacks those packages, without a word.

README.md links to files beside it. A package index shows it without them, so it is given absolute links.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from setuptools import setup

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACKAGES = ("compiler", "models", "runtime")
"""In ``src/resformer/``: links in a checkout, folders in a source distribution."""

TARGET = r"\((?!https?:|mailto:|#)([^()\s]+)\)"
"""Of a link in Markdown that leads to a file beside the document."""
IMAGE = re.compile(r"!\[([^\[\]]*)\]" + TARGET)
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|!\[[^\[\]]*\]\([^()\s]*\))*)\]" + TARGET)
"""Its text may be an image."""


def check_links(root: Path) -> None:
    """See that the linked packages can be read.

    Args:
        root: The folder of this file.

    Raises:
        SystemExit: One of them is no folder with a package in it; the message says how to get links.
    """
    lost = [name for name in PACKAGES if not (root / "src" / "resformer" / name / "__init__.py").is_file()]
    if lost:
        names = ", ".join(f"src/resformer/{name}" for name in lost)
        raise SystemExit(
            f"resformer: {names}: no link to a package, as in a checkout that git made without symbolic links; "
            "on Windows turn on Developer Mode, run `git config --global core.symlinks true`, and clone again"
        )


def description(root: Path) -> str:
    """README.md as it is shown where the files beside it are not.

    Args:
        root: The folder of this file. Where its pyproject.toml names a Repository under ``[project.urls]``, links to
            files lead there; else only their text stays, which is better than a link that leads nowhere.
    """
    project: dict[str, Any] = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (root / "README.md").read_text(encoding="utf-8")
    repository = project.get("urls", {}).get("Repository")
    if repository is None:
        return LINK.sub(r"\1", IMAGE.sub(r"*\1*", text))
    repository = repository.rstrip("/")
    return LINK.sub(rf"[\1]({repository}/blob/HEAD/\2)", IMAGE.sub(rf"![\1]({repository}/raw/HEAD/\2)", text))


if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    check_links(here)
    setup(long_description=description(here), long_description_content_type="text/markdown")
