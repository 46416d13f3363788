"""The process that records the spikes and graded values that nodes send."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

from resformer.compiler.backends.lava.processes.ports import BorrowingInPort
from resformer.compiler.backends.lava.shared import Record

PORTS = ("in_0", "in_1", "in_2", "in_3", "in_4", "in_5", "in_6", "in_7")
"""The names of a probe's ports; a ProcessModel has a fixed set of ports, so some may stay unconnected."""


class SpikeProbe(AbstractProcess):  # type: ignore[misc]
    """Writes what several nodes send into shared memory: spikes packed to bits, graded values unchanged.

    Args:
        shapes: The shapes of the nodes' values, in Lava's order of axes; at most as many as there are ``PORTS``.
        records: Where the values are written, one record for each node; a record of bytes takes spikes packed to bits.
        name: The probe's name.
    """

    def __init__(self, *, shapes: Sequence[tuple[int, ...]], records: Sequence[Record], name: str) -> None:
        super().__init__(records=records, name=name)
        padded = [*shapes, *[(1,)] * (len(PORTS) - len(shapes))]
        self.in_0, self.in_1, self.in_2, self.in_3, self.in_4, self.in_5, self.in_6, self.in_7 = map(InPort, padded)


@implements(proc=SpikeProbe, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PySpikeProbeModel(PyLoihiProcessModel):  # type: ignore[misc]
    """Writes the values of one step at each step."""

    in_0: PyInPort = LavaPyType(BorrowingInPort, np.int32)
    in_1: PyInPort = LavaPyType(BorrowingInPort, np.int32)
    in_2: PyInPort = LavaPyType(BorrowingInPort, np.int32)
    in_3: PyInPort = LavaPyType(BorrowingInPort, np.int32)
    in_4: PyInPort = LavaPyType(BorrowingInPort, np.int32)
    in_5: PyInPort = LavaPyType(BorrowingInPort, np.int32)
    in_6: PyInPort = LavaPyType(BorrowingInPort, np.int32)
    in_7: PyInPort = LavaPyType(BorrowingInPort, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.records: Sequence[Record] = proc_params["records"]

    def run_spk(self) -> None:
        """Run one step."""
        for port, record in zip(PORTS, self.records, strict=False):
            value = getattr(self, port).recv().T
            slot = record.slot(self.time_step - 1)
            if slot is None:
                continue
            slot[...] = np.packbits(value.astype(bool)) if slot.dtype == np.uint8 else value
