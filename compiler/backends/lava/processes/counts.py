"""Spikformer's self-attention (arXiv 2209.15425): both products of spikes with spikes, each of which takes a step."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.ports import PyInPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

from resformer.compiler.backends.lava.blas import matmul
from resformer.compiler.backends.lava.processes.matmul import ProductModel
from resformer.compiler.backends.lava.shared import Tally
from resformer.compiler.ir import fixedpoint

Integers = npt.NDArray[np.signedinteger[Any]]


class SpikeAttention(AbstractProcess):  # type: ignore[misc]
    """Sends 2^weight_exp (q k^T) v of what it received two steps ago, clipped to [-limit, limit].

    Args:
        q_shape: (W, H, heads * d), spikes.
        k_shape: (w, h, heads * d), spikes.
        v_shape: (w, h, heads * e), spikes.
        num_heads: The number of heads, each with its own block of channels.
        scores_first: Whether q k^T is computed first; if not, k^T v is.
        weight_exp: The product is multiplied by two to this power.
        limit: The largest magnitude.
        tally: Counts the clipped values.
        name: The node's name.
    """

    def __init__(
        self,
        *,
        q_shape: tuple[int, ...],
        k_shape: tuple[int, ...],
        v_shape: tuple[int, ...],
        num_heads: int,
        scores_first: bool,
        weight_exp: int,
        limit: int,
        tally: Tally,
        name: str,
    ) -> None:
        out_shape = (*q_shape[:2], v_shape[2])
        super().__init__(
            out_shape=out_shape,
            num_heads=num_heads,
            scores_first=scores_first,
            weight_exp=weight_exp,
            limit=limit,
            tally=tally,
            name=name,
        )
        self.q_in = InPort(shape=q_shape)
        self.k_in = InPort(shape=k_shape)
        self.v_in = InPort(shape=v_shape)
        self.a_out = OutPort(shape=out_shape)


@implements(proc=SpikeAttention, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PySpikeAttentionModel(ProductModel):
    """Exact products of matrices of integers, computed in floats."""

    q_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    k_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    v_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.scores_first: bool = proc_params["scores_first"]
        self.weight_exp: int = proc_params["weight_exp"]
        self.factors: tuple[Integers, Integers] | None = None
        """The operands of the second product: the first product of the last step's inputs, and the unused input."""

    def run_spk(self) -> None:
        """Run one step."""
        self.send()
        if self.factors is not None:
            self.keep(*fixedpoint.scale_and_saturate(matmul(*self.factors), self.weight_exp, self.limit))
        q, k, v = (self._by_head(port.recv()) for port in (self.q_in, self.k_in, self.v_in))
        if self.scores_first:
            self.factors = v, matmul(k.swapaxes(-1, -2), q)
        else:
            self.factors = matmul(v, k.swapaxes(-1, -2)), q

    def _by_head(self, spikes: Integers) -> Integers:
        """A map of spikes, (W, H, C), as (heads, channels of a head, tokens)."""
        return spikes.T.reshape(self.num_heads, spikes.shape[-1] // self.num_heads, -1)
