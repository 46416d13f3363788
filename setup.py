"""Refuse to build from a checkout without links; everything else about the package is in pyproject.toml.

``src/resformer/`` holds three of its packages as links. Git for Windows writes a link's target into a plain file unless
it is told otherwise, and setuptools would then make a wheel that lacks those packages, without a word.
"""

from __future__ import annotations

from pathlib import Path

from setuptools import setup

PACKAGES = ("compiler", "models", "runtime")
"""In ``src/resformer/``: links in a checkout, folders in a source distribution."""


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


if __name__ == "__main__":
    check_links(Path(__file__).resolve().parent)
    setup()
