"""Builds from checkouts whose links are plain files, as Git for Windows makes them unless it is told otherwise."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from support import scripts

ROOT = Path(__file__).parents[2]
PACKAGES = ("compiler", "models", "runtime")


@pytest.fixture
def setup() -> ModuleType:
    """The repository's setup.py, imported and not run."""
    return scripts.load(ROOT / "setup.py", "resformer_setup")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What a build reads, with each link a file that names its target."""
    copy = tmp_path / "checkout"
    (copy / "src" / "resformer").mkdir(parents=True)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, copy)
    shutil.copy(ROOT / "src" / "resformer" / "__init__.py", copy / "src" / "resformer")
    for name in PACKAGES:
        (copy / name).mkdir()
        (copy / name / "__init__.py").touch()
        (copy / "src" / "resformer" / name).write_text(f"../../{name}", encoding="utf-8")
    return copy


def test_this_checkout_can_be_built(setup: ModuleType) -> None:
    setup.check_links(ROOT)
    assert set(setup.PACKAGES) == set(PACKAGES)


def test_links_that_are_files_are_refused_with_the_way_to_get_links(setup: ModuleType, checkout: Path) -> None:
    remedy = r"Developer Mode, run `git config --global core\.symlinks true`, and clone again$"
    with pytest.raises(SystemExit, match=rf"src/resformer/compiler, src/resformer/models, .*; on Windows .*{remedy}"):
        setup.check_links(checkout)


@pytest.mark.parametrize("lost", PACKAGES)
def test_each_lost_link_is_named_alone(setup: ModuleType, checkout: Path, lost: str) -> None:
    for name in PACKAGES:
        if name != lost:
            link = checkout / "src" / "resformer" / name
            link.unlink()
            shutil.copytree(checkout / name, link)
    with pytest.raises(SystemExit, match=rf"^resformer: src/resformer/{lost}: no link to a package"):
        setup.check_links(checkout)


def test_links_that_lead_nowhere_are_refused(setup: ModuleType, checkout: Path) -> None:
    for name in PACKAGES:
        (checkout / "src" / "resformer" / name).unlink()
    with pytest.raises(SystemExit, match="no link to a package"):
        setup.check_links(checkout)


def test_a_build_without_links_fails_in_one_line_and_makes_nothing(checkout: Path) -> None:
    """What pip and build run, through setuptools' own door."""
    hook = "from setuptools import build_meta; build_meta.build_wheel('made')"
    done = subprocess.run([sys.executable, "-c", hook], cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("resformer: src/resformer/compiler, src/resformer/models, src/resformer/runtime: no link")
    assert not list(checkout.rglob("*.whl"))
