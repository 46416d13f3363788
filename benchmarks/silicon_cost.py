"""Our cores, operations, step times and energies against those that Intel's compiler and silicon gave.

    python benchmarks/silicon_cost.py --lava-dl PATH

PATH is a checkout of lava-nc/lava-dl. Its notebooks under tutorials/lava/lib/dl/netx print the figures below; its
``.net`` files hold the networks. YOLO-KP has no such file: a test places it. PilotNet's run on silicon saw no pixels:
its counters are those of a network whose input is silent, so the sample here is silent too.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from networks import print_machine, print_table

from resformer.compiler.chips.chip import Chip, load_chip
from resformer.compiler.ir import reference
from resformer.compiler.ir.graph import Node
from resformer.compiler.ir.ops import LIF, Conv2d, Dense, Flatten, Input, Op, Output
from resformer.compiler.ir.program import Program, Scheduled
from resformer.compiler.ir.shapes import output_shape
from resformer.compiler.ir.signal import SPIKE, Signal, SignalKind
from resformer.compiler.passes.integer.balance_delays import balance_delays
from resformer.compiler.placement.activity import Activity, measure
from resformer.compiler.placement.mapping import map_program
from resformer.compiler.placement.place import Placement, place_populations
from resformer.runtime.cost.cost import Cost, estimate

NETX = Path("tutorials/lava/lib/dl/netx")
CURRENT = Signal(SignalKind.CURRENT, scale_exp=0)
TOLD = 12000
"""The synapse words per core that some runs told Intel's compiler, as their logs print."""
PILOTNET_STEPS = 16
"""The steps after which PilotNet resets."""

Table = tuple[Sequence[str], list[Sequence[str]]]
"""Headings and rows."""


@dataclass(frozen=True)
class Printed:
    """The cores that a notebook printed, layer by layer.

    Attributes:
        network: The network's name.
        net: The network's file, below :data:`NETX`.
        words_told: The synapse words per core that Intel's compiler was told.
        cores: The number of cores of each layer, by the layer's number in the file; 0 is the input.
        words: The synapse words of each layer's cores, as printed: for MNIST the largest core's, else the mean.
    """

    network: str
    net: str
    words_told: int
    cores: dict[int, int]
    words: dict[int, int]


PILOTNET = {1: 25, 2: 13, 3: 3, 4: 3, 5: 2, 7: 12, 8: 1, 9: 1, 10: 1}
WORDS = {1: 81, 2: 864, 3: 1620, 4: 2160, 5: 2880, 7: 7253, 8: 1300, 9: 150, 10: 10}
TABLES = (
    Printed("PilotNet SNN", "pilotnet_snn/network.net", TOLD, {0: 13, **PILOTNET}, {0: 0, **WORDS}),
    Printed("PilotNet SDNN", "pilotnet_sdnn/network.net", TOLD, PILOTNET, {**WORDS, 4: 2592, 8: 1500}),
    Printed("MNIST MLP", "mnist/trained_mnist_network.net", 16000, {0: 3, 1: 1, 2: 1}, {0: 12544, 1: 2688, 2: 256}),
    Printed("Oxford", "oxford/Trained/network.net", TOLD, {0: 3, 1: 2}, {0: 5400, 1: 8064}),
)
"""The tables that these notebooks print: pilotnet_snn/benchmark.ipynb, pilotnet_sdnn/benchmark.ipynb, mnist/run.ipynb,
oxford/run.ipynb."""

OPERATIONS = {2: 1_608_707, 3: 451_230, 4: 154_215, 5: 67_630}
"""Synaptic operations of a step, on average, by layer: the counters that pilotnet_snn/benchmark.ipynb draws. Those of
layers 4 and 5 are read off a plot."""
STEPS_US = (201.0, 107.0, 181.0, 125.0)
"""The times of the four steps that repeat over and over, from the same notebook's plot."""
MEAN_STEPS_US = (152.8, 151.1, 150.7, 150.4)
ENERGIES_MJ = (1.093544, 1.070673, 0.981149, 0.562239)
"""Dynamic energy of a sample on Oheo Gulch, in all versions of that notebook; the last disagrees with the others."""
STATIC_MW = (232.078, 309.377, 381.726, 178.059)
"""Static power of the same runs."""


def read_net(path: Path, timesteps: int) -> tuple[Scheduled, dict[int, str]]:
    """Read a network of convolutions, dense layers and LIF neurons, with its integers as they are.

    Sigma-delta neurons become LIF neurons, which take the same cores.

    Args:
        path: The ``.net`` file.
        timesteps: The number of steps after which the network resets.

    Returns:
        The program, and the population of each layer by its number.
    """
    import h5py

    with h5py.File(path, "r") as file:
        layers = [file["layer"][key] for key in sorted(file["layer"], key=int)]
        facts = [{name: each[name][()] for name in each if name != "neuron"} for each in layers]
        for layer, fact in zip(layers, facts, strict=True):
            fact["type"] = fact["type"][0].decode()
            fact["vth"] = int(layer["neuron/vThMant"][()]) if "neuron" in layer else 0
            fact["dv"] = int(layer["neuron/vDecay"][()]) if "neuron/vDecay" in layer else 0
    nodes: dict[str, Node[Op]] = {}

    def add(name: str, op: Op, *inputs: str, shape: tuple[int, ...] | None = None) -> str:
        made = output_shape(op, [nodes[each].shape for each in inputs]) if shape is None else shape
        nodes[name] = Node(name, op, inputs, made)
        return name

    populations: dict[int, str] = {}
    given = facts[0]["type"] == "input"
    shape = tuple(map(int, facts[0]["shape"])) if given else (int(facts[0]["inFeatures"]), 1, 1)
    source = add("input", Input(Signal(SignalKind.GRADED, scale_exp=0)), shape=shape)
    if given:
        populations[0] = source
    for number, fact in enumerate(facts):
        if fact["type"] in ("conv", "dense"):
            if fact["type"] == "dense" and len(nodes[source].shape) > 1:
                source = add(f"flatten{number}", Flatten(nodes[source].op.signal), source)
            synapses, bias = _synapses(fact)
            source = add(f"synapses{number}", synapses, source)
            exponents = np.full(len(bias), 6, dtype=np.int8)
            neurons = LIF(SPIKE, fact["vth"], 4095, fact["dv"], bias.astype(np.int16), exponents)
            source = populations[number] = add(f"layer{number}", neurons, source)
    add("output", Output(CURRENT, 1, np.zeros(nodes[source].shape)), source)
    return balance_delays(Program(tuple(nodes.values()), timesteps)), populations


def _synapses(fact: dict[str, Any]) -> tuple[Op, np.ndarray[Any, Any]]:
    """A layer's synapses, and its neurons' biases."""
    weight = np.atleast_2d(np.asarray(fact["weight"])).astype(np.int64)
    # the largest exponent that is exact: the lowest bit that any weight has
    bits = int(np.bitwise_or.reduce(np.abs(weight), axis=None))
    exp = (bits & -bits).bit_length() - 1
    mantissas = (weight >> exp).astype(np.int8)
    outputs = len(mantissas)
    bias = np.broadcast_to(np.asarray(fact.get("bias", 0)).astype(np.int64), (outputs,)).copy()
    none = np.zeros(outputs, dtype=np.int32)
    if fact["type"] == "dense":
        return Dense(CURRENT, mantissas, exp, none), bias
    stride, padding, dilation = (tuple(map(int, fact[name])) for name in ("stride", "padding", "dilation"))
    exponents = np.full(outputs, exp, dtype=np.int8)
    conv = Conv2d(CURRENT, mantissas, exponents, none, stride, padding, dilation, int(fact["groups"]))
    return conv, bias


def place_net(program: Scheduled, chip: Chip, *, with_input: bool) -> Placement:
    """Place a network on cores; if its input neurons are on the chip too, they are LIF neurons that send spikes."""
    populations = map_program(program)
    if with_input:
        populations = tuple(
            replace(each, graded=False, payload_bits=0) if each.name == "input" else each for each in populations
        )
    return place_populations(populations, chip)


def cores(lava_dl: Path) -> list[tuple[str, Table]]:
    """The tables of cores: for each network, the printed number of each layer, ours, and the sums of both."""
    found = []
    for printed in TABLES:
        program, populations = read_net(lava_dl / NETX / printed.net, PILOTNET_STEPS)
        chip = replace(load_chip("loihi2"), synapse_words_per_core=printed.words_told)
        placement = place_net(program, chip, with_input=0 in printed.cores and populations.get(0) == "input")
        ours = {number: placement.by_name[populations[number]].cores for number in printed.cores}
        alike = sum(ours[number] == each for number, each in printed.cores.items())
        rows: list[Sequence[str]] = [
            (
                f"layer {number}",
                "x".join(map(str, placement.by_name[populations[number]].population.shape)),
                str(each),
                str(ours[number]),
                f"{printed.words[number]:,}",
                f"{placement.by_name[populations[number]].tiling.usage['synapse words']:,}",
            )
            for number, each in printed.cores.items()
        ]
        all_printed, all_ours = sum(printed.cores.values()), sum(ours.values())
        rows.append(("all", "", str(all_printed), str(all_ours), "", f"{all_ours / all_printed - 1:+.1%}"))
        title = f"{printed.network}: {alike} of {len(ours)} layers alike"
        found.append(
            (title, (("layer", "neurons", "cores printed", "ours", "words printed", "ours, fullest core"), rows))
        )
    return found


def pilotnet(lava_dl: Path) -> tuple[Cost, dict[int, str]]:
    """PilotNet's cost with a silent input, as in its run on silicon, and its populations by the layers' numbers."""
    program, populations = read_net(lava_dl / NETX / TABLES[0].net, PILOTNET_STEPS)
    silent = np.zeros((1, *program["input"].shape), dtype=np.int32)
    measured = measure(program, reference.run(program, silent, record=True).spikes)
    none = np.zeros((PILOTNET_STEPS, *program["input"].shape[1:]), dtype=np.int64)
    activity = Activity(1, PILOTNET_STEPS, {**measured.spikes, "input": none}, measured.sops, measured.not_zero)
    chip = replace(load_chip("loihi2"), synapse_words_per_core=TOLD)
    return estimate(program, activity, place_net(program, chip, with_input=True)), populations


def operations(cost: Cost, populations: dict[int, str]) -> Table:
    """The table of synaptic operations of PilotNet's convolutions in a step.

    It holds the counters of the chip, ours, and those that weights of zero would also take part in.
    """
    layers = {layer.name: layer for layer in cost.layers}
    rows: list[Sequence[str]] = []
    for number, counted in OPERATIONS.items():
        ours = layers[populations[number]].operations / PILOTNET_STEPS
        every = int(cost.activity.sops[f"synapses{number}"].sum()) / PILOTNET_STEPS
        rows.append((f"layer {number}", f"{counted:,}", f"{ours:,.0f}", _off(ours, counted), f"{every:,.0f}"))
    return ("layer", "counted", "ours", "off by", "with weights of zero"), rows


def steps(cost: Cost) -> Table:
    """The table of PilotNet's step times: the four steps that repeat, as printed and as ours, and the means of runs."""
    ours = cost.steps.ns.reshape(-1, len(STEPS_US)) * 1e-3
    # the printed cycle begins with its longest step
    first = int(ours[0].argmax())
    ours = np.roll(cost.steps.ns, -first).reshape(-1, len(STEPS_US)) * 1e-3
    waits = [cost.steps.slowest[(first + index) % PILOTNET_STEPS] for index in range(len(STEPS_US))]
    rows: list[Sequence[str]] = [
        (
            f"step {index}",
            f"{printed:,.1f}",
            f"{ours[:, index].mean():,.1f}",
            _off(float(ours[:, index].mean()), printed),
            f"{term} of {layer}",
        )
        for index, (printed, (layer, term)) in enumerate(zip(STEPS_US, waits, strict=True))
    ]
    mean, low, high = (each * 1e-3 for each in (cost.step_ns, *cost.between("step_ns")))
    interval = f"{low:,.1f} to {high:,.1f}"
    rows.extend(
        ("mean of a run", f"{printed:,.1f}", f"{mean:,.1f}", _off(mean, printed), interval) for printed in MEAN_STEPS_US
    )
    return ("time, us", "printed", "ours", "off by", "waits for, or interval"), rows


def energies(cost: Cost) -> Table:
    """The table of PilotNet's dynamic energy and static power in four runs."""
    rows: list[Sequence[str]] = []
    low, high = cost.between("dynamic_mj")
    for index, printed in enumerate(ENERGIES_MJ):
        name = f"dynamic, mJ, run {index + 1}{' (disagrees with the others)' if printed < 0.8 else ''}"
        off = _off(cost.dynamic_mj, printed)
        rows.append((name, f"{printed:.3f}", f"{cost.dynamic_mj:.3f}", off, f"{low:.3f} to {high:.3f}"))
    chip = cost.placement.chip
    low, high = chip.bounds("static_mw_per_chip")
    for index, printed in enumerate(STATIC_MW):
        ours = chip.static_mw_per_chip
        rows.append(
            (
                f"static, mW, run {index + 1}",
                f"{printed:.0f}",
                f"{ours:.0f}",
                _off(ours, printed),
                f"{low:.0f} to {high:.0f}",
            )
        )
    return ("", "printed", "ours", "off by", "interval"), rows


def _off(ours: float, printed: float) -> str:
    return f"{ours / printed - 1:+.1%}"


def main() -> None:
    """Print every table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lava-dl", type=Path, required=True, metavar="PATH", help="checkout of lava-nc/lava-dl")
    arguments = parser.parse_args()
    print_machine()
    show(arguments.lava_dl)


def show(lava_dl: Path) -> None:
    """Print the tables of cores, operations, steps and energies, each with the deviations of our figures."""
    for title, table in cores(lava_dl):
        print(f"### Cores of {title}\n")
        print_table(*table)
    cost, populations = pilotnet(lava_dl)
    for title, table in (
        ("Synaptic operations of PilotNet SNN, a step", operations(cost, populations)),
        ("Steps of PilotNet SNN", steps(cost)),
        ("Energy of PilotNet SNN, a sample of 16 steps", energies(cost)),
    ):
        print(f"### {title}\n")
        print_table(*table)


if __name__ == "__main__":
    main()
