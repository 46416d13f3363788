"""Programs as ONNX models of standard integer operations: exact, bit for bit, in any runtime that follows ONNX.

Spikes are uint8, weights int8, all other values int32; only the logits are scaled in floating point. Synapses, neurons,
relays, pools and attention's products are model-local functions of the domain ``resformer``: one node each in a viewer.
Delays are left out, since samples do not stream here.

``ConvInteger`` and ``MatMulInteger`` multiply 8-bit integers. Where one side is wider (encoded images, the y of DSSA's
products) functions take it byte by byte: ``Conv2d16`` is a convolution of 16-bit integers. ONNX Runtime has no integer
convolution of more bits, and its 32-bit matrix product is several times slower than three of 8 bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import singledispatchmethod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from resformer.compiler.export.onnx import integer_functions as functions
from resformer.compiler.export.onnx import require
from resformer.compiler.export.onnx.model_writer import DOMAIN, ModelWriter, without_clashes
from resformer.compiler.ir import fixedpoint
from resformer.compiler.ir.bounds import magnitudes
from resformer.compiler.ir.interval import INT32_MAX, largest
from resformer.compiler.ir.ops import (
    LIF,
    Add,
    Conv2d,
    CubaLI,
    CubaLIF,
    Delay,
    Dense,
    Flatten,
    Input,
    MaxPool2d,
    MultiSpikeIF,
    Op,
    Output,
    PromptCubaLIF,
    RecurrentCubaLIF,
    Relay,
    SampleDelay,
    SpikeAttention,
    SpikeGate,
    SpikeMatMul,
    SumPool2d,
)
from resformer.compiler.ir.ops.counts import attention_sizes
from resformer.compiler.ir.program import Program, ProgramNode
from resformer.compiler.ir.window import Window
from resformer.compiler.target import LOIHI
from resformer.errors import RangeError

if TYPE_CHECKING:
    import onnx

LOGITS = "logits"
INTEGER_LOGITS = "logits_int"

WIDTHS = (8, 16, 24)
"""The widths, in bits, of the integers that synapses and products take byte by byte; a graded spike has at most 24."""

COARSER = "choose coarser scales with --weight-bits or --input-scale-exp, or run the simulator instead"
"""The advice of errors that integers are too large for ONNX's types."""


def export_integer(program: Program, *, debug: bool = False, counts: bool = False) -> onnx.ModelProto:
    """A program as an ONNX model.

    Its input is encoded: int32, (N, C, H, W), or (N, T, C, H, W) where the program's metadata say that input comes in
    frames. N is free. Its outputs are ``logits_int`` (N, T, classes), int32, and ``logits``, the float64 numbers that
    they stand for. Nodes and values bear the program's names; the model's metadata hold ``timesteps`` and how to
    encode: an input x is rint(x * 2^``input_scale_exp``), clipped to [``input_low``, ``input_high``].

    Args:
        program: A program with proven ranges.
        debug: Make outputs of every LIF's spikes, (T * N, ...), uint8, and of every relay's, product's and max-pool's
            values, (T * N, ...), int32, under their names; and all outputs that ``counts`` makes.
        counts: For each LIF, relay and product, make an output ``NAME.saturated``, an int64 scalar: the number of
            values that it clipped.

    Raises:
        RangeError: A sum is not proved to fit 32 bits, or a value that synapses read is not proved to fit 24.
        UnsupportedError: With ``debug``, an output would have a name that the model needs itself.
        BackendMissingError: onnx is not installed.
    """
    require("onnx")

    def write(network: Program, originals: Mapping[str, str]) -> _Writer:
        writer = _Writer(network, originals, counted=counts or debug)
        for node in network:
            writer.write(node.op, node)
        return writer

    writer = without_clashes(program, write)
    writer.output(INTEGER_LOGITS)
    writer.output(LOGITS)
    for node in writer.graph:
        if debug and node.op.recorded:
            writer.record(node)
    for name in writer.counts.values():
        writer.output(name)
    model = writer.model(writer.functions.values())
    signal = program.input.op.signal
    encoding = {"input_scale_exp": signal.scale_exp, "input_low": signal.low, "input_high": signal.high}
    for key, value in encoding.items():
        model.metadata_props.add(key=key, value=str(value))
    return model


def count_name(name: str) -> str:
    """The name of the output that says how many values a node clipped."""
    return f"{name}.saturated"


class _Writer(ModelWriter):
    """Writes a program, with one method for each operation.

    Args:
        program: The network.
        originals: The names that nodes had before they got new ones, by the new names.
        counted: Whether to make outputs of the numbers of clipped values.

    Attributes:
        counts: The names of the outputs of the numbers of clipped values, by node.
        functions: The model-local functions in use, by name.
    """

    def __init__(self, program: Program, originals: Mapping[str, str], *, counted: bool) -> None:
        super().__init__(program, originals)
        self._program = program
        self.counts: dict[str, str] = {}
        self.functions: dict[str, str] = {}
        self._counted = counted
        self._bounds = magnitudes(program)
        self._narrow: set[str] = set()
        """The values that are uint8."""
        self._cast: dict[tuple[str, int], str] = {}

    @singledispatchmethod
    def write(self, op: Op, node: ProgramNode) -> None:
        """Append the ONNX nodes that compute one node of the program."""
        raise AssertionError(f"{node.name}: no ONNX form for {type(op).__name__}")

    @write.register
    def _(self, op: Input, node: ProgramNode) -> None:
        if op.signal.low is None or op.signal.high is None:
            raise RangeError(f"{node.name}: its range is not known, and 32 bits might not hold it; run bound_ranges")
        self.take_samples(node, np.int32)

    @write.register
    def _(self, op: Output, node: ProgramNode) -> None:
        self.by_sample(node, self._int32(node.inputs[0]), INTEGER_LOGITS, np.int32)
        scale = self.constant(f"{node.name}.scale", np.array(2.0**-op.signal.scale_exp / op.divisor))
        bias = self.constant(f"{node.name}.bias", op.bias)
        self.add("Cast", f"{node.name}.real", [INTEGER_LOGITS], to=_element(np.float64))
        self.add("Mul", f"{node.name}.scaled", [f"{node.name}.real", scale])
        self.add("Add", f"{node.name}.logits", [f"{node.name}.scaled", bias], LOGITS)
        self.describe(LOGITS, np.float64, ("N", self.graph.timesteps, *node.shape))

    @write.register
    def _(self, op: Conv2d, node: ProgramNode) -> None:
        source, bits = self.values[node.inputs[0]], 1
        if source not in self._narrow:
            bits = self._width(node, self._bounds[node.inputs[0]].value)
            reach = int(np.abs(fixedpoint.scale_weight(op.weight, op.weight_exp)).sum(axis=(1, 2, 3)).max())
            # lower bytes are never negative, so the higher bytes' sum may exceed the whole sum by what the lower add
            self._check(node, self._bounds[node.name].sums + (reach << (bits - functions.BYTE_BITS)))
        name = functions.convolution_name(bits)
        self.functions[name] = functions.convolution(bits)
        attributes = {
            "domain": DOMAIN,
            "strides": op.stride,
            "pads": op.padding * 2,
            "dilations": op.dilation,
            "group": op.groups,
        }
        weight = self.constant(f"{node.name}.weight", op.weight)
        self._synapses(node, name, [source, weight], op.weight_exp, op.bias, attributes)

    @write.register
    def _(self, op: Dense, node: ProgramNode) -> None:
        weight = self.constant(f"{node.name}.weight", op.weight.T)
        source = self.values[node.inputs[0]]
        exponent = np.array([op.weight_exp], dtype=np.int8)
        if source in self._narrow:
            self._synapses(node, "MatMulInteger", [source, weight], exponent, op.bias, {})
        else:
            # its sums may take all 32 bits, so the sums of single bytes might not fit
            wide = f"{node.name}.weight.int32"
            self.add("Cast", wide, [weight], to=_element(np.int32))
            self._synapses(node, "MatMul", [source, wide], exponent, op.bias, {})

    @write.register
    def _(self, op: SumPool2d, node: ProgramNode) -> None:
        self._pool(node, "SumPool2d", functions.SUM_POOL, op.window)

    @write.register
    def _(self, op: MaxPool2d, node: ProgramNode) -> None:
        self._pool(node, "MaxPool2d", functions.MAX_POOL, op.window)

    @write.register
    def _(self, op: Add, node: ProgramNode) -> None:  # noqa: ARG002
        self._check(node, self._bounds[node.name].sums)
        total, *others = (self._int32(source) for source in node.inputs)
        for index, other in enumerate(others, 1):
            name = node.name if index == len(others) else f"{node.name}.{index}"
            self.add("Add", name, [total, other])
            total = name
        self.made(node, np.int32)

    @write.register
    def _(self, op: Relay, node: ProgramNode) -> None:
        reach = self._bounds[node.inputs[0]].value + largest(op.bias)
        inputs = [self._int32(node.inputs[0]), self._per_channel(f"{node.name}.bias", op.bias, node)]
        if op.shift:
            self._check(node, reach + (1 << op.shift) + functions.LIFT)
            self.functions["CoarseRelay"] = functions.coarse_relay(counted=self._counted)
            self._clipping(node, "CoarseRelay", inputs, np.int32, limit=op.limit, unit=1 << op.shift)
        else:
            self._check(node, reach)
            self.functions["Relay"] = functions.relay(counted=self._counted)
            self._clipping(node, "Relay", inputs, np.int32, limit=op.limit)

    @write.register
    def _(self, op: LIF, node: ProgramNode) -> None:
        bias = fixedpoint.scale_bias(op.bias_mant, op.bias_exp)
        left = Fraction(LOIHI.decay_unity - op.dv, LOIHI.decay_unity)
        attributes = {"timesteps": self.graph.timesteps, "vth": op.vth}
        if op.du != LOIHI.du_no_memory:
            name, function = "CurrentLIF", functions.current_lif
            attributes |= {"keep_u": LOIHI.decay_unity - 1 - op.du, "keep_v": LOIHI.decay_unity - op.dv}
        elif left.numerator * LOIHI.v_max <= INT32_MAX:
            name, function = "LIF", functions.lif
            attributes |= {"keep": left.numerator, "unity": left.denominator}
        else:
            name, function = "PLIF", functions.plif
            attributes |= {"keep": LOIHI.decay_unity - op.dv}
        self._check_current(op, node)
        self.functions[name] = function(counted=self._counted)
        inputs = [self._int32(node.inputs[0]), self._per_channel(f"{node.name}.bias", bias, node)]
        self._clipping(node, name, inputs, np.uint8, **attributes)
        self._narrow.add(node.name)

    @write.register
    def _(self, op: CubaLIF, node: ProgramNode) -> None:
        synapses = op.synapses() if isinstance(op, RecurrentCubaLIF) else None
        parts = op.parts() if isinstance(op, RecurrentCubaLIF) else ()
        feedback = None if synapses is None else functions.Feedback(synapses.padding, synapses.groups, len(parts))
        prompt = isinstance(op, PromptCubaLIF)
        reset = "Prompt" if prompt else "Soft" if op.soft_reset else ""
        name = f"{reset}{'' if feedback is None else feedback.name}CubaLIF"
        self.functions[name] = functions.cuba_lif(
            name, soft_reset=op.soft_reset, prompt=prompt, feedback=feedback, counted=self._counted
        )
        reach = self._bounds[node.inputs[0]].value
        if synapses is not None:
            scaled = fixedpoint.scale_weight(synapses.weight, synapses.weight_exp)
            reach += int(np.abs(scaled).sum(axis=(1, 2, 3)).max())
        self._check(node, (reach << LOIHI.a_shift) + 2 * LOIHI.v_max)
        own = op.parameters()
        values = {
            "keep_u": LOIHI.decay_unity - 1 - own.du,
            "keep_v": LOIHI.decay_unity - own.dv,
            "u_bias": own.u_bias,
            "v_bias": own.v_bias,
            "threshold": own.vth << LOIHI.a_shift,
        }
        if op.soft_reset:
            values["v_drop"] = own.v_drop
        constants = [self.constant(f"{node.name}.{key}", each.astype(np.int32)) for key, each in values.items()]
        for index, part in enumerate(parts):
            scale = fixedpoint.scale_weight(np.ones(len(part.weight), dtype=np.int8), part.weight_exp)
            constants.append(self.constant(f"{node.name}.weight{index}", part.weight))
            constants.append(self._per_channel(f"{node.name}.scale{index}", scale, node))
        inputs = [self._int32(node.inputs[0]), *constants]
        self._clipping(node, name, inputs, np.uint8, timesteps=self.graph.timesteps)
        self._narrow.add(node.name)

    @write.register
    def _(self, op: CubaLI, node: ProgramNode) -> None:
        self.functions["CubaLI"] = functions.cuba_li(counted=self._counted)
        self._check(node, (self._bounds[node.inputs[0]].value << LOIHI.a_shift) + 2 * LOIHI.v_max)
        own = op.parameters()
        values = {
            "keep_u": LOIHI.decay_unity - 1 - own.du,
            "keep_v": LOIHI.decay_unity - own.dv,
            "u_bias": own.u_bias,
        }
        constants = [self.constant(f"{node.name}.{key}", each.astype(np.int32)) for key, each in values.items()]
        inputs = [self._int32(node.inputs[0]), *constants]
        self._clipping(node, "CubaLI", inputs, np.int32, timesteps=self.graph.timesteps)

    @write.register
    def _(self, op: MultiSpikeIF, node: ProgramNode) -> None:
        own = op.parameters()
        leaks = own.dv > 0
        name = f"{type(op).__name__}{own.rounding.name.title()}{'' if leaks else 'Whole'}"
        self.functions[name] = functions.multi_spike(name, rounding=own.rounding, leaks=leaks, counted=self._counted)
        self._check(node, (self._bounds[node.inputs[0]].value << LOIHI.a_shift) + 2 * LOIHI.v_max)
        values = {
            "threshold": own.vth << LOIHI.a_shift,
            "floor": own.floor,
            "bias": own.bias,
            "most": np.asarray(own.max_spikes),
        }
        if leaks:
            values["keep"] = np.asarray(LOIHI.decay_unity - own.dv)
        constants = [self.constant(f"{node.name}.{key}", each.astype(np.int32)) for key, each in values.items()]
        inputs = [self._int32(node.inputs[0]), *constants]
        self._clipping(node, name, inputs, np.int32, timesteps=self.graph.timesteps)

    @write.register
    def _(self, op: SpikeMatMul, node: ProgramNode) -> None:
        y, spikes = (self._program[name].shape for name in node.inputs)
        channels, positions = y[0] // op.num_heads, math.prod(y[1:])
        rows = channels if op.transpose else positions
        reach = self._bounds[node.inputs[0]].value + largest(op.bias)
        bits = self._width(node, reach)
        self._check(node, (reach + (1 << (bits - functions.BYTE_BITS))) * rows)
        name = f"SpikeMatMul{bits}"
        self.functions[name] = functions.spike_matmul(bits, counted=self._counted)
        bias = self.constant(f"{node.name}.bias", op.bias.reshape(-1, *(1,) * (len(y) - 1)))
        self._clipping(
            node,
            name,
            [self._int32(node.inputs[0]), bias, self._uint8(node.inputs[1])],
            np.int32,
            y_shape=[0, op.num_heads, channels, positions],
            perm=[0, 1, 3, 2] if op.transpose else [0, 1, 2, 3],
            spikes_shape=[0, op.num_heads, rows, math.prod(spikes) // (op.num_heads * rows)],
            output_shape=[0, *node.shape],
            limit=op.limit,
        )

    @write.register
    def _(self, op: SpikeAttention, node: ProgramNode) -> None:
        shapes = [self._program[name].shape for name in node.inputs]
        sizes = attention_sizes(shapes, op.num_heads)
        q, k, v = (self._bounds[name].value for name in node.inputs)
        self._check(node, (sizes.most * q * k * v) << op.weight_exp)
        byte = np.iinfo(np.uint8).max
        if max(q, k, v) > byte:
            raise RangeError(f"{node.name}: reads counts up to {max(q, k, v)}, ONNX's bytes hold {byte}; {COARSER}")
        wide = k * (sizes.depth * q if sizes.scores_first else sizes.keys * v) > byte
        name = f"{'Wide' * wide}SpikeAttention{'' if sizes.scores_first else 'ByValues'}"
        self.functions[name] = functions.attention(
            name, scores_first=sizes.scores_first, wide=wide, counted=self._counted
        )
        self._clipping(
            node,
            name,
            [self._uint8(source) for source in node.inputs],
            np.int32,
            q_shape=[0, op.num_heads, sizes.depth, sizes.queries],
            k_shape=[0, op.num_heads, sizes.depth, sizes.keys],
            v_shape=[0, op.num_heads, sizes.width, sizes.keys],
            output_shape=[0, *node.shape],
            unit=1 << op.weight_exp,
            limit=op.limit,
        )

    @write.register
    def _(self, op: SpikeGate, node: ProgramNode) -> None:
        values = self.spread_inputs(node, [self._int32(source) for source in node.inputs])
        total = values[0]
        if op.weight[0] < 0:
            total = f"{node.name}.sum0"
            self.add("Neg", total, values[:1])
        for index, (weight, value) in enumerate(zip(op.weight[1:], values[1:], strict=True), 1):
            self.add("Add" if weight > 0 else "Sub", f"{node.name}.sum{index}", [total, value])
            total = f"{node.name}.sum{index}"
        # the sum never exceeds the number of inputs, so a larger threshold, which int32 may not hold, is cut to that
        threshold = self.constant(f"{node.name}.vth", np.array(min(op.vth, len(values)), dtype=np.int32))
        self.add("Greater", f"{node.name}.fires", [total, threshold])
        self.add_for(node, "Cast", [f"{node.name}.fires"], np.uint8, to=_element(np.uint8))
        self._narrow.add(node.name)

    @write.register
    def _(self, op: Delay, node: ProgramNode) -> None:  # noqa: ARG002
        self.values[node.name] = self.values[node.inputs[0]]

    @write.register
    def _(self, op: SampleDelay, node: ProgramNode) -> None:
        self.functions["SampleDelay"] = functions.SAMPLE_DELAY
        (source,) = self.inputs(node)
        narrow = source in self._narrow
        timesteps = self.graph.timesteps
        steps = np.broadcast_to(op.steps, node.shape).astype(np.int64)
        since = np.arange(timesteps).reshape(-1, 1, *(1,) * len(node.shape)) - steps
        inputs = [
            source,
            self.constant(f"{node.name}.since", np.maximum(since, 0)),
            self.constant(f"{node.name}.arrived", since >= 0),
        ]
        element = np.uint8 if narrow else np.int32
        self.add_for(node, "SampleDelay", inputs, element, domain=DOMAIN, timesteps=timesteps)
        if narrow:
            self._narrow.add(node.name)

    @write.register
    def _(self, op: Flatten, node: ProgramNode) -> None:  # noqa: ARG002
        (source,) = self.inputs(node)
        narrow = source in self._narrow
        self.add_for(node, "Flatten", [source], np.uint8 if narrow else np.int32, axis=1)
        if narrow:
            self._narrow.add(node.name)

    def _synapses(
        self,
        node: ProgramNode,
        op: str,
        inputs: Sequence[str],
        exponent: npt.NDArray[np.int8],
        bias: npt.NDArray[np.int32],
        attributes: dict[str, Any],
    ) -> None:
        """Append weighted sums of mantissas, times 2^exponent, plus the bias; the last two are left out if all zero."""
        self._check(node, self._bounds[node.name].sums)
        rest: list[tuple[str, str, str]] = []
        if exponent.any():
            scale = fixedpoint.scale_weight(np.ones(len(exponent), dtype=np.int8), exponent)
            rest.append(("Mul", f"{node.name}.scaled", self._per_channel(f"{node.name}.scale", scale, node)))
        if bias.any():
            rest.append(("Add", f"{node.name}.biased", self._per_channel(f"{node.name}.bias", bias, node)))
        value = f"{node.name}.sums" if rest else node.name
        self.add(op, node.name, inputs, value, **attributes)
        for next_op, name, constant in rest:
            made = node.name if (next_op, name, constant) == rest[-1] else name
            self.add(next_op, name, [value, constant], made)
            value = made
        self.made(node, np.int32)

    def _pool(self, node: ProgramNode, name: str, function: str, window: Window) -> None:
        """Append the ONNX nodes that combine windows.

        Where a window reaches beyond the edge, the index at the edge is repeated in place of the padding. That index is
        in the same window, and repeating a value does not change a maximum. Sums have no padding.
        """
        self._check(node, self._bounds[node.name].sums)
        self.functions[name] = function
        indices = []
        for axis, label in enumerate(("rows", "columns")):
            read = window.reads(axis, node.shape[1 + axis])
            inside = np.clip(read, 0, self._program[node.inputs[0]].shape[1 + axis] - 1)
            indices.append(self.constant(f"{node.name}.{label}", inside))
        self.add_for(node, name, [self._int32(node.inputs[0]), *indices], np.int32, domain=DOMAIN)

    def _clipping(
        self,
        node: ProgramNode,
        function: str,
        inputs: Sequence[str],
        element: type[np.generic],
        **attributes: Any,
    ) -> None:
        """Append a call of a function that can count what it clips."""
        outputs = [node.name]
        if self._counted:
            self.counts[node.name] = count_name(self.originals.get(node.name, node.name))
            outputs.append(self.counts[node.name])
            self.describe(self.counts[node.name], np.int64, ())
        self.add(function, node.name, inputs, *outputs, domain=DOMAIN, **attributes)
        self.made(node, element)

    def _int32(self, source: str) -> str:
        """The name of a node's output as int32; an output of uint8, such as spikes, is cast."""
        return self._as(self.values[source], np.int32) if self.values[source] in self._narrow else self.values[source]

    def _uint8(self, source: str) -> str:
        """The name of a node's output as uint8; an output of int32, such as the maximum of spikes, is cast."""
        return self.values[source] if self.values[source] in self._narrow else self._as(self.values[source], np.uint8)

    def _as(self, value: str, element: type[np.generic]) -> str:
        key = value, _element(element)
        if key not in self._cast:
            self._cast[key] = f"{value}.{np.dtype(element).name}"
            self.add("Cast", self._cast[key], [value], to=_element(element))
        return self._cast[key]

    def _per_channel(self, name: str, values: npt.NDArray[np.integer], node: ProgramNode) -> str:
        """Add a constant of (C,) or (1,) values, in a shape that broadcasts against a node's (T * N, C, ...)."""
        return self.constant(name, values.astype(np.int32).reshape(-1, *(1,) * (len(node.shape) - 1)))

    def _width(self, node: ProgramNode, reach: int) -> int:
        """The smallest of ``WIDTHS`` that holds integers in [-reach, reach].

        Raises:
            RangeError: None of them does.
        """
        for bits in WIDTHS:
            if reach < 1 << (bits - 1):
                return bits
        raise RangeError(
            f"{node.name}: reads integers up to {reach}, ONNX's byte-wise products take {(1 << (WIDTHS[-1] - 1)) - 1}; "
            f"{COARSER}"
        )

    def _check(self, node: ProgramNode, reach: int) -> None:
        """Check that sums in [-reach, reach] fit int32.

        Raises:
            RangeError: They do not fit.
        """
        if reach > INT32_MAX:
            raise RangeError(f"{node.name}: sums may reach {reach}, ONNX's integers here hold {INT32_MAX}; {COARSER}")

    def _check_current(self, op: LIF, node: ProgramNode) -> None:
        """Check that no current wraps; then potentials, which are clipped in each step, fit with room to spare.

        Raises:
            RangeError: A current might wrap.
        """
        reach = 0
        for _ in range(self.graph.timesteps):
            kept = reach * (LOIHI.decay_unity - 1 - op.du) // LOIHI.decay_unity
            reach = kept + (self._bounds[node.inputs[0]].value << LOIHI.a_shift)
        if reach > LOIHI.a_max << LOIHI.a_shift:
            raise RangeError(
                f"{node.name}: its current may reach {reach >> LOIHI.a_shift}, and wraps above {LOIHI.a_max}; "
                "run bound_ranges"
            )


def _element(element: type[np.generic]) -> int:
    """ONNX's number for a type."""
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(np.dtype(element)))
