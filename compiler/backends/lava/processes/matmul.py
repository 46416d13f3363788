"""The two products of Dual Spike Self-Attention (arXiv 2403.14302, equations 8 to 11)."""

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

from resformer.compiler.backends.lava.blas import limit_to_one_thread, matmul
from resformer.compiler.backends.lava.processes.ports import BorrowingInPort
from resformer.compiler.backends.lava.shared import Tally
from resformer.compiler.ir import fixedpoint


class SpikeMatMul(AbstractProcess):  # type: ignore[misc]
    """Sends the spike-gated sums of what it received one step ago, clipped to [-limit, limit].

    Args:
        y_shape: (w, h, C), the shape of the graded values.
        s_shape: The shape of the spikes: (W, H, C) if ``transpose``, otherwise (m, n, heads).
        out_shape: (m, n, heads) if ``transpose``, otherwise (W, H, C).
        num_heads: The number of heads, each with its own block of channels.
        transpose: Which of the two products, as in ``resformer.compiler.ir.ops.SpikeMatMul``.
        bias: (C,), added to y before y is gated.
        limit: The largest magnitude.
        tally: Counts the clipped values.
        name: The node's name.
    """

    def __init__(
        self,
        *,
        y_shape: tuple[int, ...],
        s_shape: tuple[int, ...],
        out_shape: tuple[int, ...],
        num_heads: int,
        transpose: bool,
        bias: npt.NDArray[np.int32],
        limit: int,
        tally: Tally,
        name: str,
    ) -> None:
        super().__init__(
            out_shape=out_shape,
            num_heads=num_heads,
            transpose=transpose,
            bias=bias,
            limit=limit,
            tally=tally,
            name=name,
        )
        self.y_in = InPort(shape=y_shape)
        self.s_in = InPort(shape=s_shape)
        self.a_out = OutPort(shape=out_shape)


class ProductModel(PyLoihiProcessModel):  # type: ignore[misc]
    """The base of all products of heads. Like synapses, they send before they receive; they count clipped values."""

    a_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        limit_to_one_thread()
        self.num_heads: int = proc_params["num_heads"]
        self.limit: int = proc_params["limit"]
        self.tally: Tally = proc_params["tally"]
        self.result = np.zeros(proc_params["out_shape"], dtype=np.int64)
        self.clipped = 0

    def send(self) -> None:
        """Send the product that was kept last, and count its clipped values."""
        self.a_out.send(self.result)
        self.tally.add(self.time_step - 1, self.clipped)

    def keep(self, product: npt.NDArray[np.int64], clipped: int) -> None:
        """Keep a product, with axes in the program's order, to send it in the next step.

        Args:
            product: The product.
            clipped: How many of its values were clipped.
        """
        self.clipped = clipped
        # Reversing the axes gives the program's own (C, h, w) and so on, without a copy.
        self.result = product.reshape(self.result.shape[::-1]).T


@implements(proc=SpikeMatMul, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PySpikeMatMulModel(ProductModel):
    """An exact product of matrices of integers, computed in floats."""

    y_in: PyInPort = LavaPyType(BorrowingInPort, np.int32)
    s_in: PyInPort = LavaPyType(BorrowingInPort, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.transpose: bool = proc_params["transpose"]
        self.bias = proc_params["bias"].astype(np.int64)

    def run_spk(self) -> None:
        """Run one step."""
        self.send()
        y = (self.y_in.recv() + self.bias).T
        spikes = self.s_in.recv().T
        product = spike_matmul(y, spikes, self.num_heads, transpose=self.transpose)
        self.keep(*fixedpoint.saturate(product, self.limit))


def spike_matmul(
    y: npt.NDArray[np.int64], spikes: npt.NDArray[np.int32], num_heads: int, *, transpose: bool
) -> npt.NDArray[np.int64]:
    """y^T x of each head, (heads, n, m), or y s, (heads, C / heads, m).

    Args:
        y: (C, h, w), with n = h * w.
        spikes: x, (C, H, W), with m = H * W, if ``transpose``; otherwise s, (heads, n, m).
        num_heads: The number of heads, each with its own block of channels.
        transpose: Whether to compute y^T x; if not, y s is computed.
    """
    left = y.reshape(num_heads, y.shape[0] // num_heads, -1)
    if transpose:
        left = left.swapaxes(-1, -2)
    right = spikes.reshape(num_heads, left.shape[-1], -1)
    return matmul(left, right)
