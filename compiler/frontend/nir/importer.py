"""NIR files in, float graphs out: networks of NIR's standard nodes, whoever wrote them.

Nodes keep their names; those of a graph inside a graph become ``graph.node``. Edges that meet at a node become an
explicit ``Add`` (``node.sum``). A layer that leads from a population back to it becomes part of that population, its
spikes arriving a step late. Values of one spatial axis, (C, L), become images of one row, (C, 1, L), and a vector
that comes in becomes (F, 1, 1) and is flattened, so that samples always have three axes. NIR's neurons live in
continuous time; docs/numerics.md says what a step of ``dt`` seconds makes of them.
"""

from __future__ import annotations

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
"""Axes of what a layer reads, where there are not three."""
INTEGRATORS = MappingProxyType(
    {"I": ("r",), "LI": ("tau", "r", "v_leak"), "CubaLI": ("tau_syn", "tau_mem", "r", "v_leak", "w_in")}
)
"""The fields of neurons that do not fire."""
ENDLESS = ("tau", "tau_mem", "tau_syn", "r")
"""The fields that may be infinite: of neurons that do not leak."""
MULTI = "multi"
"""What the metadata may say under ``spikes_per_step`` of IF neurons that fire as often as they can."""
LONGEST_DELAY = 2**31 - 1
"""Steps; what a program holds."""
LARGEST_VALUE = 1e30
"""Of a field, or of a step or its inverse: products of a few must stay within float64."""
FIRES_AT = (">", ">=")
"""What the metadata of a file's neurons may say under ``fires_at``: NIR's way and SpikingJelly's."""
NEURON_METADATA = {"reset": HARD, "fires_at": ">"}
"""How NIR defines its neurons: v = v_reset where v > v_threshold."""
RESET_NAMES = MappingProxyType({HARD: HARD, "zero": HARD, SOFT: SOFT, "subtract": SOFT, LATE: LATE, PROMPT: PROMPT})
"""What the metadata of a file's neurons may say under ``reset``, in the words of several frameworks."""


def import_nir(
    path: str | Path,
    *,
    dt: float | None = None,
    timesteps: int | None = None,
    input_kind: InputKind = "static",
    reset: str = HARD,
    spikes_per_step: int = 1,
    min_v: float | None = None,
) -> Graph[nir.NIRNode]:
    """The float graph of a network in a NIR file.

    Args:
        path: Written by any framework.
        dt: Seconds a step; None for what the file's metadata say under ``dt``.
        timesteps: T, after which all neurons are reset; None for what the metadata say under ``timesteps``.
        input_kind: Whether samples are real numbers, or counts of events.
        reset: How neurons reset whose own metadata do not say: one of ``ir.neurons.RESETS``.
        spikes_per_step: How many spikes an IF may fire in a step, subtracting as many thresholds, whose own metadata
            say neither that nor how it resets. 1: as NIR has it.
        min_v: The floor under the potential of those that may fire several; None: none.

    Raises:
        FileFormatError: The file is absent, damaged, or no network; the message names file and node.
        UnsupportedError: A node has no lowering; the message names it and a way out.
        InputError: Neither the call nor the file says dt or T.
    """
    content = open_nir(path, read_content)
    # a shape or a step of the file may be infinite, or no number
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
        draft = _Draft(float(dt), reset, layers, spikes_per_step=spikes_per_step, min_v=min_v)
        for name in in_order(content):
            _import(draft, name, content)
    return Graph(
        tuple(draft.nodes.values()),
        int(timesteps),
        {
            "dt": float(dt),
            "input": input_kind,
            "reset": reset,
            "source": "nir",
            **({} if spikes_per_step == 1 else {"spikes_per_step": spikes_per_step}),
            **({} if min_v is None else {"min_v": min_v}),
        },
    )


def _fact(path: str | Path, name: str, option: str, given: float | None, metadata: Values) -> Any:
    """What the user says, or else the file.

    Raises:
        InputError: Neither does.
    """
    stated = metadata.get(name) if given is None else given
    if not isinstance(stated, (int, float)):
        raise InputError(f"{path}: the file does not say {name}; give {option}")
    return stated


@dataclass
class _Draft:
    """The nodes so far; a value is the name of the node that makes it, and ``values`` say which that is.

    Attributes:
        dt: Seconds a step.
        reset: How neurons reset whose metadata do not say.
        recurrent: For each population with synapses onto itself, name and fields of the layer that they are.
        spikes_per_step: How many spikes an IF may fire in a step whose metadata do not say.
        min_v: The floor under the potential of such neurons; None: none.
    """

    dt: float
    reset: str
    recurrent: Mapping[str, tuple[str, Values]] = field(default_factory=dict)
    nodes: dict[str, Node[nir.NIRNode]] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)
    spikes_per_step: int = 1
    min_v: float | None = None

    def add(self, name: str, op: nir.NIRNode, *inputs: str) -> str:
        """Append a node, and return its name.

        Raises:
            FileFormatError: Its inputs do not fit it.
        """
        shape = checked_shape(name, op, [self.nodes[source].shape for source in inputs], remedy="write it again")
        self.nodes[name] = Node(name, op, inputs, shape)
        return name

    def shape(self, value: str) -> Shape:
        return self.nodes[value].shape

    def flat(self, name: str, value: str) -> str:
        """A value as a vector."""
        shape = self.shape(value)
        if len(shape) == 1:
            return value
        return self.add(f"{name}.flatten", nir.Flatten({"input": np.array(shape)}, start_dim=0), value)


def _import(draft: _Draft, name: str, content: Content) -> None:
    """Append what one node of the file computes.

    Raises:
        FileFormatError: It is damaged, or does not fit what it reads.
        UnsupportedError: It has no lowering.
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
        sources = [draft.add(f"{name}.sum", Add(), *sources)]
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
    """The shape that an input states, less a batch of one in front, which some exporters leave there.

    Norse's and Sinabs' do; that (1, F) is no image of one channel is seen from the layers that read it.
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
    """A linear layer as a convolution of images of one pixel."""
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
    """A convolution of images of one row."""
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
        if padding == "same" and (stride != (1, 1) or around is None):
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
    """How many spikes an IF may fire in a step.

    Raises:
        FileFormatError: Its metadata say something else than a whole number.
    """
    metadata = values.get("metadata", {})
    stated = metadata.get("spikes_per_step", 1 if "reset" in metadata else draft.spikes_per_step)
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
    """Sinabs' IAF: what an IF's file means whose neurons fire once for each threshold that their potential holds.

    Raises:
        FileFormatError: Its floor is no number.
        UnsupportedError: It has synapses onto itself, rests elsewhere than at zero, or its input lowers its potential.
    """
    stated = values.get("metadata", {}).get("min_v", draft.min_v)
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
    """A delay by the nearest whole number of steps."""
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
    """Neurons that do not fire: what they make is their potential."""
    kind, shape = getattr(nir, values["type"]), draft.shape(source)
    given = {"w_in": np.ones(()), **values}
    parameters = _charging(name, given, draft, shape, INTEGRATORS[values["type"]])
    _check_positive(name, parameters, *(key for key in parameters if key.startswith("tau")))
    return draft.add(name, discrete_integrator(name, kind(**parameters), draft.dt, shape), source)


def _threshold(draft: _Draft, name: str, values: Values, source: str) -> str:
    """A neuron that forgets all in a step, which is what a threshold without memory is."""
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
    """Append a population, and with it the layer that leads from it back to it.

    Args:
        draft: The nodes so far.
        name: The population's.
        op: Its neurons.
        source: What it reads.
        in_steps: Whether NIR's node cannot hold its time constants, so that it becomes neurons in steps here already.

    Raises:
        FileFormatError: That layer does not keep the population's shape.
        UnsupportedError: It has no lowering there.
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
    """tau in steps and its inverse as our own files say them, to the last bit; not where --dt is another."""
    exact = {"tau_steps": collapse(tau) / draft.dt, "dt_over_tau": draft.dt / collapse(tau)}
    stated = values.get("metadata", {})
    return {
        key: float(stated[key])
        for key, rounded in exact.items()
        if isinstance(stated.get(key), (int, float)) and np.allclose(rounded, float(stated[key]), TAU_TOLERANCE, 0.0)
    }


def _neuron_metadata(draft: _Draft, name: str, values: Values) -> dict[str, str | float]:
    """How a population resets and where it fires: as its metadata say, or else the draft and NIR's definition.

    Raises:
        FileFormatError: They say what no neuron does.
        UnsupportedError: They say what has no lowering.
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
    """The parameters of a population, each spread over it; v_reset is 0 where the file has none, as in NIR."""
    given = {"v_reset": np.zeros(()), **values}
    return _charging(name, given, draft, draft.shape(source), (*fields, "v_threshold", "v_reset"))


def _charging(name: str, values: Values, draft: _Draft, shape: Shape, fields: Sequence[str]) -> dict[str, Float64Array]:
    """The parameters of neurons, each spread over their shape.

    An infinite time constant means no leak: dv/dt = r * input, as of an IF. Exporters that write r in proportion to tau
    (snnTorch: tau / dt) then write an infinite r too. It means what that ratio does, one a step, which an IF's r of
    1 / dt says.

    Raises:
        FileFormatError: One does not fit, or is infinite where it can mean nothing.
        UnsupportedError: A current keeps all that it has.
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
    """A field as real numbers, which may be infinite, but not less than all, if ``endless``.

    Raises:
        FileFormatError: It is absent, empty, of the wrong kind, not finite, or beyond all reason.
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
    """A population's parameter at each neuron; one value is for all, and (C, 1, 1) for each channel.

    Raises:
        FileFormatError: It does not fit.
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
    """(rows, columns) of one number or two."""
    whole = _whole(where, "size", value)
    if len(whole) not in (1, 2):
        raise FileFormatError(f"{where} has {len(whole)} values, not one or two")
    return whole[0], whole[-1]


def _whole(name: str, key: str, value: Any) -> tuple[int, ...]:
    """Whole numbers.

    Raises:
        FileFormatError: They are something else.
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
"""How each type of node is imported."""

CONVOLUTIONS: Mapping[str, Callable[[str, Values], nir.Conv2d]] = MappingProxyType(
    {"Conv1d": _conv1d, "Conv2d": _conv2d, "Linear": _pointwise, "Affine": _pointwise}
)
"""How each layer that may lead from a population back to it becomes a convolution."""
