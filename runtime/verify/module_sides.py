"""The sides of a module in memory: the module, the graph made from it, and the quantized module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import nir
import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from resformer.compiler.export.checkpoint import inexact_module_terms, weight_factor
from resformer.compiler.frontend.module.importer import Traced, as_samples
from resformer.compiler.frontend.module.neurons import neurons
from resformer.compiler.frontend.module.values import Axes
from resformer.compiler.ir import float_interpreter
from resformer.compiler.ir.graph import Graph
from resformer.compiler.ir.primitives import INSIDE, POOL_AREA, as_neurons, collapse, inside, spread_of
from resformer.compiler.ir.program import Program, layer_names
from resformer.compiler.pipeline import MODULE, Compilation
from resformer.errors import UnsupportedError
from resformer.runtime.verify.checks import Sides, logit_errors
from resformer.runtime.verify.graphs import float_graphs
from resformer.runtime.verify.torch_network import ModuleNetwork

Float64Array = npt.NDArray[np.float64]

LOGIT_TOLERANCE = 1e-9
"""The relative tolerance of logits: sums in another order differ in their last bits."""


def module_sides(compilation: Compilation, quantized_state: Mapping[str, torch.Tensor]) -> Sides:
    """The sides that verifying a module in memory compares.

    Args:
        compilation: The compilation of the module.
        quantized_state: The state dict of the quantized module.
    """
    assert compilation.source.module is not None, "only a module has these sides"
    traced = compilation.source.module.traced
    original = _original(compilation)
    quantized = original.copy()
    quantized.model.load_state_dict(quantized_state)
    sides = with_module_facts(
        Sides(compilation.program, float_graphs(traced.graph, MODULE.float_passes), original, quantized),
        traced.graph,
        compilation.folded,
        compilation.quantized,
    )
    return replace(sides, gains=gains(traced.graph, compilation.folded, original))


def with_module_facts(
    sides: Sides, imported: Graph[nir.NIRNode], folded: Graph[nir.NIRNode], integers: Program
) -> Sides:
    """Sides completed with how the program's layers differ from those of the module that it was made from.

    Args:
        sides: The sides of a module.
        imported: The float graph before all passes.
        folded: The float graph after all float passes.
        integers: The program, scheduled or not.
    """
    layers = layer_names(integers)
    return replace(
        sides,
        inexact=inexact_module_terms(integers, folded, imported),
        weight_factors={name: weight_factor(integers, folded, imported, name) for name in layers},
        kernels={name: inside(folded[name].op) for name in layers if INSIDE in folded[name].op.metadata},
        spreads={name: each for name in layers if (each := spread_of(folded[name].op)) is not None},
    )


def gains(imported: Graph[nir.NIRNode], folded: Graph[nir.NIRNode], network: ModuleNetwork) -> dict[str, float]:
    """By population, its gain in the compiled graph over its gain in the module, whose code may scale the input itself.

    For a population that reads a sum in place of the module's mean, the ratio is divided by the pool's area.
    """
    gains = {}
    for name, node in network.neurons.items():
        op = imported[name].op
        if isinstance(op, nir.LIF | nir.IF):
            own = neurons(name, node, imported[name].shape)
            gains[name] = float(collapse(op.r).flat[0] / collapse(own.r).flat[0])
    for call in network.levels:
        if call is not None and call.threshold is not None:
            gains[call.name] = call.threshold / float(collapse(as_neurons(imported[call.name].op).v_threshold).flat[0])
    return {name: gain / int(folded[name].op.metadata.get(POOL_AREA, 1)) for name, gain in gains.items()}


def require_same_spikes(compilation: Compilation, example: torch.Tensor) -> None:
    """See that a module and the graph made from it fire the same spikes and give the same logits, in float64.

    Args:
        compilation: The compilation of the module.
        example: Samples as the module's ``forward`` takes them; the first sample is also compared alone.

    Raises:
        UnsupportedError: Spikes or logits differ: the module does something that its traced operations do not show.
    """
    assert compilation.source.module is not None, "only a module is traced"
    traced = compilation.source.module.traced
    samples = as_samples(example, traced.axes, traced.sample_axes)
    # a single sample too, since its spikes must not depend on the other samples
    for part in (samples, samples[:1]):
        _compare(_original(compilation), traced.graph, part)


def _original(compilation: Compilation) -> ModuleNetwork:
    source = compilation.source.module
    assert source is not None
    return traced_network(source.module, source.traced, compilation.program)


def traced_network(module: nn.Module, traced: Traced, program: Program, *, source: str = "module") -> ModuleNetwork:
    """A module as a network whose populations can be observed, under the program's names.

    Args:
        module: In float64 and eval mode; it is not copied.
        traced: The result of tracing the module, or another module of its class.
        program: The module's program.
        source: The kind of source that the network came from, as messages name it.
    """
    return ModuleNetwork(
        module,
        program.spiking_names,
        timesteps=program.timesteps,
        repeats=traced.axes is Axes.STATIC,
        samples_first=traced.axes is Axes.SAMPLES_FIRST,
        layouts=traced.layouts,
        shapes={name: traced.graph[name].shape for name in traced.layouts},
        over_time=traced.over_time,
        stepwise=traced.stepwise,
        alone=traced.alone,
        levels=traced.levels,
        vectors=traced.sample_axes == 1,
        rows=traced.sample_axes == 2,
        source=source,
    )


def _compare(original: ModuleNetwork, graph: Graph[nir.NIRNode], samples: Float64Array) -> None:
    """Compare a module with the graph made from it on samples, as :func:`require_same_spikes` says."""
    expected: dict[str, torch.Tensor] = {}
    logits = original.run(samples, lambda name, _current, spikes: expected.update({name: spikes.clone()}))

    def see(name: str, value: torch.Tensor) -> None:
        if name in expected:
            differ = int(torch.count_nonzero(value.reshape(expected[name].shape) != expected[name]))
            if differ:
                raise UnsupportedError(
                    f"{name}: {differ} of {value.numel()} spikes are not the module's on the example; it keeps a "
                    "state, draws random numbers, or treats samples unlike, and its operations do not show that: leave "
                    "it out; if it does none of these, the compiler misread it: please report it"
                )

    error = logit_errors(float_interpreter.run(graph, samples, observe=see).numpy(), logits).max()
    if error > LOGIT_TOLERANCE * max(np.abs(logits).max(), 1.0):
        raise UnsupportedError(
            f"{graph.output.name}: a logit differs from the module's by {error:.3g} on the example, though no spike "
            "does; leave out random numbers, and what comes after the classifier; if there are none, the compiler "
            "misread the module: please report it"
        )
