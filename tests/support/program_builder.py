"""Small integer programs, built node by node, their weights drawn at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np
import numpy.typing as npt

from resformer.compiler.ir.arrays import Shape
from resformer.compiler.ir.graph import Node
from resformer.compiler.ir.ops import (
    LIF,
    Add,
    Conv2d,
    CubaLI,
    CubaLIF,
    Dense,
    Flatten,
    Input,
    IntegerLIF,
    MaxPool2d,
    MultiSpikeIF,
    Op,
    Output,
    PromptCubaLIF,
    RecurrentCubaLIF,
    Relay,
    SpikeMatMul,
    StackedRecurrentCubaLIF,
    SumPool2d,
)
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.shapes import output_shape
from resformer.compiler.ir.signal import SPIKE, Signal, SignalKind
from resformer.compiler.ir.storage import mantissa_max
from resformer.compiler.ir.verify import verify_program
from resformer.compiler.passes.integer.balance_delays import balance_delays
from resformer.compiler.target import LOIHI

GRADED = Signal(SignalKind.GRADED, scale_exp=0)
CURRENT = Signal(SignalKind.CURRENT, scale_exp=0)

Pair = tuple[int, int]


class ProgramBuilder:
    """The nodes so far; each method appends one or more and returns the last one's name."""

    def __init__(self, input_shape: Shape, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: dict[str, Node[Op]] = {"input": Node("input", Input(GRADED), (), input_shape)}

    def add(self, name: str, op: Op, *inputs: str, shape: Shape | None = None) -> str:
        made = output_shape(op, [self.shape(each) for each in inputs]) if shape is None else shape
        self.nodes[name] = Node(name, op, inputs, made)
        return name

    def shape(self, name: str) -> Shape:
        return self.nodes[name].shape

    def conv(
        self,
        name: str,
        source: str,
        outputs: int,
        kernel: Pair = (1, 1),
        *,
        stride: Pair = (1, 1),
        padding: Pair = (0, 0),
        dilation: Pair = (1, 1),
        groups: int = 1,
        largest: int = 127,
    ) -> str:
        shape = (outputs, self.shape(source)[0] // groups, *kernel)
        op = Conv2d(
            CURRENT,
            weight=self._mantissas(shape, largest),
            weight_exp=self.rng.integers(0, 3, outputs).astype(np.int8),
            bias=np.zeros(outputs, dtype=np.int32),
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
        )
        return self.add(name, op, source)

    def dense(self, name: str, source: str, outputs: int, *, weight_exp: int = 0, largest: int = 127) -> str:
        weight = self._mantissas((outputs, *self.shape(source)), largest)
        return self.add(name, Dense(CURRENT, weight, weight_exp, np.zeros(outputs, dtype=np.int32)), source)

    def lif(self, name: str, source: str, *, vth: int = 400, du: int = 4095, dv: int = 2048, bias: int = 300) -> str:
        channels = self.shape(source)[0]
        mantissas = self.rng.integers(-bias, bias + 1, channels).astype(np.int16)
        exponents = self.rng.integers(3, 5, channels).astype(np.int8)
        return self.add(name, LIF(SPIKE, vth, du, dv, mantissas, exponents), source)

    def cuba_lif(
        self,
        name: str,
        source: str,
        *,
        vth: int = 400,
        du: int = 1000,
        dv: int = 500,
        bias: int = 3000,
        soft_reset: bool = False,
        spread: Sequence[bool] | None = None,
        kernel: Pair | None = None,
        groups: int = 1,
        weight_bits: int = 8,
        prompt: bool = False,
    ) -> str:
        """Neurons whose parameters vary along the axes for which ``spread`` is true (None: all axes).

        A ``kernel``, odd along both axes, makes them recurrent; weights of more than 8 bits take two synapses each.
        """
        shape = self.shape(source)
        axes = [True] * len(shape) if spread is None else spread
        held = tuple(size if varies else 1 for size, varies in zip(shape, axes, strict=True))

        def near(value: int, low: int, high: int) -> npt.NDArray[np.int32]:
            values = value + self.rng.integers(-abs(value) // 4 - 1, abs(value) // 4 + 2, held)
            return np.clip(values, low, high).astype(np.int32)

        op = CubaLIF(
            SPIKE,
            vth=near(vth, 0, LOIHI.vth_mantissa_max),
            v_drop=near(64 * vth, 0, LOIHI.v_max if soft_reset else 0),
            du=near(du, 0, LOIHI.decay_unity - 1).astype(np.int16),
            dv=near(dv, 0, LOIHI.decay_unity).astype(np.int16),
            u_bias=self.rng.integers(-bias, bias + 1, held).astype(np.int32),
            v_bias=self.rng.integers(-bias, bias + 1, held).astype(np.int32),
            soft_reset=soft_reset,
        )
        if kernel is not None:
            largest, connected = mantissa_max(weight_bits), (shape[0], shape[0] // groups, *kernel)
            weight = self._mantissas(connected, 127)
            if weight_bits > 8:
                weight = self.rng.integers(-largest, largest + 1, connected).astype(np.int16)
                weight.flat[0] = largest  # so that the weights take two synapses
            op = RecurrentCubaLIF(
                **{field.name: getattr(op, field.name) for field in fields(op)},
                weight=weight,
                weight_exp=self.rng.integers(0, min(3, 16 - weight_bits), shape[0]).astype(np.int8),
                padding=(kernel[0] // 2, kernel[1] // 2),
                groups=groups,
            )
            op = op if weight_bits == 8 else StackedRecurrentCubaLIF.of(op)
        if prompt:
            op = PromptCubaLIF(**{field.name: getattr(op, field.name) for field in fields(op)})
        return self.add(name, op, source)

    def multi_spike(self, name: str, source: str, *, vth: int = 300, floor: int = -9000, most: int = 7) -> str:
        """Neurons that fire several spikes a step, whose parameters vary by channel."""
        held = (self.shape(source)[0], *(1,) * (len(self.shape(source)) - 1))
        op = MultiSpikeIF(
            GRADED,
            vth=(vth + self.rng.integers(0, 1 + vth // 4, held)).astype(np.int32),
            floor=np.minimum(floor + self.rng.integers(0, 99, held), 0).astype(np.int32),
            bias=self.rng.integers(-500, 500, held).astype(np.int32),
            max_spikes=most,
        )
        return self.add(name, op, source)

    def integer_lif(
        self, name: str, source: str, *, vth: int = 300, dv: int = 4096, even: bool = True, most: int = 4
    ) -> str:
        """Neurons that send levels instead of spikes, whose parameters vary by channel."""
        held = (self.shape(source)[0], *(1,) * (len(self.shape(source)) - 1))
        op = IntegerLIF(
            GRADED,
            vth=(vth + self.rng.integers(0, 1 + vth // 4, held)).astype(np.int32),
            floor=np.full((1,) * len(held), -LOIHI.v_max, dtype=np.int32),
            bias=self.rng.integers(-500, 500, held).astype(np.int32),
            max_spikes=most,
            dv=dv,
            even=even,
        )
        return self.add(name, op, source)

    def cuba_li(self, name: str, source: str, *, du: int = 1000, dv: int = 500, bias: int = 3000) -> str:
        """Neurons that do not fire, whose parameters vary by channel."""
        held = (self.shape(source)[0], *(1,) * (len(self.shape(source)) - 1))
        spread = self.rng.integers(-1, 2, (2, *held))
        op = CubaLI(
            replace(GRADED, scale_exp=self.nodes[source].op.signal.scale_exp + LOIHI.a_shift),
            du=np.clip(du + spread[0], 0, LOIHI.decay_unity - 1).astype(np.int16),
            dv=np.clip(dv + spread[1], 0, LOIHI.decay_unity).astype(np.int16),
            u_bias=self.rng.integers(-bias, bias + 1, held).astype(np.int32),
        )
        return self.add(name, op, source)

    def relay(self, name: str, source: str, *, limit: int, shift: int = 0) -> str:
        signal = replace(GRADED, scale_exp=-shift)
        return self.add(name, Relay(signal, self._bias(self.shape(source)[0]), limit, shift), source)

    def plus(self, name: str, *sources: str) -> str:
        return self.add(name, Add(CURRENT), *sources)

    def matmul(self, name: str, y: str, spikes: str, *, heads: int, transpose: bool, limit: int) -> str:
        op = SpikeMatMul(CURRENT, heads, transpose, self._bias(self.shape(y)[0]), limit)
        side = round(self.shape(spikes)[-1] ** 0.5)
        return self.add(name, op, y, spikes, shape=None if transpose else (self.shape(y)[0], side, side))

    def max_pool(self, name: str, source: str, kernel: Pair, stride: Pair, padding: Pair) -> str:
        return self.add(name, MaxPool2d(GRADED, kernel, stride, padding), source)

    def sum_pool(self, name: str, source: str, kernel: Pair, stride: Pair) -> str:
        return self.add(name, SumPool2d(CURRENT, kernel, stride), source)

    def flatten(self, name: str, source: str) -> str:
        return self.add(name, Flatten(self.nodes[source].op.signal), source)

    def attention(self, name: str, source: str, *, heads: int, patch: int) -> str:
        """DSSA up to its projection."""
        channels = self.shape(source)[0]
        spikes = self.lif(f"{name}.activation_in", source)
        pair = (patch, patch)
        y1 = self.conv(f"{name}.W.y1", spikes, channels, pair, stride=pair)
        y2 = self.conv(f"{name}.W.y2", spikes, channels, pair, stride=pair)
        scores = self.matmul(f"{name}.matmul1", y1, spikes, heads=heads, transpose=True, limit=60000)
        gates = self.lif(f"{name}.activation_attn", scores, vth=800)
        mixed = self.matmul(f"{name}.matmul2", y2, gates, heads=heads, transpose=False, limit=3000)
        return self.conv(f"{name}.Wproj", self.lif(f"{name}.activation_out", mixed, vth=800), channels)

    def feed_forward(self, name: str, source: str, *, groups: int) -> str:
        """GWFFN up to its last convolution."""
        channels = self.shape(source)[0]
        up = self.conv(f"{name}.up.1", self.lif(f"{name}.up.0", source), 2 * channels)
        spikes = self.lif(f"{name}.conv.0.0", up)
        middle = self.conv(f"{name}.conv.0.1", spikes, 2 * channels, (3, 3), padding=(1, 1), groups=groups)
        inner = self.plus(f"{name}.add_inner", middle, up)
        return self.conv(f"{name}.down.1", self.lif(f"{name}.down.0", inner), channels)

    def finish(self, *, timesteps: int = 4) -> Program:
        """The program with its schedule; its output is the node that was appended last."""
        (*_, last) = self.nodes
        self.add("output", Output(CURRENT, 1, np.zeros(self.shape(last))), last)
        program = balance_delays(Program(tuple(self.nodes.values()), timesteps))
        verify_program(program)
        return program

    def samples(self, count: int, *, timesteps: int | None = None, largest: int = 16) -> npt.NDArray[np.int32]:
        """Samples (N, C, H, W), or (N, T, C, H, W) if ``timesteps`` is given, in [-largest, largest]."""
        frames = () if timesteps is None else (timesteps,)
        shape = (count, *frames, *self.shape("input"))
        return self.rng.integers(-largest, largest + 1, shape).astype(np.int32)

    def _mantissas(self, shape: Sequence[int], largest: int) -> npt.NDArray[np.int8]:
        return self.rng.integers(-largest, largest + 1, tuple(shape)).astype(np.int8)

    def _bias(self, channels: int) -> npt.NDArray[np.int32]:
        return self.rng.integers(-50, 51, channels).astype(np.int32)


def tiny_resformer(
    *, timesteps: int = 4, image: int = 16, width: int = 4, pairs: int = 1
) -> tuple[Program, ProgramBuilder]:
    """Two stages like those of SpikingResformer: a max-pool stem, sums of currents, and relays that saturate.

    Args:
        timesteps: T.
        image: Rows and columns, a power of two and at least 16.
        width: The first stage's channels.
        pairs: The number of pairs of DSSA and GWFFN in each stage.
    """
    net = ProgramBuilder((3, image, image))
    x = net.conv("prologue.0", "input", width, (3, 3), padding=(1, 1), largest=30)
    x = net.max_pool("prologue.2", x, (3, 3), (2, 2), (1, 1))
    for stage, patch in enumerate((4, 2)):
        if stage:
            channels = 2 * net.shape(x)[0]
            spikes = net.lif(f"layers.{stage}.0.activation", x)
            x = net.conv(f"layers.{stage}.0.conv", spikes, channels, (3, 3), stride=(2, 2), padding=(1, 1))
        for index in range(bool(stage), bool(stage) + 2 * pairs, 2):
            block = f"layers.{stage}.{index}"
            added = net.plus(f"{block}.add", net.attention(block, x, heads=2, patch=patch), x)
            x = net.relay(f"{block}.add.relay", added, limit=3000)
            block = f"layers.{stage}.{index + 1}"
            x = net.plus(f"{block}.add", net.feed_forward(block, x, groups=2), x)
    x = net.relay(f"{x}.relay", x, limit=LOIHI.a_max)
    x = net.sum_pool("avgpool", x, net.shape(x)[1:], net.shape(x)[1:])
    x = net.relay("avgpool.relay", x, limit=LOIHI.graded_max, shift=3)
    net.dense("classifier", net.flatten("flatten", x), 5)
    return net.finish(timesteps=timesteps), net


def endless_run() -> tuple[Program, npt.NDArray[np.int32]]:
    """A small program, and 100,000 samples: too many for a run to end before a test interrupts it."""
    net = ProgramBuilder((2, 3, 3))
    relay = net.relay("layers.0.0.relay", net.conv("layers.0.0.conv", "input", 2), limit=1000)
    net.conv("layers.0.0.last", relay, 2)
    return net.finish(), np.broadcast_to(net.samples(1), (100_000, 2, 3, 3))
