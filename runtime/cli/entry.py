"""Entry points of the commands; Ctrl-C while a command's module is imported also gives one line and no traceback."""

from __future__ import annotations

import importlib
import sys

INTERRUPTED = 130
"""The exit status after Ctrl-C, as shells have it."""


def _run(name: str) -> int:
    """Import a command's module and run the command; once it runs, it handles signals itself."""
    try:
        status: int = importlib.import_module(f"resformer.runtime.cli.{name}").main()
    except KeyboardInterrupt:
        sys.stderr.write(f"resformer-{name}: error: interrupted\n")
        return INTERRUPTED
    return status


def compile_command() -> int:
    """``resformer-compile``."""
    return _run("compile")


def run_command() -> int:
    """``resformer-run``."""
    return _run("run")


def verify_command() -> int:
    """``resformer-verify``."""
    return _run("verify")


def report_command() -> int:
    """``resformer-report``."""
    return _run("report")
