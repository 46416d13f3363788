"""Neurons that stock Lava lacks: a current with memory, reset with the potential; soft resets; any parameters."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.ports import PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

from resformer.compiler.backends.lava.blas import exact_float, limit_to_one_thread
from resformer.compiler.backends.lava.clock import SampleClock
from resformer.compiler.backends.lava.processes.conv import Geometry, Product
from resformer.compiler.backends.lava.processes.neurons import NeuronModel, NeuronProcess
from resformer.compiler.backends.lava.shared import Tally
from resformer.compiler.ir import fixedpoint


class Feedback(NamedTuple):
    """Recurrent synapses: a convolution of the spikes, as stock Lava's ``Conv`` holds it."""

    weight: npt.NDArray[np.int32]
    geometry: Geometry
    groups: int


class CubaLIF(AbstractProcess):  # type: ignore[misc]
    """Current-based LIF neurons, which are at rest when a sample begins.

    Recurrent synapses are part of this process rather than a process of their own, for two reasons: the spikes of a
    sample's last step must not reach the next sample, and Lava's compiler would list all cycles of the network.

    Args:
        shape: The population's shape, in Lava's order of axes.
        neurons: The neurons' parameters, in Lava's order of axes too.
        feedback: Synapses from the neurons onto themselves, if there are any.
        clock: When samples begin.
        tally: Counts the clipped values.
        name: The node's name.
    """

    def __init__(
        self,
        *,
        shape: tuple[int, ...],
        neurons: fixedpoint.CubaParameters,
        feedback: Feedback | None,
        clock: SampleClock,
        tally: Tally,
        name: str,
    ) -> None:
        super().__init__(shape=shape, neurons=neurons, feedback=feedback, clock=clock, tally=tally, name=name)
        self.a_in = InPort(shape=shape)
        self.s_out = OutPort(shape=shape)


@implements(proc=CubaLIF, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyCubaLifModel(NeuronModel):
    """Computes each step as the reference interpreter does. A spike travels to a synapse as one byte."""

    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.bool_, precision=1)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.u = self.v
        self.neurons: fixedpoint.CubaParameters = proc_params["neurons"]
        self.fired = np.zeros(self.v.shape, dtype=np.bool_)
        self.synapses = _product(proc_params["feedback"], self.v.shape)

    def run_spk(self) -> None:
        """Run one step."""
        a = self.a_in.recv().astype(np.int64)
        if self.clock.begins(self.time_step):
            self.u = self.v = np.zeros_like(self.v)
        elif self.synapses is not None:
            a += self.synapses(self.fired)
        state = fixedpoint.cuba_lif_step(self.u, self.v, a, self.neurons)
        self.u, self.v, self.fired = state.u, state.v, state.spikes
        self.s_out.send(state.spikes)
        self.tally.add(self.time_step - 1, state.clipped)


class CubaLI(NeuronProcess):
    """Neurons that integrate and send their potential; they are at rest when a sample begins."""


@implements(proc=CubaLI, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyCubaLiModel(NeuronModel):
    """Computes each step as the reference interpreter does."""

    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.u = self.v
        self.neurons: fixedpoint.CubaLiParameters = proc_params["neurons"]

    def run_spk(self) -> None:
        """Run one step."""
        a = self.a_in.recv().astype(np.int64)
        if self.clock.begins(self.time_step):
            self.u = self.v = np.zeros_like(self.v)
        self.u, self.v, clipped = fixedpoint.cuba_li_step(self.u, self.v, a, self.neurons)
        self.s_out.send(self.v)
        self.tally.add(self.time_step - 1, clipped)


def _product(feedback: Feedback | None, shape: tuple[int, ...]) -> Product | None:
    """The recurrent synapses as matrix products."""
    if feedback is None:
        return None
    limit_to_one_thread()
    bound = int(np.abs(feedback.weight.astype(np.int64)).sum(axis=(1, 2, 3)).max(initial=0))
    return Product(feedback.weight, feedback.groups, feedback.geometry, shape, exact_float(bound))
