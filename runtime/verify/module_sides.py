"""The sides of a module in memory: the module, the graph made of it, and the quantized module."""

from __future__ import annotations

from collections.abc import Mapping

import nir
import numpy as np
import numpy.typing as npt
import torch

from resformer.compiler.export.checkpoint import inexact_module_terms, weight_factor
from resformer.compiler.frontend.module.importer import as_samples
from resformer.compiler.frontend.module.neurons import neurons
from resformer.compiler.frontend.module.values import Axes
from resformer.compiler.ir import float_interpreter
from resformer.compiler.ir.graph import Graph
from resformer.compiler.ir.ops import Conv2d, Dense
from resformer.compiler.ir.primitives import INSIDE, collapse, inside
from resformer.compiler.pipeline import MODULE, Compilation
from resformer.errors import UnsupportedError
from resformer.runtime.verify.checks import Sides, logit_errors
from resformer.runtime.verify.sides import float_graphs
from resformer.runtime.verify.torch_network import ModuleNetwork

Float64Array = npt.NDArray[np.float64]

LOGIT_TOLERANCE = 1e-9
"""Sums in another order differ in their last bits."""


def module_sides(compilation: Compilation, quantized_state: Mapping[str, torch.Tensor]) -> Sides:
    """The sides that verifying a module in memory compares.

    Args:
        compilation: Of a module.
        quantized_state: The quantized module's.
    """
    assert compilation.source.module is not None, "only a module has these sides"
    imported = compilation.source.module.traced.graph
    original = _original(compilation)
    quantized = original.copy()
    quantized.model.load_state_dict(quantized_state)
    layers = [node.name for node in compilation.quantized if isinstance(node.op, Conv2d | Dense)]
    return Sides(
        compilation.program,
        float_graphs(imported, MODULE.float_passes),
        original,
        quantized,
        inexact=inexact_module_terms(compilation.quantized, compilation.folded, imported),
        weight_factors={
            name: weight_factor(compilation.quantized, compilation.folded, imported, name) for name in layers
        },
        kernels={
            name: inside(compilation.folded[name].op)
            for name in layers
            if INSIDE in compilation.folded[name].op.metadata
        },
        gains=_gains(imported, original),
    )


def _gains(imported: Graph[nir.NIRNode], network: ModuleNetwork) -> dict[str, float]:
    """What neurons gain beside what they gain in the module: a factor by which its code scales their input."""
    gains = {}
    for name, node in network.neurons.items():
        op = imported[name].op
        if isinstance(op, nir.LIF | nir.IF):
            own = neurons(name, node, imported[name].shape)
            gains[name] = float(collapse(op.r).flat[0] / collapse(own.r).flat[0])
    return gains


def require_same_spikes(compilation: Compilation, example: torch.Tensor) -> None:
    """See that a module and the graph made of it fire the same spikes and give the same logits, in float64.

    Args:
        compilation: Of a module.
        example: As its ``forward`` takes samples; its first sample is also compared alone.

    Raises:
        UnsupportedError: They do not: the module does what does not show in its operations.
    """
    assert compilation.source.module is not None, "only a module is traced"
    samples = as_samples(example, compilation.source.module.traced.axes)
    # a single sample too, lest what it fires depend on the others
    for part in (samples, samples[:1]):
        _compare(_original(compilation), compilation.source.module.traced.graph, part)


def _original(compilation: Compilation) -> ModuleNetwork:
    source, program = compilation.source.module, compilation.program
    assert source is not None
    return ModuleNetwork(
        source.module,
        program.spiking_names,
        timesteps=program.timesteps,
        repeats=source.traced.axes is Axes.STATIC,
        samples_first=source.traced.axes is Axes.SAMPLES_FIRST,
        layouts=source.traced.layouts,
        shapes={name: source.traced.graph[name].shape for name in source.traced.layouts},
        over_time=source.traced.over_time,
        stepwise=source.traced.stepwise,
        levels=source.traced.levels,
        vectors="input.flatten" in source.traced.graph,
    )


def _compare(original: ModuleNetwork, graph: Graph[nir.NIRNode], samples: Float64Array) -> None:
    """Compare a module with the graph made of it on samples, as :func:`require_same_spikes` says."""
    expected: dict[str, torch.Tensor] = {}
    logits = original.run(samples, lambda name, _current, spikes: expected.update({name: spikes.clone()}))

    def see(name: str, value: torch.Tensor) -> None:
        if name in expected:
            differ = int(torch.count_nonzero(value.reshape(expected[name].shape) != expected[name]))
            if differ:
                raise UnsupportedError(
                    f"{name}: {differ} of {value.numel()} spikes are not the module's on the example; it keeps a "
                    "state, draws random numbers, or treats samples unlike, and its operations do not show that: leave "
                    "it out"
                )

    error = logit_errors(float_interpreter.run(graph, samples, observe=see).numpy(), logits).max()
    if error > LOGIT_TOLERANCE * max(np.abs(logits).max(), 1.0):
        raise UnsupportedError(
            f"{graph.output.name}: a logit differs from the module's by {error:.3g} on the example, though no spike "
            "does; leave out what comes after the classifier"
        )
