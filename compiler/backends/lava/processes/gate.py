"""Logic gates of spikes."""

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


class SpikeGate(AbstractProcess):  # type: ignore[misc]
    """Neurons without memory that fire where the weighted sum of their two in-ports exceeds a threshold.

    Args:
        shape: The shape of the first port and of the output, (W, H, C).
        weight: What a spike at the first port adds.
        other_shape: The shape of the second port, whose channels number m: each is repeated for C / m neighbouring
            channels of the first port. A single row or column serves for all rows or columns.
        other_weight: What a spike at the second port adds.
        vth: The threshold.
        name: The node's name.
    """

    def __init__(
        self,
        *,
        shape: tuple[int, ...],
        weight: int,
        other_shape: tuple[int, ...],
        other_weight: int,
        vth: int,
        name: str,
    ) -> None:
        super().__init__(shape=shape, weight=weight, other_weight=other_weight, vth=vth, name=name)
        self.a_in = InPort(shape=shape)
        self.b_in = InPort(shape=other_shape)
        self.s_out = OutPort(shape=shape)


@implements(proc=SpikeGate, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PySpikeGateModel(PyLoihiProcessModel):  # type: ignore[misc]
    """Compares the weighted sum with the threshold."""

    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    b_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.channels: int = proc_params["shape"][-1]
        self.weight: int = proc_params["weight"]
        self.other_weight: int = proc_params["other_weight"]
        self.vth: int = proc_params["vth"]

    def run_spk(self) -> None:
        """Run one step."""
        total, other = self.a_in.recv(), self.b_in.recv()
        total = self.weight * total + self.other_weight * other.repeat(self.channels // other.shape[-1], axis=-1)
        self.s_out.send((total > self.vth).astype(np.int32))
