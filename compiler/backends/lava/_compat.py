"""Lets lava-nc 0.10.0 be imported on Python 3.11 and later; on Python 3.10, nothing here changes what Lava does.

Lava's ``magma/compiler/var_model.py`` gives dataclass fields an instance of another dataclass as their default
(``x: ByteEncoder = ByteEncoder()``). Since Python 3.11 the dataclass decorator refuses every unhashable default. While
Lava is imported for the first time, we hand it a decorator that gives each instance a copy of such a default instead.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import multiprocessing
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from resformer.errors import BackendMissingError

LAVA_REQUIREMENT = "lava-nc==0.10.0"

_ENTRIES = (
    "lava.magma.compiler.compiler",
    "lava.proc.conv.models",
    "lava.proc.dense.models",
    "lava.proc.lif.models",
)
"""Modules of Lava that import every other module of Lava that we use, and every package that Lava needs."""


def import_lava() -> None:
    """Import Lava, so that its modules can be imported from now on; calling this function again costs nothing.

    Raises:
        BackendMissingError: Lava, or a package that Lava needs, is not installed.
    """
    if all(entry in sys.modules for entry in _ENTRIES):
        return
    try:
        with _copied_defaults(), _kept_start_method():
            for entry in _ENTRIES:
                importlib.import_module(entry)
    except ModuleNotFoundError as error:
        package = (error.name or "a package").partition(".")[0]
        raise BackendMissingError(f"the Lava backend needs {package}, which is not installed: {_pip_line()}") from error


def _pip_line() -> str:
    if sys.version_info < (3, 11):
        return "pip install 'resformer[lava]'"
    # lava-nc 0.10.0 wrongly declares Python <3.11: pip's check must be overridden for this package alone.
    return f"pip install 'resformer[lava]' && pip install --no-deps --ignore-requires-python {LAVA_REQUIREMENT}"


@contextmanager
def _copied_defaults() -> Iterator[None]:
    """Let the dataclass decorator accept dataclass instances as defaults; each new object gets its own copy of them."""
    original = dataclasses.dataclass

    def repaired(cls: Any = None, /, **options: Any) -> Any:
        def decorate(cls: type) -> type:
            for name in vars(cls).get("__annotations__", {}):
                default = vars(cls).get(name)
                if dataclasses.is_dataclass(default) and not isinstance(default, type):
                    setattr(cls, name, dataclasses.field(default_factory=partial(copy.copy, default)))
            return original(**options)(cls)

        return decorate if cls is None else decorate(cls)

    dataclasses.dataclass = repaired
    try:
        yield
    finally:
        dataclasses.dataclass = original


@contextmanager
def _kept_start_method() -> Iterator[None]:
    """Let Lava set multiprocessing's start method only where the program has not chosen one yet."""
    original = multiprocessing.set_start_method

    def set_unless_chosen(method: str | None, force: bool = False) -> None:
        if force or multiprocessing.get_start_method(allow_none=True) is None:
            original(method, force)

    multiprocessing.set_start_method = set_unless_chosen
    try:
        yield
    finally:
        multiprocessing.set_start_method = original
