"""The float graph of a netx network (``.net``) of lava-dl, every number of which is one of the chip's integers.

Each layer becomes its synapses (``layer.3``) and its neurons (``layer.3.neuron``). Vectors are images of one pixel,
(F, 1, 1), and a dense layer is a convolution as large as what it reads, as for NIR files. Where nothing is lost by it
the neurons are NIR's LIF or IF, which are stock Lava's; else they are neurons in steps, which hold decays for each
neuron, a memory of the current, and biases. An axonal delay becomes a delay of what the neurons send, since netx delays
what they are given by as many steps, which is the same. docs/net.md says what of netx is taken, and what is refused.
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
"""Seconds; a netx network lives in steps, which have no unit."""
NEURON_METADATA = {"reset": HARD, "fires_at": ">"}
"""How Loihi's neurons reset, and that a potential which meets the threshold does not fire."""
SPIKES = 1
"""The largest integer that comes in where the first layer is given spikes."""
UNITY = LOIHI.decay_unity


@dataclass(frozen=True)
class Network:
    """A netx network.

    Attributes:
        graph: Of whole numbers: every weight, bias, threshold and input is the chip's own integer.
        input_high: What comes in lies within plus and minus this.
        pixels: (weight, bias), by which pixels become what the first neurons are given; None where spikes come in.
        notes: What was chosen in reading it, a sentence each.
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
        path: As lava-dl wrote it.
        timesteps: T, after which all neurons are reset, netx's ``reset_interval``; None for what the file's simulation
            says.
        input_kind: Whether samples are the same in every step, or frames; None: the same where the first layer has
            neurons of its own, else frames.
        input_range: The largest magnitude that comes in; None: 1 of spikes, and of pixels what Loihi's bias holds.

    Raises:
        FileFormatError: The file is absent, damaged, or no network; the message names file and layer.
        RangeError: A number is none that the chip holds.
        UnsupportedError: A layer has no lowering; the message names it and a way out.
        InputError: Neither the call nor the file says T.
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
    """What was chosen in reading it."""
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
    """The nodes so far.

    Attributes:
        input_range: As ``import_net`` takes it.
        value: The name of the node that the next layer reads.
        reach: The largest magnitude of what it sends.
        input_high, pixels: As :class:`Network` has them.
        flattened: Whether a flatten layer came, so that the next layer reads maps as a vector.
        read_out: The layer that does not fire.
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
        """Of what the next layer reads."""
        return self.nodes[self.value].shape

    def add(self, name: str, op: nir.NIRNode) -> None:
        """Append a node that reads the last one, and is the last from then on.

        Raises:
            FileFormatError: Its inputs do not fit it.
        """
        inputs = (self.value,) if self.value else ()
        shape = checked_shape(name, op, [self.nodes[source].shape for source in inputs], remedy=REWRITE)
        self.nodes[name] = Node(name, op, inputs, shape)
        self.value = name

    def add_layer(self, layer: Layer) -> None:
        """Append what one layer computes.

        Raises:
            FileFormatError: It does not fit what it reads.
            UnsupportedError: It has no lowering there.
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
        """The input of a network whose first layer has synapses, which are given spikes."""
        if layer.kind not in ("dense", "dense_rec"):
            raise UnsupportedError(
                f"{layer.name}: is the first layer, and the file does not say the shape of what it reads; export an "
                "input layer with a shape before it"
            )
        self._add_door((layer.weight.shape[1],))

    def _add_door(self, shape: Shape) -> None:
        """Samples, which have three axes."""
        self.input_high = self.reach = self._largest(SPIKES)
        self.add("input", nir.Input({"input": np.array((*shape, 1, 1)[:3])}))

    def _largest(self, usual: int) -> int:
        """The largest integer that comes in.

        Raises:
            InputError: The range that was asked for is none.
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
        """A layer's synapses; weights are (C_out, C_in / groups, K_h, K_w)."""
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
        """Delays of what a dense layer reads, one a feature.

        Raises:
            FileFormatError: There are others.
        """
        if len(layer.delay) != features:
            raise FileFormatError(
                f"{layer.name}: delay has {len(layer.delay)} values; it must be one, or one for each of "
                f"{len(layer.weight)} neurons or of {features} inputs; {REWRITE}"
            )
        self.add(f"{layer.name}.inputs", SampleDelay(layer.delay.reshape(self.shape)))

    def _synapses_bias(self, layer: Layer) -> Int64Array:
        """What a layer's synapses add, which their neurons do otherwise: Loihi adds biases to the potential."""
        assert layer.neurons is not None
        return layer.bias if self._is_stock(layer) or layer.neurons.read_out else np.zeros(1, dtype=np.int64)

    def _is_stock(self, layer: Layer) -> bool:
        """Whether a layer's neurons are those of Lava's ``LIFReset``, given no more than these hold."""
        if layer.neurons is None or layer.recurrent is not None or not is_stock(layer.neurons):
            return False
        rows = np.abs(layer.weight).reshape(len(layer.weight), -1).sum(axis=1) * self.reach
        return int((rows + np.abs(layer.bias)).max()) <= LOIHI.a_max

    def _after(self, layer: Layer) -> None:
        """The neurons of a layer, and the delay of their axons.

        Raises:
            UnsupportedError: netx does something else of a delay.
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
        """Neurons that do not fire."""
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
        """Neurons with synapses onto themselves, whose spikes arrive a step later."""
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
    """Whether Lava's ``LIFReset`` holds them: one value for all, no memory of the current, not all lost of v."""
    alike = all(each.size == 1 for each in (neurons.i_decay, neurons.v_decay, neurons.vth))
    return alike and int(neurons.i_decay.flat[0]) == UNITY and int(neurons.v_decay.flat[0]) < UNITY


def _stock(neurons: Neurons, shape: Shape) -> nir.LIF | nir.IF:
    """Neurons of NIR in steps of :data:`STEP`, of which an input of one adds one to the potential."""
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
    """A parameter at each neuron; what repeats takes no memory."""
    return np.broadcast_to(values.reshape((*values.shape, 1, 1)[:3]), shape)


def pixels_preprocessing(
    pixels: tuple[int, int], mean: tuple[float, ...] | None, std: tuple[float, ...] | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and deviation that make of a sample what the first neurons are given: weight * (x - mean) / std + bias.

    Args:
        pixels: (weight, bias), as :class:`Network` has them.
        mean: What the user subtracts first; None: nothing.
        std: What the user divides by then; None: nothing.
    """
    weight, bias = pixels
    count = max(len(mean or ()), len(std or ()), 1)
    means, stds = (each * count if len(each) == 1 else each for each in (mean or (0.0,), std or (1.0,)))
    if len(means) != len(stds):
        raise InputError(f"--mean: {len(means)} numbers, but --std has {len(stds)}; give as many of each")
    made = [(each - bias / weight * deviation, deviation / weight) for each, deviation in zip(means, stds, strict=True)]
    return tuple(each for each, _ in made), tuple(each for _, each in made)
