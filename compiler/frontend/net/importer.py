"""Imports a netx network (``.net``) of lava-dl as a float graph whose numbers are the chip's own integers.

Each layer becomes its synapses (``layer.3``) and its neurons (``layer.3.neuron``). Vectors are images of one pixel,
(F, 1, 1), and a dense layer is a convolution whose kernel is as large as its input. If stock Lava can run the neurons
exactly, they become NIR's LIF or IF. Otherwise they become neurons in steps, which can have a decay per neuron, a
memory of the current, and biases. An axonal delay becomes a delay of the spikes that the neurons send. netx delays the
neurons' input by the same number of steps, with the same result. docs/net.md says which netx features are supported and
which are refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import nir
import numpy as np

from resformer.compiler.files.nir import open_nir
from resformer.compiler.frontend.net.content import REWRITE, Content, Layer, Neurons, read_content
from resformer.compiler.frontend.shapes import checked_shape
from resformer.compiler.ir.arrays import Float64Array, Int64Array, Shape
from resformer.compiler.ir.graph import NETX, Graph, Node
from resformer.compiler.ir.neurons import HARD
from resformer.compiler.ir.primitives import (
    DiscreteCubaLI,
    DiscreteCubaLIF,
    InputKind,
    RecurrentCubaLIF,
    SampleDelay,
    constant,
)
from resformer.compiler.target import LOIHI
from resformer.errors import FileFormatError, InputError, UnsupportedError
from resformer.models.boundary import boundary

STEP = 1e-3
"""Seconds per step. The value is arbitrary: a netx network counts steps and states no unit of time."""
NEURON_METADATA = {"reset": HARD, "fires_at": ">"}
"""Loihi's neurons reset hard, and do not fire at a potential that equals the threshold."""
SPIKES = 1
"""The largest integer that a layer reads if it is given spikes."""
UNITY = LOIHI.decay_unity


@dataclass(frozen=True)
class Network:
    """A netx network.

    Attributes:
        graph: The float graph; each of its weights, biases, thresholds and inputs is one of the chip's integers.
        input_high: The largest magnitude of an input.
        pixels: (weight, bias): the first neurons are given weight * pixel + bias; None if the input is spikes.
        notes: How the file was read, for the user; each note is one sentence.
    """

    graph: Graph[nir.NIRNode]
    input_high: int
    pixels: tuple[int, int] | None
    notes: tuple[str, ...]


def import_net(
    path: str | Path,
    *,
    timesteps: int | None = None,
    input_kind: InputKind | None = None,
    input_range: float | None = None,
) -> Network:
    """Read a netx network.

    Args:
        path: A file that lava-dl wrote.
        timesteps: T, the number of steps after which all neurons are reset, netx's ``reset_interval``; None: the number
            that the file's ``simulation`` states.
        input_kind: "static" if a sample is the same in every step, "frames" if it has a frame per step; None: "static"
            if the first layer is an input layer with neurons, else "frames".
        input_range: The largest magnitude of an input; None: 1 for spikes, and the largest bias of Loihi for pixels.

    Raises:
        FileFormatError: The file is absent, damaged, or no network; the message names file and layer.
        RangeError: A number is outside the range that the chip holds.
        UnsupportedError: A layer has no lowering; the message names it and a way out.
        InputError: Neither the call nor the file says T, or T or the input range is invalid.
    """
    content = open_nir(path, read_content, named="netx network")
    with boundary(path, REWRITE):
        steps = content.timesteps if timesteps is None else timesteps
        if steps is None:
            raise InputError(
                f"{path}: the file does not say how many steps a sample takes; give --timesteps, netx's reset_interval"
            )
        if steps < 1 or int(steps) != steps:
            raise InputError(f"{path}: timesteps is {steps:g}; give a whole --timesteps of at least 1")
        draft = _Draft(input_range)
        for layer in content.layers:
            draft.add_layer(layer)
        draft.finish()
    kind = input_kind or ("frames" if draft.pixels is None else "static")
    metadata: dict[str, str | int | float] = {
        "dt": STEP,
        "input": kind,
        "input_high": draft.input_high,
        "reset": HARD,
        "source": NETX,
    }
    graph = Graph(tuple(draft.nodes.values()), int(steps), metadata)
    return Network(graph, draft.input_high, draft.pixels, _notes(content, draft))


def _notes(content: Content, draft: _Draft) -> tuple[str, ...]:
    """Sentences that tell the user how the file was read."""
    notes = ["the file's integers are taken as they are: no weight, bias, decay or threshold was rounded"]
    if draft.pixels is not None:
        weight, bias = draft.pixels
        notes.append(
            f"{content.layers[0].name}: its neurons are given rint({weight} * x + {bias}) of a sample x in every step, "
            "as the file says; the build holds this as its preprocessing, after --mean and --std"
        )
    if draft.read_out:
        notes.append(
            f"{draft.read_out}: its threshold is the highest, so it does not fire, and the network's output is its "
            "membrane potential, in 1/64 of a synaptic input"
        )
    return tuple(notes)


@dataclass
class _Draft:
    """A float graph under construction.

    Attributes:
        input_range: As ``import_net`` takes it.
        nodes: The nodes so far, by name.
        value: The name of the node that the next layer reads.
        reach: The largest magnitude of that node's values.
        input_high, pixels: As :class:`Network` has them.
        flattened: Whether a flatten layer was read, so that the next layer reads maps as a vector.
        read_out: The name of the layer that does not fire; "" if there is none so far.
    """

    input_range: float | None
    nodes: dict[str, Node[nir.NIRNode]] = field(default_factory=dict)
    value: str = ""
    reach: int = SPIKES
    input_high: int = SPIKES
    pixels: tuple[int, int] | None = None
    flattened: bool = False
    read_out: str = ""

    @property
    def shape(self) -> Shape:
        """The shape of what the next layer reads."""
        return self.nodes[self.value].shape

    def add(self, name: str, op: nir.NIRNode) -> None:
        """Append a node that reads the last node, and make it the last node.

        Raises:
            FileFormatError: The input does not fit the operation.
        """
        inputs = (self.value,) if self.value else ()
        shape = checked_shape(name, op, [self.nodes[source].shape for source in inputs], remedy=REWRITE)
        self.nodes[name] = Node(name, op, inputs, shape)
        self.value = name

    def add_layer(self, layer: Layer) -> None:
        """Append the nodes of one layer.

        Raises:
            FileFormatError: The layer does not fit its input.
            UnsupportedError: The layer has no lowering in this place.
        """
        if self.read_out:
            raise UnsupportedError(
                f"{layer.name}: reads {self.read_out}, whose threshold is the highest, so that it never fires; lower "
                "that threshold, or leave out the layers after it"
            )
        if layer.kind == "input":
            self._add_input(layer)
            return
        if not self.nodes:
            self._add_spikes(layer)
        if layer.kind == "flatten":
            self.flattened = True
        elif layer.kind == "conv":
            self._add_conv(layer)
        else:
            self._add_dense(layer)

    def finish(self) -> None:
        """Append the output.

        Raises:
            UnsupportedError: The network has no neurons.
        """
        if not any(isinstance(node.op, nir.LIF | nir.IF | DiscreteCubaLIF) for node in self.nodes.values()):
            raise UnsupportedError("none of its layers fires; export a network of layers with neurons")
        self.add("output.flatten", nir.Flatten({"input": np.array(self.shape)}, start_dim=0))
        self.add("output", nir.Output({"output": np.array(self.shape)}))

    def _add_input(self, layer: Layer) -> None:
        if self.nodes:
            raise UnsupportedError(
                f"{layer.name}: is an input layer, but not the first; a network has one input, so export one"
            )
        self._add_door(layer.shape)
        if layer.neurons is None:
            return
        if layer.neurons.read_out:
            raise UnsupportedError(
                f"{layer.name}: its threshold is the highest, so nothing comes in; lower its vThMant"
            )
        self.pixels = int(layer.weight[0]), int(layer.bias[0])
        self.input_high = self._largest(LOIHI.bias_mantissa_max)
        name, held = f"{layer.name}.neuron", is_stock(layer.neurons) and self.input_high <= LOIHI.a_max
        none = np.zeros(1, dtype=np.int64)
        self.add(name, _stock(layer.neurons, self.shape) if held else self._in_steps(layer.neurons, none))
        self.reach = SPIKES

    def _add_spikes(self, layer: Layer) -> None:
        """Append the input of a network whose first layer has synapses; the input is spikes."""
        if layer.kind not in ("dense", "dense_rec"):
            raise UnsupportedError(
                f"{layer.name}: is the first layer, and the file does not say the shape of what it reads; export an "
                "input layer with a shape before it"
            )
        self._add_door((layer.weight.shape[1],))

    def _add_door(self, shape: Shape) -> None:
        """Append the input node; a sample has three axes."""
        self.input_high = self.reach = self._largest(SPIKES)
        self.add("input", nir.Input({"input": np.array((*shape, 1, 1)[:3])}))

    def _largest(self, usual: int) -> int:
        """The largest integer of the input: the user's input range, or ``usual`` if there is none.

        Raises:
            InputError: The user's input range is not within 1 and the largest graded spike.
        """
        if self.input_range is None:
            return usual
        if not 1 <= self.input_range <= LOIHI.graded_max:
            raise InputError(
                f"--input-range: is {self.input_range:g}; a netx network is given integers, so give 1 to "
                f"{LOIHI.graded_max}"
            )
        return math.ceil(self.input_range)

    def _add_conv(self, layer: Layer) -> None:
        if self.flattened:
            raise UnsupportedError(f"{layer.name}: is a convolution and reads a vector; leave out the flatten layer")
        self._add_synapses(layer, layer.weight)
        if self.shape != layer.shape:
            raise FileFormatError(
                f"{layer.name}: states the shape {layer.shape}, but makes {self.shape} of what it reads; {REWRITE}"
            )
        self._after(layer)

    def _add_dense(self, layer: Layer) -> None:
        rows, features = layer.weight.shape
        if not self.flattened and self.shape[1:] != (1, 1):
            raise UnsupportedError(
                f"{layer.name}: is {layer.kind} and reads maps of shape {self.shape}; export a flatten layer before it"
            )
        read = math.prod(self.shape)
        if read != features:
            raise FileFormatError(
                f"{layer.name}: weight has shape {layer.weight.shape}, but reads {read} values; {REWRITE}"
            )
        self.flattened = False
        if layer.delay.any() and len(layer.delay) not in (1, rows):
            self._delay_input(layer, features)
        self._add_synapses(layer, layer.weight.reshape(rows, *self.shape))
        self._after(layer)

    def _add_synapses(self, layer: Layer, weight: Int64Array) -> None:
        """Append a layer's synapses; ``weight`` has the shape (C_out, C_in / groups, K_h, K_w)."""
        convolution = nir.Conv2d(
            input_shape=None,
            weight=weight.astype(np.float64),
            stride=layer.stride,
            padding=layer.padding,
            dilation=layer.dilation,
            groups=layer.groups,
            bias=np.broadcast_to(self._synapses_bias(layer), len(weight)).astype(np.float64),
        )
        self.add(layer.name, convolution)

    def _delay_input(self, layer: Layer, features: int) -> None:
        """Append the delays of a dense layer's inputs, one for each feature.

        Raises:
            FileFormatError: The number of delays is not the number of features.
        """
        if len(layer.delay) != features:
            raise FileFormatError(
                f"{layer.name}: delay has {len(layer.delay)} values; it must be one, or one for each of "
                f"{len(layer.weight)} neurons or of {features} inputs; {REWRITE}"
            )
        self.add(f"{layer.name}.inputs", SampleDelay(layer.delay.reshape(self.shape)))

    def _synapses_bias(self, layer: Layer) -> Int64Array:
        """The bias that a layer's synapses add; zero if the neurons add it to their potential, as Loihi does."""
        assert layer.neurons is not None
        return layer.bias if self._is_stock(layer) or layer.neurons.read_out else np.zeros(1, dtype=np.int64)

    def _is_stock(self, layer: Layer) -> bool:
        """Whether Lava's ``LIFReset`` can run a layer's neurons and hold the largest input that they can be given."""
        if layer.neurons is None or layer.recurrent is not None or not is_stock(layer.neurons):
            return False
        rows = np.abs(layer.weight).reshape(len(layer.weight), -1).sum(axis=1) * self.reach
        return int((rows + np.abs(layer.bias)).max()) <= LOIHI.a_max

    def _after(self, layer: Layer) -> None:
        """Append a layer's neurons and the delay of their axons.

        Raises:
            UnsupportedError: lava-dl and netx compute different things from the delay in this layer.
        """
        assert layer.neurons is not None
        name, population = f"{layer.name}.neuron", self.shape
        if layer.neurons.read_out:
            self._add_read_out(name, layer)
        elif layer.recurrent is not None:
            self._add_recurrent(name, layer)
        elif self._is_stock(layer):
            self.add(name, _stock(layer.neurons, population))
        else:
            self.add(name, self._in_steps(layer.neurons, layer.bias))
        if layer.delay.any() and len(layer.delay) in (1, population[0]):
            if layer.bias.any() or layer.recurrent is not None:
                what = "biases" if layer.recurrent is None else "synapses onto itself"
                raise UnsupportedError(
                    f"{layer.name}: has axonal delays of up to {layer.delay.max()} steps and {what}, of which lava-dl "
                    "trains one order and netx runs another; train without one of them"
                )
            self.add(
                f"{layer.name}.delay", SampleDelay(np.broadcast_to(layer.delay.reshape(-1, 1, 1), population).copy())
            )
        self.reach = SPIKES

    def _add_read_out(self, name: str, layer: Layer) -> None:
        """Append neurons that do not fire."""
        neurons = layer.neurons
        assert neurons is not None
        if layer.recurrent is not None:
            raise UnsupportedError(f"{layer.name}: its threshold is the highest, so nothing comes back; make it dense")
        if layer.bias.any() and (neurons.i_decay != UNITY).any():
            raise UnsupportedError(
                f"{layer.name}: does not fire, and has biases and a current with a memory; leave out the biases"
            )
        self.read_out = layer.name
        shape = self.shape
        made = DiscreteCubaLI(
            syn_decay=_spread(neurons.i_decay / UNITY, shape),
            mem_decay=_spread(neurons.v_decay / UNITY, shape),
            gain=constant(1.0, shape),
            v_leak=constant(0.0, shape),
        )
        self.add(name, made)

    def _add_recurrent(self, name: str, layer: Layer) -> None:
        """Append neurons with synapses onto themselves; spikes arrive there one step later."""
        assert layer.neurons is not None
        assert layer.recurrent is not None
        plain = self._in_steps(layer.neurons, layer.bias)
        made = RecurrentCubaLIF(
            syn_decay=plain.syn_decay,
            mem_decay=plain.mem_decay,
            v_threshold=plain.v_threshold,
            v_bias=plain.v_bias,
            v_drop=plain.v_drop,
            soft_reset=False,
            weight=layer.recurrent.astype(np.float64)[:, :, None, None],
            bias=np.zeros(len(layer.recurrent)),
            padding=(0, 0),
            dilation=(1, 1),
            groups=1,
            metadata={"fires_at": ">"},
        )
        self.add(name, made)

    def _in_steps(self, neurons: Neurons, bias: Int64Array) -> DiscreteCubaLIF:
        shape = self.shape
        biases = bias.reshape(-1, 1, 1)
        return DiscreteCubaLIF(
            syn_decay=_spread(neurons.i_decay / UNITY, shape),
            mem_decay=_spread(neurons.v_decay / UNITY, shape),
            v_threshold=_spread(neurons.vth.astype(np.float64), shape),
            v_bias=_spread(biases.astype(np.float64), shape),
            v_drop=constant(0.0, shape),
            soft_reset=False,
            metadata={"fires_at": ">"},
        )


def is_stock(neurons: Neurons) -> bool:
    """Whether Lava's ``LIFReset`` has such parameters: equal for all neurons, no memory of u, and some memory of v."""
    alike = all(each.size == 1 for each in (neurons.i_decay, neurons.v_decay, neurons.vth))
    return alike and int(neurons.i_decay.flat[0]) == UNITY and int(neurons.v_decay.flat[0]) < UNITY


def _stock(neurons: Neurons, shape: Shape) -> nir.LIF | nir.IF:
    """NIR's LIF or IF for steps of :data:`STEP`; an input of one adds one to the potential."""
    decay, vth = int(neurons.v_decay.flat[0]), float(neurons.vth.flat[0])
    height, rest = constant(vth, shape), constant(0.0, shape)
    if not decay:
        return nir.IF(r=constant(1 / STEP, shape), v_threshold=height, v_reset=rest, metadata=dict(NEURON_METADATA))
    steps = UNITY / decay
    return nir.LIF(
        tau=constant(steps * STEP, shape),
        r=constant(steps, shape),
        v_leak=rest,
        v_threshold=height,
        v_reset=rest,
        metadata={**NEURON_METADATA, "dt_over_tau": decay / UNITY},
    )


def _spread(values: Float64Array, shape: Shape) -> Float64Array:
    """A parameter broadcast to every neuron, without a copy."""
    return np.broadcast_to(values.reshape((*values.shape, 1, 1)[:3]), shape)


def pixels_preprocessing(
    pixels: tuple[int, int], mean: tuple[float, ...] | None, std: tuple[float, ...] | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and deviation of a single normalisation that computes weight * (x - mean) / std + bias of a sample x.

    Args:
        pixels: (weight, bias), as :class:`Network` has them.
        mean: The mean that the user subtracts from samples; None: nothing is subtracted.
        std: The deviation that the user divides the differences by; None: they are not divided.
    """
    weight, bias = pixels
    count = max(len(mean or ()), len(std or ()), 1)
    means, stds = (each * count if len(each) == 1 else each for each in (mean or (0.0,), std or (1.0,)))
    if len(means) != len(stds):
        raise InputError(f"--mean: {len(means)} numbers, but --std has {len(stds)}; give as many of each")
    made = [(each - bias / weight * deviation, deviation / weight) for each, deviation in zip(means, stds, strict=True)]
    return tuple(each for each, _ in made), tuple(each for _, each in made)
