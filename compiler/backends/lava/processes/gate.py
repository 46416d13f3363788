"""Gates of spikes."""

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


class SpikeAnd(AbstractProcess):  # type: ignore[misc]
    """Neurons without memory that fire where as many spikes meet as they have inputs; the in-port sums them.

    Args:
        shape: (W, H, C).
        inputs: How many there are.
        name: The node's.
    """

    def __init__(self, *, shape: tuple[int, ...], inputs: int, name: str) -> None:
        super().__init__(shape=shape, inputs=inputs, name=name)
        self.a_in = InPort(shape=shape)
        self.s_out = OutPort(shape=shape)


@implements(proc=SpikeAnd, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PySpikeAndModel(PyLoihiProcessModel):  # type: ignore[misc]
    """A comparison of sums."""

    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.inputs: int = proc_params["inputs"]

    def run_spk(self) -> None:
        """One step."""
        self.s_out.send((self.a_in.recv() == self.inputs).astype(np.int32))
