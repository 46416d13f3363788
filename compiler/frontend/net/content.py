"""Reads a netx file (``.net``, HDF5): its layers in order, checked field by field, but not interpreted yet.

lava-dl writes a group ``layer``, which holds a group for each layer, named by the layer's number. Some files also have
a group ``simulation``. Numbers are the chip's integers, whatever type the file stores them as. Since a file may come
from anyone, it passes the gate of HDF5 files first (``resformer.compiler.files.hdf5_gate``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias

import h5py
import numpy as np
import numpy.typing as npt

from resformer.compiler.files.nir import read_values
from resformer.compiler.ir.arrays import Int64Array, Shape
from resformer.compiler.target import LOIHI
from resformer.errors import FileFormatError, RangeError, UnsupportedError
from resformer.models.limits import MOST_VALUES, quote, require_within

Values: TypeAlias = Mapping[str, Any]
"""The fields of a layer by name, as the file holds them."""

REWRITE = "export the network again"
KINDS = ("input", "conv", "flatten", "dense", "dense_rec")
"""The types of layers that can be compiled."""
NEURON_KINDS = ("CUBA", "LOIHI")
"""The types of neurons that can be compiled; netx treats both alike."""
SIGMA_DELTA = "SDNN"
WEIGHT_LEAST, WEIGHT_MOST = -256, 255
"""The smallest and the largest weight of netx: 8 signed bits with an exponent, or 8 unsigned bits."""
DELAY_MOST = 62
"""The longest delay that netx gives Loihi's synapses, in steps."""
NEVER = LOIHI.vth_mantissa_max
"""Neurons with this threshold or a higher one never fire; lava-dl gives it to a layer whose potential is read out."""
SIZE_MOST = 2**31 - 1
"""The limit of sizes, strides and other whole numbers that have no limit of their own; no network comes near it."""
INPUT_WEIGHT = 64
"""The factor by which netx multiplies pixels if an input layer has neurons but states no weight."""


@dataclass(frozen=True)
class Neurons:
    """The parameters of a population; each has one value, one per channel or one per neuron, and the layer's axes.

    Attributes:
        i_decay: What the current loses in a step, in 1/4096: ``du + 1``. At 4096 the current keeps nothing.
        v_decay: What the membrane potential loses in a step, in 1/4096: ``dv``.
        vth: Threshold mantissas.
    """

    i_decay: Int64Array
    v_decay: Int64Array
    vth: Int64Array

    @property
    def read_out(self) -> bool:
        """Whether the neurons never fire, so that their output is their potential."""
        return bool((self.vth >= NEVER).all())


READ_OUT = Neurons(*(np.array([each], dtype=np.int64) for each in (LOIHI.decay_unity, 0, NEVER)))
"""The neurons of a layer that states none. netx gives them a current that keeps everything and a potential that keeps
nothing. As they do not fire, a current that keeps nothing and a potential that keeps everything act the same."""


@dataclass(frozen=True)
class Layer:
    """One layer.

    Attributes:
        name: The path of its group, such as ``layer.3``.
        kind: One of :data:`KINDS`.
        shape: (C, H, W), or (F,); empty for a flatten layer.
        neurons: None for a flatten layer, and for an input layer that is given spikes.
        weight: (C_out, C_in / groups, K_h, K_w), or (F_out, F_in), or (1,) for an input layer.
        recurrent: (F, F), for a ``dense_rec`` layer; None for all others.
        bias: (1,) or (C,), in units of a synaptic input.
        delay: In steps, (1,), (F_out,) or (F_in,); zeros if the file states none.
        stride, padding, dilation: (rows, columns).
        groups: The number of blocks of channels that do not mix.
    """

    name: str
    kind: str
    shape: Shape
    neurons: Neurons | None = None
    weight: Int64Array = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    recurrent: Int64Array | None = None
    bias: Int64Array = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    delay: Int64Array = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


@dataclass(frozen=True)
class Content:
    """A file's network.

    Attributes:
        layers: The layers in order.
        timesteps: Steps per sample, as the group ``simulation`` states them; None if the file does not say.
    """

    layers: tuple[Layer, ...]
    timesteps: int | None


def read_content(file: h5py.File) -> Content:
    """Read a network.

    Raises:
        FileFormatError: The file holds no network, or a damaged one.
        RangeError: A number is outside the range that the chip holds.
        UnsupportedError: A layer or its neurons have no lowering.
    """
    root = file.get("layer")
    groups: Values = read_values(root) if isinstance(root, h5py.Group) else {}
    if not groups:
        raise FileFormatError(f"no netx network: it has no group 'layer' with layers in it; {REWRITE} with lava-dl")
    for key in groups:
        if not key.isdecimal() or str(int(key)) != key or int(key) >= len(groups):
            raise FileFormatError(
                f"layer.{quote(key)}: the layers are not numbered 0 to {len(groups) - 1} one after the other; {REWRITE}"
            )
    layers = tuple(_read_layer(f"layer.{key}", groups[key]) for key in sorted(groups, key=int))
    settings = file.get("simulation")
    stated = read_values(settings).get("tSample") if isinstance(settings, h5py.Group) else None
    timesteps = None if stated is None else _one("simulation", {"tSample": stated}, "tSample", 1, SIZE_MOST)
    return Content(layers, timesteps)


def _read_layer(name: str, values: Any) -> Layer:
    """Read one layer with the reader for its type."""
    if not isinstance(values, dict):
        raise FileFormatError(f"{name}: is no group of fields; {REWRITE}")
    kind = _text(name, values, "type")
    read = READERS.get(kind)
    if read is None:
        raise UnsupportedError(
            f"{name}: a layer of type {quote(kind)} has no lowering, nor does netx run one; the compiler knows "
            f"{', '.join(KINDS)}, so train without it, or export the layers before it alone"
        )
    return read(name, values)


def _input(name: str, values: Values) -> Layer:
    shape = _shape(name, values)
    if "neuron" not in values:
        return Layer(name, "input", shape)
    given = {"weight": INPUT_WEIGHT, "bias": 0, **values}
    weight = np.array([_one(name, given, "weight", 1, LOIHI.bias_mantissa_max)])
    bias = np.array([_one(name, given, "bias", -LOIHI.bias_mantissa_max, LOIHI.bias_mantissa_max)])
    return Layer(name, "input", shape, _neurons(name, values, shape), weight, bias=bias)


def _conv(name: str, values: Values) -> Layer:
    shape = _shape(name, values)
    weight = _weights(name, values, "weight")
    if weight.ndim == 5 and weight.shape[4] == 1:
        weight = weight[..., 0]
    if weight.ndim != 4:
        raise FileFormatError(
            f"{name}: weight has shape {weight.shape}, not (channels out, channels in, rows, columns); {REWRITE}"
        )
    if len(shape) != 3 or shape[0] != len(weight):
        raise FileFormatError(
            f"{name}: its shape is {shape}, not ({len(weight)}, rows, columns), as its weight of shape {weight.shape} "
            f"makes; {REWRITE}"
        )
    delay = _delay(name, values)
    if delay.any():
        raise UnsupportedError(
            f"{name}: a convolution with axonal delays of up to {delay.max()} steps, which netx leaves out; train it "
            "with delay=False, or delay a dense layer"
        )
    return Layer(
        name,
        "conv",
        shape,
        _neurons(name, values, shape),
        weight,
        bias=_bias(name, values, len(weight)),
        stride=_pair(name, values, "stride", 1),
        padding=_pair(name, values, "padding", 0),
        dilation=_pair(name, values, "dilation", 1),
        groups=_one(name, {"groups": 1, **values}, "groups", 1, SIZE_MOST),
    )


def _flatten(name: str, values: Values) -> Layer:  # noqa: ARG001 # what it states follows from what it reads
    return Layer(name, "flatten", ())


def _dense(name: str, values: Values) -> Layer:
    return _dense_of("dense", name, values)


def _dense_rec(name: str, values: Values) -> Layer:
    return _dense_of("dense_rec", name, values)


def _dense_of(kind: str, name: str, values: Values) -> Layer:
    shape = (math.prod(_shape(name, values)),)
    weight = _matrix(name, values, "weight", shape[0])
    recurrent = _matrix(name, values, "weight_rec", shape[0]) if kind == "dense_rec" else None
    if recurrent is not None and recurrent.shape != (*shape, *shape):
        raise FileFormatError(
            f"{name}: weight_rec has shape {recurrent.shape}, not {(*shape, *shape)}, from all to all; {REWRITE}"
        )
    return Layer(
        name,
        kind,
        shape,
        _neurons(name, values, shape),
        weight,
        recurrent,
        bias=_bias(name, values, shape[0]),
        delay=_delay(name, values),
    )


READERS: Mapping[str, Callable[[str, Values], Layer]] = MappingProxyType(
    {"input": _input, "conv": _conv, "flatten": _flatten, "dense": _dense, "dense_rec": _dense_rec}
)
"""The function that reads each type of layer."""


def _neurons(name: str, values: Values, shape: Shape) -> Neurons:
    """Read a layer's neurons.

    Raises:
        UnsupportedError: The neurons have a type, or a setting, that has no lowering.
    """
    if "neuron" not in values:
        return READ_OUT
    stated = values["neuron"]
    if not isinstance(stated, dict):
        raise FileFormatError(f"{name}: its neuron is no group of fields; {REWRITE}")
    where = f"{name}.neuron"
    kind = _text(where, stated, "type")
    if kind == SIGMA_DELTA:
        raise UnsupportedError(
            f"{name}: its neurons are sigma-delta ({SIGMA_DELTA}), which send changes of a value and no spikes, and "
            "have no lowering; train the network with CUBA neurons (slayer.block.cuba)"
        )
    if kind not in NEURON_KINDS:
        raise UnsupportedError(
            f"{name}: its neurons are of type {quote(kind)}, which has no lowering; the compiler knows "
            f"{' and '.join(NEURON_KINDS)}, so train the network with one of them"
        )
    for key, only, remedy in (
        ("refDelay", 1, "train without a refractory delay"),
        ("wgtExp", 0, "export weights without an exponent of their own"),
        ("weight_exp", 0, "fold the normalisation into the weights"),
        ("gradedSpike", 0, "train with graded_spike=False"),
        ("messageBits", 0, "train with graded_spike=False"),
    ):
        found = _one(where, {key: only, **stated}, key, -SIZE_MOST, SIZE_MOST)
        if found != only:
            raise UnsupportedError(f"{name}: its neurons' {key} is {found}, only {only} has a lowering; {remedy}")
    read = {}
    for key, least, most in (
        ("iDecay", 0, LOIHI.decay_unity),
        ("vDecay", 0, LOIHI.decay_unity),
        ("vThMant", 1, SIZE_MOST),
    ):
        read[key] = _spread(where, key, _integers(where, stated, key, least, most), shape)
    made = Neurons(read["iDecay"], read["vDecay"], np.minimum(read["vThMant"], NEVER))
    if not made.i_decay.all():
        keeps_nothing = (made.i_decay == 0).all() and (made.v_decay == LOIHI.decay_unity).all()
        if made.read_out and keeps_nothing:
            return READ_OUT
        raise UnsupportedError(
            f"{name}: its neurons' iDecay is 0, so their current loses nothing; Loihi's keeps at most "
            f"{LOIHI.decay_unity - 1} parts in {LOIHI.decay_unity} of it, so train with a current_decay above 0"
        )
    if (made.vth >= NEVER).any() and not made.read_out:
        raise UnsupportedError(
            f"{name}: some of its neurons have a vThMant of {NEVER} or more, at which none fires, and others fire; "
            "give each kind a layer of its own"
        )
    return made


def _spread(name: str, key: str, values: Int64Array, shape: Shape) -> Int64Array:
    """Reshape a parameter to the axes of its neurons; it has one value, one per channel, or one per neuron.

    Raises:
        FileFormatError: The parameter does not fit the neurons.
    """
    if values.size == 1:
        return values.reshape((1,) * len(shape))
    if values.ndim == 1 and len(values) == shape[0]:
        return values.reshape(-1, *(1,) * (len(shape) - 1))
    if values.shape == shape:
        return values
    raise FileFormatError(
        f"{name}: {key} has shape {values.shape}; it must be one number, one for each of {shape[0]} channels, or one a "
        f"neuron, {shape}; {REWRITE}"
    )


def _weights(name: str, values: Values, key: str) -> Int64Array:
    """Read weights, and check them against the limits of netx's synapses.

    Raises:
        RangeError: A weight is outside these limits.
    """
    return _integers(
        name, values, key, WEIGHT_LEAST, WEIGHT_MOST, remedy="netx would clip it; train with a smaller weight_scale"
    )


def _matrix(name: str, values: Values, key: str, rows: int) -> Int64Array:
    """Read weights of shape (F_out, F_in), which a file may store as one flat vector."""
    weight = _weights(name, values, key)
    if weight.ndim == 1 and weight.size % rows == 0:
        weight = weight.reshape(rows, -1)
    if weight.ndim != 2 or len(weight) != rows:
        raise FileFormatError(f"{name}: {key} has shape {weight.shape}, not ({rows}, features that come in); {REWRITE}")
    return weight


def _bias(name: str, values: Values, channels: int) -> Int64Array:
    """Read biases of shape (1,) or (C,); zero if the file states none."""
    if "bias" not in values:
        return np.zeros(1, dtype=np.int64)
    limit = LOIHI.bias_mantissa_max
    bias = _integers(name, values, "bias", -limit, limit, remedy="Loihi's has 13 bits; normalise the layer").reshape(-1)
    if len(bias) not in (1, channels):
        raise FileFormatError(
            f"{name}: bias has {len(bias)} values; it must be one, or one for each of {channels} channels; {REWRITE}"
        )
    return bias


def _delay(name: str, values: Values) -> Int64Array:
    """Read delays of shape (1,) or (F,), in steps; zero if the file states none."""
    if "delay" not in values:
        return np.zeros(1, dtype=np.int64)
    remedy = "netx would cut it short; train with a smaller max_delay"
    return _integers(name, values, "delay", 0, DELAY_MOST, remedy=remedy).reshape(-1)


def _integers(name: str, values: Values, key: str, least: int, most: int, *, remedy: str = REWRITE) -> Int64Array:
    """Read a field of whole numbers within limits, whatever numeric type the file stores them as.

    Raises:
        FileFormatError: The field is absent, empty, or holds something else.
        RangeError: A number is outside the limits.
    """
    if key not in values:
        raise FileFormatError(f"{name}: has no {key}; {REWRITE}")
    array: npt.NDArray[Any] = np.asarray(values[key])
    if array.dtype.kind not in "iufb":
        raise FileFormatError(f"{name}: {key} is {array.dtype}, not numbers; {REWRITE}")
    if not array.size:
        raise FileFormatError(f"{name}: {key} has shape {array.shape}, which is empty; {REWRITE}")
    if 0 in array.strides:
        # the values take a few bytes in the file, but eight bytes each in memory
        require_within(array.size, MOST_VALUES, f"{name}: {key} repeats values {{}} times")
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise FileFormatError(f"{name}: {key} holds NaN or infinite values; repair the network and {REWRITE}")
        broken = array != np.floor(array)
        if broken.any():
            raise FileFormatError(
                f"{name}: {key} holds {float(array[broken].flat[0]):.6g}, which is no whole number as netx's are; "
                f"{REWRITE} with its weights quantized (pre_hook_fx)"
            )
    low, high = int(array.min()), int(array.max())
    if low < least or high > most:
        raise RangeError(
            f"{name}: {key} holds {quote(low if low < least else high)}, the limit is {least} to {most}; {remedy}"
        )
    return array.astype(np.int64)


def _one(name: str, values: Values, key: str, least: int, most: int) -> int:
    """Read a field of one whole number."""
    array = _integers(name, values, key, least, most)
    if array.size != 1:
        raise FileFormatError(f"{name}: {key} has shape {array.shape}, not one number; {REWRITE}")
    return int(array.flat[0])


def _pair(name: str, values: Values, key: str, least: int) -> tuple[int, int]:
    """Read (rows, columns) from a field of one or two whole numbers."""
    array = _integers(name, values, key, least, SIZE_MOST).reshape(-1)
    if len(array) not in (1, 2):
        raise FileFormatError(f"{name}: {key} has {len(array)} values, not one or two; {REWRITE}")
    return int(array[0]), int(array[-1])


def _shape(name: str, values: Values) -> Shape:
    """Read the shape that a layer states: (C, H, W), or (F,)."""
    sizes = _integers(name, values, "shape", 1, SIZE_MOST).reshape(-1)
    if len(sizes) not in (1, 3):
        raise FileFormatError(f"{name}: its shape has {len(sizes)} sizes; it must be (F,) or (C, H, W); {REWRITE}")
    shape = tuple(sizes.tolist())
    require_within(math.prod(shape), MOST_VALUES, f"{name}: makes {{}} values a step")
    return shape


def _text(name: str, values: Values, key: str) -> str:
    """Read a field that holds text."""
    found = values.get(key)
    items = [found] if isinstance(found, str) else np.asarray(found).reshape(-1)[:2].tolist()
    if len(items) == 1 and isinstance(items[0], bytes):
        items = [items[0].decode("utf-8", "replace")]
    if len(items) != 1 or not isinstance(items[0], str):
        raise FileFormatError(f"{name}: has no {key} that is a text; {REWRITE}")
    return items[0]
