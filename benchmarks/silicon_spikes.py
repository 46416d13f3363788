"""Spikes, currents and potentials that Intel's silicon recorded, against ours: every value of every layer and step.

Files are read from checkouts of lava-nc/lava-dl and neuromorphs/NIR that the user gives; none is part of this project.
A recording runs on from sample to sample: layer l begins a sample l steps late, is reset then, and before its first
sample it lives on its biases and on what the layers before it make of theirs. :func:`run_on` restates that with the
definition of each operation (``Op.evaluate``, ``Spiking.steps``); ``sim`` runs samples, and its spikes are compared at
the steps of these.
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
"""Seconds a step of the NIR paper's neuron."""
NIR_NEURON = {"weight": 10, "iDecay": 4096, "vDecay": 163, "vThMant": 25}
"""What the NIR paper's converter gave Loihi (``paper/nir_to_lava.py``): int(256 dt / tau), no memory of the current,
int(4095 dt / tau), and int(131071 v_threshold) >> 9."""
RESET_INTERVAL = 17
"""Steps after which the recorded PilotNet is reset: its layers begin anew at step l, l + 17, ..."""
REFRACTORY = 128
"""What a potential reads after a spike on silicon, which marks a neuron that fired so; ours reads its reset, 0."""
LAYERS = {
    "input": "layer.0",
    **{f"conv-{index}": f"layer.{index + 1}" for index in range(5)},
    **{f"fc-{index}": f"layer.{index + 7}" for index in range(3)},
}
"""PilotNet's layers as the recordings name them, and as its file does; fc-3 comes apart."""


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        layer: As the recording names it.
        what: Of it: spikes, u or v, and whose.
        steps: Of the recording that were compared.
        compared, differing: Values; None where the recording is absent.
        note: Why it is absent, or what to know of it.
    """

    layer: str
    what: str
    steps: int = 0
    compared: int | None = None
    differing: int | None = None
    note: str = ""


@dataclass(frozen=True)
class States:
    """What a population does in a recording's steps, each (steps, ...).

    Attributes:
        spikes: Zeros and ones.
        u: Currents.
        v: Potentials, as silicon shows them: :data:`REFRACTORY` after a spike.
    """

    spikes: Int64Array
    u: Int64Array
    v: Int64Array


def populations(program: Scheduled) -> list[Node[Op]]:
    """The populations that fire, each of which reads one layer that reads the one before."""
    return [node for node in program if isinstance(node.op, Spiking)]


def run_on(program: Scheduled, given: Int64Array, interval: int | None, steps: int) -> dict[str, States]:
    """A chain of layers as hardware runs it: from step 0 on, reset each at its own steps, sample after sample.

    Args:
        program: Of one population after another.
        given: (C, H, W), what the input's neurons are given in every step.
        interval: Steps between resets, the first of layer l at step l; None: no reset.
        steps: How many to run.

    Returns:
        Of each population.
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
    """A population's states where it is given ``current``, (steps, ...), and reset at ``first``."""
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
    """Of the steps of samples: the sample begins again after its last step."""
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
    """The hidden layer's, where the recording is ``shift`` steps later than ours."""
    own = mine[max(0, -shift) : len(mine) - max(0, shift)]
    theirs = wanted[max(0, shift) : len(wanted) + min(0, shift)]
    note = f"recorded {shift} step(s) later than a synapse's one" if shift else ""
    return replace(_row("hidden", "spikes, sim", own, theirs), note=note)


def compare_nir(checkout: Path) -> list[Row]:
    """The NIR paper's neuron on Loihi: with the integers that it had there, and as we compile its NIR file."""
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
    # all that comes in reaches the neuron a step later
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
    """Rows under :data:`HEADER`, and their sum last."""
    counted = [row for row in rows if row.compared is not None]
    sums = sum(row.compared or 0 for row in counted), sum(row.differing or 0 for row in counted)
    return [_shown(row) for row in (*rows, Row("all", "", 0, *sums))]


def _shown(row: Row) -> tuple[str, ...]:
    compared, differing = ("" if each is None else f"{each:,}" for each in (row.compared, row.differing))
    return row.layer, row.what, str(row.steps or ""), compared, differing, row.note
