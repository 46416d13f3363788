"""Small networks to quantize with single choices given, for tests of the choices and of the rounding."""

from __future__ import annotations

from typing import Any

import nir
import numpy as np

from resformer.compiler.ir.graph import Graph
from resformer.compiler.ir.program import Program
from resformer.compiler.quantize.choose import QuantizationConfig, choose_plan
from resformer.compiler.quantize.lower import quantize
from support.graphs import GraphBuilder
from support.programs import fold


def two_layers(
    first: Any, second: Any = 1.0, *, bias: float = 0.0, tau_steps: float = 2.0, **facts: Any
) -> nir.NIRNode:
    """input - conv - lif - conv2 - lif2 - head, both convolutions 1x1, the input of one channel; not folded."""
    build = GraphBuilder((1, 2, 2))
    weight = np.atleast_1d(np.asarray(first, dtype=np.float64)).reshape(-1, 1, 1, 1)
    spikes = build.lif("lif", build.conv("conv", "input", weight, np.full(len(weight), bias)), tau_steps=tau_steps)
    weight = np.atleast_1d(np.asarray(second, dtype=np.float64)).reshape(-1, 1, 1, 1)
    weight = np.repeat(weight, build.shape("lif")[0], axis=1)
    spikes = build.lif("lif2", build.conv("conv2", spikes, weight))
    build.head(spikes, weight=np.array([[0.5] * len(weight), [-0.25] * len(weight)]))
    return build.finish(**facts)


def lower(graph: Graph[nir.NIRNode], reach: dict[str, float] | None = None, **config: Any) -> Program:
    """The graph after the float passes, quantized; ``reach`` gives magnitudes of nodes' outputs, 1 if not given."""
    folded = fold(graph)
    return quantize_folded(folded, reach, **config)


def quantize_folded(graph: Graph[nir.NIRNode], reach: dict[str, float] | None = None, **config: Any) -> Program:
    """A graph after all float passes, quantized; ``reach`` gives magnitudes of nodes' outputs, 1 if not given."""
    ranges = dict.fromkeys(graph.by_name, 1.0) | (reach or {})
    return quantize(graph, choose_plan(graph, ranges, QuantizationConfig(**config), measured=False))


def scale(program: Program, name: str) -> int:
    return program[name].op.signal.scale_exp
