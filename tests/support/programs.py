"""Small integer programs, built node by node, and programs of tiny networks at each level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nir
import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from resformer.compiler.ir import ops
from resformer.compiler.ir.arrays import Shape
from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.ir.ops import Op
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.shapes import output_shape
from resformer.compiler.ir.signal import SPIKE, Signal, SignalKind
from resformer.compiler.ir.text import format_graph
from resformer.compiler.passes.integer.balance_delays import balance_delays
from resformer.compiler.pipeline import CHECKPOINT, INTEGER_PASSES
from resformer.compiler.quantize.choose import QuantizationConfig, choose_plan
from resformer.compiler.quantize.lower import quantize
from resformer.compiler.quantize.ranges import estimated_ranges, measured_ranges
from support.graphs import float_graphs, samples_for

CURRENT, GRADED = SignalKind.CURRENT, SignalKind.GRADED


class ProgramByHand:
    """The nodes so far; each method appends one and returns its name."""

    def __init__(self, input_shape: Shape, *, low: int = -8, high: int = 8, scale_exp: int = 0) -> None:
        self.nodes: dict[str, Node[Op]] = {}
        self.add("input", ops.Input(Signal(GRADED, scale_exp, low, high)), shape=input_shape)

    def add(self, name: str, op: Op, *inputs: str, shape: Shape | None = None) -> str:
        made = output_shape(op, [self.nodes[each].shape for each in inputs]) if shape is None else shape
        self.nodes[name] = Node(name, op, inputs, made)
        return name

    def conv(
        self,
        name: str,
        source: str,
        weight: Any,
        bias: Any = 0,
        *,
        exp: Any = 0,
        scale_exp: int = 0,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
    ) -> str:
        weight = np.asarray(weight, dtype=np.int8)
        op = ops.Conv2d(
            Signal(CURRENT, scale_exp),
            weight=weight,
            weight_exp=np.broadcast_to(np.asarray(exp, dtype=np.int8), len(weight)).copy(),
            bias=np.broadcast_to(np.asarray(bias, dtype=np.int32), len(weight)).copy(),
            stride=(stride, stride),
            padding=(padding, padding),
            dilation=(1, 1),
            groups=groups,
        )
        return self.add(name, op, source)

    def lif(self, name: str, source: str, vth: int, *, bias: int = 0, exp: int = 0, dv: int = 2048) -> str:
        mantissa, exponent = np.array([bias], dtype=np.int16), np.array([exp], dtype=np.int8)
        return self.add(name, ops.LIF(SPIKE, vth, 4095, dv, mantissa, exponent), source)

    def dense(self, name: str, source: str, weight: Any, bias: Any = 0, *, exp: int = 0) -> str:
        weight = np.asarray(weight, dtype=np.int8)
        bias = np.broadcast_to(np.asarray(bias, dtype=np.int32), len(weight)).copy()
        return self.add(name, ops.Dense(Signal(CURRENT, 0), weight, exp, bias), source)

    def sum(self, name: str, *sources: str) -> str:
        return self.add(name, ops.Add(Signal(CURRENT, self.nodes[sources[0]].op.signal.scale_exp)), *sources)

    def output(self, source: str, *, divisor: int = 1) -> str:
        signal = Signal(CURRENT, self.nodes[source].op.signal.scale_exp)
        return self.add("output", ops.Output(signal, divisor, np.zeros(self.nodes[source].shape)), source)

    def finish(self, timesteps: int = 2) -> Program:
        return Program(tuple(self.nodes.values()), timesteps, {"input": "static"})


@dataclass(frozen=True, repr=False)
class Lowered:
    """A network at each level; hypothesis prints the one that fails as text."""

    folded: Graph[nir.NIRNode]
    quantized: Program
    program: Program

    def __repr__(self) -> str:
        return format_graph(self.program)


def fold(graph: Graph[nir.NIRNode]) -> Graph[nir.NIRNode]:
    """The graph after all float passes."""
    for float_pass in CHECKPOINT.float_passes:
        graph = float_pass(graph)
    return graph


def lower(graph: Graph[nir.NIRNode], calibration: npt.NDArray[np.float64] | None = None, **config: Any) -> Lowered:
    """The graph after all passes; ``config`` is ``QuantizationConfig``'s."""
    folded = fold(graph)
    ranges = estimated_ranges(folded) if calibration is None else measured_ranges(folded, calibration)
    plan = choose_plan(folded, ranges, QuantizationConfig(**config), measured=calibration is not None)
    quantized = quantize(folded, plan)
    program = quantized
    for integer_pass in INTEGER_PASSES:
        program = integer_pass(program)
    return Lowered(folded, quantized, balance_delays(program))


def encode(program: Program, samples: npt.NDArray[np.float64]) -> npt.NDArray[np.int32]:
    """Samples as the program's integers."""
    signal = program.input.op.signal
    return np.clip(np.rint(samples * 2.0**signal.scale_exp), signal.low, signal.high).astype(np.int32)


def decode(program: Program, encoded: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    """The real samples that integers stand for."""
    return encoded.astype(np.float64) * 2.0**-program.input.op.signal.scale_exp


@st.composite
def lowered_graphs(draw: st.DrawFn, *, weight_bits: st.SearchStrategy[int] | None = None) -> Lowered:
    """Random networks at each level, their scales measured on data so that they rarely saturate."""
    graph = draw(float_graphs())
    bits = draw(weight_bits or st.integers(2, 12))
    # two bits hold large weights only at coarse scales, which must not be coarser than the input's
    config = {"weight_bits": bits, "per_channel": draw(st.booleans()), "input_scale_exp": 3 if bits < 4 else None}
    return lower(graph, samples_for(graph, 4, seed=1), **config)
