"""A ProcessModel for stock Lava's ``Dense``: a faster one."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.ports import PyInPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from lava.proc.dense.models import PyDenseModelBitAcc
from lava.proc.dense.process import Dense
from lava.utils.weightutils import clip_weights, determine_sign_mode, truncate_weights

from resformer.compiler.backends.lava.blas import exact_float, limit_to_one_thread
from resformer.compiler.backends.lava.processes.ports import BorrowingInPort


@implements(proc=Dense, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyFastDenseModel(PyDenseModelBitAcc):  # type: ignore[misc]
    """Computes the same as Lava's ``PyDenseModelBitAcc``, bit for bit, by a product of floats where that is exact."""

    s_in: PyInPort = LavaPyType(BorrowingInPort, np.int32, precision=24)
    a_buff: npt.NDArray[np.int32] = LavaPyType(np.ndarray, np.int32, precision=16)
    weights: npt.NDArray[np.int32] = LavaPyType(np.ndarray, np.int32, precision=8)
    weights_set: bool

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        limit_to_one_thread()
        self.gain: int | None = None
        self.matrices: dict[type[np.floating[Any]], npt.NDArray[Any]] = {}

    def on_var_update(self) -> None:
        """Forget all that was derived from the weights, since they may have been set."""
        self.gain = None
        self.matrices.clear()

    def run_spk(self) -> None:
        """Run one step."""
        if not self.weights_set:
            # As in the stock model, weights that are set later are used without clipping or truncation.
            sign_mode = self.proc_params.get("sign_mode") or determine_sign_mode(self.weights)
            clipped = clip_weights(self.weights, sign_mode, num_bits=8)
            self.weights = truncate_weights(clipped, sign_mode, self.proc_params.get("num_weight_bits", 8))
            self.weights_set = True
        self.a_out.send(self.a_buff)
        message = self.s_in.recv()
        if not self.num_message_bits.item():
            message = message.astype(np.bool_, copy=False)
        total, exponent = self._product(message), self.proc_params.get("weight_exp", 0)
        self.a_buff = np.left_shift(total, exponent) if exponent > 0 else np.right_shift(total, -exponent)

    def _product(self, message: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The sums, not yet shifted by the weight exponent; sums that exceed 32 bits wrap around."""
        if self.gain is None:
            self.gain = int(np.abs(self.weights.astype(np.int64)).sum(axis=1).max(initial=0))
        largest = 1 if message.dtype == np.bool_ else max(abs(int(message.min())), abs(int(message.max())))
        bound = self.gain * largest
        if bound > np.iinfo(np.int32).max:
            wrapped: npt.NDArray[Any] = self.weights.dot(message)
            return wrapped
        dtype = exact_float(bound)
        if dtype not in self.matrices:
            self.matrices[dtype] = self.weights.astype(dtype)
        return (self.matrices[dtype] @ message.astype(dtype)).astype(np.int32)
