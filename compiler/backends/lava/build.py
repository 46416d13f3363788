"""Builds the network of Lava processes for a program."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from lava.magma.core.model.model import AbstractProcessModel
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.run_configs import Loihi2SimCfg
from lava.proc.dense.models import PyDenseModelBitAcc
from lava.proc.lif.models import PyLifResetModelBitAcc

from resformer.compiler.backends.lava.layout import (
    BlockLayout,
    Unit,
    Values,
    block_kind,
    divide,
    enclose,
    lava_shape,
    meeting_values,
)
from resformer.compiler.backends.lava.logs import unchanged_logging
from resformer.compiler.backends.lava.lowering import Context, lower
from resformer.compiler.backends.lava.processes.blocks import BLOCK_MODELS, BLOCKS, Network
from resformer.compiler.backends.lava.processes.chunk_source import PyChunkSourceModel
from resformer.compiler.backends.lava.processes.conv import PyFastConvModel, PyWideConvModel
from resformer.compiler.backends.lava.processes.counts import PySpikeAttentionModel
from resformer.compiler.backends.lava.processes.cuba_lif import PyCubaLifModel, PyCubaLiModel
from resformer.compiler.backends.lava.processes.delay import PyDelayModel, PySampleDelayModel
from resformer.compiler.backends.lava.processes.dense import PyFastDenseModel
from resformer.compiler.backends.lava.processes.flatten import PyFlattenModel
from resformer.compiler.backends.lava.processes.frame_source import PyFrameSourceModel
from resformer.compiler.backends.lava.processes.gate import PySpikeGateModel
from resformer.compiler.backends.lava.processes.lif import PyFastLifResetModel
from resformer.compiler.backends.lava.processes.logit_sink import PyLogitSinkModel
from resformer.compiler.backends.lava.processes.matmul import PySpikeMatMulModel
from resformer.compiler.backends.lava.processes.max_pool import PyMaxPool2dModel
from resformer.compiler.backends.lava.processes.multi_spike import PyMultiSpikeIfModel
from resformer.compiler.backends.lava.processes.probe import PORTS, PySpikeProbeModel, SpikeProbe
from resformer.compiler.backends.lava.processes.relay import PyRelayModel
from resformer.compiler.backends.lava.record import Recorder
from resformer.compiler.backends.lava.shared import UNCOUNTED
from resformer.compiler.ir.ops import Add, Input, Output
from resformer.compiler.ir.program import Scheduled, require_schedule

CHANNEL_SIZE = 2
"""Messages that a channel holds. All processes take each step together, so two messages are enough; Lava's default of
64 takes 32 times the memory."""


def build_network(program: Scheduled, *, recorder: Recorder | None = None) -> Network:
    """A program as a Lava process that can be connected to other Lava processes.

    The network holds a block process for each block of the model (``DSSA``, ``GWFFN``, ...), and each block holds the
    processes of its nodes. The first frame is due at Lava's first step. A sample takes T steps, samples follow one
    another without a gap, and a sample's first logits leave ``program.latency`` steps after its first frame came.

    Example:
        Run a network with Lava's own source and sink::

            # Import ours first: since Python 3.11, Lava can be imported only after the repair that ours makes.
            from resformer.compiler.backends.lava.build import CHANNEL_SIZE, build_network, run_config
            from lava.magma.core.run_conditions import RunSteps
            from lava.proc.io.sink import RingBuffer as Sink
            from lava.proc.io.source import RingBuffer as Source

            steps = program.latency + program.timesteps
            source = Source(data=frames)        # (W, H, C, steps), integers
            network = build_network(program)
            sink = Sink(shape=network.out_port.shape, buffer=steps)
            source.s_out.connect(network.in_port)
            network.out_port.connect(sink.a_in)
            source.run(RunSteps(steps), run_config(), {"pypy_channel_size": CHANNEL_SIZE})
            logits = sink.data.get()[:, program.latency :]
            source.stop()

    Args:
        program: The program, with its delays balanced and its biases placed.
        recorder: Where spikes, graded values and saturation counts go; recording values adds probes to each block.

    Returns:
        A process with ``in_port``, (W, H, C), and ``out_port``, (classes,).

    Raises:
        UnsupportedError: An add sums a value with itself.
        AssertionError: A pass that must come before has not run.
    """
    require_schedule(program)
    context = Context(
        program, meeting_values(program), lambda node: UNCOUNTED if recorder is None else recorder.tallies[node.name]
    )
    units = [lower(node, context) for node in program if not isinstance(node.op, (Input, Output, Add))]
    shapes = {node.name: lava_shape(node.shape) for node in program}
    logits = context.meets[program.output.inputs[0]]
    layout = BlockLayout(
        units=tuple(_blocks(units, shapes, logits, recorder)),
        in_ports={"in_port": (program.input.name,)},
        out_ports={"out_port": logits},
        shapes={"in_port": shapes[program.input.name], "out_port": shapes[program.output.name]},
    )
    with unchanged_logging():
        return Network(name="network", layout=layout)


def run_config(*, stock_models: bool = False, models: Sequence[type[AbstractProcessModel]] = ()) -> Loihi2SimCfg:
    """Lava's fixed-point simulation of Loihi 2, for a network from :func:`build_network` and what is connected to it.

    Args:
        stock_models: Use stock Lava's models of its own processes instead of our faster ones, which send the same.
        models: Models of your own processes. Lava finds models by itself too, but not those in a program's main file.
    """
    models = (*OUR_MODELS, *(STOCK_MODELS if stock_models else FASTER_MODELS), *models)
    by_process = _Models({model.implements_process: model for model in models})
    return Loihi2SimCfg(select_tag="fixed_pt", exception_proc_model_map=by_process)


OUR_MODELS: tuple[type[AbstractProcessModel], ...] = (
    PyChunkSourceModel,
    PyCubaLiModel,
    PyCubaLifModel,
    PyDelayModel,
    PyFlattenModel,
    PyFrameSourceModel,
    PyLogitSinkModel,
    PyMaxPool2dModel,
    PyMultiSpikeIfModel,
    PyRelayModel,
    PySampleDelayModel,
    PySpikeAttentionModel,
    PySpikeGateModel,
    PySpikeMatMulModel,
    PySpikeProbeModel,
    *BLOCK_MODELS,
)
"""Models of the processes that Lava lacks. Lava would find them itself, but by executing all files of their folder."""
STOCK_MODELS: tuple[type[AbstractProcessModel], ...] = (PyDenseModelBitAcc, PyLifResetModelBitAcc, PyWideConvModel)
FASTER_MODELS: tuple[type[AbstractProcessModel], ...] = (PyFastConvModel, PyFastDenseModel, PyFastLifResetModel)


class _Models(dict[type[AbstractProcess], type[AbstractProcessModel]]):
    """Models by class of process. A process is a key too: Lava looks up the process here before it searches files."""

    def __contains__(self, key: object) -> bool:
        return super().__contains__(_class_of(key))

    def __getitem__(self, key: AbstractProcess | type[AbstractProcess]) -> type[AbstractProcessModel]:
        return super().__getitem__(_class_of(key))


def _class_of(key: object) -> type[AbstractProcess]:
    return key if isinstance(key, type) else type(key)


def _blocks(
    units: list[Unit], shapes: Mapping[str, tuple[int, ...]], logits: Values, recorder: Recorder | None
) -> Iterator[Unit]:
    """Units gathered into blocks, and their probes; a unit that is alone in its block stays outside."""
    for name, members in divide(units):
        probes = tuple(_probes(name, members, shapes, recorder))
        if len(members) == 1:
            yield from (*members, *probes)
            continue
        names = {unit.name for unit in members}
        wanted = {value for unit in units if unit.name not in names for meet in unit.inputs.values() for value in meet}
        layout = enclose((*members, *probes), wanted.union(logits), shapes)
        yield Unit(
            name=name,
            ops=tuple(op for unit in members for op in unit.ops),
            inputs=layout.in_ports,
            outputs={value: port for port, (value,) in layout.out_ports.items()},
            make=partial(BLOCKS[block_kind(members)], name=name, layout=layout),
        )


def _probes(
    block: str, members: tuple[Unit, ...], shapes: Mapping[str, tuple[int, ...]], recorder: Recorder | None
) -> Iterator[Unit]:
    """The probes that record a block's values; each records as many values as a probe has ports."""
    records = {} if recorder is None else recorder.values
    names = [unit.name for unit in members if unit.name in records]
    for first in range(0, len(names), len(PORTS)):
        probed = names[first : first + len(PORTS)]
        name = f"{block}.probe{first // len(PORTS)}"
        make = partial(
            SpikeProbe, shapes=[shapes[each] for each in probed], records=[records[each] for each in probed], name=name
        )
        inputs = {port: (each,) for port, each in zip(PORTS, probed, strict=False)}
        yield Unit(name, (), inputs, {}, make)
