"""Neurons that fire several spikes a step, and send their count."""

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

from resformer.compiler.backends.lava.clock import SampleClock
from resformer.compiler.backends.lava.processes.ports import BorrowingInPort
from resformer.compiler.backends.lava.shared import Tally
from resformer.compiler.ir import fixedpoint


class MultiSpikeIF(AbstractProcess):  # type: ignore[misc]
    """Integrate-and-fire neurons that send counts of spikes, each sample's at rest when it begins.

    Args:
        shape: Of the population, in Lava's order.
        neurons: Their parameters, in that order too.
        clock: When samples begin.
        tally: Counts what was clipped.
        name: The node's.
    """

    def __init__(
        self,
        *,
        shape: tuple[int, ...],
        neurons: fixedpoint.MultiSpikeParameters,
        clock: SampleClock,
        tally: Tally,
        name: str,
    ) -> None:
        super().__init__(shape=shape, neurons=neurons, clock=clock, tally=tally, name=name)
        self.a_in = InPort(shape=shape)
        self.s_out = OutPort(shape=shape)


@implements(proc=MultiSpikeIF, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyMultiSpikeIfModel(PyLoihiProcessModel):  # type: ignore[misc]
    """Steps as the reference does."""

    a_in: PyInPort = LavaPyType(BorrowingInPort, np.int64)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.clock: SampleClock = proc_params["clock"]
        self.tally: Tally = proc_params["tally"]
        self.neurons: fixedpoint.MultiSpikeParameters = proc_params["neurons"]
        self.v = np.zeros(proc_params["shape"], dtype=np.int64)

    def run_spk(self) -> None:
        """One step."""
        a = self.a_in.recv().astype(np.int64)
        if self.clock.begins(self.time_step):
            self.v = np.zeros_like(self.v)
        self.v, counts, clipped = fixedpoint.multi_spike_step(self.v, a, self.neurons)
        self.s_out.send(counts)
        self.tally.add(self.time_step - 1, clipped)
