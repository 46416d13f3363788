"""Neurons that may fire several spikes in one step, and send the number of spikes."""

from __future__ import annotations

from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.ports import PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

from resformer.compiler.backends.lava.processes.neurons import NeuronModel, NeuronProcess
from resformer.compiler.ir import fixedpoint


class MultiSpikeIF(NeuronProcess):
    """Integrate-and-fire neurons that send counts of spikes; they are at rest when a sample begins."""


@implements(proc=MultiSpikeIF, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyMultiSpikeIfModel(NeuronModel):
    """Computes each step as the reference interpreter does."""

    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.neurons: fixedpoint.MultiSpikeParameters = proc_params["neurons"]

    def run_spk(self) -> None:
        """Run one step."""
        a = self.a_in.recv().astype(np.int64)
        if self.clock.begins(self.time_step):
            self.v = np.zeros_like(self.v)
        self.v, _, counts, clipped = fixedpoint.multi_spike_step(self.v, a, self.neurons)
        self.s_out.send(counts)
        self.tally.add(self.time_step - 1, clipped)
