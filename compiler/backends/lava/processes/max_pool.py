"""The process that takes maxima over windows."""

from __future__ import annotations

from itertools import product
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


class MaxPool2d(AbstractProcess):  # type: ignore[misc]
    """Sends the maxima over windows of what it receives in this step; padding never wins.

    Args:
        in_shape: (W, H, C).
        out_shape: (W', H', C).
        kernel_size: (x, y), the size of a window.
        stride: (x, y), from one window to the next.
        padding: Around the input: ((left, right), (top, bottom)).
        name: The node's name.
    """

    def __init__(
        self,
        *,
        in_shape: tuple[int, ...],
        out_shape: tuple[int, ...],
        kernel_size: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[tuple[int, int], tuple[int, int]],
        name: str,
    ) -> None:
        super().__init__(out_shape=out_shape, kernel_size=kernel_size, stride=stride, padding=padding, name=name)
        self.s_in = InPort(shape=in_shape)
        self.s_out = OutPort(shape=out_shape)


@implements(proc=MaxPool2d, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyMaxPool2dModel(PyLoihiProcessModel):  # type: ignore[misc]
    """Takes the maximum of shifted images, one image for each position in the window."""

    s_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.out_shape: tuple[int, ...] = proc_params["out_shape"]
        self.kernel_size: tuple[int, int] = proc_params["kernel_size"]
        self.stride: tuple[int, int] = proc_params["stride"]
        self.padding: tuple[tuple[int, int], tuple[int, int]] = proc_params["padding"]

    def run_spk(self) -> None:
        """Run one step."""
        lowest = np.iinfo(np.int32).min
        padded = np.pad(self.s_in.recv(), (*self.padding, (0, 0)), constant_values=lowest)
        (columns, rows, _), (step_x, step_y) = self.out_shape, self.stride
        result = np.full(self.out_shape, lowest, dtype=np.int32)
        for x, y in product(*map(range, self.kernel_size)):
            shifted = padded[x : x + step_x * columns : step_x, y : y + step_y * rows : step_y]
            np.maximum(result, shifted, out=result)
        self.s_out.send(result)
