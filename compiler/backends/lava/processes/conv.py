"""ProcessModels for stock Lava's ``Conv``: one that takes large images, and a faster one."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from lava.proc.conv import utils
from lava.proc.conv.models import PyConvModelFixed
from lava.proc.conv.process import Conv
from numpy.lib.stride_tricks import sliding_window_view

from resformer.compiler.backends.lava.blas import exact_float, limit_to_one_thread

ACCUMULATOR_BITS = 24
"""Width of the accumulator in Lava's ``PyConvModelFixed``, which wraps around."""


@implements(proc=Conv, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyWideConvModel(PyConvModelFixed):  # type: ignore[misc]
    """Stock Lava's ``PyConvModelFixed`` as it is, but for sizes.

    Stock Lava keeps the geometry in 8 bits, and NumPy 2 refuses to divide 128 channels or more by groups so kept.
    """

    kernel_size: npt.NDArray[np.int32] = LavaPyType(np.ndarray, np.int32)
    stride: npt.NDArray[np.int32] = LavaPyType(np.ndarray, np.int32)
    padding: npt.NDArray[np.int32] = LavaPyType(np.ndarray, np.int32)
    dilation: npt.NDArray[np.int32] = LavaPyType(np.ndarray, np.int32)
    groups: npt.NDArray[np.int32] = LavaPyType(np.ndarray, np.int32)


@implements(proc=Conv, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyFastConvModel(PyWideConvModel):
    """What Lava's ``PyConvModelFixed`` computes, bit for bit, by one matrix product a group.

    Stock Lava convolves every pair of channels by itself. Our matrices hold integers as floats, of a type in which the
    step at hand is exact; sums that might not fit 32 bits are left to the stock model.
    """

    a_buf: npt.NDArray[np.int32]

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        limit_to_one_thread()
        self.matrices: dict[type, npt.NDArray[Any]] = {}
        self.gain = 0

    def on_var_update(self) -> None:
        """Someone may have set the weights."""
        self.matrices.clear()

    def run_spk(self) -> None:
        """One step."""
        self.a_out.send(self.a_buf)
        message = self.s_in.recv()
        if not self.num_message_bits.item():
            message = message.astype(bool)
        self.a_buf = self.convolve(message)

    def convolve(self, message: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
        """The convolution of one message, (X, Y, C_in), with its 24-bit accumulator: (X', Y', C_out)."""
        geometry = (self.kernel_size, self.stride, self.padding, self.dilation)
        groups = int(self.groups[0])
        if not self.matrices:
            self.matrices[np.int32] = _matrices(self.weight, groups)
            self.gain = int(np.abs(self.matrices[np.int32].astype(np.int64)).sum(axis=-2).max(initial=0))
        bound = self.gain * max(abs(int(message.min())), abs(int(message.max())))
        if bound > np.iinfo(np.int32).max:
            return _wrapped(utils.conv(message, self.weight, *geometry, groups))
        dtype = exact_float(bound)
        if dtype not in self.matrices:
            self.matrices[dtype] = self.matrices[np.int32].astype(dtype)
        patches = _patches(message.astype(dtype), *geometry, groups)
        columns, rows = patches.shape[1:3]
        product = np.matmul(patches.reshape(groups, columns * rows, -1), self.matrices[dtype])
        result = product.reshape(groups, columns, rows, -1).transpose(1, 2, 0, 3).reshape(columns, rows, -1)
        whole = result.astype(np.int32)
        return whole if bound < 1 << (ACCUMULATOR_BITS - 1) else _wrapped(whole)


def _wrapped(x: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """What the accumulator holds of a sum."""
    wrapped: npt.NDArray[np.int32] = utils.signed_clamp(x, bits=ACCUMULATOR_BITS)
    return wrapped


def _matrices(weight: npt.NDArray[np.int32], groups: int) -> npt.NDArray[np.int32]:
    """A kernel (C_out, K_x, K_y, C_in / groups) as (groups, K_x * K_y * C_in / groups, C_out / groups).

    Lava convolves, so the kernel is flipped to meet a patch.
    """
    per_output = weight[:, ::-1, ::-1].reshape(groups, weight.shape[0] // groups, -1)
    return np.ascontiguousarray(per_output.swapaxes(-1, -2))


def _patches(
    image: npt.NDArray[np.floating[Any]],
    kernel_size: npt.NDArray[np.int32],
    stride: npt.NDArray[np.int32],
    padding: npt.NDArray[np.int32],
    dilation: npt.NDArray[np.int32],
    groups: int,
) -> npt.NDArray[np.floating[Any]]:
    """What the kernel sees at each place: (X, Y, C) to (groups, X', Y', K_x, K_y, C / groups)."""
    (pad_x, pad_y), (step_x, step_y), (apart_x, apart_y) = (map(int, each) for each in (padding, stride, dilation))
    padded = np.pad(image, ((pad_x, pad_x), (pad_y, pad_y), (0, 0))) if pad_x or pad_y else image
    span = (apart_x * (int(kernel_size[0]) - 1) + 1, apart_y * (int(kernel_size[1]) - 1) + 1)
    grouped = padded.reshape(*padded.shape[:2], groups, -1)
    windows = sliding_window_view(grouped, span, axis=(0, 1))
    windows = windows[::step_x, ::step_y, ..., ::apart_x, ::apart_y]
    return windows.transpose(2, 0, 1, 4, 5, 3)
