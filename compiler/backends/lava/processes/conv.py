"""ProcessModels for stock Lava's ``Conv``: one that takes large images, and a faster one."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.ports import PyInPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from lava.proc.conv import utils
from lava.proc.conv.models import PyConvModelFixed
from lava.proc.conv.process import Conv
from numpy.lib.stride_tricks import sliding_window_view

from resformer.compiler.backends.lava.blas import exact_float, limit_to_one_thread
from resformer.compiler.backends.lava.processes.ports import BorrowingInPort

TILE_BYTES = 2**19
"""Bytes that the gathered taps of one tile of image columns may take, so that they stay in a core's cache."""
ACCUMULATOR_BITS = 24
"""Width of the accumulator in Lava's ``PyConvModelFixed``, which wraps around."""


@implements(proc=Conv, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyWideConvModel(PyConvModelFixed):  # type: ignore[misc]
    """Stock Lava's ``PyConvModelFixed``, changed only to keep its sizes in 32 bits.

    Stock Lava keeps them in 8 bits, and NumPy 2 refuses to divide 128 or more channels by an 8-bit number of groups.
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
    """Computes the same as Lava's ``PyConvModelFixed``, bit for bit, by one matrix product for each group.

    Stock Lava convolves every pair of channels separately. Our matrices hold integers as floats, in a type in which all
    sums of the present step are exact. Sums that might not fit 32 bits are left to stock Lava's code.
    """

    s_in: PyInPort = LavaPyType(BorrowingInPort, np.int32, precision=24)
    a_buf: npt.NDArray[np.int32] = LavaPyType(np.ndarray, np.int32, precision=24)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        limit_to_one_thread()
        self.gain: int | None = None
        self.products: dict[type[np.floating[Any]], Product] = {}

    def on_var_update(self) -> None:
        """Forget all that was derived from the weights, since they may have been set."""
        self.gain = None
        self.products.clear()

    def run_spk(self) -> None:
        """Run one step."""
        self.a_out.send(self.a_buf)
        message = self.s_in.recv()
        if not self.num_message_bits.item():
            message = message.astype(np.bool_, copy=False)
        self.a_buf = self.convolve(message)

    def convolve(self, message: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
        """The convolution of one message, (X, Y, C_in), in 24-bit accumulators: (X', Y', C_out).

        The next call may overwrite the result.
        """
        geometry = Geometry(
            *(int(each) for each in self.stride),
            *(int(each) for each in self.padding),
            *(int(each) for each in self.dilation),
        )
        if self.gain is None:
            self.gain = int(np.abs(self.weight.astype(np.int64)).sum(axis=(1, 2, 3)).max(initial=0))
        largest = 1 if message.dtype == np.bool_ else max(abs(int(message.min())), abs(int(message.max())))
        bound = self.gain * largest
        if bound > np.iinfo(np.int32).max:
            sizes = (self.kernel_size, self.stride, self.padding, self.dilation)
            return _wrapped(utils.conv(message, self.weight, *sizes, int(self.groups[0])))
        dtype = exact_float(bound)
        if dtype not in self.products:
            self.products[dtype] = Product(self.weight, int(self.groups[0]), geometry, message.shape, dtype)
        whole = self.products[dtype](message)
        return whole if bound < 1 << (ACCUMULATOR_BITS - 1) else _wrapped(whole)


def _wrapped(x: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Sums as the accumulator holds them, wrapped around."""
    wrapped: npt.NDArray[np.int32] = utils.signed_clamp(x, bits=ACCUMULATOR_BITS)
    return wrapped


class Geometry(NamedTuple):
    """How a kernel passes over an image: its stride, padding and dilation along either axis."""

    step_x: int
    step_y: int
    pad_x: int
    pad_y: int
    apart_x: int
    apart_y: int


class Product:
    """A convolution as matrix products, one for each group and tile of image columns; each call reuses the same memory.

    Args:
        weight: (C_out, K_x, K_y, C_in / groups).
        groups: The number of blocks of channels, which do not mix.
        geometry: How the kernel passes over the image.
        in_shape: The shape of a message, (X, Y, C_in).
        dtype: A float type in which all sums are exact.
    """

    def __init__(
        self,
        weight: npt.NDArray[np.int32],
        groups: int,
        geometry: Geometry,
        in_shape: tuple[int, ...],
        dtype: type[np.floating[Any]],
    ) -> None:
        step_x, step_y, pad_x, pad_y, apart_x, apart_y = geometry
        columns, rows, channels = in_shape
        outputs, kernel_x, kernel_y, per_group = weight.shape
        # Lava convolves, so the kernel is flipped to fit a patch: (groups, K_x * K_y * C_in / groups, C_out / groups).
        per_output = weight[:, ::-1, ::-1].reshape(groups, outputs // groups, -1)
        self._matrices = np.ascontiguousarray(per_output.swapaxes(-1, -2), dtype=dtype)
        span_x, span_y = apart_x * (kernel_x - 1) + 1, apart_y * (kernel_y - 1) + 1
        self._is_pointwise = geometry[:4] == (1, 1, 0, 0) and kernel_x == kernel_y == 1
        padded = np.zeros((columns + 2 * pad_x, rows + 2 * pad_y, channels), dtype)
        self._image = padded[pad_x : pad_x + columns, pad_y : pad_y + rows]
        windows = sliding_window_view(padded.reshape(*padded.shape[:2], groups, per_group), (span_x, span_y), (0, 1))
        # (groups, X', Y', K_x, K_y, C_in / groups): the values under the kernel at each position.
        self._patches = windows[::step_x, ::step_y, ..., ::apart_x, ::apart_y].transpose(2, 0, 1, 4, 5, 3)
        _, out_columns, out_rows = self._patches.shape[:3]
        self._result = np.empty((out_columns, out_rows, groups, outputs // groups), dtype=np.int32)
        column_bytes = out_rows * self._matrices.shape[1] * groups * self._matrices.itemsize
        self._tile = min(out_columns, max(1, TILE_BYTES // column_bytes))
        self._taps = np.empty((groups, self._tile, out_rows, *self._patches.shape[3:]), dtype)
        self._sums = np.empty((groups, self._tile, out_rows, outputs // groups), dtype)

    def __call__(self, message: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
        """Convolve a message, (X, Y, C_in), to (X', Y', C_out)."""
        groups, inputs, outputs = self._matrices.shape
        if self._is_pointwise:
            patches = message.reshape(*message.shape[:2], groups, 1, 1, inputs).transpose(2, 0, 1, 3, 4, 5)
        else:
            patches = self._patches
            np.copyto(self._image, message, casting="unsafe")
        for start in range(0, len(self._result), self._tile):
            part = self._result[start : start + self._tile]
            taps, sums = self._taps[:, : len(part)], self._sums[:, : len(part)]
            np.copyto(taps, patches[:, start : start + len(part)], casting="unsafe")
            np.matmul(taps.reshape(groups, -1, inputs), self._matrices, out=sums.reshape(groups, -1, outputs))
            np.copyto(part, sums.transpose(1, 2, 0, 3), casting="unsafe")
        return self._result.reshape(*self._result.shape[:2], -1)
