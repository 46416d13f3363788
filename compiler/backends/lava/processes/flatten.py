"""The process that flattens an image to a vector."""

from __future__ import annotations

import math

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


class Flatten(AbstractProcess):  # type: ignore[misc]
    """Sends what it receives in this step, (W, H, C), as a vector in the order of (C, H, W).

    Lava's virtual ports could do this without a process, but they fail where several ports meet inside a hierarchical
    process.

    Args:
        shape: The shape of what it receives, in Lava's order of axes.
        name: The node's name.
    """

    def __init__(self, *, shape: tuple[int, ...], name: str) -> None:
        super().__init__(shape=shape, name=name)
        self.s_in = InPort(shape=shape)
        self.s_out = OutPort(shape=(math.prod(shape),))


@implements(proc=Flatten, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyFlattenModel(PyLoihiProcessModel):  # type: ignore[misc]
    """Reverses the axes, then joins them."""

    s_in: PyInPort = LavaPyType(BorrowingInPort, np.int32)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def run_spk(self) -> None:
        """Run one step."""
        self.s_out.send(self.s_in.recv().T.reshape(-1))
