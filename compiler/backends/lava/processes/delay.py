"""Delays: what makes paths of different length meet."""

from __future__ import annotations

from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

from resformer.compiler.backends.lava.processes.ports import BorrowingInPort


class Delay(AbstractProcess):  # type: ignore[misc]
    """Sends what it received some steps ago, and zeros before.

    Args:
        shape: Of the values, in Lava's order.
        steps: At least one.
        name: The node's.
    """

    def __init__(self, *, shape: tuple[int, ...], steps: int, name: str) -> None:
        super().__init__(shape=shape, steps=steps, name=name)
        self.s_in = InPort(shape=shape)
        self.s_out = OutPort(shape=shape)


@implements(proc=Delay, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyDelayModel(PyLoihiProcessModel):  # type: ignore[misc]
    """A ring of as many values as there are steps."""

    s_in: PyInPort = LavaPyType(BorrowingInPort, np.int32)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.ring = np.zeros((proc_params["steps"], *proc_params["shape"]), dtype=np.int32)

    def run_spk(self) -> None:
        """One step."""
        oldest = self.ring[(self.time_step - 1) % len(self.ring)]
        self.s_out.send(oldest)
        oldest[...] = self.s_in.recv()
