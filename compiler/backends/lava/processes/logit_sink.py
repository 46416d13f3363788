"""The process that takes the logits from a network."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
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


class LogitSink(AbstractProcess):  # type: ignore[misc]
    """Writes what it receives into shared memory and counts the steps.

    Args:
        shape: The shape of the logits, in Lava's order of axes.
        record: Where the logits are written.
        clock: (1,), int64, shared: how many steps have passed.
        name: The output node's name.
    """

    def __init__(self, *, shape: tuple[int, ...], record: Record, clock: npt.NDArray[np.int64], name: str) -> None:
        super().__init__(record=record, clock=clock, name=name)
        self.a_in = InPort(shape=shape)


@implements(proc=LogitSink, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyLogitSinkModel(PyLoihiProcessModel):  # type: ignore[misc]
    """Writes the logits of one step at each step."""

    a_in: PyInPort = LavaPyType(BorrowingInPort, np.int64)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.record: Record = proc_params["record"]
        self.clock: npt.NDArray[np.int64] = proc_params["clock"]

    def run_spk(self) -> None:
        """Run one step."""
        logits = self.a_in.recv().T
        slot = self.record.slot(self.time_step - 1)
        if slot is not None:
            slot[...] = logits
        self.clock[0] = self.time_step
