"""Neurons that stock Lava lacks: a current with a memory that is reset with the rest, soft resets, any parameters."""

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
from resformer.compiler.backends.lava.shared import Tally
from resformer.compiler.ir import fixedpoint


class CubaLIF(AbstractProcess):  # type: ignore[misc]
    """Current-based LIF neurons, each sample's at rest when it begins.

    Args:
        shape: Of the population, in Lava's order.
        neurons: Their parameters, in that order too.
        reset_interval: T; as of Lava's ``LIFReset``.
        reset_offset: The neurons are at rest before each step whose number is this, modulo T.
        tally: Counts what was clipped.
        name: The node's.
    """

    def __init__(
        self,
        *,
        shape: tuple[int, ...],
        neurons: fixedpoint.CubaParameters,
        reset_interval: int,
        reset_offset: int,
        tally: Tally | None,
        name: str,
    ) -> None:
        super().__init__(
            shape=shape,
            neurons=neurons,
            reset_interval=reset_interval,
            reset_offset=reset_offset,
            tally=tally,
            name=name,
        )
        self.a_in = InPort(shape=shape)
        self.s_out = OutPort(shape=shape)


@implements(proc=CubaLIF, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyCubaLifModel(PyLoihiProcessModel):  # type: ignore[misc]
    """Steps as the reference does. A spike is a byte on its way to a synapse."""

    a_in: PyInPort = LavaPyType(BorrowingInPort, np.int64)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.bool_, precision=1)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.neurons: fixedpoint.CubaParameters = proc_params["neurons"]
        self.reset_interval: int = proc_params["reset_interval"]
        self.reset_offset: int = proc_params["reset_offset"]
        self.tally: Tally | None = proc_params["tally"]
        self.u = self.v = np.zeros(proc_params["shape"], dtype=np.int64)

    def run_spk(self) -> None:
        """One step."""
        a = self.a_in.recv().astype(np.int64)
        if self.time_step % self.reset_interval == self.reset_offset:
            self.u = self.v = np.zeros_like(self.v)
        state = fixedpoint.cuba_lif_step(self.u, self.v, a, self.neurons)
        self.u, self.v = state.u, state.v
        self.s_out.send(state.spikes)
        if self.tally is not None:
            self.tally.add(self.time_step - 1, state.clipped)
