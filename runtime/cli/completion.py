"""``--print-completion``: what makes a shell complete a command's options and files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resformer.errors import BackendMissingError

SHELLS = ("bash", "zsh", "fish")


class PrintCompletion(argparse.Action):
    """Prints a script for a shell, made from the parser itself, and ends the command; as ``--version`` does."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        _namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        _option_string: str | None = None,
    ) -> None:
        """Print it.

        Raises:
            ArgumentError: There is no such shell.
            BackendMissingError: shtab is not installed.
        """
        if values not in SHELLS:
            raise argparse.ArgumentError(self, f"{values!r} is none of {', '.join(SHELLS)}")
        sys.stdout.write(completion(parser, str(values)))
        parser.exit()


def completion(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script, which shtab writes.

    Args:
        parser: Of a command.
        shell: One of :data:`SHELLS`.

    Raises:
        BackendMissingError: shtab is not installed.
    """
    try:
        import shtab
    except ModuleNotFoundError as error:
        raise BackendMissingError("--print-completion needs shtab: pip install 'resformer[completion]'") from error
    for action in parser._actions:
        if action.type is Path:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    script: str = shtab.complete(parser, shell=shell)
    return script if script.endswith("\n") else f"{script}\n"
