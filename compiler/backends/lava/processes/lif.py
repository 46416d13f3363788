"""A ProcessModel for stock Lava's ``LIFReset``: a faster one."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from lava.proc.lif.models import PyLifResetModelBitAcc
from lava.proc.lif.process import LIFReset

from resformer.compiler.backends.lava.processes.ports import BorrowingInPort

TILE = 2**15
"""About how many neurons are updated at a time, so that their state stays in a core's cache."""


@implements(proc=LIFReset, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyFastLifResetModel(PyLifResetModelBitAcc):  # type: ignore[misc]
    """Computes the same as Lava's ``PyLifResetModelBitAcc``, bit for bit, one tile of neurons at a time and in place.

    Sums wrap around in 32 bits, as in Lava's model. A spike travels to a synapse as one byte.
    """

    a_in: PyInPort = LavaPyType(BorrowingInPort, np.int32, precision=24)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.bool_, precision=1)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.bias: npt.NDArray[np.int32] | None = None
        self.spikes = np.zeros(0, dtype=np.bool_)

    def on_var_update(self) -> None:
        """Forget the bias in use, since the bias may have been set."""
        self.bias = None

    def run_spk(self) -> None:
        """Run one step."""
        activation = np.ascontiguousarray(self.a_in.recv()).reshape(-1)
        u, v = self.u.reshape(-1), self.v.reshape(-1)
        channels = self.v.shape[-1]
        tile = channels * max(1, TILE // channels)
        if self.bias is None:
            self.bias = self._bias_of(tile)
        if not self.isthrscaled:
            # As in the stock model, a threshold that is set later has no effect.
            self.scale_threshold()
            self.spikes = np.empty(v.size, dtype=np.bool_)
            self.scratch = _Scratch.of(min(tile, v.size))
        for start in range(0, v.size, tile):
            part = slice(start, start + tile)
            bias = self.bias[part] if self.bias.size == v.size else self.bias
            self._update(activation[part], u[part], v[part], bias, self.spikes[part])
        self.s_out.send(self.spikes.reshape(self.v.shape))

    def _update(
        self,
        activation: npt.NDArray[np.int32],
        u: npt.NDArray[np.int32],
        v: npt.NDArray[np.int32],
        bias: npt.NDArray[np.int32],
        spikes: npt.NDArray[np.bool_],
    ) -> None:
        """Run one step of one tile of neurons."""
        limit = self.max_uv_val
        starts_anew = self.time_step % self.reset_interval == self.reset_offset
        remaining = self.decay_unity - int(self.du) - self.ds_offset
        scratch = self.scratch if v.size == self.scratch.integers.size else _Scratch.of(v.size)
        if starts_anew or not remaining:
            np.left_shift(activation, self.act_shift, out=u)
        else:
            _decay(u, remaining, self.decay_unity, scratch)
            np.left_shift(activation, self.act_shift, out=scratch.integers)
            np.add(u, scratch.integers, out=u)
        if u.max() > limit or u.min() <= -limit:
            u[:] = np.where(u > limit, u - 2 * limit, np.where(u <= -limit, u + 2 * limit, u))
        if starts_anew:
            np.add(u, bias[: v.size], out=v)
        else:
            _decay(v, self.decay_unity - int(self.dv) - self.dm_offset, self.decay_unity, scratch)
            np.add(v, u, out=v)
            np.add(v, bias[: v.size], out=v)
        np.clip(v, 1 - limit, limit - 1, out=v)
        np.greater(v, int(self.effective_vth), out=spikes)
        # Multiplying by a mask takes a tenth of the time that selecting by it takes.
        np.logical_not(spikes, out=scratch.flags)
        np.multiply(v, scratch.flags, out=v)

    def _bias_of(self, tile: int) -> npt.NDArray[np.int32]:
        """The biases of all neurons, or of one tile of neurons where all tiles have the same biases."""
        channels = self.v.shape[-1]
        mantissas, exponents = (each.reshape(-1, channels) for each in (self.bias_mant, self.bias_exp))
        if (mantissas == mantissas[0]).all() and (exponents == exponents[0]).all():
            mantissas, exponents = mantissas[: tile // channels], exponents[: tile // channels]
        left, right = np.maximum(exponents, 0), np.maximum(-exponents, 0)
        bias: npt.NDArray[np.int32] = ((mantissas.astype(np.int32) << left) >> right).reshape(-1)
        return bias


class _Scratch(NamedTuple):
    """Buffers for intermediate results."""

    integers: npt.NDArray[np.int32]
    reals: npt.NDArray[np.float64]
    flags: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, size: int) -> _Scratch:
        """Buffers for ``size`` neurons."""
        return cls(np.empty(size, np.int32), np.empty(size, np.float64), np.empty(size, np.bool_))


def _decay(x: npt.NDArray[np.int32], remaining: int, unity: int, scratch: _Scratch) -> None:
    """x * remaining / unity, rounded toward zero, in place."""
    if remaining == unity // 2:
        np.right_shift(x, 31, out=scratch.integers)
        np.subtract(x, scratch.integers, out=x)
        np.right_shift(x, 1, out=x)
    elif remaining != unity:
        # Exact, since the product takes fewer than 53 bits and unity is a power of two; the cast rounds toward zero.
        np.multiply(x, remaining / unity, out=scratch.reals)
        np.copyto(x, scratch.reals, casting="unsafe")
