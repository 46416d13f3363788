"""The container of both levels: order, edits, and what edits leave alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resformer.compiler.ir.graph import Graph, Node, topological_order


def graph(**inputs: str) -> Graph[str]:
    """Nodes by name, each with the names that it reads, separated by spaces."""
    nodes = {name: Node(name, f"op of {name}", tuple(read.split()), (1,)) for name, read in inputs.items()}
    return Graph(topological_order(nodes), timesteps=1)


def reads(graph: Graph[str]) -> dict[str, tuple[str, ...]]:
    return {node.name: node.inputs for node in graph}


DIAMOND = {"a": "", "b": "a", "c": "a", "d": "b c", "e": "d d"}


def test_a_graph_is_made_of_another_if_nothing_was_changed() -> None:
    diamond = graph(**DIAMOND)
    assert diamond.edit().finish().is_made_of(diamond)
    edit = diamond.edit()
    edit.set_op("d", "".join(("op ", "of d")))  # equal, but another object, whose arrays may differ
    assert not edit.finish().is_made_of(diamond)
    edit = diamond.edit()
    edit.set_op("d", diamond["d"].op, inputs=("c", "b"))
    assert not edit.finish().is_made_of(diamond)
    assert not graph(a="", b="a").is_made_of(diamond)
    assert not replace(diamond, timesteps=2).is_made_of(diamond)
    assert not replace(diamond, metadata={"dt": 2}).is_made_of(diamond)


def test_nodes_are_found_by_name_and_by_what_they_read() -> None:
    diamond = graph(**DIAMOND)
    assert diamond["c"].op == "op of c"
    assert "c" in diamond
    assert "z" not in diamond
    assert len(diamond) == 5
    assert (diamond.input.name, diamond.output.name) == ("a", "e")
    assert {name: [node.name for node in readers] for name, readers in diamond.consumers.items()} == {
        "a": ["b", "c"],
        "b": ["d"],
        "c": ["d"],
        "d": ["e"],  # once, though it reads d twice
        "e": [],
    }
    assert diamond.last_reads == {"a": (), "b": (), "c": ("a",), "d": ("b", "c"), "e": ("d",)}


@given(st.permutations(list("abcdef")), st.data())
def test_every_node_comes_after_what_it_reads(names: list[str], data: st.DataObject) -> None:
    nodes: dict[str, Node[str]] = {}
    for index, name in enumerate(names):
        read = data.draw(st.lists(st.sampled_from(names[:index]), max_size=3)) if index else []
        nodes[name] = Node(name, "", tuple(read), (1,))
    shuffled = {name: nodes[name] for name in data.draw(st.permutations(names))}
    ordered = [node.name for node in topological_order(shuffled)]
    assert sorted(ordered) == sorted(names)
    for index, name in enumerate(ordered):
        assert set(nodes[name].inputs) <= set(ordered[:index])
    assert [node.name for node in topological_order({name: nodes[name] for name in ordered})] == ordered


def test_cycles_and_holes_are_our_mistakes() -> None:
    with pytest.raises(AssertionError, match="a cycle runs through"):
        graph(a="", b="a c", c="b")
    with pytest.raises(AssertionError, match="a cycle runs through a"):
        graph(a="a")
    with pytest.raises(AssertionError, match="ghost is read but does not exist"):
        graph(a="", b="ghost")


def test_a_thousand_nodes_in_a_row_need_no_recursion() -> None:
    chain = {"n0": ""} | {f"n{index}": f"n{index - 1}" for index in range(1, 5000)}
    assert len(graph(**dict(reversed(chain.items())))) == 5000


def test_edits_make_another_graph() -> None:
    diamond = graph(**DIAMOND)
    edit = diamond.edit()
    edit.set_op("b", "other")
    edit.insert_after("a", Node("between", "new", ("a",), (1,)), readers=("c",))
    edited = edit.finish()
    assert reads(diamond) == {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c"), "e": ("d", "d")}
    assert diamond["b"].op == "op of b"
    assert (edited["b"].op, edited["b"].shape) == ("other", diamond["b"].shape)
    assert reads(edited)["c"] == ("between",)
    assert reads(edited)["b"] == reads(edited)["between"] == ("a",)
    assert [node.name for node in edited].index("between") < [node.name for node in edited].index("c")


def test_an_insertion_for_all_readers_takes_every_edge() -> None:
    edit = graph(**DIAMOND).edit()
    edit.insert_after("d", Node("between", "new", ("d",), (1,)))
    assert reads(edit.finish())["e"] == ("between", "between")


def test_bypassed_nodes_hand_their_input_on() -> None:
    edit = graph(**DIAMOND).edit()
    edit.bypass("b")
    assert reads(edit.finish()) == {"a": (), "c": ("a",), "d": ("a", "c"), "e": ("d", "d")}


def test_what_is_still_read_cannot_be_removed() -> None:
    edit = graph(**DIAMOND).edit()
    with pytest.raises(AssertionError, match=r"b is still read by \['d'\]"):
        edit.remove("b")
    edit.redirect("b", "c")
    edit.remove("b")
    assert reads(edit.finish())["d"] == ("c", "c")


def test_names_are_given_once_and_insertions_read_their_place() -> None:
    edit = graph(**DIAMOND).edit()
    with pytest.raises(AssertionError, match="b is already there"):
        edit.add(Node("b", "", (), (1,)))
    with pytest.raises(AssertionError, match="x must read a alone"):
        edit.insert_after("a", Node("x", "", ("b",), (1,)))
