"""The process that feeds all samples of ``LavaBackend.run`` to a network."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol


class FrameSource(AbstractProcess):  # type: ignore[misc]
    """Sends samples back to back, T steps each, and zeros after the last.

    Args:
        samples: (N, C, H, W), each sent T times, or (N, T, C, H, W), one frame for each step. Lava's processes use this
            array without a copy, since they are forked.
        timesteps: T.
        name: The input node's name.
    """

    def __init__(self, *, samples: npt.NDArray[np.integer], timesteps: int, name: str) -> None:
        super().__init__(samples=samples, timesteps=timesteps, name=name)
        self.s_out = OutPort(shape=samples.shape[:-4:-1])


@implements(proc=FrameSource, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyFrameSourceModel(PyLoihiProcessModel):  # type: ignore[misc]
    """Sends one frame at each step."""

    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.samples: npt.NDArray[np.integer] = proc_params["samples"]
        self.timesteps: int = proc_params["timesteps"]
        self.after = np.zeros(self.samples.shape[-3:], dtype=np.int32)

    def run_spk(self) -> None:
        """Run one step."""
        sample, t = divmod(self.time_step - 1, self.timesteps)
        if sample >= len(self.samples):
            frame = self.after
        elif self.samples.ndim == 4:
            frame = self.samples[sample]
        else:
            frame = self.samples[sample, t]
        self.s_out.send(frame.T)
