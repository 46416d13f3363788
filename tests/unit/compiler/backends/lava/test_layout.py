"""How programs divide into processes and blocks."""

import pytest

from resformer.compiler.backends.lava.layout import BlockKind, Unit, block_kind, divide, enclose, meeting_values
from resformer.compiler.ir.ops import Add
from resformer.compiler.ir.program import Program
from resformer.errors import UnsupportedError
from support.program_builder import ProgramBuilder, tiny_resformer


def units_of(program: Program) -> list[Unit]:
    meets = meeting_values(program)
    nodes = [node for node in program.nodes[1:-1] if not isinstance(node.op, Add)]
    inputs = {node.name: {f"in_{index}": meets[name] for index, name in enumerate(node.inputs)} for node in nodes}
    return [Unit(node.name, (node.op,), inputs[node.name], {node.name: "out"}, str) for node in nodes]


def test_an_add_is_what_it_adds() -> None:
    net = ProgramBuilder((2, 3, 3))
    a, b, c = (net.conv(name, "input", 2) for name in "abc")
    net.plus("outer", c, net.plus("inner", a, b))
    assert meeting_values(net.finish())["outer"] == ("c", "a", "b")


def test_an_add_of_a_value_with_itself_is_refused() -> None:
    net = ProgramBuilder((2, 3, 3))
    a, b = (net.conv(name, "input", 2) for name in "ab")
    net.plus("outer", a, net.plus("inner", a, b))
    with pytest.raises(UnsupportedError, match=r"^outer: adds a twice.*double the weights"):
        meeting_values(net.finish())


def test_blocks_are_those_of_the_network() -> None:
    blocks = {name: block_kind(members) for name, members in divide(units_of(tiny_resformer()[0]))}
    assert blocks == {
        "prologue": BlockKind.STEM,
        "layers.0.0": BlockKind.DSSA,
        "layers.0.1": BlockKind.GWFFN,
        "layers.1.0": BlockKind.DOWNSAMPLE,
        "layers.1.1": BlockKind.DSSA,
        "layers.1.2": BlockKind.GWFFN,
        "head": BlockKind.HEAD,
    }


def test_other_networks_divide_by_the_first_part_of_their_names() -> None:
    net = ProgramBuilder((2, 3, 3))
    x = net.lif("features.1", net.conv("features.0", "input", 2))
    net.dense("classifier", net.flatten("flatten", x), 3)
    blocks = [(name, [unit.name for unit in members]) for name, members in divide(units_of(net.finish()))]
    assert blocks == [
        ("features", ["features.0", "features.1"]),
        ("flatten", ["flatten"]),
        ("classifier", ["classifier"]),
    ]


def test_a_block_has_a_port_for_each_meeting_of_outer_values() -> None:
    """x, and x with y, come in; b and c go out. Where inner values meet outer ones, only the outer ones need a port."""
    units = (
        Unit("a", (), {"in": ("x",)}, {"a": "out"}, str),
        Unit("b", (), {"in": ("x", "a", "y"), "gate": ("x",)}, {"b": "out"}, str),
        Unit("c", (), {"in": ("x", "y", "b")}, {"c": "out"}, str),
    )
    layout = enclose(units, {"b", "c"}, {name: (ord(name),) for name in "abcxy"})
    assert layout.in_ports == {"in_port_0": ("x",), "in_port_1": ("x", "y")}
    assert layout.out_ports == {"out_port_0": ("b",), "out_port_1": ("c",)}
    assert layout.shapes == {
        "in_port_0": (ord("x"),),
        "in_port_1": (ord("x"),),
        "out_port_0": (ord("b"),),
        "out_port_1": (ord("c"),),
    }


def test_a_single_port_has_no_number() -> None:
    layout = enclose((Unit("a", (), {"in": ("x",)}, {"a": "out"}, str),), {"a"}, {"a": (1,), "x": (2,)})
    assert (layout.in_ports, layout.out_ports) == ({"in_port": ("x",)}, {"out_port": ("a",)})
