"""Keeps Lava's hands off the program's logging."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

# Each process adds a handler to the root logger, and each compilation one to the compiler's.
_TOUCHED = (None, "lava.magma.compiler.compiler")


@contextmanager
def unchanged_logging() -> Iterator[None]:
    """Remove the handlers that Lava adds: else each later message of the program appears once for each process."""
    before = {name: logging.getLogger(name).handlers[:] for name in _TOUCHED}
    try:
        yield
    finally:
        for name, handlers in before.items():
            logging.getLogger(name).handlers[:] = handlers
