"""The page reference/commands.md: every option of every command, from the parsers that the commands use.

A hook of MkDocs, which makes the page anew with each build. So no file of it is kept, and none is ever stale.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PAGE = "reference/commands.md"
COMMANDS = ("compile", "run", "verify", "report")
OTHERS = "other options"
"""What a parser calls "options": those in no group of their own."""


def parser_of(command: str) -> argparse.ArgumentParser:
    """The parser of a command."""
    module = importlib.import_module(f"resformer.runtime.cli.{command}")
    made: argparse.ArgumentParser = module._parser()
    return made


def metavar(action: argparse.Action) -> str:
    """What stands for an option's value in its help."""
    if action.nargs == 0:
        return ""
    shown = action.metavar if isinstance(action.metavar, str) else None
    if shown is None and action.choices is not None:
        shown = "{" + ",".join(map(str, action.choices)) + "}"
    return shown or action.dest.upper()


def named(action: argparse.Action) -> str:
    """An option with its value, as a user writes it."""
    value = metavar(action)
    if not action.option_strings:
        return f"`{value}`"
    names = ", ".join(action.option_strings)
    return f"`{names} {value}`".replace(" `", "`")


def meaning(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    """An option's help, in one line."""
    text = (action.help or "") % {**vars(action), "prog": parser.prog}
    text = " ".join(text.split())
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def sections(command: str) -> Iterator[str]:
    """A command's part of the page."""
    parser = parser_of(command)
    yield f"## {parser.prog}"
    yield parser.description or ""
    for group in sorted(parser._action_groups, key=lambda each: each.title == "options"):
        actions = [each for each in group._group_actions if each.help != argparse.SUPPRESS and each.dest != "help"]
        if not actions:
            continue
        title = {"positional arguments": "arguments", "options": OTHERS}.get(group.title or "", group.title or "")
        lines = [f"| {named(each).replace('|', chr(92) + '|')} | {meaning(each, parser)} |" for each in actions]
        yield "\n".join((f"**{title.capitalize()}**\n", "| option | meaning |", "|---|---|", *lines))
    if parser.epilog:
        yield parser.epilog.replace("<", "&lt;").replace("*", "\\*")


def page() -> str:
    """The page."""
    parts = "\n\n".join(text for command in COMMANDS for text in sections(command))
    return f"""# Commands

Every command answers to `--help`. This page is made from the same parsers. All commands have these statuses:

| exit status | |
|---|---|
| 0 | done; of `resformer-verify`: equivalent, and as accurate as demanded |
| 1 | failed, not equivalent, or less accurate than demanded |
| 2 | wrong usage |
| 128 + N | ended by signal N: 130 after Ctrl-C, 143 after SIGTERM |

{parts}
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page to those that MkDocs builds."""
    files.append(File.generated(config, PAGE, content=page()))
    return files
