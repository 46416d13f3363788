"""NIR files in: what is read, what is refused, and in which words."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import h5py
import nir
import numpy as np
import pytest

from resformer.compiler.frontend.nir.importer import import_nir
from resformer.compiler.frontend.nir.own import import_own
from resformer.compiler.ir.graph import Graph
from resformer.compiler.passes.float.merge_synapses import merge_synapses
from resformer.errors import FileFormatError, InputError, UnsupportedError
from support.nir_files import chain, conv2d, cuba_lif, flatten, graph, lif, pool, write

ONES = np.ones((3, 4))


def plain() -> nir.NIRGraph:
    return chain((4,), nir.Linear(ONES), lif((3,)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "network.nir", plain())


def load(path: Path) -> object:
    return import_nir(path, dt=1e-4, timesteps=3)


def test_metadata_say_what_the_call_does_not(tmp_path: Path) -> None:
    content = plain()
    content.metadata = {"dt": 1e-3, "timesteps": 5}
    path = write(tmp_path / "network.nir", content)
    stated = import_nir(path)
    assert (stated.metadata["dt"], stated.timesteps) == (1e-3, 5)
    given = import_nir(path, dt=2e-3, timesteps=6)
    assert (given.metadata["dt"], given.timesteps) == (2e-3, 6)


def test_nodes_keep_their_names_and_values(tmp_path: Path) -> None:
    weight = np.arange(12.0).reshape(3, 4)
    imported = import_nir(write(tmp_path / "n.nir", chain((4,), nir.Linear(weight), lif((3,)))), dt=1e-4, timesteps=3)
    assert [node.name for node in imported] == ["input", "input.flatten", "n0", "n1", "output"]
    assert imported.input.shape == (4, 1, 1)
    np.testing.assert_array_equal(imported["n0"].op.weight, weight)
    assert imported["n1"].op.metadata == {"reset": "hard", "fires_at": ">"}


@pytest.mark.parametrize(("shape", "whole"), [((4,), (4, 1, 1)), ((1, 4), (4, 1, 1))])
def test_a_batch_of_one_in_front_is_none_of_the_samples_axes(
    tmp_path: Path, shape: tuple[int, ...], whole: tuple[int, ...]
) -> None:
    imported = import_nir(write(tmp_path / "n.nir", chain(shape, nir.Linear(ONES), lif((3,)))), dt=1e-4, timesteps=3)
    assert imported.input.shape == whole


@pytest.mark.parametrize("start", [0, 1])
def test_flatten_may_count_the_batch_or_not(tmp_path: Path, start: int) -> None:
    reshape = nir.Flatten({"input": np.array([3, 2, 2])}, start_dim=start)
    content = chain((1, 2, 2), conv2d(np.ones((3, 1, 1, 1))), lif((3, 2, 2)), reshape, nir.Linear(np.ones((2, 12))))
    assert import_nir(write(tmp_path / "n.nir", content), dt=1e-4, timesteps=3).output.shape == (2,)


def edit(change: Callable[[h5py.File], object]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            change(file)

    return apply


def replace(name: str, value: object) -> Callable[[Path], None]:
    def change(file: h5py.File) -> None:
        if f"node/nodes/{name}" in file:
            del file[f"node/nodes/{name}"]
        file[f"node/nodes/{name}"] = value

    return edit(change)


def reroute(*edges: tuple[str, str]) -> Callable[[Path], None]:
    def change(file: h5py.File) -> None:
        del file["node/edges"]
        file["node/edges"] = np.array(edges, dtype=h5py.string_dtype())

    return edit(change)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2000])


FLOW = (("input", "n0"), ("n0", "n1"), ("n1", "output"))

DAMAGES = {
    "an edge ends nowhere": (reroute(*FLOW, ("n1", "n7")), FileFormatError, "n7: an edge from n1 to n7 ends there"),
    "an edge comes from nowhere": (reroute(("n8", "n0"), *FLOW), FileFormatError, "n8: an edge from n8 to n0"),
    "no edge comes in": (reroute(*FLOW[1:]), FileFormatError, "n0: no edge comes in"),
    "no edge leaves": (reroute(*FLOW[:2], ("n0", "output")), FileFormatError, "n1: no edge leaves it"),
    "a cycle that is not its own": (
        reroute(*FLOW, ("n1", "n0")),
        UnsupportedError,
        "n0: leads from n1 back to it and is connected to input too",
    ),
    "a layer reads itself": (reroute(*FLOW, ("n0", "n0")), UnsupportedError, "n0: a cycle without delay .*n0 -> n0"),
    "the input reads itself": (reroute(*FLOW, ("input", "input")), UnsupportedError, "input: a cycle without delay"),
    "neurons read themselves": (reroute(*FLOW, ("n1", "n1")), UnsupportedError, "n1: reads its own spikes"),
    "shapes clash": (replace("n0/weight", np.ones((3, 5))), FileFormatError, "n0: weights for 5 features, but 4"),
    "a parameter does not fit": (replace("n1/tau", np.ones(7)), FileFormatError, r"n1: tau of shape \(7,\)"),
    "unknown type": (replace("n0/type", "Quux"), UnsupportedError, "n0: no lowering for a Quux"),
    "NaN": (replace("n1/tau", np.full(3, np.nan)), FileFormatError, "n1: tau holds NaN"),
    "a reset that is no word": (
        replace("n1/metadata/reset", np.ones(3)),
        UnsupportedError,
        "n1: its metadata say reset",
    ),
    "a firing rule that is none": (
        replace("n1/metadata/fires_at", "<"),
        FileFormatError,
        "n1: its metadata say that it fires at '<', not at one of >, >=",
    ),
    "metadata that are one number": (replace("n1/metadata", 5), FileFormatError, "n1: its metadata are no names"),
    "negative tau": (replace("n1/tau", np.full(3, -1.0)), FileFormatError, "n1: tau is -1 seconds"),
    "text for numbers": (replace("n0/weight", "heavy"), FileFormatError, "n0: weight is .*not numbers"),
    "weight is missing": (
        edit(lambda file: file.__delitem__("node/nodes/n0/weight")),
        FileFormatError,
        "n0: has no we",
    ),
    "type is missing": (edit(lambda file: file.__delitem__("node/nodes/n0/type")), FileFormatError, "n0: has no type"),
    "shape is missing": (edit(lambda file: file.__delitem__("node/nodes/input/shape")), FileFormatError, "input: sta"),
    "nodes are missing": (edit(lambda file: file.__delitem__("node/nodes")), FileFormatError, "no nodes or no edges"),
    "no graph": (edit(lambda file: file.__delitem__("node")), FileFormatError, "no NIR graph"),
    "edges are numbers": (
        edit(lambda file: (file.__delitem__("node/edges"), file["node"].create_dataset("edges", data=np.ones((2, 2))))),
        FileFormatError,
        "damaged",
    ),
    "a size of zero": (replace("input/shape", np.array([0])), FileFormatError, "input: its shape is"),
    "truncated": (truncate, FileFormatError, "truncated"),
    "absent": (Path.unlink, FileFormatError, "no such file"),
    "text": (lambda path: path.write_text("hello"), FileFormatError, "damaged, or no NIR file"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named(path: Path, name: str) -> None:
    damage, kind, words = DAMAGES[name]
    damage(path)
    with pytest.raises(kind, match=words) as raised:
        load(path)
    assert "\n" not in str(raised.value)


def doors(path: Path, edges: list[tuple[str, str]]) -> Path:
    """A network of nodes that only pass on what they read."""
    with h5py.File(path, "w") as file:
        root = file.create_group("node")
        root["type"] = "NIRGraph"
        for name in dict.fromkeys(itertools.chain.from_iterable(edges)):
            root[f"nodes/{name}/type"] = "Input" if name == "input" else "Output"
        root["edges"] = np.array(edges, dtype=h5py.string_dtype())
    return path


def test_nodes_that_double_what_they_pass_on_are_refused(tmp_path: Path) -> None:
    """Each step reads both nodes of the step before: 2^40 paths lead to the last."""
    steps = [("input",), *((f"{step}a", f"{step}b") for step in range(40)), ("output",)]
    edges = [edge for one, two in itertools.pairwise(steps) for edge in itertools.product(one, two)]
    with pytest.raises(FileFormatError, match=r"1.a: reads 524288 nodes, the limit is"):
        load(doors(tmp_path / "network.nir", edges))


def test_nodes_that_pass_on_to_each_other_are_refused(tmp_path: Path) -> None:
    edges = [("input", "output"), ("input", "a"), ("a", "b"), ("b", "c"), ("c", "b"), ("c", "output")]
    with pytest.raises(UnsupportedError, match=r"[bc]: a cycle without delay runs through it"):
        load(doors(tmp_path / "network.nir", edges))


def test_too_many_nodes_are_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resformer.compiler.frontend.nir.content.MOST_NODES", 3)
    with pytest.raises(FileFormatError, match="has 4 nodes, the limit is 3"):
        load(path)


def test_two_nodes_of_one_name_are_refused(tmp_path: Path) -> None:
    inner = graph((4,), {"lin": nir.Linear(np.eye(4))}, [("input", "lin"), ("lin", "output")])
    nodes = {"blk.lin": nir.Linear(5 * np.eye(4)), "blk": inner}
    content = graph((4,), nodes, [("input", "blk.lin"), ("blk.lin", "blk"), ("blk", "output")])
    with pytest.raises(FileFormatError, match=r"blk\.lin: two nodes have this name"):
        load(write(tmp_path / "network.nir", content))


def test_nodes_of_the_compilers_own_take_no_name_of_the_file(tmp_path: Path) -> None:
    nodes = {"input.flatten": nir.Linear(ONES), "b": nir.Linear(ONES), "lif.sum": nir.Linear(ONES.T), "lif": lif((3,))}
    ways = [("input", "input.flatten", "lif"), ("input", "b", "lif", "lif.sum", "output")]
    content = graph((4,), nodes, [edge for way in ways for edge in itertools.pairwise(way)])
    imported = import_nir(write(tmp_path / "network.nir", content), dt=1e-4, timesteps=3)
    assert {node.name: set(node.inputs) for node in imported} == {
        "input": set(),
        "input.flatten2": {"input"},
        "input.flatten": {"input.flatten2"},
        "b": {"input.flatten2"},
        "lif.sum2": {"input.flatten", "b"},
        "lif": {"lif.sum2"},
        "lif.sum": {"lif"},
        "output": {"lif.sum"},
    }


def test_what_reads_a_node_by_two_ways_hides_no_cycle(tmp_path: Path) -> None:
    nodes = {"id": graph((3,), {}, [("input", "output")]), "a": nir.Linear(ONES), "s": lif((3,)), "t": lif((3,))}
    edges = [("input", "a"), ("a", "s"), ("s", "id"), ("s", "t"), ("id", "t"), ("t", "output")]
    imported = import_nir(write(tmp_path / "one.nir", graph((4,), nodes, edges)), dt=1e-4, timesteps=3)
    assert [node.name for node in imported][-4:] == ["s", "t.sum", "t", "output"]
    assert imported["t.sum"].inputs == ("s", "s")
    ring = {"c": nir.Linear(np.eye(3)), "d": nir.Linear(np.eye(3))}
    edges += [("c", "d"), ("d", "c"), ("d", "output")]
    with pytest.raises(UnsupportedError, match="c: a cycle without delay"):
        load(write(tmp_path / "two.nir", graph((4,), {**nodes, **ring}, edges)))


def test_names_of_nodes_are_short_with_those_of_their_graphs(tmp_path: Path) -> None:
    """Otherwise, names of 1000 characters in nested graphs would take gigabytes."""
    inner = chain((4,), nir.Linear(ONES), lif((3,)))
    outer = graph((4,), {"g" * 600: graph((4,), {"h" * 600: inner}, [("input", "h" * 600), ("h" * 600, "output")])}, [])
    with pytest.raises(FileFormatError, match=r"a name of 1201 characters, the limit is 1024.*--limits 2$"):
        load(write(tmp_path / "network.nir", outer))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("tau_syn", np.full(3, -1.0), "n0: tau_syn is -1 seconds"),
        ("tau_mem", np.zeros(3), "n0: tau_mem is 0 seconds"),
        ("tau_syn", np.full(3, np.nan), "n0: tau_syn holds NaN"),
        ("w_in", np.ones(4), r"n0: w_in of shape \(4,\) does not fit"),
        ("v_leak", "low", "n0: v_leak is .*not numbers"),
    ],
)
def test_damaged_neurons_with_a_current_are_named(tmp_path: Path, field: str, value: object, words: str) -> None:
    path = write(tmp_path / "network.nir", chain((3,), cuba_lif((3,))))
    replace(f"n0/{field}", value)(path)
    with pytest.raises(FileFormatError, match=words) as raised:
        load(path)
    assert "\n" not in str(raised.value)


def recurrent(*ways: tuple[str, ...], **layers: nir.NIRNode) -> nir.NIRGraph:
    """A population ``s`` behind a layer, and further paths (``ways``) through more layers and populations."""
    nodes = {"a": nir.Linear(np.ones((3, 4))), "s": lif((3,)), **layers}
    edges = [("input", "a"), ("a", "s"), ("s", "output")]
    return graph((4,), nodes, edges + [edge for way in ways for edge in itertools.pairwise(way)])


ones, square = np.ones(3), np.ones((3, 3))
REFUSED = {
    "a cycle of layers": (
        lambda: recurrent(("input", "b", "c", "b"), b=nir.Linear(np.ones((4, 4))), c=nir.Linear(np.ones((4, 4)))),
        "[bc]: a cycle without delay runs through it .*put neurons into it",
    ),
    "a cycle of populations": (
        lambda: recurrent(("s", "b", "t", "c", "s"), b=nir.Linear(square), t=lif((3,)), c=nir.Linear(square)),
        "a cycle runs through 2 populations .*b -> t -> c",
    ),
    "several recurrent layers": (
        lambda: recurrent(("s", "b", "c", "s"), b=nir.Linear(square), c=nir.Linear(square)),
        r"s: several layers lead from it back to it \(b, c\)",
    ),
    "a recurrent layer that others read": (
        lambda: recurrent(("s", "b", "s"), ("b", "t", "output"), b=nir.Linear(square), t=lif((3,))),
        "b: leads from s back to it and is connected to t too",
    ),
    "a recurrent layer of a flattened image": (
        lambda: graph(
            (1, 1, 3),
            {"a": flatten((1, 1, 3)), "s": lif((3,)), "b": nir.Linear(square)},
            [("input", "a"), ("a", "s"), ("s", "b"), ("b", "s"), ("s", "output")],
        ),
        r"s: its recurrent layer is for a vector of 3, but it reads an image of shape \(1, 1, 3\)",
    ),
    "a recurrent scale": (
        lambda: recurrent(("s", "b", "s"), b=nir.Scale(ones)),
        "b: leads from s back to it, where a Scale has no lowering",
    ),
    "a potential that synapses read": (
        lambda: chain((3,), nir.LI(tau=ones, r=ones, v_leak=ones), nir.Linear(square), lif((3,))),
        "n0: n1 reads its potential, which is no spike",
    ),
    "a potential that is added to another": (
        lambda: graph(
            (3,),
            {"a": nir.I(ones), "b": nir.I(ones)},
            [("input", "a"), ("input", "b"), ("a", "output"), ("b", "output")],
        ),
        "a: output.sum reads its potential",
    ),
    "a delay of a current": (
        lambda: chain((3,), nir.Linear(square), nir.Delay(delay=ones * 1e-4), lif((3,))),
        "n1: delays what n0 makes, a current",
    ),
    "a current that lowers the potential": (lambda: chain((3,), cuba_lif((3,), r=-1.0)), "n0: an input of one changes"),
    "a step longer than a time constant": (
        lambda: chain((3,), cuba_lif((3,), tau_syn=0.5e-4)),
        "n0: a time constant is 0.5 steps; it must be one step or more",
    ),
    "a step longer than an integrator's": (
        lambda: chain((3,), nir.LI(tau=ones * 0.8e-4, r=ones, v_leak=ones)),
        "n0: a time constant is 0.8 steps",
    ),
    "a soft reset to elsewhere": (
        lambda: chain((3,), cuba_lif((3,), reset="soft", v_reset=0.5)),
        "n0: resets by subtraction, so its v_reset must be 0",
    ),
    "a late reset of what keeps nothing": (
        lambda: chain((3,), lif((3,), reset="late", tau=1e-4)),
        "n0: resets a step late, but keeps nothing",
    ),
    "a soft threshold below reset": (
        lambda: chain((3,), cuba_lif((3,), v_threshold=-1.0)),
        "n0: v_threshold must be above v_reset",
    ),
    "threshold below reset": (lambda: chain((3,), lif((3,), v_reset=2.0)), "n0: v_threshold must be above v_reset"),
    "r of zero": (lambda: chain((3,), lif((3,), r=0.0)), "n0: r is 0"),
    "padding behind a bias": (
        lambda: chain((1, 4, 4), conv2d(np.ones((2, 1, 3, 3)), np.ones(2)), conv2d(np.ones((2, 2, 3, 3)), padding=1)),
        "n1: pads what n0 makes without neurons between",
    ),
    "padding behind what the pool left over": (
        lambda: chain((1, 5, 5), pool(nir.AvgPool2d, 2), conv2d(np.ones((2, 1, 3, 3)), padding=1), lif((2, 2, 2))),
        "n1: pads what input makes",
    ),
    "one-sided padding": (
        lambda: chain((1, 4, 4), conv2d(np.ones((2, 1, 2, 2)), padding="same"), lif((2, 4, 4))),
        "n0: padding 'same' is one-sided",
    ),
    "padding by itself with a stride": (
        lambda: chain((1, 4, 4), conv2d(np.ones((2, 1, 3, 3)), padding="same", stride=2), lif((2, 2, 2))),
        r"n0: padding 'same' goes with a stride of 1 alone, its stride is \(2, 2\)",
    ),
    "several spikes that reset": (
        lambda: chain((3,), nir.IF(r=ones, v_threshold=ones, metadata={"reset": "zero", "spikes_per_step": 4})),
        "n0: its metadata say 4 spikes_per_step and reset 'zero', but each of several spikes subtracts",
    ),
    "several spikes with an unknown reset": (
        lambda: chain((3,), nir.IF(r=ones, v_threshold=ones, metadata={"reset": "none", "spikes_per_step": 4})),
        "n0: its metadata say reset 'none'; known are hard, ",
    ),
    "unknown reset": (
        lambda: chain((3,), nir.IF(r=ones, v_threshold=ones, metadata={"reset": "none"})),
        "n0: its metadata say reset 'none'; known are hard, ",
    ),
    "fires without an input": (
        lambda: chain((3,), nir.IF(r=ones, v_threshold=0 * ones, metadata={"fires_at": ">="})),
        "n0: fires at >= and its v_threshold is not positive",
    ),
    "batched images": (lambda: chain((2, 3, 4, 4), conv2d(np.ones((2, 3, 1, 1)))), "input: a sample has shape"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_lowering_is_refused(tmp_path: Path, name: str) -> None:
    content, words = REFUSED[name]
    path = write(tmp_path / "network.nir", content())
    with pytest.raises(UnsupportedError, match=words):
        merge_synapses(import_nir(path, dt=1e-4, timesteps=3))


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        (np.ones((3, 4)), "b: weights for 4 x 1 channels, but 3 come in"),
        (np.ones((2, 3)), r"b: makes shape \(2, 1, 1\) of the spikes of s, \(3,\), which it leads back to"),
        (np.full((3, 3), np.nan), "b: weight holds NaN"),
        (np.ones(3), "b: weight has shape"),
    ],
)
def test_damaged_recurrent_layers_are_named(tmp_path: Path, weight: np.ndarray, words: str) -> None:
    path = write(tmp_path / "n.nir", recurrent(("s", "b", "s"), b=nir.Linear(square)))
    replace("b/weight", weight)(path)
    with pytest.raises(FileFormatError, match=words) as raised:
        load(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("delay", "words"),
    [
        (np.full(3, -1e-4), "n0: delay is -0.0001 seconds"),
        (np.full(3, np.nan), "n0: delay holds NaN"),
        (np.full(3, 1e6), "n0: delay is 1e.06 seconds, 1e.10 steps, the limit is 2147483647; repair"),
        (np.full(3, 1e300), "n0: delay reaches 1e.300, the limit is 1e.30; repair"),
        (np.zeros(0), "n0: delay has shape .0,., which is empty"),
        (np.zeros(4), r"n0: delay of shape \(4,\) does not fit"),
    ],
)
def test_damaged_delays_are_named(tmp_path: Path, delay: np.ndarray, words: str) -> None:
    path = write(tmp_path / "n.nir", chain((3,), nir.Delay(delay=ones), lif((3,))))
    replace("n0/delay", delay)(path)
    with pytest.raises(FileFormatError, match=words):
        load(path)


def test_a_time_constant_of_one_step_in_32_bits_is_one_step(tmp_path: Path) -> None:
    path = write(tmp_path / "n.nir", chain((3,), cuba_lif((3,), tau_syn=np.float32(1e-4), tau_mem=2e-4)))
    neurons = merge_synapses(import_nir(path, dt=1e-4, timesteps=3))["n0"].op
    assert float(np.float32(1e-4)) < 1e-4
    assert neurons.syn_decay.max() == 1.0


def test_delays_are_rounded_to_whole_steps(tmp_path: Path) -> None:
    path = write(tmp_path / "n.nir", chain((4,), nir.Delay(delay=np.array([0.0, 1.4e-4, 1.6e-4, 9e-4])), lif((4,))))
    assert import_nir(path, dt=1e-4, timesteps=3)["n0"].op.steps.tolist() == [0, 1, 2, 9]


def test_values_that_meet_must_fit(tmp_path: Path) -> None:
    nodes = {"a": nir.Linear(np.ones((3, 4))), "b": nir.Linear(np.ones((2, 4))), "s": lif((3,))}
    edges = [("input", "a"), ("input", "b"), ("a", "s"), ("b", "s"), ("s", "output")]
    with pytest.raises(FileFormatError, match=r"s: values of shapes \(2,\), \(3,\) meet there"):
        load(write(tmp_path / "n.nir", graph((4,), nodes, edges)))


def test_a_second_output_is_named(tmp_path: Path) -> None:
    nodes = {"a": lif((4,)), "other": nir.Output({"output": np.array([4])})}
    edges = [("input", "a"), ("a", "output"), ("a", "other")]
    with pytest.raises(UnsupportedError, match="has 2 Output nodes"):
        load(write(tmp_path / "n.nir", graph((4,), nodes, edges)))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"timesteps": 3}, "does not say dt; give --dt"),
        ({"dt": 1e-4}, "does not say timesteps; give --timesteps"),
        ({"dt": 0.0, "timesteps": 3}, "positive --dt"),
        ({"dt": float("nan"), "timesteps": 3}, "positive --dt"),
        ({"dt": 1e-320, "timesteps": 3}, "positive --dt of 1e-30 to 1e.30"),
        ({"dt": 1e300, "timesteps": 3}, "positive --dt"),
        ({"dt": 1e-4, "timesteps": 0}, "at least 1"),
    ],
)
def test_time_must_be_known(path: Path, arguments: dict[str, float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        import_nir(path, **arguments)  # type: ignore[arg-type]


def test_flattened_images_of_different_shapes_do_not_add(tmp_path: Path) -> None:
    nodes = {
        "a": conv2d(np.ones((2, 1, 1, 1))),
        "b": conv2d(np.ones((8, 1, 2, 2))),
        "fa": flatten((2, 2, 2)),
        "fb": flatten((8, 1, 1)),
        "s": lif((8,)),
    }
    edges = [("input", "a"), ("input", "b"), ("a", "fa"), ("b", "fb"), ("fa", "s"), ("fb", "s"), ("s", "output")]
    path = write(tmp_path / "n.nir", graph((1, 2, 2), nodes, edges))
    with pytest.raises(UnsupportedError, match=r"s\.sum: adds vectors made of images of shapes"):
        merge_synapses(import_nir(path, dt=1e-4, timesteps=3))


@pytest.mark.parametrize("r", [np.inf, 1e4], ids=["r in proportion", "r"])
def test_neurons_whose_tau_is_infinite_are_ifs(tmp_path: Path, r: float) -> None:
    """An infinite r is that of snnTorch's exporter, tau / dt: an input of one adds one a step, as with r = 1 / dt."""
    found = load(write(tmp_path / "n.nir", chain((3,), lif((3,), tau=np.inf, r=r, v_leak=0.5))))["n0"].op
    assert isinstance(found, nir.IF)
    np.testing.assert_array_equal(found.r, 1e4)
    mixed = load(write(tmp_path / "m.nir", chain((3,), cuba_lif((3,), tau_mem=[np.inf, 2e-4, 2e-4], r=[r, 2, 2]))))
    assert mixed["n0"].op.mem_decay.tolist() == [0.0, 0.5, 0.5]
    # a current that keeps three quarters of itself takes in a quarter of w_in = 4
    assert mixed["n0"].op.v_threshold.tolist() == [1.0, 1.0, 1.0]


def test_what_is_infinite_without_meaning_is_refused(tmp_path: Path) -> None:
    cases = (
        (lif((3,), r=np.inf), FileFormatError, "n0: r is infinite where tau is not"),
        (nir.IF(r=np.full(3, np.inf), v_threshold=np.ones(3)), FileFormatError, "n0: r is infinite"),
        (lif((3,), tau=-np.inf), FileFormatError, "n0: tau holds NaN"),
        (lif((3,), tau=np.inf, v_threshold=np.inf), FileFormatError, "n0: v_threshold holds NaN"),
        (cuba_lif((3,), tau_syn=np.inf), UnsupportedError, "n0: tau_syn is infinite.*finite tau_syn"),
    )
    for neurons, kind, words in cases:
        with pytest.raises(kind, match=words):
            load(write(tmp_path / "n.nir", chain((3,), neurons)))


@pytest.mark.parametrize(
    ("neurons", "spikes_per_step"),
    [
        (lif((3,), tau=1e-320), 1),
        (nir.LI(tau=np.full(3, 1e-320), r=np.ones(3), v_leak=np.zeros(3)), 1),
        (nir.IF(r=np.full(3, 1e-300), v_threshold=np.full(3, 1e30)), 4),
    ],
    ids=["LIF", "LI", "MultiSpikeIF"],
)
def test_quotients_that_float64_does_not_hold_are_refused(
    tmp_path: Path, neurons: nir.NIRNode, spikes_per_step: int
) -> None:
    """The file's values are finite; the user would otherwise see a warning of numpy's, or nothing."""
    path = write(tmp_path / "n.nir", chain((3,), neurons))
    with pytest.raises(FileFormatError, match=r"n0: its values span too many magnitudes .*overflow"):
        import_nir(path, dt=1e-4, timesteps=3, spikes_per_step=spikes_per_step)


def test_a_network_of_ours_for_input_of_no_kind_is_refused(path: Path) -> None:
    network = replace_metadata(import_nir(path, dt=1e-4, timesteps=3), {"input": "abc"})
    with pytest.raises(FileFormatError, match="its input is abc, none of static, frames; compile the network again"):
        import_own(path, network)


def replace_metadata(network: Graph[nir.NIRNode], metadata: dict[str, str]) -> Graph[nir.NIRNode]:
    """The network with some of its metadata replaced."""
    return dataclasses.replace(network, metadata={**network.metadata, **metadata})
