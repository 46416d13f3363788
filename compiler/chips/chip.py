"""Chip descriptions: the constants that placement and cost rest on, each with its source.

The number formats of a chip are another matter: ``resformer.compiler.target``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from resformer.errors import FileFormatError
from resformer.models.boundary import require_regular
from resformer.models.limits import LARGEST_YAML, LONGEST_MESSAGE, LONGEST_QUOTE, quote

PACKAGED = ("loihi2", "loihi1")
DEFAULT = PACKAGED[0]
STATUSES = ("published", "decoded", "fitted", "assumed")
"""How far a constant can be trusted; one that a user gives without a word is assumed."""
WORD_BITS = 64


@dataclass(frozen=True)
class Source:
    """Where a constant comes from.

    Attributes:
        status: One of :data:`STATUSES`.
        text: The publication, or what was assumed.
    """

    status: str
    text: str


@dataclass(frozen=True)
class Chip:
    """What one kind of chip holds and what its operations cost. A core's limits are inclusive.

    Attributes:
        name: In reports and errors.
        cores_per_chip: Neurocores that networks can use.
        chips_per_system: Chips of the largest machine.
        cores_per_tile: Cores that share a router of the mesh.
        mesh_columns: Tiles of a chip from west to east.
        chip_columns: Chips from west to east.
        neurons_per_core: Neurons, those that pad a tile included.
        memory_words_per_core: 64-bit words for neurons, synapses and axons together; None where each has its own.
        synapse_words_per_core: 64-bit words of synapses.
        axon_in_per_core: Entries for arriving spikes.
        axon_map_per_core: Words that say where spikes go.
        neuron_groups_per_core: Kinds of neurons.
        delay_steps_max: Longest delay of a synapse.
        payload_bits: Width of a graded spike's payload; 0 where spikes are binary.
        synapse_row_header_bits: What a row of synapses takes beside its weights.
        synapse_index_bits: What a synapse takes beside its weight where each names its target: of a dense layer, and of
            a convolution of which only the weights that are not zero are stored.
        axon_in_per_edge: Entries that a shared (convolution's) connection takes in a core.
        axon_map_per_position: Words a position of a tile takes for each connection that leaves it.
        axon_map_per_destination: Words that each further core takes which reads the position.
        delay_slots_per_word: Waiting inputs that one word of a neuron's memory holds.
        power_of_two_tiles: 1 where a tile's width is a power of two, whose neurons it takes in full, and its height and
            depth are halvings; 0 where it may have any size.
        synaptic_op_pj: Energy of one synaptic operation, in pJ.
        neuron_update_active_pj: Of updating a neuron that fires.
        neuron_update_inactive_pj: Of updating one that does not.
        spike_in_tile_pj: Of a message's delivery inside a tile.
        hop_east_west_pj: Of a message's hop to the next tile of a row.
        hop_north_south_pj: Of its hop to the next row.
        static_mw_per_chip: Power of an idle chip, in mW.
        synaptic_op_ns: Time of one synaptic operation in a core, in ns.
        neuron_update_active_ns: Of updating a neuron that fires.
        neuron_update_inactive_ns: Of updating one that does not.
        hop_east_west_ns: Of a hop to the next tile of a row.
        hop_north_south_ns: Of a hop to the next row.
        step_ns: What every step takes besides: the barrier.
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
    neuron_update_active_ns: float
    neuron_update_inactive_ns: float
    hop_east_west_ns: float
    hop_north_south_ns: float
    step_ns: float
    sources: Mapping[str, Source] = field(default_factory=dict, repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Every constant with its source."""
        constants = {
            name: {"value": getattr(self, name), "status": source.status, "source": source.text}
            for name, source in self.sources.items()
        }
        return {"name": self.name, "constants": constants}

    @classmethod
    def from_json(cls, content: Any) -> Chip:
        """The chip that :meth:`to_json` told of.

        Raises:
            FileFormatError: It is something else.
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
        read = {key: _constant(key, each, "chip.constants", content["name"]) for key, each in given.items()}
        sources = {key: source for key, (_, source) in read.items()}
        return cls(name=content["name"], sources=sources, **{key: value for key, (value, _) in read.items()})


_FIELDS = {each.name: str(each.type) for each in dataclasses.fields(Chip) if each.name not in ("name", "sources")}
_MAY_BE_ZERO = frozenset(
    {"payload_bits", "delay_steps_max", "synapse_row_header_bits", "synapse_index_bits", "axon_in_per_edge"}
    | {"axon_map_per_position", "axon_map_per_destination", "power_of_two_tiles"}
)
LARGEST_COUNT = 2**31 - 1
"""Of a constant that counts; no chip comes near it, and products of a few stay within 64 bits or a float."""
LARGEST_FLOAT = 1e15
"""Of an energy in pJ, a time in ns or a power in mW."""
_MOST = {"cores_per_chip": 2**16, "payload_bits": WORD_BITS, "synapse_index_bits": WORD_BITS, "power_of_two_tiles": 1}
"""Where a constant has a largest value of its own."""


def load_chip(name: str) -> Chip:
    """A packaged chip by its name, or a description in YAML by its path.

    A file names all constants, or ``extends: loihi2`` and those that differ; each is a value, or a mapping of
    ``value``, ``status`` and ``source``.

    Raises:
        FileFormatError: There is no such chip, or its description is wrong; the message names the line.
        OSError: The file cannot be read.
    """
    if name in PACKAGED:
        text = resources.files("resformer.compiler.chips").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
        return _parse(text, f"{name}.yaml")
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        raise FileFormatError(f"{name}: no such chip; there are {' and '.join(PACKAGED)}, or name a .yaml file")
    try:
        require_regular(path, largest=LARGEST_YAML, named="a .yaml file")
    except FileFormatError as error:
        raise FileFormatError(f"{name}: {error}") from error
    try:
        return _parse(path.read_text(encoding="utf-8"), name)
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{name}: no text in UTF-8 ({error.reason}); name a description in YAML") from error


def _parse(text: str, where: str) -> Chip:
    from resformer.compiler.chips.yaml_text import read_mapping

    values, lines = read_mapping(text, where)
    base = _base(values.pop("extends", None), f"{where}:{lines.get('extends')}")
    name = values.pop("name", None)
    _check_name(name, f"{where}:{lines.get('name', 1)}")
    constants: dict[str, Any] = {} if base is None else {each: getattr(base, each) for each in _FIELDS}
    sources: dict[str, Source] = {} if base is None else dict(base.sources)
    for key, given in values.items():
        at = f"{where}:{lines[key]}"
        if key not in _FIELDS:
            raise FileFormatError(f"{at}: {quote(key)}: no such constant; there are {', '.join(_FIELDS)}")
        constants[key], sources[key] = _constant(key, given, at, where)
    missing = [each for each in _FIELDS if each not in constants]
    if missing:
        raise FileFormatError(f"{where}: lacks {', '.join(missing)}; add them, or extends: {DEFAULT}")
    return Chip(name=name, sources={each: sources[each] for each in _FIELDS}, **constants)


def _base(name: Any, at: str) -> Chip | None:
    if name is None:
        return None
    if name not in PACKAGED:
        raise FileFormatError(f"{at}: extends {quote(name)!r}; there are {' and '.join(PACKAGED)}")
    return load_chip(name)


def _check_name(name: Any, at: str) -> None:
    """Refuse what is no name to print."""
    if not isinstance(name, str) or not name or not name.isprintable() or len(name) > LONGEST_QUOTE:
        shown = repr(quote(name)) if isinstance(name, str) else quote(name)
        raise FileFormatError(f"{at}: name is {shown}; give the chip a name of 1 to {LONGEST_QUOTE} characters")


def _constant(key: str, given: Any, at: str, where: str) -> tuple[Any, Source]:
    """One constant's value and source."""
    status, text, value = "assumed", f"given in {quote(Path(where).name)}", given
    if isinstance(given, dict):
        unknown = sorted(quote(str(each)) for each in given.keys() - {"value", "status", "source"})
        if unknown or "value" not in given:
            raise FileFormatError(f"{at}: {key} has {', '.join(unknown) or 'no value'}; give value, status and source")
        value, status, text = given["value"], given.get("status", status), given.get("source", text)
        if status not in STATUSES:
            shown = repr(quote(status)) if isinstance(status, str) else quote(status)
            raise FileFormatError(f"{at}: {key}: status {shown} is none of {', '.join(STATUSES)}")
        if not isinstance(text, str) or not text.isprintable() or len(text) > LONGEST_MESSAGE:
            raise FileFormatError(f"{at}: {key}: its source is no text of up to {LONGEST_MESSAGE} characters")
    kind = _FIELDS[key]
    if value is None and "None" in kind:
        return None, Source(status, text)
    number = isinstance(value, int) or (kind == "float" and isinstance(value, float) and math.isfinite(value))
    if not number or isinstance(value, bool):
        shown = repr(quote(value)) if isinstance(value, str) else quote(value)
        raise FileFormatError(f"{at}: {key} is {shown}; write a {'number' if kind == 'float' else 'whole number'}")
    least = 0 if kind == "float" or key in _MAY_BE_ZERO else 1
    if value < least:
        raise FileFormatError(f"{at}: {key} is {quote(value)}; the least is {least}")
    most = _MOST.get(key, LARGEST_FLOAT if kind == "float" else LARGEST_COUNT)
    if value > most:
        raise FileFormatError(f"{at}: {key} is {quote(value)}; the largest is {most:g}")
    return (float(value) if kind == "float" else value), Source(status, text)
