"""The process that feeds a stream of samples to a network, one batch at a time."""

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


class ChunkSource(AbstractProcess):  # type: ignore[misc]
    """Sends the samples in shared memory back to back, and zeros after the last of them.

    Args:
        frames: (N, T, C, H, W), int32, shared: the samples to send next.
        place: (2,), int64, shared: the index of the first of these samples, and the index after their last; both are
            counted from the beginning of the stream.
        name: The input node's name.
    """

    def __init__(self, *, frames: npt.NDArray[np.int32], place: npt.NDArray[np.int64], name: str) -> None:
        super().__init__(frames=frames, place=place, name=name)
        self.s_out = OutPort(shape=frames.shape[:-4:-1])


@implements(proc=ChunkSource, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyChunkSourceModel(PyLoihiProcessModel):  # type: ignore[misc]
    """Sends one frame at each step."""

    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.frames: npt.NDArray[np.int32] = proc_params["frames"]
        self.place: npt.NDArray[np.int64] = proc_params["place"]
        self.after = np.zeros(self.frames.shape[-3:], dtype=np.int32)

    def run_spk(self) -> None:
        """Run one step."""
        sample, t = divmod(self.time_step - 1, self.frames.shape[1])
        first, end = self.place
        self.s_out.send((self.frames[sample - first, t] if sample < end else self.after).T)
