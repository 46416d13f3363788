"""Spikes, currents and potentials that Intel's silicon recorded, against ours: every value of every layer and step.

Files are read from checkouts of lava-nc/lava-dl and neuromorphs/NIR that the user gives; none is part of this project.
A recording runs on from sample to sample. Layer l begins each sample l steps late, and is reset at that step. Before
its first sample, it is driven only by its biases and by the spikes that biases cause in the layers before it.
:func:`run_on` computes the same with the definition of each operation (``Op.evaluate``, ``Spiking.steps``). ``sim``
runs samples one by one, so its spikes are only compared at the steps that belong to samples.
"""

from __future__ import annotations

import csv
import itertools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from resformer.compiler.backends import open_backend
from resformer.compiler.ir.graph import Node
from resformer.compiler.ir.ops import Op, Spiking
from resformer.compiler.ir.program import Scheduled
from resformer.compiler.pipeline import CompileOptions, compile_network

Int64Array = npt.NDArray[np.int64]

RECORDED = Path("tests/lava/lib/dl/netx/gts/pilotnet_lif")
OXFORD = Path("tutorials/lava/lib/dl/netx/oxford")
NIR_LIF = Path("paper/01_lif")
NIR_DT = 1e-4
"""The duration of a step of the NIR paper's neuron, in seconds."""
NIR_NEURON = {"weight": 10, "iDecay": 4096, "vDecay": 163, "vThMant": 25}
"""The integers that the NIR paper's converter gave Loihi (``paper/nir_to_lava.py``): the weight is int(256 dt / tau),
the current has no memory, the potential's decay is int(4095 dt / tau), the threshold int(131071 v_threshold) >> 9."""
RESET_INTERVAL = 17
"""Steps after which the recorded PilotNet is reset: its layers begin anew at step l, l + 17, ..."""
REFRACTORY = 128
"""The potential that silicon shows after a spike, as a mark that the neuron fired; ours is 0, its reset."""
LAYERS = {
    "input": "layer.0",
    **{f"conv-{index}": f"layer.{index + 1}" for index in range(5)},
    **{f"fc-{index}": f"layer.{index + 7}" for index in range(3)},
}
"""PilotNet's layers by their names in the recordings, with those in its file; fc-3 is compared separately."""


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        layer: The layer's name in the recording.
        what: The compared quantity: spikes, u or v, and of which of our runs.
        steps: The number of the recording's steps that were compared.
        compared, differing: The number of values; None if they were not compared.
        note: Why values were not compared, or a remark on the recording.
    """

    layer: str
    what: str
    steps: int = 0
    compared: int | None = None
    differing: int | None = None
    note: str = ""


@dataclass(frozen=True)
class States:
    """A population's spikes, currents and potentials in a recording's steps, each (steps, ...).

    Attributes:
        spikes: Zeros and ones.
        u: Currents.
        v: Potentials, as silicon shows them: :data:`REFRACTORY` after a spike.
    """

    spikes: Int64Array
    u: Int64Array
    v: Int64Array


def populations(program: Scheduled) -> list[Node[Op]]:
    """The populations that fire, in order; each reads one layer, which reads the population before."""
    return [node for node in program if isinstance(node.op, Spiking)]


def run_on(program: Scheduled, given: Int64Array, interval: int | None, steps: int) -> dict[str, States]:
    """Run a chain of layers as hardware does: from step 0 on, each layer with resets at its own steps.

    Args:
        program: A program of one population after another.
        given: (C, H, W), what the input's neurons are given in every step.
        interval: The number of steps between resets, the first of layer l at step l; None: no reset.
        steps: The number of steps to run.

    Returns:
        The states of each population, by its name.
    """
    made: dict[str, States] = {}
    sent = np.broadcast_to(given.astype(np.int64), (steps, *given.shape))
    for index, node in enumerate(populations(program)):
        current, source = sent, node.inputs[0]
        between = []
        while source in program and not isinstance(program[source].op, Spiking) and program[source].inputs:
            between.append(program[source])
            (source,) = program[source].inputs
        for each in reversed(between):
            current = each.op.evaluate(current[:, None]).value[:, 0].reshape(steps, *each.shape)
            if each.op.is_synapse:
                current = np.concatenate([np.zeros_like(current[:1]), current[:-1]])
        made[node.name] = _states(node, current, index, interval)
        sent = made[node.name].spikes
    return made


def _states(node: Node[Op], current: Int64Array, first: int, interval: int | None) -> States:
    """A population's states for ``current``, (steps, ...), with resets every ``interval`` steps from ``first`` on."""
    assert isinstance(node.op, Spiking)
    steps = len(current)
    resets = [] if interval is None else list(range(first, steps, interval))
    bounds = sorted({0, *resets, steps})
    states = [
        state
        for start, stop in itertools.pairwise(bounds)
        for state in node.op.steps(current[start:stop, None].reshape(stop - start, 1, *node.shape))
    ]
    spikes = np.stack([state.spikes[0] for state in states]).astype(np.int64)
    v = np.stack([state.v[0] for state in states])
    return States(spikes, np.stack([state.u[0] for state in states]), np.where(spikes > 0, REFRACTORY, v))


def recorded(path: Path) -> npt.NDArray[np.int64] | None:
    """A recording as (steps, ...), channels first; None where the checkout lacks it.

    lava-dl's arrays are (width, height, channels, steps), or (features, steps).
    """
    if not path.is_file() or path.read_bytes()[:6] != b"\x93NUMPY":
        return None
    array = np.load(path, allow_pickle=False)
    return array.transpose(range(array.ndim)[::-1]).astype(np.int64)


def compare_pilotnet(checkout: Path) -> list[Row]:
    """PilotNet's LIF network on its recorded road frame."""
    folder = checkout / RECORDED
    image, fired = recorded(folder / "image.npy"), {name: recorded(folder / f"{name}.npy") for name in LAYERS}
    steps = max(0 if each is None else len(each) for each in fired.values())
    if image is None or not steps:
        return [Row("all", "spikes", note="not in this checkout")]
    program = compile_network(folder / "network.net", CompileOptions(timesteps=RESET_INTERVAL)).program
    ours = run_on(program, image, RESET_INTERVAL, steps)
    trains = open_backend("sim")(program, image[None].astype(np.int32), record=True).spikes
    rows: list[Row] = []
    for index, (name, layer) in enumerate(LAYERS.items()):
        mine = ours[f"{layer}.neuron"]
        rows.append(_sim_row(name, trains[f"{layer}.neuron"].dense()[:, 0], fired[name], index))
        rows.append(_row(name, "spikes", mine.spikes, fired[name]))
        if name != "input":
            rows.extend(
                _row(name, what, values, recorded(folder / f"{name}-{what}.npy"))
                for what, values in (("u", mine.u), ("v", mine.v))
            )
    return [*rows, _last_row(folder, program)]


def _row(name: str, what: str, mine: Int64Array, theirs: Int64Array | None) -> Row:
    if theirs is None:
        return Row(name, what, note="not in this checkout")
    return Row(name, what, len(theirs), theirs.size, int(np.count_nonzero(mine.reshape(theirs.shape) != theirs)))


def _sim_row(name: str, sample: npt.NDArray[np.bool_], theirs: Int64Array | None, first: int) -> Row:
    """Compare sim's spikes with the recording from step ``first`` on; the sample repeats after its last step."""
    if theirs is None:
        return Row(name, "spikes, sim", note="not in this checkout")
    steps = np.arange(first, len(theirs))
    mine = sample[(steps - first) % len(sample)]
    return _row(name, "spikes, sim", mine.astype(np.int64), theirs[first:])


def _last_row(folder: Path, program: Scheduled) -> Row:
    """Whether the last layer's recorded current is what its weights make of the recorded spikes before it."""
    spikes, current = recorded(folder / "fc-2.npy"), recorded(folder / "fc-3-u.npy")
    if spikes is None or current is None:
        return Row("fc-3", "u", note="not in this checkout")
    given = spikes.reshape(len(spikes), 1, *program["layer.9.neuron"].shape)
    made = program["layer.10"].op.evaluate(given).value.reshape(-1, 1)
    made = np.concatenate([np.zeros((1, 1), dtype=np.int64), made]) << 6
    wrong = int(np.count_nonzero(made[: len(current)] != current[: len(made)]))
    note = f"recorded of another run: {wrong} of {len(made)} do not follow from fc-2's own recorded spikes"
    return Row("fc-3", "u", note=note if wrong else "follows from fc-2's own recorded spikes")


def compare_oxford(checkout: Path) -> list[Row]:
    """The hidden layer of the network that makes a picture of Oxford, over 2,000 steps without a reset."""
    folder = checkout / OXFORD
    given, wanted = (recorded(folder / "gts" / f"{name}.npy") for name in ("in", "out"))
    if given is None or wanted is None:
        return [Row("hidden", "spikes, sim", note="not in this checkout")]
    options = CompileOptions(timesteps=len(given))
    program = compile_network(folder / "Trained" / "network.net", options).program
    samples = given.astype(np.int32).reshape(1, len(given), *program.input.shape)
    mine = (
        open_backend("sim")(program, samples, record=True)
        .spikes["layer.0.neuron"]
        .dense()
        .reshape(wanted.shape)
        .astype(np.int64)
    )
    return [min((_late_row(mine, wanted, each) for each in range(-2, 3)), key=lambda row: row.differing or 0)]


def _late_row(mine: Int64Array, wanted: Int64Array, shift: int) -> Row:
    """The row of the hidden layer, if the recording is ``shift`` steps later than our spikes."""
    own = mine[max(0, -shift) : len(mine) - max(0, shift)]
    theirs = wanted[max(0, shift) : len(wanted) + min(0, shift)]
    note = f"recorded {shift} step(s) later than a synapse's one" if shift else ""
    return replace(_row("hidden", "spikes, sim", own, theirs), note=note)


def compare_nir(checkout: Path) -> list[Row]:
    """The NIR paper's neuron on Loihi: once with the integers that it had there, once as we compile its NIR file."""
    record = checkout / NIR_LIF / "lif_lava_loihi_fixed.csv"
    if not record.is_file():
        return [Row("lif", "spikes", note="not in this checkout")]
    with record.open(newline="") as file:
        given, potentials, spikes = np.array([[float(each) for each in row] for row in csv.reader(file)]).T
    steps = len(given)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lif.net"
        write_neuron(path)
        exact = compile_network(path, CompileOptions(timesteps=steps)).program
    # every input reaches the neuron one step later
    late = np.concatenate([np.zeros(1), given[:-1]]).astype(np.int64)
    states = _states(populations(exact)[0], late.reshape(-1, 1, 1, 1) * NIR_NEURON["weight"], 0, None)
    rows = [
        _row("lif", "spikes", states.spikes.reshape(-1), spikes.astype(np.int64)),
        _row("lif", "v", states.v.reshape(-1), potentials.astype(np.int64)),
    ]
    ours = compile_network(checkout / NIR_LIF / "lif_norse.nir", CompileOptions(timesteps=steps, dt=NIR_DT)).program
    for what, program in (("spikes, sim", exact), ("spikes, sim, as we compile the NIR file", ours)):
        scale = 1 << program.input.op.signal.scale_exp
        samples = (given.astype(np.int32) * scale).reshape(1, steps, *program.input.shape)
        (train,) = open_backend("sim")(program, samples, record=True).spikes.values()
        mine = np.concatenate([np.zeros(1), train.dense().reshape(-1)[:-1]]).astype(np.int64)
        rows.append(_row("lif", what, mine, spikes.astype(np.int64)))
    return rows


def write_neuron(path: Path) -> None:
    """Write the NIR paper's neuron as a netx network, with the integers that Loihi had."""
    with h5py.File(path, "w") as file:
        layer = file.create_group("layer/0")
        layer["type"], layer["shape"] = [b"dense"], [1]
        layer["weight"] = [[NIR_NEURON["weight"]]]
        layer["neuron/type"] = b"CUBA"
        for name in ("iDecay", "vDecay", "vThMant"):
            layer[f"neuron/{name}"] = NIR_NEURON[name]


HEADER = ("layer", "what", "steps", "compared", "differing", "note")


def table(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """The cells of rows, in the order of :data:`HEADER`, with a row of their sums at the end."""
    counted = [row for row in rows if row.compared is not None]
    sums = sum(row.compared or 0 for row in counted), sum(row.differing or 0 for row in counted)
    return [_shown(row) for row in (*rows, Row("all", "", 0, *sums))]


def _shown(row: Row) -> tuple[str, ...]:
    compared, differing = ("" if each is None else f"{each:,}" for each in (row.compared, row.differing))
    return row.layer, row.what, str(row.steps or ""), compared, differing, row.note
