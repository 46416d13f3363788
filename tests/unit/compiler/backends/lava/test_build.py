"""The Lava graph that a program becomes."""

import resformer.compiler.backends.lava  # noqa: F401 # First: since Python 3.11, Lava cannot be imported without it.

# isort: split

import warnings
from dataclasses import replace

import numpy as np
import pytest
from lava.magma.compiler.compiler_graphs import ProcGroupDiGraphs
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.run_configs import Loihi2SimCfg
from lava.proc.conv.models import PyConvModelFixed
from lava.proc.conv.process import Conv
from lava.proc.dense.models import PyDenseModelBitAcc
from lava.proc.dense.process import Dense
from lava.proc.lif.models import PyLifResetModelBitAcc
from lava.proc.lif.process import LIFReset

from resformer.compiler.backends.lava.build import OUR_MODELS, STOCK_MODELS, build_network, run_config
from resformer.compiler.backends.lava.processes import blocks
from resformer.compiler.backends.lava.processes.blocks import Network
from resformer.compiler.backends.lava.processes.chunk_source import ChunkSource
from resformer.compiler.backends.lava.processes.conv import PyFastConvModel, PyWideConvModel
from resformer.compiler.backends.lava.processes.delay import Delay
from resformer.compiler.backends.lava.processes.dense import PyFastDenseModel
from resformer.compiler.backends.lava.processes.flatten import Flatten, PyFlattenModel
from resformer.compiler.backends.lava.processes.frame_source import FrameSource
from resformer.compiler.backends.lava.processes.lif import PyFastLifResetModel
from resformer.compiler.backends.lava.processes.logit_sink import LogitSink
from resformer.compiler.backends.lava.processes.matmul import SpikeMatMul
from resformer.compiler.backends.lava.processes.probe import SpikeProbe
from resformer.compiler.backends.lava.processes.relay import Relay
from resformer.compiler.backends.lava.record import Recorder
from resformer.compiler.ir.ops import SampleDelay, SpikeAttention, SpikeGate
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.signal import SPIKE
from support.program_builder import CURRENT, ProgramBuilder, tiny_resformer


def compiled(program: Program, *, record: bool = False) -> tuple[Network, list[AbstractProcess]]:
    """A network, and its leaf processes as Lava's compiler finds them."""
    recorder = Recorder(program, 2, values=True) if record else None
    network = build_network(program, recorder=recorder)
    samples = np.zeros((2, *program.input.shape), dtype=np.int32)
    FrameSource(samples=samples, timesteps=program.timesteps, name="input").s_out.connect(network.in_port)
    return network, network.compile(run_config()).process_list


def test_the_graph_mirrors_the_network() -> None:
    network, leaves = compiled(tiny_resformer()[0])
    kinds = {process.name: type(process) for process in network.procs}
    assert kinds == {
        "prologue": blocks.Stem,
        "layers.0.0": blocks.DSSA,
        "layers.0.1": blocks.GWFFN,
        "layers.1.0": blocks.Downsample,
        "layers.1.1": blocks.DSSA,
        "layers.1.2": blocks.GWFFN,
        "head": blocks.Head,
    }
    attention = network.procs.layers_1_1
    assert {process.name.removeprefix("layers.1.1."): type(process) for process in attention.procs} == {
        "activation_in": LIFReset,
        "W.y1": Conv,
        "W.y2": Conv,
        "matmul1.delay": Delay,
        "matmul1": SpikeMatMul,
        "activation_attn": LIFReset,
        "matmul2.delay": Delay,
        "matmul2": SpikeMatMul,
        "activation_out": LIFReset,
        "Wproj": Conv,
        "add.delay": Delay,
        "add.relay": Relay,
    }
    assert attention.procs.W_y1.parent_proc is attention
    assert attention.parent_proc is network
    assert [port.shape for port in (attention.in_port, attention.out_port)] == [(4, 4, 8)] * 2
    assert attention.procs.matmul1.a_out.shape == (16, 4, 2)
    head = {process.name: type(process) for process in network.procs.head.procs}
    assert head == {"avgpool": Conv, "avgpool.relay": Relay, "flatten": Flatten, "classifier": Dense}
    assert len(leaves) == 2 + 12 + 8 + 2 + 12 + 8 + 1 + 4 + 1


def test_a_probe_records_a_block_from_inside() -> None:
    network, _ = compiled(tiny_resformer()[0], record=True)
    probes = [each for block in network.procs for each in block.procs if isinstance(each, SpikeProbe)]
    assert {probe.name: probe.parent_proc for probe in probes} == {
        f"{block.name}.probe0": block for block in network.procs
    }


def test_a_block_of_many_populations_has_another_probe() -> None:
    net = ProgramBuilder((2, 3, 3))
    x = "input"
    for index in range(9):
        x = net.lif(f"features.{index}.lif", net.conv(f"features.{index}.conv", x, 2))
    _, leaves = compiled(net.finish(), record=True)
    ports = {each.name: [port.shape for port in each.in_ports] for each in leaves if isinstance(each, SpikeProbe)}
    assert ports == {
        "features.probe0": [(3, 3, 2)] * 8,
        "features.probe1": [(3, 3, 2)] + [(1,)] * 7,
    }


def test_each_process_finds_its_model_by_itself() -> None:
    """A user with Lava's own run configuration relies on this; Lava hides why a file cannot be executed."""
    network, leaves = compiled(tiny_resformer()[0], record=True)
    sink = LogitSink(shape=(5,), record=None, clock=None, name="output")
    net = ProgramBuilder((2, 3, 3))
    neurons = net.cuba_lif("cuba", net.conv("conv", "input", 2))
    wait = net.add("wait", SampleDelay(SPIKE, np.ones((1, 1, 1), np.int32)), neurons)
    gate = net.add("gate", SpikeGate.of("and", 2), wait, neurons)
    attention = net.add("attention", SpikeAttention(CURRENT, 1, 0, 99), wait, neurons, gate)
    counts = net.multi_spike("counts", net.conv("third", net.lif("attended", attention), 2))
    net.cuba_li("last", net.conv("second", counts, 2))
    _, others = compiled(net.finish(), record=True)
    processes = {type(each): each for each in (*leaves, *others, *network.procs, network, sink)}
    frames, place = np.zeros((1, 1, 2, 3, 3), np.int32), np.zeros(2, np.int64)
    processes[ChunkSource] = ChunkSource(frames=frames, place=place, name="stream")
    processes[blocks.Block] = blocks.Block(name="block", layout=network.proc_params["layout"])
    models = {model.implements_process: model for model in (*OUR_MODELS, *STOCK_MODELS)}
    assert processes.keys() == models.keys()
    config = Loihi2SimCfg(select_tag="fixed_pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for process_class, process in processes.items():
            found = config.select(process, ProcGroupDiGraphs._find_proc_models(process))
            assert found is (PyConvModelFixed if process_class is Conv else models[process_class])


@pytest.mark.parametrize(
    ("stock_models", "models"),
    [
        (False, {PyFastConvModel, PyFastLifResetModel, PyFlattenModel, PyFastDenseModel}),
        (True, {PyWideConvModel, PyLifResetModelBitAcc, PyFlattenModel, PyDenseModelBitAcc}),
    ],
)
def test_models_of_stock_processes_are_chosen(stock_models: bool, models: set[type]) -> None:
    net = ProgramBuilder((2, 3, 3))
    x = net.lif("lif", net.conv("conv", "input", 2))
    net.dense("dense", net.flatten("flatten", x), 2)
    network = build_network(net.finish())
    executable = network.compile(run_config(stock_models=stock_models))
    assert {process.model_class for process in executable.process_list} == models


def test_any_name_will_do() -> None:
    """Also names that Python forbids, names that Lava uses itself, and two that differ only by a dot."""
    net = ProgramBuilder((2, 3, 3))
    x = "input"
    for name in ("0", "name", "process", "members", "tags", "a.b", "a_b"):
        x = net.conv(f"layers.0.0.{name}", x, 2)
        x = net.relay(f"layers.0.0.{name}.relay", x, limit=9)
    network, leaves = compiled(net.finish())
    assert len(leaves) == 15
    assert {process.name for process in network.procs.layers_0_0.procs} == set(net.nodes) - {"input", "output"}


@pytest.mark.parametrize("op", ["conv", "dense"])
def test_a_biased_synapse_is_our_mistake(op: str) -> None:
    net = ProgramBuilder((2, 1, 1))
    if op == "conv":
        name = net.conv("synapses", "input", 2)
    else:
        name = net.dense("synapses", net.flatten("flatten", "input"), 2)
    node = net.nodes[name]
    net.nodes[name] = replace(node, op=replace(node.op, bias=np.array([0, 1], dtype=np.int32)))
    with pytest.raises(AssertionError, match=r"^synapses: a synapse has no bias; place_biases"):
        build_network(net.finish())


def test_an_unscheduled_program_is_our_mistake() -> None:
    net = ProgramBuilder((2, 3, 3))
    net.conv("conv", "input", 2)
    with pytest.raises(AssertionError, match="balance_delays has not run"):
        build_network(replace(net.finish(), offsets=None))
