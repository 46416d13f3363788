"""Keeps Lava from changing the program's logging."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

# Each process that is made adds a handler to the root logger, and each compilation adds one to the compiler's logger.
_TOUCHED = (None, "lava.magma.compiler.compiler")


@contextmanager
def unchanged_logging() -> Iterator[None]:
    """Remove the handlers that Lava adds, or each later message of the program would appear once for each process."""
    before = {name: logging.getLogger(name).handlers[:] for name in _TOUCHED}
    try:
        yield
    finally:
        for name, handlers in before.items():
            logging.getLogger(name).handlers[:] = handlers
