"""Every example says what it does, or what it needs, in any environment."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "examples").glob("*/*.py"))
LIBRARIES = {"digits.py", "files.py", "images.py", "learning.py", "sensor.py"}
"""What other examples import."""
BEYOND = {"sinabs_network.py", "spikingjelly_network.py"}
"""What needs a package, or a version of one, that is not in make setup's environment."""
OPTIONAL = "norse snntorch sinabs mlxtend sklearn tonic expelliarmus aedat matplotlib PIL"
"""Packages that no example may need to say so."""

ASK = """
import contextlib, io, json, os, runpy, sys, traceback
import numpy, torch, spikingjelly.activation_based.neuron  # once, for all
import resformer.compiler.pipeline

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

for number, script in enumerate(sys.argv[2:] * 2):
    hidden = sys.argv[1].split() if number >= len(sys.argv[2:]) else ()
    for each in list(sys.modules):
        if each.split(".")[0] in hidden:
            del sys.modules[each]
    reading, writing = os.pipe()
    if os.fork() == 0:
        sys.meta_path.insert(0, Hide())
        sys.argv, sys.path[0] = [script, "--help"], os.path.dirname(script)
        out, code = io.StringIO(), 0
        with contextlib.redirect_stdout(out):
            try:
                runpy.run_path(script, run_name="__main__")
            except SystemExit as end:
                code = end.code or 0
            except BaseException:
                code = traceback.format_exc()
        os.write(writing, json.dumps([code, out.getvalue()]).encode()[:60000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        print(json.dumps([bool(hidden), script, *json.load(answer)]))
    os.wait()
"""


@pytest.fixture(scope="module")
def answers() -> list[tuple[bool, str, int | str, str]]:
    """Of each example, with all packages and again without ``OPTIONAL``: what it exits with and prints for --help."""
    done = subprocess.run(
        [sys.executable, "-c", ASK, OPTIONAL, *SCRIPTS], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("without", [False, True], ids=["all packages", "none of the extras"])
def test_examples_help_or_name_the_package_that_they_need(
    answers: list[tuple[bool, str, int | str, str]], without: bool
) -> None:
    asked = {script: (code, out) for hidden, script, code, out in answers if hidden == without}
    assert list(asked) == SCRIPTS
    for script, (code, out) in asked.items():
        if Path(script).name in LIBRARIES:
            assert (code, out) == (0, "")
        elif code == 0:
            assert out.startswith("usage: "), script
        else:
            assert isinstance(code, str), script
            assert code.startswith("No module named "), code
            assert "pip install" in code
            assert "\n" not in code
            assert without or Path(script).name in BEYOND, f"{script} dies in make setup's environment: {code}"
