"""A cross-check of our costs: SANA-FE simulates a network on the same cores of Loihi 1, with our constants or its own.

SANA-FE (University of Texas at Austin; GPL-3.0) is imported only here, and only when a user asks for it. It simulates
each neuron and each message, whereas our costs are computed from sums. Its own constants for Loihi 1 were fitted to
measurements.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resformer.compiler.chips.chip import Chip
from resformer.compiler.ir import fixedpoint
from resformer.compiler.ir.graph import Node
from resformer.compiler.ir.ops import LIF, Conv2d, Dense, Flatten, Op
from resformer.compiler.ir.program import Scheduled
from resformer.compiler.ir.trace import SpikeTrain
from resformer.compiler.placement.place import Placement, tile_positions
from resformer.compiler.target import LOIHI
from resformer.errors import BackendMissingError, UnsupportedError
from resformer.runtime.cost.cost import Cost

INPUTS = "loihi_inputs"
"""The soma units that play spikes back and cost nothing, as SANA-FE's own description of Loihi and ours name them."""
SYNAPSES = ("loihi_conv_synapse", "loihi_dense_synapse")
"""The units for synapses of convolutions and of dense layers, as both descriptions name them."""
_SOMA_EVENTS = ("access_neuron", "update_neuron", "spike_out")


@dataclass(frozen=True)
class SanafeRun:
    """What SANA-FE simulated: one sample, from its first spikes until the last layer has seen all of them.

    Attributes:
        steps: The number of steps that were run.
        spikes: The number of spikes of each population.
        neurons: The number of simulated neurons, without those that play spikes back.
        operations: The number of synapses that messages met.
        messages: The number of messages that arrived at cores.
        hops: The number of tiles that messages crossed.
        energy_pj: The energy of each part: ``synapse``, ``soma``, ``network`` and ``total``.
        seconds: The time on the simulated chip.
    """

    steps: int
    spikes: Mapping[str, int]
    neurons: int
    operations: int
    messages: int
    hops: int
    energy_pj: Mapping[str, float]
    seconds: float


def simulate(
    program: Scheduled, spikes: Mapping[str, SpikeTrain], sample: int, placement: Placement, *, own_constants: bool
) -> SanafeRun:
    """Play the first population's spikes of one sample into the others.

    Args:
        program: LIF populations in a row or a tree, connected by convolutions and dense layers only, without biases.
        spikes: The spikes of a run, by population.
        sample: The index of the sample.
        placement: Gives the cores and, unless ``own_constants`` is set, the chip's constants.
        own_constants: Whether to use SANA-FE's own constants for Loihi 1.

    Raises:
        UnsupportedError: The program holds something else, or takes more than one chip.
        BackendMissingError: SANA-FE is not installed.
    """
    try:
        import sanafe
    except ImportError as error:
        raise BackendMissingError("SANA-FE is not installed; it is GPL-3.0: pip install sanafe") from error
    populations = _populations(program)
    if placement.chips > 1:
        raise UnsupportedError(f"SANA-FE's Loihi is one chip, this network takes {placement.chips}; take a smaller one")
    if own_constants:
        architecture = sanafe.load_loihi()
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "chip.yaml"
            path.write_text(architecture_yaml(placement.chip), encoding="utf-8")
            architecture = sanafe.load_arch(path)
    depth = len(populations)
    steps = program.timesteps + depth
    network, groups = sanafe.Network(), {}
    for name, source in populations.items():
        op = program[name].op
        assert isinstance(op, LIF)
        attributes = {} if source is None else _neuron_attributes(op)
        dense = isinstance(program[program[name].inputs[0]].op, Dense)
        groups[name] = network.create_neuron_group(
            name,
            int(np.prod(program[name].shape)),
            attributes,
            default_synapse_hw_name=SYNAPSES[dense],
            log_spikes=True,
        )
    for name, source in populations.items():
        if source is None:
            played = spikes[name].dense()[:, sample].reshape(program.timesteps, -1)
            for index, neuron in enumerate(groups[name]):
                unit = f"{INPUTS}[{index % placement.chip.neurons_per_core}]"
                neuron.set_attributes(soma_hw_name=unit, model_attributes={"spikes": played[:, index].tolist()})
        else:
            _connect(groups[source], groups[name], program, name)
        _map(groups[name], placement, name, architecture)
    chip = sanafe.SpikingChip(architecture)
    chip.load(network)
    result = chip.sim(steps, spike_trace=True, perf_trace=True, message_trace=True, processing_threads=1)
    return _result(result, populations, program, steps)


def architecture_yaml(chip: Chip) -> str:
    """A chip of one mesh in SANA-FE's description language, with our constants.

    The update of an idle neuron is what SANA-FE charges for access. What a neuron that fires costs beyond that is
    charged for its spike. A message is charged where it arrives.
    """
    import yaml

    rows = chip.mesh_rows
    tiles = chip.mesh_columns * rows
    text: str = yaml.safe_dump(
        {
            "architecture": {
                "name": chip.name,
                "attributes": {
                    "topology": "mesh",
                    "width": chip.mesh_columns,
                    "height": rows,
                    "link_buffer_size": 16,
                    "sync_model": "fixed",
                    "latency_sync": chip.step_ns * 1e-9,
                },
                "tile": [{"name": f"tile[0..{tiles - 1}]", "attributes": _hops(chip), "core": [_core(chip)]}],
            }
        },
        sort_keys=False,
    )
    return text


def _hops(chip: Chip) -> dict[str, float]:
    """The energy (joules) and the time (seconds) that a message takes to cross a tile, by direction."""
    return {
        f"{what}_{direction}_hop": value
        for directions, energy, latency in (
            (("east", "west"), chip.hop_east_west_pj * 1e-12, chip.hop_east_west_ns * 1e-9),
            (("north", "south"), chip.hop_north_south_pj * 1e-12, chip.hop_north_south_ns * 1e-9),
        )
        for direction in directions
        for what, value in (("energy", energy), ("latency", latency))
    }


def _core(chip: Chip) -> dict[str, object]:
    """The cores of a tile."""
    return {
        "name": f"core[0..{chip.cores_per_tile - 1}]",
        "attributes": {
            "buffer_position": "soma",
            "buffer_inside_unit": False,
            "max_neurons_supported": chip.neurons_per_core,
        },
        "axon_in": [_unit("in", energy_message_in=chip.spike_in_tile_pj * 1e-12, latency_message_in=0.0)],
        "soma": _somas(chip),
        "dendrite": [_unit("dendrite", model="accumulator", energy_update=0.0, latency_update=0.0)],
        "synapse": [
            _unit(
                name,
                model="current_based",
                energy_process_spike=chip.synaptic_op_pj * 1e-12,
                latency_process_spike=chip.synaptic_op_ns * 1e-9,
            )
            for name in SYNAPSES
        ],
        "axon_out": [_unit("out", energy_message_out=0.0, latency_message_out=0.0)],
    }


def _somas(chip: Chip) -> list[dict[str, object]]:
    """The soma units of a core: LIF neurons with the chip's constants, and units that play spikes back at no cost."""
    active, idle = chip.neuron_update_active_pj * 1e-12, chip.neuron_update_inactive_pj * 1e-12
    active_s, idle_s = chip.neuron_update_active_ns * 1e-9, chip.neuron_update_inactive_ns * 1e-9
    free = {f"{kind}_{what}": 0.0 for kind in ("energy", "latency") for what in _SOMA_EVENTS}
    costs = free | {
        "energy_access_neuron": idle,
        "latency_access_neuron": idle_s,
        "energy_spike_out": active - idle,
        "latency_spike_out": active_s - idle_s,
    }
    return [
        _unit("lif", model="leaky_integrate_fire", **costs),
        _unit(f"{INPUTS}[0..{chip.neurons_per_core - 1}]", model="input", **free),
    ]


def _unit(name: str, **attributes: object) -> dict[str, object]:
    """A hardware unit in SANA-FE's description language."""
    return {"name": name, "attributes": attributes}


def _populations(program: Scheduled) -> dict[str, str | None]:
    """Each population and the population that it reads; None for the first one, whose spikes are played back.

    Raises:
        UnsupportedError: A population is not of LIF neurons, or reads something that SANA-FE's Loihi does not send.
    """
    found: dict[str, str | None] = {}
    for name in program.lif_names:
        source = _reads(program, name)
        if source is None and found:
            raise UnsupportedError(
                f"{name}: reads values, and only the first population may; SANA-FE's Loihi sends spikes"
            )
        op = program[name].op
        if not isinstance(op, LIF):
            raise UnsupportedError(
                f"{name}: a {type(op).__name__}; only LIF neurons are compared, so give a network that has no others"
            )
        if source is not None and (op.du != LOIHI.du_no_memory or op.meant_bias(1).any()):
            raise UnsupportedError(f"{name}: only LIF neurons without biases or currents' memory are compared")
        found[name] = source
    return found


def _reads(program: Scheduled, name: str) -> str | None:
    synapse = program[program[name].inputs[0]]
    if not isinstance(synapse.op, Conv2d | Dense):
        raise UnsupportedError(
            f"{name}: reads {synapse.name}, a {type(synapse.op).__name__}; only synapses are compared"
        )
    source = program[synapse.inputs[0]]
    while isinstance(source.op, Flatten):
        source = program[source.inputs[0]]
    return source.name if isinstance(source.op, LIF) else None


def _neuron_attributes(op: LIF) -> dict[str, Any]:
    """A LIF's attributes in units of the program's potentials; SANA-FE's are floats, equal until ours are truncated."""
    return {
        # a surplus in the bias makes ties fire and nothing else, and so does a threshold that is lower by one unit
        "threshold": float((op.vth << LOIHI.a_shift) - bool(op.added_surplus.any())),
        "leak_decay": 1 - op.dv / LOIHI.decay_unity,
        "reset_mode": "hard",
        "reset": 0.0,
    }


def _connect(source: Any, target: Any, program: Scheduled, name: str) -> None:
    """Connect all synapses of a population, including those of weight zero."""
    node = program[program[name].inputs[0]]
    pairs, weights = _synapses(node, program[node.inputs[0]].shape)
    source.connect_neurons_sparse(target, {"weight": (weights << LOIHI.a_shift).tolist()}, pairs.tolist())


def _synapses(node: Node[Op], source: tuple[int, ...]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Pairs (from, to) of flat neuron indices, and the weight of each pair."""
    op = node.op
    if isinstance(op, Dense):
        outputs, inputs = op.weight.shape
        pairs = np.array(list(itertools.product(range(outputs), range(inputs))))[:, ::-1]
        return pairs, fixedpoint.scale_weight(op.weight, op.weight_exp).astype(np.int64).reshape(-1)
    assert isinstance(op, Conv2d)
    weight = fixedpoint.scale_weight(op.weight, op.weight_exp).astype(np.int64)
    outputs, per_group, *kernel = op.weight.shape
    target = (outputs, *node.shape[1:])
    found, weights = [], []
    for k, row, column in np.ndindex(*target):
        for c, i, j in np.ndindex(per_group, *kernel):
            channel = k // (outputs // op.groups) * per_group + c
            y = row * op.stride[0] - op.padding[0] + i * op.dilation[0]
            x = column * op.stride[1] - op.padding[1] + j * op.dilation[1]
            if 0 <= y < source[1] and 0 <= x < source[2]:
                start = np.ravel_multi_index((channel, y, x), source)
                found.append((start, np.ravel_multi_index((k, row, column), target)))
                weights.append(weight[k, c, i, j])
    return np.array(found), np.array(weights)


def _map(group: Any, placement: Placement, name: str, architecture: Any) -> None:
    """Put a population's neurons on the cores that our placement gave them."""
    placed, chip = placement.by_name[name], placement.chip
    shape = placed.population.shape
    rows = chip.mesh_rows
    cores, neurons = architecture.cores(), list(group)
    for core, box in placement.boxes(placed):
        column, row = tile_positions(chip, np.array(core))
        # SANA-FE numbers tiles down the columns
        where = cores[(int(column) * rows + int(row)) * chip.cores_per_tile + core % chip.cores_per_tile]
        for index in itertools.product(*(range(*edges) for edges in box)):
            neurons[int(np.ravel_multi_index(index, shape))].map_to_core(where)


def _result(result: Any, populations: Mapping[str, str | None], program: Scheduled, steps: int) -> SanafeRun:
    spikes = dict.fromkeys(populations, 0)
    for fired in result["spike_trace"]:
        for neuron in fired:
            spikes[neuron.group_name] += 1
    energy = {kind: result["energy"][kind] * 1e12 for kind in ("synapse", "soma", "network", "total")}
    return SanafeRun(
        steps=steps,
        spikes=spikes,
        neurons=sum(int(np.prod(program[name].shape)) for name, source in populations.items() if source is not None),
        operations=result["spikes"],
        messages=result["packets_sent"],
        hops=sum(result["perf_trace"]["hops"]),
        energy_pj=energy,
        seconds=result["sim_time"],
    )


@dataclass(frozen=True)
class Line:
    """One figure as both sides have it.

    Attributes:
        name: The name of the figure.
        ours: Its value from ``resformer.runtime.cost.cost``.
        theirs: SANA-FE's value.
        is_energy: Whether the figure is an energy in pJ, which depends on constants; otherwise it is a count.
    """

    name: str
    ours: float
    theirs: float
    is_energy: bool = False


def compare(cost: Cost, spikes: Mapping[str, SpikeTrain], run: SanafeRun) -> tuple[Line, ...]:
    """All figures of one sample that both sides have.

    SANA-FE runs further steps, in which the last layers finish and the others are idle. The energy of idle neurons in
    these steps is added to our figures.

    Args:
        cost: The cost of this sample alone, on the placement that was simulated.
        spikes: The spikes of this sample alone, by population.
        run: SANA-FE's simulation of the sample.
    """
    first = next(iter(run.spikes))
    layers = [layer for layer in cost.layers if layer.name in run.spikes and layer.name != first]
    further = run.neurons * (run.steps - cost.activity.timesteps)
    idle = further * cost.placement.chip.neuron_update_inactive_pj
    pj = run.energy_pj
    return (
        *(Line(f"spikes of {name}", spikes[name].count, found) for name, found in run.spikes.items()),
        Line("operations", sum(layer.operations for layer in layers), run.operations),
        Line("messages", sum(layer.messages for layer in layers), run.messages),
        Line("hops", sum(layer.hops for layer in layers), run.hops),
        Line("synapses, pJ", sum(layer.synapses_pj for layer in layers), pj["synapse"], is_energy=True),
        Line("neurons, pJ", sum(layer.neurons_pj for layer in layers) + idle, pj["soma"], is_energy=True),
        Line("messages, pJ", sum(layer.messages_pj for layer in layers), pj["network"], is_energy=True),
        Line("all, pJ", sum(layer.energy_pj for layer in layers) + idle, pj["total"], is_energy=True),
    )
