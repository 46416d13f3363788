"""NIR files: what NIR's own reader makes of them, what they cost, and every way in which one can be broken."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import h5py
import nir
import numpy as np
import pytest

from resformer.compiler.files.nir import is_plain, read_nir, write_nir
from resformer.compiler.frontend.checkpoint import import_model
from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.ir.ported import PORTS, PortedGraph
from resformer.compiler.ir.primitives import Add, SpikeMatMul, constant
from resformer.compiler.pipeline import CHECKPOINT
from resformer.errors import FileFormatError
from resformer.models.spikingresformer import SpikingResformer
from support.compare import first_difference
from support.graphs import GraphBuilder


@pytest.fixture(scope="module")
def graph(make_model: Callable[..., SpikingResformer]) -> Graph[nir.NIRNode]:
    return import_model(make_model(stem="conv3x3", neuron="PLIF"))


@pytest.fixture
def path(graph: Graph[nir.NIRNode], tmp_path: Path) -> Path:
    path = tmp_path / "network.nir"
    write_nir(graph, path)
    return path


def test_round_trip(graph: Graph[nir.NIRNode], tmp_path: Path) -> None:
    path = tmp_path / "network.nir"
    for float_pass in (None, *CHECKPOINT.float_passes):
        graph = graph if float_pass is None else float_pass(graph)
        write_nir(graph, path)
        assert first_difference(graph, read_nir(path)) is None


def test_nir_reads_it_with_its_default_arguments(graph: Graph[nir.NIRNode], path: Path) -> None:
    read = nir.read(path)
    assert isinstance(read, nir.NIRGraph)
    assert isinstance(read, PortedGraph)
    assert read.nodes.keys() == {node.name for node in graph}
    assert set(read.edges) == {(source, node.name) for node in graph for source in node.inputs}
    for node in graph:
        assert type(read.nodes[node.name]) is type(node.op)
        assert read.nodes[node.name].output_type["output"].tolist() == list(node.shape)
    np.testing.assert_array_equal(read.nodes["prologue.0"].weight, graph["prologue.0"].op.weight)
    assert read.nodes["layers.0.1.up.0"].metadata["fires_at"] == ">="
    assert read.metadata["dt"] == 1e-4
    assert nir.serialization.read_version(path) == nir.version


def test_nir_type_check_is_alive(graph: Graph[nir.NIRNode], path: Path) -> None:
    with h5py.File(path, "a") as file:
        shape = file[f"node/nodes/layers.0.0.matmul1/metadata/{PORTS}/shape"]
        shape[...] = shape[()][::-1]
    with pytest.raises(ValueError, match=r"layers\.0\.0\.matmul1: makes shape"):
        nir.read(path)
    assert len(nir.read(path, type_check=False).nodes) == len(graph)


def test_nir_type_check_compares_edges_and_inputs(path: Path) -> None:
    with h5py.File(path, "a") as file:
        inputs = file[f"node/nodes/layers.0.0.add/metadata/{PORTS}/inputs"]
        inputs[...] = json.dumps(["layers.0.0.norm_proj", "layers.0.0.norm_proj"])
    with pytest.raises(ValueError, match=r"layers\.0\.0\.add: its inputs are"):
        nir.read(path)


def test_swapped_inputs_of_a_product_do_not_pass(path: Path) -> None:
    with h5py.File(path, "a") as file:
        inputs = file[f"node/nodes/layers.0.0.matmul2/metadata/{PORTS}/inputs"]
        inputs[...] = json.dumps(json.loads(inputs[()])[::-1])
    with pytest.raises(ValueError, match=r"layers\.0\.0\.matmul2: "):
        nir.read(path)
    with pytest.raises(FileFormatError, match=r"layers\.0\.0\.matmul2: "):
        read_nir(path)


def test_populations_cost_nothing(tmp_path: Path) -> None:
    """A full-size population, of 3 million neurons, is a few numbers in the file and in memory."""
    shape = (256, 112, 112)
    lif = nir.LIF(
        *(constant(value, shape) for value in (2e-4, 1.0, 0.0, 1.0, 0.0)),
        metadata={"reset": "hard", "fires_at": ">=", "tau_steps": 2.0},
    )
    scale = nir.Scale(np.broadcast_to(np.arange(1.0, 257.0)[:, None, None], shape))
    nodes: tuple[Node[nir.NIRNode], ...] = (
        Node("input", nir.Input({"input": np.array(shape)}), (), shape),
        Node("scale", scale, ("input",), shape),
        Node("lif", lif, ("scale",), shape),
        Node("output", nir.Output({"output": np.array(shape)}), ("lif",), shape),
    )
    graph = Graph(nodes, 4, {"dt": 1e-4})
    path = tmp_path / "wide.nir"
    write_nir(graph, path)
    assert path.stat().st_size < 500_000, "5 arrays of 26 MB and one that repeats itself"
    read = read_nir(path)
    assert first_difference(graph, read) is None
    assert read["lif"].op.tau.strides == (0, 0, 0)
    assert read["scale"].op.scale.strides[1:] == (0, 0)


def test_nodes_that_no_spikingresformer_has(tmp_path: Path) -> None:
    """A node read twice by another, a linear layer with bias, neurons with all their metadata."""
    build = GraphBuilder((2, 1, 1))
    build.add("add", Add(), "input", "input", "input")
    neurons = build.lif("lif", "add", tau_steps=3.7)
    build.nodes[neurons].op.metadata["dt_over_tau"] = 1 / 3.7
    build.add("flatten", nir.Flatten({"input": np.array([2, 1, 1])}, start_dim=0), neurons)
    build.add("affine", nir.Affine(np.eye(2), np.array([0.5, 0.25])), "flatten")
    build.output("affine")
    graph = build.finish(3, input="frames", origin="a test", count=7, share=0.5)
    write_nir(graph, tmp_path / "odd.nir")
    assert first_difference(graph, read_nir(tmp_path / "odd.nir")) is None
    assert len(nir.read(tmp_path / "odd.nir").edges) == 5


def test_the_sign_of_zero_survives(tmp_path: Path) -> None:
    """-0.0 equals 0.0, yet is another number."""
    bias = np.array([0.0, -0.0])
    nodes: tuple[Node[nir.NIRNode], ...] = (
        Node("input", nir.Input({"input": np.array([1])}), (), (1,)),
        Node("affine", nir.Affine(np.ones((2, 1)), bias), ("input",), (2,)),
        Node("output", nir.Output({"output": np.array([2])}), ("affine",), (2,)),
    )
    write_nir(Graph(nodes, 1, {"dt": 1e-4}), tmp_path / "zero.nir")
    assert np.signbit(read_nir(tmp_path / "zero.nir")["affine"].op.bias).tolist() == [False, True]


def test_names_that_hdf5_cannot_hold(tmp_path: Path) -> None:
    nodes: tuple[Node[nir.NIRNode], ...] = (
        Node("a/b", nir.Input({"input": np.array([1])}), (), (1,)),
        Node("output", nir.Output({"output": np.array([1])}), ("a/b",), (1,)),
    )
    with pytest.raises(AssertionError, match="cannot hold the name 'a/b'"):
        write_nir(Graph(nodes, 1, {"dt": 1e-4}), tmp_path / "slash.nir")


def test_metadata_that_a_file_cannot_hold(tmp_path: Path) -> None:
    nodes: tuple[Node[nir.NIRNode], ...] = (
        Node("input", nir.Input({"input": np.array([1])}, metadata={"what": object()}), (), (1,)),
        Node("output", nir.Output({"output": np.array([1])}), ("input",), (1,)),
    )
    with pytest.raises(AssertionError, match=r"input\.metadata\.what: a file cannot hold a object"):
        write_nir(Graph(nodes, 1, {"dt": 1e-4}), tmp_path / "object.nir")


def damage_type(file: h5py.File) -> None:
    del file["node/nodes/layers.0.0.W/type"]
    file["node/nodes/layers.0.0.W/type"] = "Conv9d"


def damage_edge(file: h5py.File) -> None:
    edges = file["node/edges"][()]
    edges[3] = (b"layers.9", edges[3][1])
    file["node/edges"][...] = edges


def drop_edge(file: h5py.File) -> None:
    edges = file["node/edges"][()]
    del file["node/edges"]
    file["node/edges"] = edges[:-1]


def damage_version(file: h5py.File) -> None:
    file[f"node/metadata/{PORTS}/format_version"][...] = 2


def damage_weight(file: h5py.File) -> None:
    del file["node/nodes/layers.0.0.W/weight"]
    file["node/nodes/layers.0.0.W/weight"] = np.zeros((3, 3, 1, 1))


def damage_field(file: h5py.File) -> None:
    file["node/nodes/layers.0.0.W/surprise"] = 1


def drop_field(file: h5py.File) -> None:
    del file["node/nodes/layers.0.0.activation_in/tau"]


def drop_ports(file: h5py.File) -> None:
    del file[f"node/nodes/layers.0.0.W/metadata/{PORTS}"]


def drop_position(file: h5py.File) -> None:
    del file[f"node/nodes/layers.0.0.W/metadata/{PORTS}/position"]


def drop_steps(file: h5py.File) -> None:
    del file[f"node/metadata/{PORTS}/timesteps"]


def drop_nodes(file: h5py.File) -> None:
    del file["node/nodes"]


def replace_by_nan(file: h5py.File) -> None:
    file["node/nodes/layers.0.0.W/weight"][0, 0, 0, 0] = np.nan


def change_part(file: h5py.File) -> None:
    del file["node/nodes/layers.0.0.matmul1/part"]
    file["node/nodes/layers.0.0.matmul1/part"] = "y7"


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (damage_type, "layers.0.0.W: unknown node type 'Conv9d'"),
        (damage_edge, "layers.9: an edge from layers.9 to"),
        (drop_edge, "output: its list of inputs and its edges differ"),
        (damage_version, "format version 2, but this resformer reads version 1"),
        (damage_weight, "layers.0.0.W: weights for 3 x 1 channels"),
        (damage_field, "layers.0.0.W: no valid Conv2d"),
        (drop_field, "layers.0.0.activation_in: no valid LIF"),
        (drop_ports, "layers.0.0.W: no ordered inputs and shape"),
        (drop_position, "layers.0.0.W: no valid Conv2d: 'position'"),
        (drop_steps, "incomplete ('timesteps')"),
        (drop_nodes, "incomplete"),
        (replace_by_nan, "layers.0.0.W: weight holds NaN"),
        (change_part, "layers.0.0.matmul1: part is 'y7'"),
    ],
)
def test_damaged_files_are_refused(path: Path, damage: Callable[[h5py.File], None], complaint: str) -> None:
    with h5py.File(path, "a") as file:
        damage(file)
    with pytest.raises(FileFormatError, match=re.escape(complaint)) as caught:
        read_nir(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_absent_file(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"absent\.nir: no such file"):
        read_nir(tmp_path / "absent.nir")


def test_directory(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="damaged, or no NIR file"):
        read_nir(tmp_path)


def test_not_hdf5(tmp_path: Path) -> None:
    path = tmp_path / "text.nir"
    path.write_text("a network\n")
    with pytest.raises(FileFormatError, match="damaged, or no NIR file"):
        read_nir(path)


def test_another_hdf5_file(tmp_path: Path) -> None:
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file["data"] = 1
    with pytest.raises(FileFormatError, match="no NIR graph written by resformer"):
        read_nir(path)


def test_a_file_of_another_nir_tool(tmp_path: Path) -> None:
    path = tmp_path / "foreign.nir"
    nir.write(path, nir.NIRGraph.from_list(nir.Linear(np.ones((2, 2)))))
    with pytest.raises(FileFormatError, match="no NIR graph written by resformer"):
        read_nir(path)


def test_truncated_file(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(FileFormatError, match="truncated"):
        read_nir(path)


def test_flipped_bytes_never_escape_as_other_errors(path: Path) -> None:
    """HDF5 keeps no checksums, so a changed weight passes; anything else must be refused in our own words."""
    content = path.read_bytes()
    rng = random.Random(0)
    refused = 0
    for _ in range(60):
        damaged = bytearray(content)
        for _ in range(20):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            read_nir(path)
        except FileFormatError:
            refused += 1
    assert refused > 5


def test_products_survive_with_their_types(path: Path) -> None:
    op = read_nir(path)["layers.0.0.matmul1"].op
    assert isinstance(op, SpikeMatMul)
    assert (type(op.num_heads), type(op.transpose), type(op.part)) == (int, bool, str)


# Plain NIR


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """Two convolutions whose sum neurons read, as plain NIR."""
    build = GraphBuilder((2, 4, 4))
    branches = [build.random_conv(name, "input", 3, 1) for name in ("a", "b")]
    value = build.lif("lif", build.add("both", Add(), *branches))
    build.output(build.add("flatten", nir.Flatten({"input": np.array([3, 4, 4])}, start_dim=0), value))
    write_nir(build.finish(), tmp_path / "plain.nir")
    return tmp_path / "plain.nir"


def test_sums_are_edges_that_meet(plain: Path) -> None:
    assert set(nir.read(plain).edges) == {
        ("input", "a"),
        ("input", "b"),
        ("a", "lif"),
        ("b", "lif"),
        ("lif", "flatten"),
        ("flatten", "output"),
    }
    assert read_nir(plain)["both"].inputs == ("a", "b")


def test_a_plain_file_that_lacks_an_edge_of_a_sum(plain: Path) -> None:
    with h5py.File(plain, "a") as file:
        edges = [edge for edge in file["node/edges"][()].tolist() if edge != [b"b", b"lif"]]
        del file["node/edges"]
        file["node/edges"] = edges
    with pytest.raises(FileFormatError, match="lif: its list of inputs and its edges differ"):
        read_nir(plain)


def test_sums_that_double_are_refused(plain: Path) -> None:
    """Each sum adds the one before to itself: 2^60 values."""
    with h5py.File(plain, "r+") as file:
        facts = file[f"node/metadata/{PORTS}"]
        (name, first), *_ = json.loads(facts["sums"][()]).items()
        inputs = [first["inputs"][0]] * 2
        sums = {name: first}
        for number in range(60):
            sums[f"sum{number}"] = {**first, "position": first["position"] + number + 1, "inputs": inputs}
            inputs = [f"sum{number}"] * 2
        facts["sums"][...] = json.dumps(sums)
    with pytest.raises(FileFormatError, match="sum18: adds 524288 values, the limit is 262144"):
        read_nir(plain)


@pytest.mark.parametrize("sums", ['{"both": {"position": 3}}', "[]", "{", '{"both": 3}'])
def test_a_plain_file_whose_sums_are_damaged(plain: Path, sums: str) -> None:
    with h5py.File(plain, "a") as file:
        file[f"node/metadata/{PORTS}/sums"][...] = sums
    with pytest.raises(FileFormatError, match="sums: no valid list of sums"):
        read_nir(plain)


def test_a_sum_of_a_value_with_itself_is_no_plain_nir(tmp_path: Path) -> None:
    """NIR allows only one edge between two nodes."""
    build = GraphBuilder((2, 1, 1))
    build.output(
        build.add(
            "flatten",
            nir.Flatten({"input": np.array([2, 1, 1])}, start_dim=0),
            build.add("twice", Add(), "input", "input"),
        )
    )
    graph = build.finish()
    assert not is_plain(graph)
    write_nir(graph, tmp_path / "twice.nir")
    assert first_difference(graph, read_nir(tmp_path / "twice.nir")) is None


def test_convolutions_that_state_no_input_shape_are_read_by_nir(tmp_path: Path) -> None:
    build = GraphBuilder((2, 4, 4))
    build.random_conv("conv", "input", 3, 3)
    build.nodes["conv"].op.input_shape = None
    build.output(build.add("flatten", nir.Flatten({"input": np.array([3, 2, 2])}, start_dim=0), "conv"))
    graph = build.finish()
    write_nir(graph, tmp_path / "conv.nir")
    assert tuple(nir.read(tmp_path / "conv.nir").nodes["conv"].input_shape) == (4, 4)
    assert read_nir(tmp_path / "conv.nir")["conv"].op.input_shape is None
    assert first_difference(graph, read_nir(tmp_path / "conv.nir")) is None


@pytest.mark.parametrize("stated", [(4, 4), None])
def test_grouped_convolutions_whose_channels_nir_reckons_wrongly(
    tmp_path: Path, stated: tuple[int, int] | None
) -> None:
    build = GraphBuilder((2, 4, 4))
    build.random_conv("conv", "input", 2, 3, groups=2)
    build.nodes["conv"].op.input_shape = stated
    build.nodes["conv"].op.__post_init__()
    build.output(build.add("flatten", nir.Flatten({"input": np.array([2, 2, 2])}, start_dim=0), "conv"))
    graph = build.finish()
    assert not is_plain(graph)
    write_nir(graph, tmp_path / "conv.nir")
    assert isinstance(nir.read(tmp_path / "conv.nir"), PortedGraph)
    assert first_difference(graph, read_nir(tmp_path / "conv.nir")) is None


def test_nirs_other_files_are_not_ours(tmp_path: Path) -> None:
    nodes = {"input": nir.Input(np.array([2])), "fc": nir.Linear(np.eye(2)), "output": nir.Output(np.array([2]))}
    nir.write(tmp_path / "other.nir", nir.NIRGraph(nodes, [("input", "fc"), ("fc", "output")]))
    with pytest.raises(FileFormatError, match="no NIR graph written by resformer"):
        read_nir(tmp_path / "other.nir")
