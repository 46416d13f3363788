"""Chip descriptions: the constants that placement and cost rest on, each with its source.

The number formats of a chip are another matter: ``resformer.compiler.target``.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from resformer.errors import FileFormatError
from resformer.models.boundary import require_regular
from resformer.models.limits import LARGEST_YAML, LONGEST_MESSAGE, LONGEST_QUOTE, quote

PACKAGED = ("loihi2", "loihi2-152", "loihi1")
DEFAULT = PACKAGED[0]
STATUSES = ("published", "decoded", "fitted", "assumed")
"""How far a constant can be trusted; a constant that a user gives without a status is assumed."""
WORD_BITS = 64


@dataclass(frozen=True)
class Source:
    """Where a constant comes from.

    Attributes:
        status: One of :data:`STATUSES`.
        text: The publication, or what was assumed.
        range: The least and the most that the constant may be; None where no range is known.
    """

    status: str
    text: str
    range: tuple[float, float] | None = None


@dataclass(frozen=True)
class Chip:
    """What one kind of chip holds and what its operations cost. A core's limits are inclusive.

    Attributes:
        name: The name in reports and errors.
        cores_per_chip: Neurocores that networks can use.
        chips_per_system: Chips of the largest machine.
        cores_per_tile: Cores that share a router of the mesh.
        mesh_columns: Tiles of a chip from west to east.
        chip_columns: Chips from west to east.
        neurons_per_core: Neurons, those that pad a tile included.
        memory_words_per_core: 64-bit words for neurons, synapses and axons together; None where each kind has a memory
            of its own.
        synapse_words_per_core: 64-bit words of synapses.
        axon_in_per_core: Entries for arriving spikes.
        axon_map_per_core: Words that say where spikes go.
        neuron_groups_per_core: Kinds of neurons.
        delay_steps_max: Longest delay of a synapse.
        payload_bits: Width of a graded spike's payload; 0 where spikes are binary.
        synapse_row_header_bits: Bits that a row of synapses takes beside its weights.
        synapse_index_bits: Bits that a synapse takes beside its weight where each synapse names its target: in a dense
            layer, and in a convolution of which only the weights that are not zero are stored.
        shared_kernels: 1 where a core keeps a convolution's kernel once, for all positions of its tile; 0 where each
            synapse is kept by itself.
        sparse_dense_rows: 1 where rows of a dense layer hold only the weights that are not zero; 0 where they hold all.
        skips_zero_weights: 1 where a convolution's weights of zero cause no operation; 0 where they do.
        dense_fill: The largest share of a core's synapse words that a dense layer fills if it is cut.
        axon_in_per_edge: Entries that a shared (convolution's) connection takes in a core.
        axon_map_per_position: Words that a position of a tile takes for each connection that leaves it.
        axon_map_per_destination: Words that a position takes for each further core that reads it.
        delay_slots_per_word: Waiting inputs that one word of a neuron's memory holds.
        power_of_two_tiles: 1 where a tile's width is a power of two, counted in full even if the layer is narrower, and
            its height and depth are the layer's, halved some times; 0 where a tile may have any size.
        synaptic_op_pj: Energy of one synaptic operation, in pJ.
        neuron_update_active_pj: Energy of updating a neuron that fires, in pJ.
        neuron_update_inactive_pj: Energy of updating a neuron that does not fire, in pJ.
        spike_in_tile_pj: Energy of delivering a message inside a tile, in pJ.
        hop_east_west_pj: Energy of a message's hop to the next tile of a row, in pJ.
        hop_north_south_pj: Energy of a message's hop to the next row, in pJ.
        static_mw_per_chip: Power of an idle chip, in mW.
        synaptic_op_ns: Time of one synaptic operation in a core, in ns.
        synaptic_op_wide_ns: Time of one synaptic operation of a convolution whose rows of weights have more outputs in
            a core than ``wide_row_outputs``, in ns.
        wide_row_outputs: The most outputs of a convolution's row of weights that is not wide.
        message_in_ns: Time of taking one message into a core, in ns.
        message_out_ns: Time of sending one message out of a core, in ns.
        neuron_update_active_ns: Time of updating a neuron that fires, in ns.
        neuron_update_inactive_ns: Time of updating a neuron that does not fire, in ns.
        link_ns: Time for which one message occupies a link between two tiles, in ns.
        hop_east_west_ns: Time of a hop to the next tile of a row, in ns.
        hop_north_south_ns: Time of a hop to the next row, in ns.
        step_ns: Time that the barrier adds to every step, in ns.
        sources: Where each constant comes from.
    """

    name: str
    cores_per_chip: int
    chips_per_system: int
    cores_per_tile: int
    mesh_columns: int
    chip_columns: int
    neurons_per_core: int
    memory_words_per_core: int | None
    synapse_words_per_core: int
    axon_in_per_core: int
    axon_map_per_core: int
    neuron_groups_per_core: int
    delay_steps_max: int
    payload_bits: int
    synapse_row_header_bits: int
    synapse_index_bits: int
    shared_kernels: int
    sparse_dense_rows: int
    skips_zero_weights: int
    dense_fill: float
    axon_in_per_edge: int
    axon_map_per_position: int
    axon_map_per_destination: int
    delay_slots_per_word: int
    power_of_two_tiles: int
    synaptic_op_pj: float
    neuron_update_active_pj: float
    neuron_update_inactive_pj: float
    spike_in_tile_pj: float
    hop_east_west_pj: float
    hop_north_south_pj: float
    static_mw_per_chip: float
    synaptic_op_ns: float
    synaptic_op_wide_ns: float
    wide_row_outputs: int
    message_in_ns: float
    message_out_ns: float
    neuron_update_active_ns: float
    neuron_update_inactive_ns: float
    link_ns: float
    hop_east_west_ns: float
    hop_north_south_ns: float
    step_ns: float
    sources: Mapping[str, Source] = field(default_factory=dict, repr=False, compare=False)

    @property
    def mesh_rows(self) -> int:
        """Tiles of a chip from north to south."""
        tiles = -(-self.cores_per_chip // self.cores_per_tile)
        return -(-tiles // self.mesh_columns)

    def bounds(self, name: str) -> tuple[float, float]:
        """The least and the most that a constant may be; both are its value where no range is known."""
        value = float(getattr(self, name))
        source = self.sources.get(name)
        if source is None or source.range is None:
            return value, value
        # a caller may have replaced the value alone
        return min(source.range[0], value), max(source.range[1], value)

    def extreme(self, *, high: bool) -> Chip:
        """The chip with each constant at the most that it may be if ``high``, else at the least."""
        wanted: dict[str, Any] = {
            name: self.bounds(name)[high] for name, source in self.sources.items() if source.range is not None
        }
        return dataclasses.replace(self, **wanted)

    def to_json(self) -> dict[str, Any]:
        """Every constant with its source, and its range if it has one."""
        constants = {
            name: {
                "value": getattr(self, name),
                "range": None if source.range is None else list(source.range),
                "status": source.status,
                "source": source.text,
            }
            for name, source in self.sources.items()
        }
        return {"name": self.name, "constants": constants}

    @classmethod
    def from_json(cls, content: Any) -> Chip:
        """Read the chip that :meth:`to_json` described.

        Raises:
            FileFormatError: The content is something else.
        """
        known = isinstance(content, Mapping) and isinstance(content.get("constants"), Mapping)
        if not known or not isinstance(content.get("name"), str):
            raise FileFormatError("chip: is no object with a name and constants")
        given = content["constants"]
        differ = sorted(map(str, given.keys() ^ _FIELDS.keys()))
        if differ:
            what = "unknown" if differ[0] in given else "missing"
            raise FileFormatError(f"chip.constants: {quote(differ[0])!r} is {what}")
        _check_name(content["name"], "chip")
        places = ("chip.constants", "chip.constants")
        read = {key: _constant(key, each, places, content["name"]) for key, each in given.items()}
        sources = {key: source for key, (_, source) in read.items()}
        return cls(name=content["name"], sources=sources, **{key: value for key, (value, _) in read.items()})


_FIELDS = {each.name: str(each.type) for each in dataclasses.fields(Chip) if each.name not in ("name", "sources")}
_MAY_BE_ZERO = frozenset(
    {"payload_bits", "delay_steps_max", "synapse_row_header_bits", "synapse_index_bits", "axon_in_per_edge"}
    | {"axon_map_per_position", "axon_map_per_destination", "power_of_two_tiles"}
    | {"shared_kernels", "sparse_dense_rows", "skips_zero_weights"}
)
LARGEST_COUNT = 2**31 - 1
"""The largest constant that is a count; no chip comes near it, and products of a few fit in 64 bits or a float."""
LARGEST_FLOAT = 1e15
"""The largest energy in pJ, time in ns or power in mW."""
_FLAGS = ("power_of_two_tiles", "shared_kernels", "sparse_dense_rows", "skips_zero_weights")
_MOST = {
    "cores_per_chip": 2**16,
    "payload_bits": WORD_BITS,
    "synapse_index_bits": WORD_BITS,
    "dense_fill": 1,
    **dict.fromkeys(_FLAGS, 1),
}
"""The largest values of the constants that have a limit of their own."""
COSTS = ("_pj", "_ns", "_mw_per_chip")
"""The endings of the names of energies, times and powers; only these constants may have a range."""


def load_chip(name: str) -> Chip:
    """A packaged chip by its name, or a description in YAML by its path.

    A file names all constants, or ``extends: loihi2`` and those that differ; each is a value, or a mapping of
    ``value``, ``status``, ``source`` and, of an energy, a time or a power, ``range: [low, high]``.

    Raises:
        FileFormatError: There is no such chip, or its description is wrong; the message names the line.
        OSError: The file cannot be read.
    """
    if name in PACKAGED:
        return _packaged(name)
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        raise FileFormatError(f"{name}: no such chip; there are {_names()}, or name a .yaml file")
    try:
        require_regular(path, largest=LARGEST_YAML, named="a .yaml file")
    except FileFormatError as error:
        raise FileFormatError(f"{name}: {error}") from error
    try:
        return _parse(path.read_text(encoding="utf-8"), name)
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{name}: no text in UTF-8 ({error.reason}); name a description in YAML") from error


@functools.cache
def _packaged(name: str) -> Chip:
    """A packaged chip, which is read only once."""
    text = resources.files("resformer.compiler.chips").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    return _parse(text, f"{name}.yaml")


def _names() -> str:
    return f"{', '.join(PACKAGED[:-1])} and {PACKAGED[-1]}"


def _parse(text: str, where: str) -> Chip:
    from resformer.compiler.chips.yaml_text import read_mapping

    values, lines = read_mapping(text, where)
    base = _base(values.pop("extends", None), f"{where}:{lines.get('extends')}")
    name = values.pop("name", None)
    _check_name(name, f"{where}:{lines.get('name', 1)}")
    constants: dict[str, Any] = {} if base is None else {each: getattr(base, each) for each in _FIELDS}
    sources: dict[str, Source] = {} if base is None else dict(base.sources)
    for key, given in values.items():
        at, range_at = f"{where}:{lines[key]}", f"{where}:{lines.get(f'{key}.range', lines[key])}"
        if key not in _FIELDS:
            raise FileFormatError(f"{at}: {quote(key)}: no such constant; there are {', '.join(_FIELDS)}")
        constants[key], sources[key] = _constant(key, given, (at, range_at), where)
    missing = [each for each in _FIELDS if each not in constants]
    if missing:
        raise FileFormatError(f"{where}: lacks {', '.join(missing)}; add them, or extends: {DEFAULT}")
    return Chip(name=name, sources={each: sources[each] for each in _FIELDS}, **constants)


def _base(name: Any, at: str) -> Chip | None:
    if name is None:
        return None
    if name not in PACKAGED:
        raise FileFormatError(f"{at}: extends {quote(name)!r}; there are {_names()}")
    return load_chip(name)


def _check_name(name: Any, at: str) -> None:
    """Refuse a name that is no text or cannot be printed."""
    if not isinstance(name, str) or not name or not name.isprintable() or len(name) > LONGEST_QUOTE:
        shown = repr(quote(name)) if isinstance(name, str) else quote(name)
        raise FileFormatError(f"{at}: name is {shown}; give the chip a name of 1 to {LONGEST_QUOTE} characters")


def _constant(key: str, given: Any, places: tuple[str, str], where: str) -> tuple[Any, Source]:
    """One constant's value and source.

    Args:
        key: The constant's name.
        given: The value under that name, or a mapping that holds it.
        places: The place of the constant and the place of its range, as errors name them.
        where: The file, as errors name it.
    """
    at, range_at = places
    status, text, value, between = "assumed", f"given in {quote(Path(where).name)}", given, None
    if isinstance(given, Mapping):
        unknown = sorted(quote(str(each)) for each in given.keys() - {"value", "range", "status", "source"})
        if unknown or "value" not in given:
            raise FileFormatError(f"{at}: {key} has {', '.join(unknown) or 'no value'}; give value, status and source")
        value, status, text = given["value"], given.get("status", status), given.get("source", text)
        between = given.get("range")
        if status not in STATUSES:
            shown = repr(quote(status)) if isinstance(status, str) else quote(status)
            raise FileFormatError(f"{at}: {key}: status {shown} is none of {', '.join(STATUSES)}")
        if not isinstance(text, str) or not text.isprintable() or len(text) > LONGEST_MESSAGE:
            raise FileFormatError(f"{at}: {key}: its source is no text of up to {LONGEST_MESSAGE} characters")
    if value is None and "None" in _FIELDS[key] and between is None:
        return None, Source(status, text)
    number = _number(key, value, key, at)
    return number, Source(status, text, None if between is None else _range(key, between, number, range_at))


def _range(key: str, given: Any, value: float, at: str) -> tuple[float, float]:
    """The least and the most that a constant may be, checked."""
    if not key.endswith(COSTS):
        raise FileFormatError(f"{at}: {key} has a range; only energies, times and powers have one")
    if not isinstance(given, list) or len(given) != 2:
        raise FileFormatError(f"{at}: {key}: its range is no list of two numbers; write range: [low, high]")
    low, high = (_number(key, each, f"{key}: its range's end", at) for each in given)
    if not low <= value <= high:
        what = "is reversed" if low > high else f"leaves out its value, {value:g}"
        raise FileFormatError(f"{at}: {key}: its range [{low:g}, {high:g}] {what}; write low <= value <= high")
    return low, high


def _number(key: str, value: Any, name: str, at: str) -> Any:
    """A constant's value, or an end of its range, checked against the limits of the constant ``key``."""
    kind = _FIELDS[key]
    number = isinstance(value, int) or (kind == "float" and isinstance(value, float) and math.isfinite(value))
    if not number or isinstance(value, bool):
        shown = repr(quote(value)) if isinstance(value, str) else quote(value)
        raise FileFormatError(f"{at}: {name} is {shown}; write a {'number' if kind == 'float' else 'whole number'}")
    least = 0 if kind == "float" or key in _MAY_BE_ZERO else 1
    if value < least:
        raise FileFormatError(f"{at}: {name} is {quote(value)}; the least is {least}")
    most = _MOST.get(key, LARGEST_FLOAT if kind == "float" else LARGEST_COUNT)
    if value > most:
        raise FileFormatError(f"{at}: {name} is {quote(value)}; the largest is {most:g}")
    return float(value) if kind == "float" else value
