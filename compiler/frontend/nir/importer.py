"""Imports NIR files of NIR's standard nodes, from any framework, as float graphs.

Nodes keep their names; a node of a graph inside a graph is named ``graph.node``. Edges that meet at a node become an
explicit ``Add`` (``node.sum``). A layer that leads from a population back to itself becomes part of that population,
and its spikes arrive one step late. Values of one spatial axis, (C, L), become images of one row, (C, 1, L). An input
that is a vector becomes (F, 1, 1) and is flattened, so that samples always have three axes. NIR defines its neurons in
continuous time; docs/numerics.md says how they become neurons in steps of ``dt`` seconds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import nir
import numpy as np
import numpy.typing as npt

from resformer.compiler.files.nir import open_nir
from resformer.compiler.frontend.nir.content import (
    Content,
    Values,
    in_order,
    read_content,
    without_doors,
    without_recurrence,
)
from resformer.compiler.frontend.shapes import checked_shape
from resformer.compiler.ir.arrays import Shape
from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.ir.neurons import HARD, LATE, PROMPT, SOFT, discrete, discrete_integrator
from resformer.compiler.ir.ops.multi_spike import MOST_SPIKES
from resformer.compiler.ir.ported import PORTS
from resformer.compiler.ir.primitives import (
    PER_NEURON,
    Add,
    InputKind,
    MultiSpikeIF,
    RecurrentCubaLIF,
    SampleDelay,
    collapse,
)
from resformer.compiler.ir.verify import TAU_TOLERANCE
from resformer.compiler.ir.window import Window
from resformer.compiler.target import LOIHI
from resformer.errors import FileFormatError, InputError, UnsupportedError
from resformer.models.boundary import boundary
from resformer.models.limits import MOST_AXES

Float64Array = npt.NDArray[np.float64]
AXES = MappingProxyType({"Conv1d": 2, "Linear": 1, "Affine": 1})
"""The number of axes of a layer's input, for each type of layer whose input does not have three."""
INTEGRATORS = MappingProxyType(
    {"I": ("r",), "LI": ("tau", "r", "v_leak"), "CubaLI": ("tau_syn", "tau_mem", "r", "v_leak", "w_in")}
)
"""The fields of each type of neurons that do not fire."""
ENDLESS = ("tau", "tau_mem", "tau_syn", "r")
"""The fields that may be infinite, since files hold infinite values for neurons that do not leak."""
MULTI = "multi"
"""The ``spikes_per_step`` in the metadata of IF neurons that may fire up to :data:`MOST_SPIKES` times in a step."""
LONGEST_DELAY = 2**31 - 1
"""The longest delay that a program holds, in steps."""
LARGEST_VALUE = 1e30
"""The largest magnitude of a field, of dt and of 1 / dt: products of several must stay within float64."""
FIRES_AT = (">", ">=")
"""The possible values of ``fires_at`` in the metadata of neurons: NIR's rule, and SpikingJelly's."""
NEURON_METADATA = {"reset": HARD, "fires_at": ">"}
"""The metadata of neurons as NIR defines them: v = v_reset where v > v_threshold."""
RESET_NAMES = MappingProxyType({HARD: HARD, "zero": HARD, SOFT: SOFT, "subtract": SOFT, LATE: LATE, PROMPT: PROMPT})
"""The possible values of ``reset`` in the metadata of neurons, in the words of several frameworks, and our words."""


def import_nir(
    path: str | Path,
    *,
    dt: float | None = None,
    timesteps: int | None = None,
    input_kind: InputKind | None = None,
    reset: str = HARD,
    spikes_per_step: int = 1,
    min_v: float | None = None,
) -> Graph[nir.NIRNode]:
    """The float graph of a network in a NIR file.

    Args:
        path: A NIR file from any framework.
        dt: Seconds per step; None: the ``dt`` in the file's metadata.
        timesteps: T, the steps after which all neurons are reset; None: the ``timesteps`` in the file's metadata.
        input_kind: "static" if samples are real numbers, "frames" if they are counts of events; None: the ``input`` in
            the file's metadata, or "static" if they say neither.
        reset: How neurons reset if their own metadata do not say it, one of ``ir.neurons.RESETS``.
        spikes_per_step: The most spikes that an IF may fire in a step, each of which subtracts one threshold. It holds
            for an IF whose own metadata say neither this number nor how the IF resets. NIR defines 1.
        min_v: The lowest potential of IF neurons that may fire several spikes per step; None: no lower bound.

    Returns:
        The graph. Its metadata hold ``spikes_per_step`` and ``min_v`` only if they decided about a node.

    Raises:
        FileFormatError: The file is absent, damaged, or no network; the message names file and node.
        UnsupportedError: A node has no lowering; the message names it and a way out.
        InputError: Neither the call nor the file says dt or T, or dt or T is invalid.
    """
    content = open_nir(path, read_content)
    # a shape, or dt, in the file may be infinite or not a number
    with boundary(path, "write the network again"):
        dt = _fact(path, "dt", "--dt", dt, content.metadata)
        ours = content.metadata.get(PORTS)
        facts = {**ours, **content.metadata} if isinstance(ours, dict) else content.metadata
        timesteps = _fact(path, "timesteps", "--timesteps", timesteps, facts)
        if not 1 / LARGEST_VALUE <= dt <= LARGEST_VALUE:
            raise InputError(
                f"{path}: dt is {dt:g} seconds; give a positive --dt of {1 / LARGEST_VALUE:g} to {LARGEST_VALUE:g}"
            )
        if not 1 <= timesteps < math.inf or int(timesteps) != timesteps:
            raise InputError(f"{path}: timesteps is {timesteps:g}; give a whole --timesteps of at least 1")
        content = without_recurrence(without_doors(content))
        layers = {name: (layer, content.nodes[layer]) for name, layer in content.recurrent.items()}
        draft = _Draft(float(dt), reset, layers, spikes_per_step=spikes_per_step, min_v=min_v, names=set(content.nodes))
        for name in in_order(content):
            _import(draft, name, content)
    if input_kind is None:
        stated = facts.get("input")
        input_kind = "frames" if isinstance(stated, str) and stated == "frames" else "static"
    return Graph(
        tuple(draft.nodes.values()),
        int(timesteps),
        {
            "dt": float(dt),
            "input": input_kind,
            "reset": reset,
            "source": "nir",
            **draft.decided,
        },
    )


def _fact(path: str | Path, name: str, option: str, given: float | None, metadata: Values) -> Any:
    """What the user says about the network, or else what the file's metadata say.

    Raises:
        InputError: Neither the user nor the file says it.
    """
    stated = metadata.get(name) if given is None else given
    if not isinstance(stated, (int, float)):
        raise InputError(f"{path}: the file does not say {name}; give {option}")
    return stated


@dataclass
class _Draft:
    """A float graph under construction; a value is referred to by the name of the node that makes it.

    Attributes:
        dt: Seconds per step.
        reset: How neurons reset if their metadata do not say it.
        recurrent: For each population with synapses onto itself, name and fields of the layer that holds the synapses.
        nodes: The nodes so far, by name.
        values: For each node of the file, the value that it makes.
        spikes_per_step: The most spikes that an IF may fire in a step, if its metadata do not say it.
        min_v: The lowest potential of IF neurons that may fire several spikes per step; None: no lower bound.
        names: The names that no node of the compiler's own may have: those of the file's nodes.
        decided: ``spikes_per_step`` and ``min_v``, each only once it has decided about a node.
    """

    dt: float
    reset: str
    recurrent: Mapping[str, tuple[str, Values]] = field(default_factory=dict)
    nodes: dict[str, Node[nir.NIRNode]] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)
    spikes_per_step: int = 1
    min_v: float | None = None
    names: set[str] = field(default_factory=set)
    decided: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, op: nir.NIRNode, *inputs: str) -> str:
        """Append a node, and return its name.

        Raises:
            FileFormatError: The inputs do not fit the operation.
        """
        shape = checked_shape(name, op, [self.nodes[source].shape for source in inputs], remedy="write it again")
        self.nodes[name] = Node(name, op, inputs, shape)
        return name

    def unused(self, name: str) -> str:
        """A name for a node that the file does not have: ``name``, with a number where a node has it already."""
        numbered = (f"{name}{number}" for number in itertools.count(2))
        free = (each for each in itertools.chain([name], numbered) if each not in self.names and each not in self.nodes)
        return next(free)

    def shape(self, value: str) -> Shape:
        return self.nodes[value].shape

    def flat(self, name: str, value: str) -> str:
        """A value as a vector; a node that flattens it is appended if necessary."""
        shape = self.shape(value)
        if len(shape) == 1:
            return value
        return self.add(self.unused(f"{name}.flatten"), nir.Flatten({"input": np.array(shape)}, start_dim=0), value)


def _import(draft: _Draft, name: str, content: Content) -> None:
    """Append what one node of the file computes.

    Raises:
        FileFormatError: The node is damaged, or does not fit its inputs.
        UnsupportedError: The node has no lowering.
    """
    values, sources = content.nodes[name], [draft.values[source] for source in content.sources[name]]
    kind = values["type"]
    importer = IMPORTERS.get(kind)
    if importer is None:
        raise UnsupportedError(f"{name}: no lowering for a {kind}: the compiler knows {', '.join(sorted(IMPORTERS))}")
    if len(sources) > 1:
        shapes = {draft.shape(source) for source in sources}
        if len(shapes) > 1:
            raise FileFormatError(f"{name}: values of shapes {', '.join(map(str, sorted(shapes)))} meet there")
        sources = [draft.add(draft.unused(f"{name}.sum"), Add(), *sources)]
    if kind == "Input":
        values = {**values, "shape": _without_batch(name, content)}
    if kind == "Output":
        sources = [draft.flat(name, sources[0])]
    try:
        with np.errstate(over="raise", divide="raise", invalid="raise"):
            draft.values[name] = importer(draft, name, values, *sources)
    except FloatingPointError as error:
        raise FileFormatError(
            f"{name}: its values span too many magnitudes ({error}); bring time constants and thresholds nearer to 1"
        ) from error


def _without_batch(name: str, content: Content) -> Shape:
    """The shape that an input states, without the batch of one that some exporters (Norse's, Sinabs') leave in front.

    The layers that read the input tell whether a leading one is such a batch, as in (1, F), or a single channel.
    """
    shape = _shape(name, content.nodes[name])
    kinds = [content.nodes[reader]["type"] for reader, sources in content.sources.items() if name in sources]
    batched = any(len(shape) == AXES.get(kind, 3) + 1 for kind in kinds)
    return shape[1:] if batched and shape[0] == 1 else shape


def _input(draft: _Draft, name: str, values: Values) -> str:
    shape = _shape(name, values)
    whole = {1: (*shape, 1, 1), 2: (*shape[:1], 1, *shape[1:]), 3: shape}.get(len(shape))
    if whole is None:
        raise UnsupportedError(
            f"{name}: a sample has shape {shape}; it must be (F,), (C, L) or (C, H, W), without batch"
        )
    value = draft.add(name, nir.Input({"input": np.array(whole)}))
    return draft.flat(name, value) if len(shape) == 1 else value


def _output(draft: _Draft, name: str, _values: Values, source: str) -> str:
    return draft.add(name, nir.Output({"output": np.array(draft.shape(source))}), source)


def _linear(draft: _Draft, name: str, values: Values, source: str) -> str:
    weight = _array(name, values, "weight", axes=2)
    shape, before = draft.shape(source), draft.nodes[source]
    # torch's Flatten counts the batch among its axes, NIR's does not: a file's start_dim of 1 may mean either
    if len(shape) > 1 and math.prod(shape) == weight.shape[1] and isinstance(before.op, nir.Flatten):
        source = draft.flat(name, source)
    if "bias" not in values:
        return draft.add(name, nir.Linear(weight), source)
    return draft.add(name, nir.Affine(weight, _array(name, values, "bias", axes=1)), source)


def _pointwise(name: str, values: Values) -> nir.Conv2d:
    """A linear layer as a 1x1 convolution of images of one pixel."""
    weight = _array(name, values, "weight", axes=2)[:, :, None, None]
    return _convolution(name, values, weight)


def _scale(draft: _Draft, name: str, values: Values, source: str) -> str:
    scale = _spread(name, "scale", _array(name, values, "scale"), draft.shape(source))
    return draft.add(name, nir.Scale(scale), source)


def _conv(draft: _Draft, name: str, values: Values, source: str) -> str:
    return draft.add(name, CONVOLUTIONS[values["type"]](name, values), source)


def _conv2d(name: str, values: Values) -> nir.Conv2d:
    return _convolution(name, values, _array(name, values, "weight", axes=4))


def _conv1d(name: str, values: Values) -> nir.Conv2d:
    """A convolution along one axis, as a convolution of images of one row."""
    weight = _array(name, values, "weight", axes=3)[:, :, None]
    along = {"stride": values.get("stride", 1), "dilation": values.get("dilation", 1)}
    rows: dict[str, Any] = {key: (1, *_whole(name, key, value)) for key, value in along.items()}
    padding = values.get("padding", 0)
    rows["padding"] = padding if isinstance(padding, str) else (0, *_whole(name, "padding", padding))
    return _convolution(name, {**values, **rows}, weight)


def _convolution(name: str, values: Values, weight: Float64Array) -> nir.Conv2d:
    stride, dilation = (_pair(f"{name}: {each}", values.get(each, 1)) for each in ("stride", "dilation"))
    padding = values.get("padding", 0)
    if isinstance(padding, str):
        rows, columns = weight.shape[2:]
        around = Window((rows, columns), dilation=dilation).same_padding
        if padding == "same" and stride != (1, 1):
            raise UnsupportedError(
                f"{name}: padding 'same' goes with a stride of 1 alone, its stride is {stride}; give the padding in "
                "numbers"
            )
        if padding == "same" and around is None:
            raise UnsupportedError(f"{name}: padding 'same' is one-sided here; pad both sides alike, in numbers")
        if padding not in ("same", "valid"):
            raise FileFormatError(f"{name}: padding is {padding!r}; it must be numbers, 'same' or 'valid'")
        padding = around if padding == "same" else 0
    return nir.Conv2d(
        input_shape=None,
        weight=weight,
        stride=stride,
        padding=_pair(f"{name}: padding", padding),
        dilation=dilation,
        groups=_whole(name, "groups", values.get("groups", 1))[0],
        bias=_array(name, values, "bias", axes=1) if "bias" in values else np.zeros(len(weight)),
    )


def _pool(draft: _Draft, name: str, values: Values, source: str) -> str:
    kernel = values.get("kernel_size", 0)
    fields = {"kernel_size": kernel, "stride": values.get("stride", kernel), "padding": values.get("padding", 0)}
    pairs = {key: np.array(_pair(f"{name}: {key}", value)) for key, value in fields.items()}
    return draft.add(name, getattr(nir, values["type"])(**pairs), source)


def _flatten(draft: _Draft, name: str, values: Values, source: str) -> str:
    shape = draft.shape(source)
    start, end = (
        _whole(name, key, values.get(key, default))[0] for key, default in (("start_dim", 1), ("end_dim", -1))
    )
    if len(shape) == 1:
        return source
    if not (0 <= start < len(shape) and -len(shape) <= end < len(shape)):
        raise FileFormatError(f"{name}: flattens axes {start} to {end} of shape {shape}")
    return draft.add(name, nir.Flatten({"input": np.array(shape)}, start_dim=start, end_dim=end), source)


def _lif(draft: _Draft, name: str, values: Values, source: str) -> str:
    parameters = _parameters(draft, name, values, source, "tau", "r", "v_leak")
    _check_positive(name, parameters, "tau")
    metadata: dict[str, Any] = _neuron_metadata(draft, name, values)
    endless = np.isinf(collapse(parameters["tau"]))
    if endless.all():
        kept = {key: parameters[key] for key in ("r", "v_threshold", "v_reset")}
        return _add_neurons(draft, name, nir.IF(**kept, metadata=metadata), source)
    metadata |= _stated_decay(draft, values, parameters["tau"])
    return _add_neurons(draft, name, nir.LIF(**parameters, metadata=metadata), source, in_steps=bool(endless.any()))


def _cuba_lif(draft: _Draft, name: str, values: Values, source: str) -> str:
    given = {"w_in": np.ones(()), **values}
    parameters = _parameters(draft, name, given, source, "tau_syn", "tau_mem", "r", "v_leak", "w_in")
    _check_positive(name, parameters, "tau_syn", "tau_mem")
    op = nir.CubaLIF(**parameters, metadata=_neuron_metadata(draft, name, values))
    return _add_neurons(draft, name, op, source, in_steps=bool(np.isinf(collapse(op.tau_mem)).any()))


def _if(draft: _Draft, name: str, values: Values, source: str) -> str:
    parameters = _parameters(draft, name, values, source, "r")
    most = _spikes_per_step(draft, name, values)
    if most > 1:
        return draft.add(name, _multi_spike(draft, name, values, parameters, most), source)
    return _add_neurons(draft, name, nir.IF(**parameters, metadata=_neuron_metadata(draft, name, values)), source)


def _spikes_per_step(draft: _Draft, name: str, values: Values) -> int:
    """The most spikes that an IF may fire in a step.

    Raises:
        FileFormatError: The number in the metadata is neither "multi" nor a whole number within the limits.
    """
    metadata = values.get("metadata", {})
    stated = metadata.get("spikes_per_step", 1 if "reset" in metadata else draft.spikes_per_step)
    if draft.spikes_per_step > 1 and not {"spikes_per_step", "reset"} & set(metadata):
        draft.decided["spikes_per_step"] = draft.spikes_per_step
    if stated == MULTI:
        return MOST_SPIKES
    if not isinstance(stated, int) or not 1 <= stated <= MOST_SPIKES:
        raise FileFormatError(
            f"{name}: its metadata say {stated!r} spikes_per_step; it must be {MULTI!r} or 1 to {MOST_SPIKES}"
        )
    return int(stated)


def _multi_spike(
    draft: _Draft, name: str, values: Values, parameters: dict[str, Float64Array], most: int
) -> MultiSpikeIF:
    """An IF as Sinabs' IAF, whose neurons fire one spike for each threshold that their potential holds.

    Raises:
        FileFormatError: min_v is not a number of at most 0, or ``fires_at`` in the metadata is unknown.
        UnsupportedError: The metadata say another reset than a subtraction, the IF has synapses onto itself, its
            v_reset is not 0, its v_threshold is not positive, or its input does not raise its potential.
    """
    metadata = values.get("metadata", {})
    reset = _neuron_metadata(draft, name, values)["reset"]
    if "reset" in metadata and reset != SOFT:
        raise UnsupportedError(
            f"{name}: its metadata say {most} spikes_per_step and reset {metadata['reset']!r}, but each of several "
            f"spikes subtracts the threshold; write reset {SOFT!r}, or 1 spikes_per_step"
        )
    stated = metadata.get("min_v", draft.min_v)
    if draft.min_v is not None and "min_v" not in metadata:
        draft.decided["min_v"] = draft.min_v
    if stated is not None and not (isinstance(stated, (int, float)) and -LARGEST_VALUE <= stated <= 0):
        raise FileFormatError(f"{name}: min_v is {stated!r}; it must be a number no larger than 0")
    if name in draft.recurrent:
        raise UnsupportedError(
            f"{name}: fires several spikes a step and has synapses onto itself, which Sinabs alone knows together; "
            "compile with --spikes-per-step single, or cut the edge back"
        )
    gain, height = collapse(parameters["r"]) * draft.dt, collapse(parameters["v_threshold"])
    if collapse(parameters["v_reset"]).any():
        raise UnsupportedError(f"{name}: subtracts its threshold for each spike, so its v_reset must be 0")
    if (gain <= 0).any() or (height <= 0).any():
        raise UnsupportedError(
            f"{name}: an input of one adds {gain.min():.4g}, and v_threshold is {height.min():.4g}; both must be "
            "positive where several spikes a step are meant"
        )
    shape = parameters["r"].shape
    floor = -LARGEST_VALUE if stated is None else float(stated)
    return MultiSpikeIF(
        v_threshold=np.broadcast_to(height / gain, shape),
        v_floor=np.broadcast_to(floor / gain, shape),
        max_spikes=most,
    )


def _delay(draft: _Draft, name: str, values: Values, source: str) -> str:
    """A delay, rounded to the nearest whole number of steps."""
    delay = _spread(name, "delay", _array(name, values, "delay"), draft.shape(source))
    if (delay < 0).any():
        raise FileFormatError(f"{name}: delay is {delay.min():g} seconds; it must not be negative")
    steps = np.rint(delay / draft.dt)
    if (longest := float(steps.max())) > LONGEST_DELAY:
        raise FileFormatError(
            f"{name}: delay is {delay.max():g} seconds, {longest:.4g} steps, the limit is {LONGEST_DELAY}; repair the "
            "network, or give the --dt that it is meant for"
        )
    return draft.add(name, SampleDelay(steps.astype(np.int64)), source)


def _integrator(draft: _Draft, name: str, values: Values, source: str) -> str:
    """Neurons that do not fire: their output is their potential."""
    kind, shape = getattr(nir, values["type"]), draft.shape(source)
    given = {"w_in": np.ones(()), **values}
    parameters = _charging(name, given, draft, shape, INTEGRATORS[values["type"]])
    _check_positive(name, parameters, *(key for key in parameters if key.startswith("tau")))
    return draft.add(name, discrete_integrator(name, kind(**parameters), draft.dt, shape), source)


def _threshold(draft: _Draft, name: str, values: Values, source: str) -> str:
    """A threshold without memory, as neurons that forget their whole potential in each step."""
    shape = draft.shape(source)
    one, zero = np.ones(shape), np.zeros(shape)
    threshold = _spread(name, "threshold", _array(name, values, "threshold"), shape)
    op = nir.LIF(
        tau=one * draft.dt, r=one, v_leak=zero, v_threshold=threshold, v_reset=zero, metadata=dict(NEURON_METADATA)
    )
    return _add_neurons(draft, name, op, source)


def _add_neurons(
    draft: _Draft, name: str, op: nir.LIF | nir.IF | nir.CubaLIF, source: str, *, in_steps: bool = False
) -> str:
    """Append a population, together with the layer, if any, that leads from the population back to itself.

    Args:
        draft: The float graph so far.
        name: The population's name.
        op: The population's neurons.
        source: The value that the population reads.
        in_steps: Whether the population becomes neurons in steps here already, since NIR's node cannot hold its time
            constants.

    Raises:
        FileFormatError: The layer does not keep the population's shape.
        UnsupportedError: The layer has no lowering in this place.
    """
    if name not in draft.recurrent:
        return draft.add(name, discrete(name, op, draft.dt, draft.shape(source)) if in_steps else op, source)
    layer, values = draft.recurrent[name]
    convolution = CONVOLUTIONS.get(values["type"])
    if convolution is None:
        raise UnsupportedError(
            f"{layer}: leads from {name} back to it, where a {values['type']} has no lowering; use one of "
            f"{', '.join(CONVOLUTIONS)}"
        )
    synapses, shape = convolution(layer, values), draft.shape(source)
    made = checked_shape(layer, synapses, [(*shape, 1, 1)[:3]], remedy="write it again")
    if synapses.stride != (1, 1) or made != (*shape, 1, 1)[:3]:
        raise FileFormatError(f"{layer}: makes shape {made} of the spikes of {name}, {shape}, which it leads back to")
    neurons = discrete(name, op, draft.dt, shape)
    recurrent = RecurrentCubaLIF(
        **{key: getattr(neurons, key) for key in (*PER_NEURON, "soft_reset")},
        weight=synapses.weight,
        bias=synapses.bias,
        padding=synapses.padding,
        dilation=synapses.dilation,
        groups=synapses.groups,
        metadata=dict(neurons.metadata),
    )
    return draft.add(name, recurrent, source)


def _check_positive(name: str, parameters: Mapping[str, Float64Array], *fields: str) -> None:
    for field_name in fields:
        if not (parameters[field_name] > 0).all():
            least = parameters[field_name].min()
            raise FileFormatError(f"{name}: {field_name} is {least:g} seconds; it must be positive")


def _stated_decay(draft: _Draft, values: Values, tau: Float64Array) -> dict[str, float]:
    """tau in steps, and its inverse, to the last bit as the metadata state them; left out where they do not fit dt."""
    exact = {"tau_steps": collapse(tau) / draft.dt, "dt_over_tau": draft.dt / collapse(tau)}
    stated = values.get("metadata", {})
    return {
        key: float(stated[key])
        for key, rounded in exact.items()
        if isinstance(stated.get(key), (int, float)) and np.allclose(rounded, float(stated[key]), TAU_TOLERANCE, 0.0)
    }


def _neuron_metadata(draft: _Draft, name: str, values: Values) -> dict[str, str | float]:
    """How a population resets and fires: by its own metadata, else by the draft's ``reset`` and NIR's ``fires_at``.

    Raises:
        FileFormatError: ``fires_at`` in the metadata is unknown.
        UnsupportedError: ``reset`` in the metadata is unknown, or the population would fire without an input.
    """
    metadata = {key: str(value) for key, value in values.get("metadata", {}).items()}
    stated = {**NEURON_METADATA, "reset": draft.reset, **metadata}
    reset = RESET_NAMES.get(stated["reset"])
    if reset is None:
        raise UnsupportedError(
            f"{name}: its metadata say reset {stated['reset']!r}; known are {', '.join(RESET_NAMES)}, so train with "
            "one of these"
        )
    if stated["fires_at"] not in FIRES_AT:
        raise FileFormatError(
            f"{name}: its metadata say that it fires at {stated['fires_at']!r}, not at one of {', '.join(FIRES_AT)}; "
            "write the file again"
        )
    if stated["fires_at"] == ">=" and not (_array(name, values, "v_threshold") > 0).all():
        raise UnsupportedError(f"{name}: fires at >= and its v_threshold is not positive, so it fires without an input")
    return {"reset": reset, "fires_at": stated["fires_at"]}


def _parameters(draft: _Draft, name: str, values: Values, source: str, *fields: str) -> dict[str, Float64Array]:
    """The parameters of a population, each broadcast to its shape; v_reset is 0 if the file has none, as in NIR."""
    given = {"v_reset": np.zeros(()), **values}
    return _charging(name, given, draft, draft.shape(source), (*fields, "v_threshold", "v_reset"))


def _charging(name: str, values: Values, draft: _Draft, shape: Shape, fields: Sequence[str]) -> dict[str, Float64Array]:
    """The parameters of neurons, each broadcast to their shape.

    An infinite time constant means no leak: dv/dt = r * input, as for an IF. Exporters that write r in proportion to
    tau (snnTorch: tau / dt) then write an infinite r, too. By that proportion, an input of one adds one to the
    potential in a step. An IF with an r of 1 / dt does the same, so 1 / dt replaces the infinite r.

    Raises:
        FileFormatError: A parameter does not fit the shape, or is infinite where this has no meaning.
        UnsupportedError: tau_syn is infinite, so that the current would lose nothing.
    """
    arrays = {key: _array(name, values, key, endless=key in ENDLESS) for key in fields}
    made = {key: _spread(name, key, array, shape) for key, array in arrays.items()}
    if not any(np.isinf(array).any() for array in arrays.values()):
        return made
    if np.isinf(made.get("tau_syn", np.zeros(()))).any():
        raise UnsupportedError(
            f"{name}: tau_syn is infinite, so its current loses nothing; Loihi's keeps at most "
            f"{LOIHI.decay_unity - 1} parts in {LOIHI.decay_unity} of it, so train with a finite tau_syn"
        )
    endless = np.isinf(made["tau" if "tau" in made else "tau_mem"]) if {"tau", "tau_mem"} & set(made) else np.False_
    if (np.isinf(made["r"]) & ~endless).any():
        raise FileFormatError(f"{name}: r is infinite where tau is not; repair the network and write it again")
    return {**made, "r": np.where(np.isinf(made["r"]), 1.0 / draft.dt, made["r"])}


def _array(name: str, values: Values, key: str, *, axes: int | None = None, endless: bool = False) -> Float64Array:
    """Read a field of real numbers; if ``endless``, they may be plus infinity.

    Raises:
        FileFormatError: The field is absent, empty, not of numbers, not of ``axes`` axes, not finite, or too large.
    """
    if key not in values:
        raise FileFormatError(f"{name}: has no {key}, which a {values.get('type')} needs; write the file again")
    array = np.asarray(values[key])
    if array.dtype.kind not in "iufb":
        raise FileFormatError(f"{name}: {key} is {array.dtype}, not numbers; write the file again")
    if axes is not None and array.ndim != axes:
        raise FileFormatError(f"{name}: {key} has shape {array.shape}, not {axes} axes; write the file again")
    wide = array.astype(np.float64)
    finite = np.isfinite(wide) | (endless & (wide == np.inf))
    if not finite.all():
        raise FileFormatError(f"{name}: {key} holds NaN or infinite values; repair the network and write it again")
    if not wide.size:
        raise FileFormatError(f"{name}: {key} has shape {array.shape}, which is empty; leave the node out")
    if (largest := np.abs(wide[wide != np.inf]).max(initial=0.0)) > LARGEST_VALUE:
        raise FileFormatError(
            f"{name}: {key} reaches {largest:.4g}, the limit is {LARGEST_VALUE:g}; repair the network"
        )
    return wide


def _spread(name: str, key: str, array: Float64Array, shape: Shape) -> Float64Array:
    """A parameter broadcast to every neuron: from one value for all neurons, or (C, 1, 1) for one per channel.

    Raises:
        FileFormatError: The parameter does not fit the shape.
    """
    if array.size == 1:
        return np.broadcast_to(array.reshape(()), shape)
    if array.ndim == 2 and len(shape) == 3 and shape[1] == 1:
        array = array[:, None]
    if array.ndim != len(shape) or any(given not in (1, size) for given, size in zip(array.shape, shape, strict=True)):
        raise FileFormatError(f"{name}: {key} of shape {array.shape} does not fit values of shape {shape}")
    return np.broadcast_to(array, shape)


def _shape(name: str, values: Values) -> Shape:
    """The shape that a node states."""
    if "shape" not in values:
        raise FileFormatError(f"{name}: states no shape; write the file again with nir.write")
    shape = _whole(name, "shape", values["shape"])
    if not shape or min(shape) < 1:
        raise FileFormatError(f"{name}: its shape is {shape}; all sizes must be positive")
    return shape


def _pair(where: str, value: Any) -> tuple[int, int]:
    """(rows, columns) from one or two whole numbers."""
    whole = _whole(where, "size", value)
    if len(whole) not in (1, 2):
        raise FileFormatError(f"{where} has {len(whole)} values, not one or two")
    return whole[0], whole[-1]


def _whole(name: str, key: str, value: Any) -> tuple[int, ...]:
    """Read whole numbers.

    Raises:
        FileFormatError: The value holds something else, or too many numbers.
    """
    array = np.asarray(value).reshape(-1)
    if array.size > MOST_AXES:
        raise FileFormatError(f"{name}: {key} has {array.size} values, the limit is {MOST_AXES}; write the file again")
    if array.dtype.kind not in "iuf" or not np.isfinite(array).all() or (array != np.floor(array)).any():
        raise FileFormatError(f"{name}: {key} is {value!r}, not whole numbers; write the file again")
    return tuple(int(each) for each in array)


Importer: TypeAlias = Callable[..., str]

IMPORTERS: Mapping[str, Importer] = MappingProxyType(
    {
        "Input": _input,
        "Output": _output,
        "Linear": _linear,
        "Affine": _linear,
        "Scale": _scale,
        "Conv1d": _conv,
        "Conv2d": _conv,
        "AvgPool2d": _pool,
        "SumPool2d": _pool,
        "Flatten": _flatten,
        "LIF": _lif,
        "IF": _if,
        "CubaLIF": _cuba_lif,
        "Delay": _delay,
        "I": _integrator,
        "LI": _integrator,
        "CubaLI": _integrator,
        "Threshold": _threshold,
    }
)
"""The function that imports each type of node."""

CONVOLUTIONS: Mapping[str, Callable[[str, Values], nir.Conv2d]] = MappingProxyType(
    {"Conv1d": _conv1d, "Conv2d": _conv2d, "Linear": _pointwise, "Affine": _pointwise}
)
"""The function that makes a convolution of each type of layer that may lead from a population back to itself."""
