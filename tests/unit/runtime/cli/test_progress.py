"""Progress where there is no terminal to draw it on."""

from __future__ import annotations

import re
import sys
import time

import pytest

from resformer.runtime.cli import progress as module
from resformer.runtime.cli.progress import SWITCH, progress
from support.terminals import on_terminal

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "on")
    monkeypatch.setattr(module, "FIRST_SECONDS", 0.2)
    monkeypatch.setattr(module, "EVERY_SECONDS", 0.1)


def test_what_is_soon_done_says_nothing(capsys: Capture) -> None:
    with progress() as update:
        update("working", 1, 2)
    assert capsys.readouterr() == ("", "")


def test_what_takes_long_says_a_line_every_few_seconds(capfd: Capture) -> None:
    with progress() as update:
        update("reading", 0, 0)
        time.sleep(0.05)
        update("running in \x1bsim", 1, 4)
        time.sleep(1.0)
    out, err = capfd.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert 2 <= len(lines) <= 9
    assert all(re.fullmatch("\\[0:0[01]\\] running in \N{REPLACEMENT CHARACTER}sim, 25%", line) for line in lines)


def test_it_ends_with_what_it_tells_of(capfd: Capture) -> None:
    def work() -> None:
        with progress() as update:
            update("working", 0, 0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    time.sleep(0.4)
    assert capfd.readouterr().err == ""


def test_it_can_be_left_out(capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "off")
    with progress() as update:
        update("working", 0, 0)
        time.sleep(0.4)
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(sys.platform == "win32", reason="needs pseudo-terminals")
@pytest.mark.parametrize(
    ("term", "notebook", "draws"), [("xterm", "", True), ("dumb", "", False), ("xterm", "1", False)]
)
def test_only_a_terminal_that_moves_its_cursor_gets_a_bar(
    monkeypatch: pytest.MonkeyPatch, term: str, notebook: str, draws: bool
) -> None:
    if notebook:
        monkeypatch.setenv("JPY_PARENT_PID", notebook)
    else:
        monkeypatch.delenv("JPY_PARENT_PID", raising=False)
    with on_terminal(60, monkeypatch, term) as printed:
        monkeypatch.setattr(sys, "stderr", sys.stdout)
        with progress() as update:
            update("working", 1, 2)
            time.sleep(0.3)
    assert ("\x1b" in printed[0]) == draws
    assert ("[0:00] working, 50%\n" in printed[0]) != draws
