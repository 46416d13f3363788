"""The plan of a quantization: scales, widths and exponents, as one value that can be kept.

Each current domain (the current of one convolution, or of several that meet in a sum) gets a scale S = 2^k; the
integer a stands for a / S. A weight that reads spikes is m * 2^e / S with an m of ``bits`` bits and 0 <= e; if its
input has a scale too, S is divided by that. docs/numerics.md derives each rule; ``choose`` makes a plan, and ``lower``
applies it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import nir
import numpy as np

from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.ir.messages import message_names, names_before_neurons
from resformer.compiler.ir.primitives import (
    NEURONS,
    Add,
    DiscreteCubaLI,
    RecurrentCubaLIF,
    SpikeAttention,
    SpikeGate,
    as_neurons,
    as_weighted,
    collapse,
)
from resformer.compiler.ir.storage import OUTLIER_BITS, mantissa_max
from resformer.compiler.target import LOIHI
from resformer.errors import FileFormatError, UnsupportedError

PLAN_VERSION = 1
"""The format version of a plan in a checkpoint."""
MIN_WEIGHT_BITS = 2
"""A sign and one bit."""
SCALE_EXP_MAX = 13
"""Exponent of the finest scale: at 2^13, currents may reach 16 thresholds, twice what trained residual streams did."""
READOUT_SCALE_EXP_MAX = 12
"""Exponent of the finest scale of the classifier's weights, on which no spike depends."""


@dataclass(frozen=True)
class LayerPlan:
    """How one layer's weights are stored.

    Attributes:
        bits: Width of a mantissa, sign included.
        weight_exp: An exponent for each output channel of a convolution; a single one for a linear layer.
    """

    bits: int
    weight_exp: tuple[int, ...]

    @property
    def mantissa_max(self) -> int:
        """The largest magnitude of a mantissa."""
        return mantissa_max(self.bits)

    @property
    def mantissa_dtype(self) -> np.dtype[np.int8 | np.int16]:
        """The type that holds a mantissa."""
        return np.dtype(np.int8) if self.bits <= LOIHI.weight_bits_max else np.dtype(np.int16)


@dataclass(frozen=True)
class QuantizationPlan:
    """All that quantizing chooses; with it, every integer follows from the weights alone.

    Attributes:
        input_high: The input's integers lie within plus and minus this.
        scale_exps: k of every node's output: its integer a stands for the real number a / 2^k.
        layers: The plan of every node with weights.
    """

    input_high: int
    scale_exps: Mapping[str, int]
    layers: Mapping[str, LayerPlan]

    def current_exp(self, node: Node[Any]) -> int:
        """k of the current that a layer's weights and biases add to."""
        return current_exp(self.scale_exps, node)

    def weight_unit_exp(self, node: Node[Any]) -> int:
        """u, such that a weight w of a layer is w * 2^u of its finest units: k of its current less k of its input."""
        return weight_unit_exp(self.scale_exps, node)

    def check_fits(self, graph: Graph[nir.NIRNode]) -> None:
        """Check that the plan belongs to this network.

        Raises:
            FileFormatError: It has other nodes or other channels, or a width, exponent or scale that is out of range.
        """
        weighted = {node.name: as_weighted(node.op).weight for node in graph if isinstance(node.op, WEIGHTED)}
        for what, planned, present in (
            ("node", self.scale_exps.keys(), graph.by_name.keys()),
            ("layer with weights", self.layers.keys(), weighted.keys()),
        ):
            if planned != present:
                name = min(planned ^ present)
                raise FileFormatError(
                    f"{name}: a {what} of the {'network' if name in present else 'plan'} alone, so the quantization "
                    "plan was made for another network; prepare this one again"
                )
        for name, layer in self.layers.items():
            channels = len(weighted[name]) if isinstance(graph[name].op, CONVOLUTIONAL) else 1
            if len(layer.weight_exp) != channels:
                raise FileFormatError(
                    f"{name}: the quantization plan holds {len(layer.weight_exp)} exponents for {channels} channels; "
                    "prepare this network again"
                )
        self._check_layers(graph)
        self._check_scales(graph)

    def _check_layers(self, graph: Graph[nir.NIRNode]) -> None:
        """Refuse widths and exponents that no synapse holds."""
        for name, layer in self.layers.items():
            widest = bits_max(graph[name])
            if not MIN_WEIGHT_BITS <= layer.bits <= widest:
                raise _out_of_range(name, f"{layer.bits} bits", f"{MIN_WEIGHT_BITS} to {widest}")
            for exp in layer.weight_exp:
                if not 0 <= exp <= weight_exp_max(layer.bits):
                    raise _out_of_range(name, f"weight exponent {exp}", f"0 to {weight_exp_max(layer.bits)}")

    def _check_scales(self, graph: Graph[nir.NIRNode]) -> None:
        """Refuse scales with which integers would be misread or would leave their formats."""
        if not 1 <= self.input_high <= LOIHI.graded_max:
            raise _out_of_range(graph.input.name, f"largest integer {self.input_high}", f"1 to {LOIHI.graded_max}")
        pooled = names_before_neurons(graph) - message_names(graph)
        for node in graph:
            exp = self.scale_exps[node.name]
            sources = [self.scale_exps[source] for source in node.inputs]
            match node.op:
                case nir.Input():
                    least, most = 0, SCALE_EXP_MAX
                case nir.Conv2d():
                    least, most = sources[0], SCALE_EXP_MAX
                case nir.Linear() | nir.Affine():
                    least, most = sources[0], sources[0] + READOUT_SCALE_EXP_MAX
                case nir.Flatten():
                    least, most = -SCALE_EXP_MAX, sources[0]
                case nir.SumPool2d() if node.name in pooled:
                    least, most = -SCALE_EXP_MAX, sources[0]
                case Add():
                    least, most = max(sources), min(sources)
                case _ if isinstance(node.op, NEURONS):
                    least = most = 0
                    largest = float(np.max(collapse(as_neurons(node.op).v_threshold)))
                    limit = floor_log2(LOIHI.vth_mantissa_max / max(largest, 1e-9))
                    if sources[0] > limit:
                        raise _out_of_range(node.inputs[0], f"scale 2^{sources[0]}", f"up to 2^{limit}")
                case SpikeAttention(shift=shift):
                    least, most = shift, SCALE_EXP_MAX
                case SpikeGate():
                    least = most = 0
                case DiscreteCubaLI():
                    least = most = sources[0] + LOIHI.a_shift
                case _:
                    least = most = sources[0]
            if not least <= exp <= most:
                raise _out_of_range(node.name, f"scale 2^{exp}", f"2^{least} to 2^{most}")

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON can hold it."""
        return {
            "input_high": self.input_high,
            "scale_exps": dict(self.scale_exps),
            "layers": {
                name: {"bits": layer.bits, "weight_exp": list(layer.weight_exp)} for name, layer in self.layers.items()
            },
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> QuantizationPlan:
        """Read what :meth:`to_json` made.

        Raises:
            FileFormatError: The content is something else.
        """
        try:
            return cls(
                _whole(content["input_high"]),
                {name: _whole(exp) for name, exp in content["scale_exps"].items()},
                {
                    name: LayerPlan(_whole(layer["bits"]), tuple(map(_whole, layer["weight_exp"])))
                    for name, layer in content["layers"].items()
                },
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FileFormatError(f"quantization plan: damaged ({error!r}); prepare the network again") from error

    def to_text(self) -> str:
        """The plan as a checkpoint keeps it: JSON, with the version of the format."""
        return json.dumps({"format_version": PLAN_VERSION, **self.to_json()}, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> QuantizationPlan:
        """Read what :meth:`to_text` made.

        Raises:
            FileFormatError: The text is something else, or has another format version.
        """
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise FileFormatError(f"quantization plan: damaged ({error}); prepare the network again") from error
        version = content.get("format_version") if isinstance(content, dict) else None
        if version != PLAN_VERSION:
            raise FileFormatError(
                f"quantization plan: format version {version!r}, this resformer reads {PLAN_VERSION}; "
                "prepare the network again"
            )
        return cls.from_json(content)


CONVOLUTIONAL: tuple[type[nir.NIRNode], ...] = (nir.Conv2d, RecurrentCubaLIF)
"""The nodes that have an exponent for each output channel."""
WEIGHTED: tuple[type[nir.NIRNode], ...] = (*CONVOLUTIONAL, nir.Linear, nir.Affine)
"""The nodes that have weights at the float level, once all float passes have run."""


def _out_of_range(name: str, value: str, limits: str) -> FileFormatError:
    return FileFormatError(
        f"{name}: the quantization plan gives it the {value}, where {limits} would do; prepare the network again"
    )


def _whole(value: object) -> int:
    """Return a value that is a whole number.

    Raises:
        TypeError: The value is no whole number.
    """
    if type(value) is not int:
        raise TypeError(f"{value!r} is no whole number")
    return value


def current_exp(scale_exps: Mapping[str, int], node: Node[Any]) -> int:
    """The exponent of ``QuantizationPlan.current_exp``; recurrent synapses add to their neurons' input."""
    return scale_exps[node.inputs[0] if isinstance(node.op, RecurrentCubaLIF) else node.name]


def weight_unit_exp(scale_exps: Mapping[str, int], node: Node[Any]) -> int:
    """The exponent of ``QuantizationPlan.weight_unit_exp``; recurrent synapses read the spikes of their neurons."""
    read = node.name if isinstance(node.op, RecurrentCubaLIF) else node.inputs[0]
    return current_exp(scale_exps, node) - scale_exps[read]


def weight_exp_max(bits: int) -> int:
    """The largest exponent of mantissas of ``bits`` bits; above ``OUTLIER_BITS``, the high synapse's is larger."""
    return LOIHI.weight_exp_max - (bits - LOIHI.weight_bits_max if bits > OUTLIER_BITS else 0)


def bits_max(node: Node[nir.NIRNode]) -> int:
    """The largest width of a layer's weights: only convolutions, recurrent ones included, can be stacked."""
    return LOIHI.stacked_bits_max if isinstance(node.op, CONVOLUTIONAL) else LOIHI.weight_bits_max


def uniform(node: Node[nir.NIRNode], parameter: str) -> float:
    """The single value of a population's parameter.

    Raises:
        UnsupportedError: The parameter varies between neurons.
    """
    values = collapse(getattr(node.op, parameter))
    if np.ptp(values):
        raise UnsupportedError(
            f"{node.name}: {parameter} varies from {values.min():.4g} to {values.max():.4g} within the population; "
            "Loihi's LIF has one value for all its neurons"
        )
    return float(values.flat[0])


def floor_log2(x: float) -> int:
    """The largest whole k for which 2^k is at most x."""
    return math.floor(math.log2(x))
