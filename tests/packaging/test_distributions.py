"""The wheel and the source distribution: they hold all that they should, and say the same."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from readme_renderer import markdown

from resformer import __version__
from support import scripts

ROOT = Path(__file__).parents[2]
PACKAGES = ("compiler", "models", "runtime")
LEFT_OUT = {".gitignore"}
"""What a checkout has and a source distribution has not."""
MADE = {"PKG-INFO", "setup.cfg"}
"""What a source distribution has beside it, and a folder resformer.egg-info."""
BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, 'build_' + sys.argv[1])(sys.argv[2])"
"""What pip and build run, without a network."""


@dataclass(frozen=True)
class Distributions:
    """What was built.

    Attributes:
        tracked: The files of the checkout.
        wheel: Built in a checkout.
        again: The wheel that the source distribution builds.
        source: The source distribution's files.
    """

    tracked: frozenset[str]
    wheel: Path
    again: Path
    source: frozenset[str]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    """Both wheels and the source distribution, built beside the checkout, in which nothing is left."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout: git says which files a distribution must hold")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    tracked = {name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).exists()}
    folder = tmp_path_factory.mktemp("distributions")
    tree, out = folder / "tree", folder / "out"
    for name in tracked:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tree / name, follow_symlinks=False)
    build(tree, "wheel", out)
    (wheel,) = out.glob("*.whl")
    build(tree, "sdist", out)
    (archive,) = out.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(folder / "unpacked", filter="data")
    (source,) = (folder / "unpacked").iterdir()
    names = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    build(source, "wheel", folder / "again")
    (again,) = (folder / "again").glob("*.whl")
    files = {name for name in tracked if not (ROOT / name).is_symlink()}
    return Distributions(frozenset(files), wheel, again, frozenset(names))


def build(tree: Path, kind: str, out: Path) -> None:
    done = subprocess.run([sys.executable, "-c", BUILD, kind, out], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def read(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def metadata(wheel: Path) -> Message:
    (text,) = (text for name, text in read(wheel).items() if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(text.decode())


def test_the_wheel_holds_every_file_of_the_packages_and_no_other(built: Distributions) -> None:
    packaged = {f"resformer/{name}" for name in built.tracked if name.split("/")[0] in PACKAGES}
    packaged |= {name.removeprefix("src/") for name in built.tracked if name.startswith("src/")}
    info = f"resformer-{__version__}.dist-info"
    made = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "top_level.txt", "licenses/LICENSE"}
    assert set(read(built.wheel)) == packaged | {f"{info}/{name}" for name in made}


def test_the_source_distribution_holds_every_file(built: Distributions) -> None:
    wanted = {f"src/resformer/{name}" if name.split("/")[0] in PACKAGES else name for name in built.tracked}
    assert {name for name in built.source if not name.startswith("src/resformer.egg-info/")} == (
        wanted - LEFT_OUT
    ) | MADE


def test_the_source_distribution_builds_the_same_wheel(built: Distributions) -> None:
    assert built.wheel.name == built.again.name == f"resformer-{__version__}-py3-none-any.whl"
    assert read(built.wheel) == read(built.again)


def test_the_description_renders_without_the_files_beside_it(built: Distributions) -> None:
    told = metadata(built.wheel)
    assert told["Description-Content-Type"] == "text/markdown"
    text = told.get_payload()
    assert isinstance(text, str)
    assert "A **neuromorphic deployment compiler**" in text
    page = markdown.render(text)
    assert page is not None
    assert re.search(r"<h1[^>]*>resformer\b", page)
    assert "<table>" in page
    assert [
        link for link in re.findall(r'(?:href|src)="([^"]*)"', page) if not link.startswith(("https://", "#"))
    ] == []


README = """# x
[a](docs/a.md#part) and [b](https://b.org/c.md), [c](#part)
![p](docs/p.svg) [![q](docs/q.png)](docs/q.md)
"""


LINKED = """# x
[a](https://h.org/o/r/blob/HEAD/docs/a.md#part) and [b](https://b.org/c.md), [c](#part)
![p](https://h.org/o/r/raw/HEAD/docs/p.svg) [![q](https://h.org/o/r/raw/HEAD/docs/q.png)](https://h.org/o/r/blob/HEAD/docs/q.md)
"""
BARE = """# x
a and [b](https://b.org/c.md), [c](#part)
*p* *q*
"""


@pytest.mark.parametrize(
    ("urls", "wanted"), [('[project.urls]\nRepository = "https://h.org/o/r/"\n', LINKED), ("", BARE)]
)
def test_links_of_the_readme_lead_to_the_repository_or_are_text(tmp_path: Path, urls: str, wanted: str) -> None:
    (tmp_path / "README.md").write_text(README, encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text(f'[project]\nname = "x"\n{urls}', encoding="utf-8")
    setup = scripts.load(ROOT / "setup.py", "resformer_setup")
    assert setup.description(tmp_path) == wanted
