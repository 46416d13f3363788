"""Quantization-aware fine-tuning: train a network that computes, at every step, what the compiler would emit.

``prepare`` freezes a quantization plan and returns the network with weights and biases rounded by it as they are used.
Gradients pass the rounding as if it were not there (the straight-through estimator, Bengio et al., arXiv 1308.3432),
and stop at weights beyond the largest mantissa. The checkpoint that ``save`` writes holds the plan, so that the
compiler makes the same integers from it.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import nir
import numpy as np
import numpy.typing as npt
import torch
from spikingjelly.activation_based import neuron
from torch import nn
from torch.nn.utils import parametrize

from resformer.compiler.atomic import write_atomically
from resformer.compiler.export.checkpoint import TIE_SHIFT, quantized_state, tensor_rows, write_rows
from resformer.compiler.frontend.checkpoint import import_model
from resformer.compiler.ir.graph import Graph
from resformer.compiler.ir.primitives import as_layer, bias_of
from resformer.compiler.pipeline import CHECKPOINT
from resformer.compiler.quantize.calibrate import Calibrated, calibrate
from resformer.compiler.quantize.choose import QuantizationConfig, choose_plan
from resformer.compiler.quantize.input_range import input_data
from resformer.compiler.quantize.lower import LayerIntegers, quantize
from resformer.compiler.quantize.plan import QuantizationPlan
from resformer.compiler.quantize.ranges import estimated_ranges, measured_ranges
from resformer.compiler.samples.arrays import as_array, check_samples
from resformer.compiler.target import LOIHI
from resformer.errors import InputError
from resformer.models.checkpoint import SETTINGS, settings
from resformer.models.layers import DSSA, BatchNorm
from resformer.models.spikingresformer import SpikingResformer, patch_counts

Float64Array = npt.NDArray[np.float64]

NEAREST = 0.49
"""How far, in units, a value may lie from the multiple that it is to be rounded to."""
SMALL_FLOATS = (torch.float16, torch.float32)
"""The types that a checkpoint's tensor is stored in if they hold every value exactly; if not, it stays as it is."""


def prepare(
    model: SpikingResformer,
    *,
    bits: int | None = None,
    calibration: npt.NDArray[Any] | torch.Tensor | None = None,
    plan: QuantizationPlan | None = None,
    calibrated: bool = False,
) -> QuantizedSpikingResformer:
    """Make a copy of a network for fine-tuning; its weights and biases are quantized as they are used.

    Batch normalisation is folded with its running statistics, and DSSA's rates are folded too: training no longer
    changes either, and no longer depends on the batch. It may be trained under autocast and
    ``DistributedDataParallel``: in bfloat16 mantissas of up to 9 bits are exact, and a checkpoint holds the integers.

    Args:
        model: The trained network; it is not changed.
        bits: Width of a weight, sign included, 2 to 15, as ``--weight-bits``; 8 if None.
        calibration: Samples to measure currents on, (N, C, H, W) or (N, T, C, H, W), real numbers or pixels of 8 bits;
            None to estimate the currents from the weights.
        plan: Scales, widths and exponents, such as a ``Compilation``'s, in place of ``bits`` and ``calibration``.
        calibrated: Begin from the exponents and integers that calibration chooses for those samples, rather than from
            the integer nearest to each weight. With few bits, this is far nearer to the float network.

    Returns:
        The network in training mode; its parameters have the type of the model's.

    Raises:
        ResformerError: The network or the samples cannot be quantized; the message says what to do.
    """
    if not isinstance(model, SpikingResformer) or isinstance(model, QuantizedSpikingResformer):
        raise InputError(f"model: is a {type(model).__name__}; give a SpikingResformer of float weights")
    graph = import_model(model)
    for float_pass in CHECKPOINT.float_passes:
        graph = float_pass(graph)
    if plan is not None:
        if bits is not None or calibration is not None or calibrated:
            raise InputError("a plan says all that bits and calibration would; give the plan alone")
        return QuantizedSpikingResformer(model, graph, plan)
    start = _chosen(graph, bits, calibration, calibrated)
    return QuantizedSpikingResformer(model, graph, start.plan, start.rounded)


def _chosen(
    graph: Graph[nir.NIRNode],
    bits: int | None,
    calibration: npt.NDArray[Any] | torch.Tensor | None,
    calibrated: bool,
) -> Calibrated:
    """Scales, widths and exponents as the compiler chooses them, and integers where they are not the nearest."""
    config = QuantizationConfig(weight_bits=bits)
    if calibration is None:
        if calibrated:
            raise InputError("calibrated: there is nothing to calibrate on; give samples as calibration")
        return Calibrated(choose_plan(graph, estimated_ranges(graph), config, measured=False), {})
    samples = check_samples(as_array(calibration, "calibration"), graph, "calibration").real()
    seen = input_data(samples, "the calibration data")
    plan = choose_plan(graph, measured_ranges(graph, samples), config, measured=True, seen=seen)
    return calibrate(graph, samples, plan) if calibrated else Calibrated(plan, {})


class QuantizedSpikingResformer(SpikingResformer):
    """A SpikingResformer that rounds its input, weights and biases by a plan as it uses them; ``prepare`` makes one.

    What it computes in float64 is what the compiled program computes, spike for spike, wherever
    ``Program.is_dyadic`` holds; in float32 it is as near as float32 comes. Train it as any network of SpikingJelly.

    Attributes:
        plan: The quantization plan, which is frozen.
    """

    def __init__(
        self,
        model: SpikingResformer,
        graph: Graph[nir.NIRNode],
        plan: QuantizationPlan,
        rounded: Mapping[str, LayerIntegers] | None = None,
    ) -> None:
        super().__init__(**_built_as(model))
        self.plan = plan
        self._input = graph.input.name
        self._fixed: dict[str, torch.Tensor] = {}
        """Tensors that training never changes: idle normalisations, and DSSA's rates, which make its scales one."""
        patches = patch_counts(model.architecture, model.image_size, model.feature_rounding)
        state = quantized_state(quantize(graph, plan, ties=False), neuron=model.architecture.neuron, patches=patches)
        state |= {name: tensor for name, tensor in model.state_dict().items() if name.endswith(".w")}
        self.double()
        self.load_state_dict(state)
        self._quantize(graph, rounded or {})
        trained = {name for name, _ in self.export_tensors()}
        self._fixed = {name: tensor for name, tensor in state.items() if name not in trained}
        first = next(model.parameters())
        self.to(first.device, first.dtype)
        self.train()

    def _quantize(self, graph: Graph[nir.NIRNode], rounded: Mapping[str, LayerIntegers]) -> None:
        """Put the graph's own weights and biases in place, to be rounded as they are used.

        A value that is to be rounded to another multiple than its nearest moves until that one is the nearest.
        """
        values: dict[str, Float64Array] = {}
        units: dict[str, Float64Array] = {}
        limits: dict[str, Float64Array] = {}
        for name, place in tensor_rows(graph).items():
            node, layer = graph[name], self.plan.layers[name]
            op = as_layer(node.op)
            exps = np.array(layer.weight_exp, dtype=np.float64) - self.plan.weight_unit_exp(node)
            shape = (len(op.weight), *(1,) * (op.weight.ndim - 1))
            unit = np.broadcast_to(2.0 ** exps.reshape(-1, *shape[1:]), shape)
            weight = _moved(op.weight, rounded[name].weight, unit) if name in rounded else op.weight
            write_rows(values, place.weight, place, weight)
            write_rows(units, place.weight, place, unit)
            write_rows(limits, place.weight, place, np.full(shape, float(layer.mantissa_max)))
            if place.bias is not None:
                step = 2.0 ** -self.plan.scale_exps[name]
                bias = _moved(bias_of(op), rounded[name].bias, step) if name in rounded else bias_of(op)
                write_rows(values, place.bias, place, bias)
                write_rows(units, place.bias, place, np.full(shape[0], step))
                write_rows(limits, place.bias, place, np.full(shape[0], float(LOIHI.graded_max)))
        for module in self.modules():
            if isinstance(module, BatchNorm):
                module.bn = _Bias(module.bn.num_features)  # type: ignore[assignment]
        for name, value in values.items():
            owner, _, parameter = name.rpartition(".")
            module = self.get_submodule(owner)
            with torch.no_grad():
                module.get_parameter(parameter).copy_(torch.from_numpy(np.array(value)))
            rounding = FakeQuantization(units[name], limits[name], TIE_SHIFT if parameter == "bias" else 0.0)
            parametrize.register_parametrization(module, parameter, rounding)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits of every step, (T, N, classes), of samples that are rounded as the program's are.

        Args:
            x: Images (N, C, H, W), each presented T times, or event frames (N, T, C, H, W).

        Raises:
            InputError: x has another shape than the network was built for.
        """
        unit, high = 2.0 ** -self.plan.scale_exps[self._input], self.plan.input_high
        return super().forward(torch.round(x / unit).clamp(-high, high) * unit)

    def train(self, mode: bool = True) -> QuantizedSpikingResformer:
        """Set the mode of the neurons, which have gradients only in training mode; DSSA's rates stay as they are."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, DSSA):
                module.training = False
        return self

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> QuantizedSpikingResformer:
        """Convert as any module does, but keep DSSA's rates exact for the new type: 1/49 in float32 is not 1/49."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, value in self._fixed.items():
            if ".firing_rate_" in name:
                self.get_buffer(name).copy_(value)
        return self

    def export_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The tensors that training changes, by the authors' names: rounded weights and biases, and neurons' decays."""
        for name, module in self.named_modules():
            if parametrize.is_parametrized(module):
                for parameter in ("weight", "bias"):
                    if parametrize.is_parametrized(module, parameter):
                        yield f"{name}.{parameter}", getattr(module, parameter).detach()
            elif isinstance(module, neuron.ParametricLIFNode):
                yield f"{name}.w", module.w.detach()

    def export(self) -> SpikingResformer:
        """The network as it is now, as an ordinary network in float64 and eval mode that the authors' code can load.

        Given samples that are already rounded, it computes what this network does.
        """
        exact = copy.deepcopy(self).cpu().double()
        plain = SpikingResformer(**_built_as(self)).double()
        plain.load_state_dict(exact._fixed | dict(exact.export_tensors()))
        return plain.eval()

    def save(self, path: str | Path) -> None:
        """Write a checkpoint from which the compiler makes the same integers.

        It is an ordinary checkpoint of what ``export`` returns, with the plan added. Each tensor has the smallest type
        that holds it exactly. The file appears whole or not at all.

        Raises:
            OSError: The file cannot be written.
        """
        content = {
            "model": {name: _compact(tensor) for name, tensor in self.export().state_dict().items()},
            "timesteps": self.timesteps,
            "image_size": self.image_size,
            "quantization": self.plan.to_text(),
            SETTINGS: settings(self),
        }
        # through memory: torch.save reports a full disk as an internal error
        buffer = io.BytesIO()
        torch.save(content, buffer)
        write_atomically(Path(path), lambda file: file.write(buffer.getbuffer()))


def _moved(value: Float64Array, multiple: npt.NDArray[Any], unit: Float64Array | float) -> Float64Array:
    """The value, moved as little as needed so that it rounds to a given multiple of the unit."""
    moved: Float64Array = np.clip(value, (multiple - NEAREST) * unit, (multiple + NEAREST) * unit)
    return moved


def _built_as(model: SpikingResformer) -> dict[str, Any]:
    """The arguments that make another network like this one."""
    return {
        "architecture": model.architecture,
        "timesteps": model.timesteps,
        "image_size": model.image_size,
        "feature_rounding": model.feature_rounding,
        "assumptions": model.assumptions,
    }


class FakeQuantization(nn.Module):
    """Rounds a parameter to multiples of a unit as it is used; the gradient passes where the value is not clipped.

    Args:
        unit: The unit whose multiples the parameter is rounded to, broadcast against the parameter.
        limit: The largest multiple, broadcast against the parameter.
        shift: Subtracted from the result, so that ties between potential and threshold are decided as on Loihi.
    """

    unit: torch.Tensor
    limit: torch.Tensor

    def __init__(self, unit: Float64Array, limit: Float64Array, shift: float) -> None:
        super().__init__()
        self.register_buffer("unit", torch.from_numpy(np.array(unit)))
        self.register_buffer("limit", torch.from_numpy(np.array(limit)))
        self.shift = shift

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """The rounded parameter."""
        multiple = torch.clamp(value / self.unit, -self.limit, self.limit)
        rounded: torch.Tensor = _StraightThroughRound.apply(multiple)  # type: ignore[no-untyped-call]
        return rounded * self.unit - self.shift


class _StraightThroughRound(torch.autograd.Function):
    """Rounds, ties to even; the gradient is that of the identity."""

    @staticmethod
    def forward(_ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.round(x)

    @staticmethod
    def backward(_ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


class _Bias(nn.Module):
    """What is left of a folded batch normalisation: a bias for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x, (N, C, H, W), plus the bias, in the type of x."""
        return x + self.bias[:, None, None].to(x.dtype)


def _compact(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in the smallest type that holds it exactly."""
    if tensor.is_floating_point():
        for dtype in SMALL_FLOATS:
            if torch.equal(tensor.to(dtype).to(tensor.dtype), tensor):
                return tensor.to(dtype)
    return tensor
