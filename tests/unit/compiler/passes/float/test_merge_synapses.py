"""merge_synapses: what it makes; tests/equivalence/test_nir_networks.py shows that no spike changes."""

from __future__ import annotations

import copy
from pathlib import Path

import nir
import numpy as np
import pytest

from resformer.compiler.frontend.nir.importer import import_nir
from resformer.compiler.ir.graph import Graph
from resformer.compiler.passes.float.merge_synapses import merge_synapses
from support.nir_files import chain, conv2d, flatten, graph, lif, pool, write


def load(tmp_path: Path, content: nir.NIRGraph) -> Graph[nir.NIRNode]:
    return import_nir(write(tmp_path / "n.nir", content), dt=1e-4, timesteps=3)


def kinds(result: Graph[nir.NIRNode]) -> list[tuple[str, str]]:
    return [(node.name, type(node.op).__name__) for node in result]


def test_pools_scales_and_layers_become_one_convolution_named_after_the_layer(tmp_path: Path) -> None:
    weight = np.arange(32.0).reshape(2, 16)
    content = chain((1, 8, 8), pool(nir.AvgPool2d, 2), flatten((1, 4, 4)), nir.Linear(weight), lif((2,)))
    result = merge_synapses(load(tmp_path, content))
    assert kinds(result) == [
        ("input", "Input"),
        ("n2", "Conv2d"),
        ("n3", "LIF"),
        ("n3.flatten", "Flatten"),
        ("output", "Output"),
    ]
    conv = result["n2"].op
    assert conv.weight.shape == (2, 1, 8, 8)
    np.testing.assert_array_equal(conv.weight[:, 0], np.kron(weight.reshape(2, 4, 4), np.ones((2, 2))) / 4)


def test_channels_get_a_common_threshold(tmp_path: Path) -> None:
    neurons = lif(
        (3,), r=[2.0, 2.0, -4.0], v_threshold=[1.0, 0.5, 2.0], v_leak=[0.2, 0.0, 0.0], v_reset=[0.0, 0.25, 1.0]
    )
    result = merge_synapses(load(tmp_path, chain((3,), nir.Affine(np.eye(3), np.ones(3)), neurons)))
    # h / |g| = 1, 0.25, 0.5; the middle one is 0.5
    assert set(result["n1"].op.v_threshold.flat) == {0.5}
    np.testing.assert_allclose(result["n0"].op.weight[:, :, 0, 0], np.diag([0.5, 2.0, -1.0]))
    np.testing.assert_allclose(result["n0"].op.bias, [0.5 + 0.05, 2.0 - 0.25, -1.0 - 0.25])


def test_a_bias_in_front_of_a_sum_comes_once(tmp_path: Path) -> None:
    nodes = {"s": lif((2,)), "t": lif((2,)), "fc": nir.Affine(np.eye(2), np.array([1.0, 2.0])), "u": lif((2,))}
    edges = [("input", "s"), ("s", "t"), ("s", "fc"), ("t", "fc"), ("fc", "u"), ("u", "output")]
    result = merge_synapses(load(tmp_path, graph((2,), nodes, edges)))
    assert result["u"].inputs == ("u.add",)
    biases = [result[name].op.bias for name in result["u.add"].inputs]
    np.testing.assert_array_equal(np.sum(biases, axis=0), [1.0, 2.0])


def test_a_layer_that_two_populations_read_is_written_twice(tmp_path: Path) -> None:
    nodes = {"fc": nir.Linear(np.eye(2)), "s": lif((2,)), "t": lif((2,), v_threshold=2.0), "r": nir.Linear(np.eye(2))}
    edges = [("input", "fc"), ("fc", "s"), ("fc", "t"), ("s", "r"), ("t", "r"), ("r", "output")]
    result = merge_synapses(load(tmp_path, graph((2,), nodes, edges)))
    assert [name for name, kind in kinds(result) if kind == "Conv2d"] == ["fc", "fc.1", "r", "r.1"]


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_groups_stay(tmp_path: Path, groups: int) -> None:
    content = chain(
        (4, 4, 4), pool(nir.SumPool2d, 2), conv2d(np.ones((4, 4 // groups, 1, 1)), groups=groups), lif((4, 2, 2))
    )
    assert merge_synapses(load(tmp_path, content))["n1"].op.groups == groups


def test_the_graph_stays_as_it_was(tmp_path: Path) -> None:
    content = load(tmp_path, chain((3,), nir.Affine(np.eye(3), np.ones(3)), lif((3,), v_threshold=[1.0, 2.0, 3.0])))
    before = copy.deepcopy(content)
    merge_synapses(content)
    assert kinds(content) == kinds(before)
    np.testing.assert_array_equal(content["n0"].op.weight, before["n0"].op.weight)
    np.testing.assert_array_equal(content["n1"].op.v_threshold, before["n1"].op.v_threshold)
