"""N-MNIST's and N-Caltech101's ``.bin`` files: five bytes an event (Orchard et al., 2015)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from resformer.compiler.samples.events.stream import EventFile, Events, fixed_size

SIZE = (34, 34)
"""Width and height of N-MNIST's recordings, in pixels; the files do not state them."""
OVERFLOW_ROW, OVERFLOW = 240, 2**13
"""A record in row ``OVERFLOW_ROW`` is not an event: all events behind it are ``OVERFLOW`` microseconds later."""


class BinFile(EventFile):
    """``.bin``."""

    named = "N-MNIST .bin file"

    def _read_header(self, file: BinaryIO) -> None:  # noqa: ARG002 # there is none
        self.size = SIZE
        self.notes = (
            f"{self.path}: taken as N-MNIST's, of {SIZE[0]} x {SIZE[1]} pixels; --sensor-size says otherwise",
        )

    def _read(self, file: BinaryIO) -> Iterator[Events]:
        later = 0
        for records in fixed_size(file, "5u1"):
            x, y, *rest = records.astype(np.int64).T
            is_event = y != OVERFLOW_ROW
            overflows = later + np.cumsum(~is_event)
            later = int(overflows[-1])
            t = ((rest[0] & 0x7F) << 16 | rest[1] << 8 | rest[2]) + OVERFLOW * overflows
            yield Events(t[is_event], x[is_event], y[is_event], rest[0][is_event] >> 7 > 0)
