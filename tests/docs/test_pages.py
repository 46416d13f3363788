"""Pages can be run, their links lead somewhere, and what is generated is current."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.docs.blocks import ROOT, RUN, SHOWN, blocks, indented, name_of, pages
from support.docs.running import missing_line
from support.scripts import load

OUTSIDE = [path for path in pages() if ROOT / "docs" not in path.parents]
"""Pages whose links MkDocs does not look at."""


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs make them of plain words."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_every_block_is_run_or_shown(page: Path) -> None:
    assert indented(page) == []
    for block in blocks(page):
        assert block.language in (*RUN, *SHOWN), f"{block.where}: say a language of {RUN + SHOWN}"
        if block.language == "console":
            assert block.commands, f"{block.where}: no command"


@pytest.mark.parametrize("page", OUTSIDE, ids=name_of)
def test_no_link_is_dead(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file) if file else page
        assert path.exists(), f"{name_of(page)}: {target}"
        if anchor:
            assert anchor in anchors(path), f"{name_of(page)}: {target}"


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_files_that_are_named_exist(page: Path) -> None:
    folders = "benchmarks|compiler|docs|examples|models|notebooks|runtime|tests|tools|typings"
    for path in re.findall(rf"`((?:{folders})/[\w./-]+)`", page.read_text(encoding="utf-8")):
        assert (ROOT / path).exists(), f"{name_of(page)}: {path}"


def test_what_is_supported_is_current() -> None:
    script = load(ROOT / "docs" / "tools" / "supported.py", "docs_supported")
    assert script.PAGE.read_text(encoding="utf-8") == script.page(), "run docs/tools/supported.py"


def test_a_table_of_the_compiler_that_grew_is_noticed() -> None:
    script = load(ROOT / "docs" / "tools" / "supported.py", "docs_supported")
    with pytest.raises(SystemExit, match="Softmax is in no row"):
        script.Table("nodes", frozenset({*script.TABLES[1].known, "Softmax"}), "nir").check()


def test_output_that_was_not_printed_is_noticed() -> None:
    printed = "first\n| a |   12 |\nlast of 8 lines"
    assert missing_line(["first", "…", "| a | 12 |", "last of … lines"], printed) is None
    assert missing_line(["| a | 13 |"], printed) == "| a | 13 |"
    assert missing_line(["last of … lines", "first"], printed) == "first", "in another order"


def test_python_of_the_readme_runs() -> None:
    command = [sys.executable, str(ROOT / "tests" / "docs" / "run.py"), "README.md", "--language", "python"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=550, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 blocks with 0 commands ran" in result.stdout


def test_a_snippet_that_fails_is_noticed(tmp_path: Path) -> None:
    from support.docs.running import run_page

    page = tmp_path / "page.md"
    page.write_text("```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n", encoding="utf-8")
    tally = run_page(page, tmp_path, languages=frozenset({"python"}))
    assert tally.run == 1
    assert len(tally.failures) == 1
    assert "AssertionError" in tally.failures[0]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as ``make docs`` builds it: dead links and anchors end that."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    found = sorted(site.rglob("*.html"))
    assert len(found) > 30
    for page in found:
        text = page.read_text(encoding="utf-8")
        assert re.findall(r'<(?:script|img|iframe)[^>]*\ssrc="(?:https?:)?//[^"]*"', text) == [], page
        styles = re.findall(r"<link[^>]*>", text)
        assert [each for each in styles if "stylesheet" in each and "//" in each] == [], page


def test_the_site_has_every_option_and_docstring(site: Path) -> None:
    commands = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    for option in ("--layer-bits", "--model-code", "--spread", "--sweep"):
        assert f"<code>{option} " in commands
    python = (site / "reference" / "python.html").read_text(encoding="utf-8")
    for name in ("resformer.runtime.compiled.Compiled.verify", "resformer.errors.RangeError"):
        assert f'id="{name}"' in python
