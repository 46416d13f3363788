"""Residual relays, which sum currents that may grow too large, and clip the sum."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

from resformer.compiler.backends.lava.processes.ports import BorrowingInPort
from resformer.compiler.backends.lava.shared import Tally
from resformer.compiler.ir import fixedpoint


class Relay(AbstractProcess):  # type: ignore[misc]
    """Sends the sum of what it receives in this step, with a bias added, shifted and clipped to [-limit, limit].

    Args:
        shape: The shape of the values, in Lava's order of axes.
        bias: (C,), along the last axis.
        shift: By how many bits the sum is shifted to the right, with rounding.
        limit: The largest magnitude.
        tally: Counts the clipped values.
        name: The node's name.
    """

    def __init__(
        self,
        *,
        shape: tuple[int, ...],
        bias: npt.NDArray[np.int32],
        shift: int,
        limit: int,
        tally: Tally,
        name: str,
    ) -> None:
        super().__init__(shape=shape, bias=bias, shift=shift, limit=limit, tally=tally, name=name)
        self.a_in = InPort(shape=shape)
        self.s_out = OutPort(shape=shape)


@implements(proc=Relay, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyRelayModel(PyLoihiProcessModel):  # type: ignore[misc]
    """Sums in 64 bits, so that only the limit clips."""

    a_in: PyInPort = LavaPyType(BorrowingInPort, np.int64)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.bias = proc_params["bias"].astype(np.int64)
        self.shift: int = proc_params["shift"]
        self.limit: int = proc_params["limit"]
        self.tally: Tally = proc_params["tally"]

    def run_spk(self) -> None:
        """Run one step."""
        total = fixedpoint.shift_right(self.a_in.recv() + self.bias, self.shift)
        value, clipped = fixedpoint.saturate(total, self.limit)
        self.s_out.send(value)
        self.tally.add(self.time_step - 1, clipped)
