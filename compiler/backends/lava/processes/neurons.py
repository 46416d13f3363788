"""Common parts of the processes of neurons that are at rest when a sample begins."""

from __future__ import annotations

from typing import Any

import numpy as np
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess

from resformer.compiler.backends.lava.clock import SampleClock
from resformer.compiler.backends.lava.processes.ports import BorrowingInPort
from resformer.compiler.backends.lava.shared import Tally
from resformer.compiler.ir import fixedpoint


class NeuronProcess(AbstractProcess):  # type: ignore[misc]
    """Neurons without recurrent synapses.

    Args:
        shape: The population's shape, in Lava's order of axes.
        neurons: The neurons' parameters, in Lava's order of axes too.
        clock: When samples begin.
        tally: Counts the clipped values.
        name: The node's name.
    """

    def __init__(
        self,
        *,
        shape: tuple[int, ...],
        neurons: fixedpoint.CubaLiParameters | fixedpoint.MultiSpikeParameters,
        clock: SampleClock,
        tally: Tally,
        name: str,
    ) -> None:
        super().__init__(shape=shape, neurons=neurons, clock=clock, tally=tally, name=name)
        self.a_in = InPort(shape=shape)
        self.s_out = OutPort(shape=shape)


class NeuronModel(PyLoihiProcessModel):  # type: ignore[misc]
    """The state of neurons that are at rest when a sample begins, and the count of their clipped values."""

    a_in: PyInPort = LavaPyType(BorrowingInPort, np.int64)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.clock: SampleClock = proc_params["clock"]
        self.tally: Tally = proc_params["tally"]
        self.v = np.zeros(proc_params["shape"], dtype=np.int64)
