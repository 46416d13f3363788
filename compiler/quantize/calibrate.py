"""Post-training quantization that looks at data: exponents, mantissas and biases by the error of each layer's output.

Calibration samples run through the float network. Each layer with weights is rounded for what it reads there, so that
the current that it sends has the least error; then its bias makes up for the mean of that error. Recurrent synapses
read the spikes that their population fired one step ago. No layer makes up for another layer's error:
``resformer-verify --local`` measures each layer by the same rule. docs/numerics.md has the formulas.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import nir
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from resformer.compiler.ir import float_interpreter
from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.ir.primitives import Layer, RecurrentCubaLIF, as_layer, as_weighted, bias_of, window_of
from resformer.compiler.progress import Progress
from resformer.compiler.quantize.lower import LayerIntegers
from resformer.compiler.quantize.plan import CONVOLUTIONAL, WEIGHTED, LayerPlan, QuantizationPlan
from resformer.compiler.quantize.rounding import round_together

VALUES = 2**26
"""The most values of one node that are held at once: 256 MiB in single precision; further samples are left out."""
ROWS = 2**15
"""The most positions at which a layer's input is looked at; of more positions, a fixed random choice is taken."""
TAPS = 2**25
"""The number of taps that are gathered at once."""
HALVINGS = 2
"""How often a step that a plan chose may be halved if that loses less of the output."""
SEARCHED_BITS = 4
"""The largest width, in bits, for which halving a step is tried; at larger widths it never lost less."""


@dataclass(frozen=True)
class CalibrationSteps:
    """The steps of calibration to take: all, unless the effect of single steps is measured.

    Attributes:
        search: Try smaller exponents than the plan's.
        correct_bias: Correct each bias by the mean error of its channel's current.
        second_order: Round a channel's weights together rather than each to its nearest.
    """

    search: bool = True
    correct_bias: bool = True
    second_order: bool = True


@dataclass(frozen=True)
class Calibrated:
    """The result of calibration.

    Attributes:
        plan: The plan, with the exponents that calibration chose.
        rounded: The integers of every layer with weights.
    """

    plan: QuantizationPlan
    rounded: Mapping[str, LayerIntegers]


def calibrate(
    graph: Graph[nir.NIRNode],
    samples: npt.NDArray[np.floating[Any]],
    plan: QuantizationPlan,
    steps: CalibrationSteps | None = None,
    progress: Progress | None = None,
    *,
    per_channel: bool = True,
) -> Calibrated:
    """Round the weights and biases of every layer for what the layer reads.

    Args:
        graph: A float graph after all float passes.
        samples: (N, C, H, W) or (N, T, C, H, W), as the network expects them.
        plan: Scales, widths, and the largest exponents to try.
        steps: The steps to take; None for all.
        progress: Called for each layer.
        per_channel: Choose an exponent for each output channel, rather than one for each layer.
    """
    return _Calibration(graph, plan, steps or CalibrationSteps(), per_channel=per_channel).run(samples, progress)


def _affordable(graph: Graph[nir.NIRNode], samples: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The samples, or an even choice among them if memory should not hold all."""
    count = max(VALUES // (graph.timesteps * max(math.prod(node.shape) for node in graph)), 1)
    if count >= len(samples):
        return samples
    return samples[np.linspace(0, len(samples) - 1, count).round().astype(np.int64)]


@dataclass(frozen=True, eq=False)
class Moments:
    """Moments of what a layer reads, x, with a last tap of ones for its bias, and of the current that it sends.

    Attributes:
        gram: (G, D + 1, D + 1), the mean of x x^T.
        target: (G, C), the mean of the current that the layer sends in the float network.
    """

    gram: torch.Tensor
    target: torch.Tensor

    @property
    def mean(self) -> torch.Tensor:
        """The mean of x, (G, D + 1)."""
        return self.gram[:, -1]


class _Calibration:
    """The rounding of one network's layers, as the samples pass."""

    def __init__(
        self, graph: Graph[nir.NIRNode], plan: QuantizationPlan, steps: CalibrationSteps, *, per_channel: bool
    ) -> None:
        self.graph = graph
        self.plan = plan
        self.steps = steps
        self.per_channel = per_channel

    @torch.no_grad()
    def run(self, samples: npt.NDArray[Any], progress: Progress | None) -> Calibrated:
        """Round layer by layer, in topological order."""
        layers, rounded = dict(self.plan.layers), {}
        for node, seen in moments(self.graph, samples, self.plan):
            layers[node.name], rounded[node.name] = self._round(node, seen)
            if progress is not None:
                progress(f"calibrating {node.name}", len(rounded), len(layers))
        return Calibrated(replace(self.plan, layers=layers), rounded)

    def _round(self, node: Node[nir.NIRNode], seen: Moments) -> tuple[LayerPlan, LayerIntegers]:
        """Mantissas, exponents and biases of one layer."""
        plan, unit_exp = self.plan.layers[node.name], self.plan.weight_unit_exp(node)
        groups, outputs = seen.target.shape
        layer = as_weighted(node.op)
        weight = torch.from_numpy(layer.weight.astype(np.float64)).reshape(groups, outputs, -1)
        bias_step = 2.0 ** -self.plan.current_exp(node)
        bias = torch.from_numpy(np.asarray(bias_of(layer)))
        wanted = torch.cat([weight, bias.reshape(groups, outputs, 1)], dim=2)
        exponents = torch.tensor(plan.weight_exp).expand(groups * outputs).reshape(groups, outputs)
        searched = self.steps.search and isinstance(node.op, CONVOLUTIONAL) and plan.bits <= SEARCHED_BITS
        tries = HALVINGS + 1 if searched else 1
        candidates = torch.stack([(exponents - each).clamp_min(0) for each in range(tries)])  # (tries, G, C)
        step = (2.0 ** (candidates.double() - unit_exp))[..., None]
        largest = torch.full((wanted.shape[2],), float(plan.mantissa_max), dtype=torch.float64)
        largest[-1] = 0.0 if isinstance(layer, nir.Linear) else math.inf
        steps = torch.cat([step.expand(tries, groups, outputs, weight.shape[2]), torch.full_like(step, bias_step)], 3)
        multiples = self._multiples(wanted, steps, largest, seen)
        error = multiples * steps - wanted
        if not self.steps.second_order and not self.steps.correct_bias:
            error[..., -1] = 0.0
        loss = ((error @ seen.gram) * error).sum(3)  # (tries, G, C)
        if not self.per_channel:
            loss = loss.sum((1, 2), keepdim=True).expand_as(loss)
        best = loss.argmin(0)
        index = best[None, :, :, None]
        multiples = multiples.gather(0, index.expand(1, *multiples.shape[1:]))[0]
        exponents = candidates.gather(0, best[None])[0].flatten()
        chosen = exponents.tolist() if isinstance(node.op, CONVOLUTIONAL) else list(plan.weight_exp)
        mantissa = multiples[:, :, :-1].reshape(layer.weight.shape).numpy().astype(plan.mantissa_dtype)
        return replace(plan, weight_exp=tuple(chosen)), LayerIntegers(mantissa, multiples[:, :, -1].flatten().numpy())

    def _multiples(
        self, wanted: torch.Tensor, steps: torch.Tensor, largest: torch.Tensor, seen: Moments
    ) -> torch.Tensor:
        """The whole multiples of each candidate's steps, (tries, G, C, D + 1), the bias last."""
        tries, groups, outputs, taps = steps.shape
        repeated = wanted.expand(tries, -1, -1, -1)
        if self.steps.second_order:
            # each candidate is treated as a further output of the same input
            values, units = (each.transpose(0, 1).reshape(groups, tries * outputs, taps) for each in (repeated, steps))
            rounded = round_together(values, units, largest, seen.gram)
            multiples = rounded.reshape(groups, tries, outputs, taps).transpose(0, 1).contiguous()
        else:
            multiples = torch.minimum(torch.maximum((repeated / steps).round(), -largest), largest)
        if self.steps.correct_bias and largest[-1]:
            sent = torch.einsum("kgcd,gd->kgc", multiples * steps, seen.mean)
            multiples[..., -1] += ((seen.target - sent) / steps[..., -1]).round()
        return multiples


@torch.no_grad()
def moments(
    graph: Graph[nir.NIRNode], samples: npt.NDArray[Any], plan: QuantizationPlan
) -> Iterator[tuple[Node[nir.NIRNode], Moments]]:
    """The moments of what each layer reads and sends as samples run through the float network, in topological order.

    Args:
        graph: A float graph after all float passes.
        samples: (N, C, H, W) or (N, T, C, H, W); if memory should not hold all of them, some are left out.
        plan: The plan that has the scale of the input; the input is rounded before layers read it.
    """
    scale, high = 2.0 ** plan.scale_exps[graph.input.name], plan.input_high
    repeats = samples.ndim == len(graph.input.shape) + 1  # the same frame in each step
    for node, inputs, output in float_interpreter.trace(graph, _affordable(graph, samples), dtype=torch.float32):
        if isinstance(node.op, RecurrentCubaLIF):
            synapses, source = node.op.synapses(), float_interpreter.step_ago(output)
            yield node, _moments(synapses, source, float_interpreter.evaluate(synapses, source))
        elif isinstance(node.op, WEIGHTED):
            layer = as_layer(node.op)
            if node.inputs[0] == graph.input.name:
                frames = slice(1 if repeats else None)
                source = (inputs[0][frames] * scale).round().clamp(-high, high) / scale
                yield node, _moments(layer, source, output[frames])
            else:
                yield node, _moments(layer, inputs[0], output)


def _moments(op: Layer, source: torch.Tensor, sent: torch.Tensor) -> Moments:
    """The moments of what a layer reads and sends, (T, N, ...) each, over a choice of positions."""
    outputs = sent.flatten(0, 1).flatten(2).transpose(1, 2) if sent.dim() == 5 else sent.flatten(0, 1)[:, None]
    positions = outputs.shape[0] * outputs.shape[1]
    chosen = np.random.default_rng(0).choice(positions, min(positions, ROWS), replace=False)
    chosen.sort()
    rows = torch.from_numpy(chosen)
    groups, width = (int(op.groups) if isinstance(op, nir.Conv2d) else 1), math.prod(op.weight.shape[1:]) + 1
    gram = torch.zeros(groups, width, width, dtype=torch.float64)
    for taps in _taps(op, source, rows):
        extended = torch.cat([taps, torch.ones_like(taps[:, :, :1])], dim=2)
        gram += extended.transpose(1, 2) @ extended
    mean = outputs[rows // outputs.shape[1], rows % outputs.shape[1]].double().mean(0)
    return Moments(gram / len(rows), mean.reshape(groups, -1))


def _taps(op: Layer, source: torch.Tensor, chosen: torch.Tensor) -> Iterator[torch.Tensor]:
    """What a layer reads at the chosen positions of its output, in parts of (G, positions, taps)."""
    merged = source.flatten(0, 1)
    if not isinstance(op, nir.Conv2d):
        yield merged[chosen][None]
        return
    window, groups = window_of(op), int(op.groups)
    pad_rows, pad_columns = window.padding
    padded = F.pad(merged, (pad_columns, pad_columns, pad_rows, pad_rows))
    targets = window.targets(tuple(merged.shape[2:]))
    # positions in the padded image that targets read: (rows, K_h) and (columns, K_w)
    rows, columns = (
        torch.from_numpy(window.reads(axis, count) + window.padding[axis]) for axis, count in enumerate(targets)
    )
    for part in torch.split(chosen, max(TAPS // (merged.shape[1] * window.area), 1)):
        frame, position = part // math.prod(targets), part % math.prod(targets)
        read_rows, read_columns = rows[position // targets[1]], columns[position % targets[1]]
        taps = [
            padded[frame, :, read_rows[:, row], read_columns[:, column]] for row, column in np.ndindex(window.kernel)
        ]
        yield torch.stack(taps, dim=2).reshape(len(part), groups, -1).transpose(0, 1)
