"""Delays: those that align paths of different length, and those that are part of the network."""

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

from resformer.compiler.backends.lava.clock import SampleClock
from resformer.compiler.backends.lava.processes.ports import BorrowingInPort


class Delay(AbstractProcess):  # type: ignore[misc]
    """Sends what it received ``steps`` steps ago, and zeros until then.

    Args:
        shape: The shape of the values, in Lava's order of axes.
        steps: The length of the delay in steps, at least one.
        name: The node's name.
    """

    def __init__(self, *, shape: tuple[int, ...], steps: int, name: str) -> None:
        super().__init__(shape=shape, steps=steps, name=name)
        self.s_in = InPort(shape=shape)
        self.s_out = OutPort(shape=shape)


@implements(proc=Delay, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyDelayModel(PyLoihiProcessModel):  # type: ignore[misc]
    """A ring buffer that holds what was received in the last ``steps`` steps."""

    s_in: PyInPort = LavaPyType(BorrowingInPort, np.int32)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.ring = np.zeros((proc_params["steps"], *proc_params["shape"]), dtype=np.int32)

    def run_spk(self) -> None:
        """Run one step."""
        oldest = self.ring[(self.time_step - 1) % len(self.ring)]
        self.s_out.send(oldest)
        oldest[...] = self.s_in.recv()


class SampleDelay(AbstractProcess):  # type: ignore[misc]
    """Sends what each neuron sent ``steps`` steps ago if that step was in the same sample, and otherwise zero.

    Args:
        shape: The shape of the values, in Lava's order of axes.
        steps: The delays in steps, to be broadcast against ``shape``.
        clock: When samples begin.
        name: The node's name.
    """

    def __init__(
        self,
        *,
        shape: tuple[int, ...],
        steps: npt.NDArray[np.int32],
        clock: SampleClock,
        name: str,
    ) -> None:
        super().__init__(shape=shape, steps=steps, clock=clock, name=name)
        self.s_in = InPort(shape=shape)
        self.s_out = OutPort(shape=shape)


@implements(proc=SampleDelay, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PySampleDelayModel(PyLoihiProcessModel):  # type: ignore[misc]
    """Keeps all that was received since the sample began."""

    s_in: PyInPort = LavaPyType(BorrowingInPort, np.int32)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.clock: SampleClock = proc_params["clock"]
        self.steps = np.broadcast_to(proc_params["steps"], proc_params["shape"])
        self.sample = np.zeros((self.clock.interval, *proc_params["shape"]), dtype=np.int32)

    def run_spk(self) -> None:
        """Run one step."""
        now = self.clock.step(self.time_step)
        self.sample[now] = self.s_in.recv()
        since = now - self.steps
        sent = np.take_along_axis(self.sample, np.maximum(since, 0)[None], axis=0)[0]
        self.s_out.send(np.where(since >= 0, sent, 0))
