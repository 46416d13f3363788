"""The passes of modules in memory: what they make; tests/equivalence/test_modules.py shows that no spike changes."""

from __future__ import annotations

import copy
from collections.abc import Callable

import nir
import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

from resformer.compiler.frontend.module.importer import import_module, in_float64
from resformer.compiler.ir.graph import Graph
from resformer.compiler.ir.messages import message_names, names_before_neurons
from resformer.compiler.ir.primitives import POOL_AREA
from resformer.compiler.ir.text import format_graph
from resformer.compiler.ir.verify import verify_graph
from resformer.compiler.passes.float.convolve_linear import convolve_linear
from resformer.compiler.passes.float.fold_average_pool import fold_average_pool
from resformer.compiler.passes.float.fold_input_gain import fold_input_gain
from resformer.compiler.passes.float.merge_chains import merge_chains
from resformer.compiler.passes.float.sum_pools import sum_pools
from resformer.compiler.passes.float.sum_streams import sum_streams
from resformer.compiler.passes.float.weigh_spikes import weigh_spikes
from resformer.compiler.pipeline import MODULE, FloatPass
from resformer.errors import UnsupportedError
from support.modules import MembraneBlock, SEWResNet, SpikingVGG, lif


def imported(module: nn.Module, shape: tuple[int, ...] = (4, 2, 3, 8, 8)) -> Graph[nir.NIRNode]:
    functional.set_step_mode(module, "m")
    return import_module(in_float64(module), torch.zeros(shape)).graph


def before(graph: Graph[nir.NIRNode], last: FloatPass) -> Graph[nir.NIRNode]:
    """The graph that the pass ``last`` is given."""
    for float_pass in MODULE.float_passes[: MODULE.float_passes.index(last)]:
        graph = float_pass(graph)
    return graph


def chain(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(layer.Conv2d(3, 4, 3, padding=1), neuron.LIFNode(), *layers)


@pytest.mark.parametrize(
    "make",
    [lambda: SpikingVGG((4, "M", 6, "A"), lif), lambda: SEWResNet((4, 6), (1, 1), lif), lambda: MembraneBlock(4, lif)],
)
def test_passes_are_pure_and_keep_all_populations(make: Callable[[], nn.Module]) -> None:
    module = make()
    graph = imported(module, (2, 3, 8, 8) if isinstance(module, SpikingVGG) else (4, 2, 3, 8, 8))
    names = {node.name for node in graph if isinstance(node.op, nir.LIF)}
    for float_pass in MODULE.float_passes:
        given = copy.deepcopy(graph)
        result = float_pass(graph)
        verify_graph(result)
        assert format_graph(graph) == format_graph(given), float_pass.__name__
        assert {node.name for node in result if isinstance(node.op, nir.LIF)} == names, float_pass.__name__
        graph = result


def test_hidden_linear_layers_become_convolutions_and_the_readout_stays() -> None:
    graph = imported(
        chain(layer.MaxPool2d(2), layer.Flatten(), layer.Linear(64, 6), neuron.IFNode(), layer.Linear(6, 2))
    )
    result = convolve_linear(graph)
    assert [(node.name, type(node.op).__name__, node.shape) for node in result][3:] == [
        ("2", "MaxPool2d", (4, 4, 4)),
        ("4", "Conv2d", (6, 1, 1)),
        ("5", "IF", (6, 1, 1)),
        ("5.flatten", "Flatten", (6,)),
        ("6", "Affine", (2,)),
        ("output", "Output", (2,)),
    ]
    np.testing.assert_array_equal(result["4"].op.weight.reshape(6, 64), graph["4"].op.weight)


def test_pools_between_neurons_are_sums_of_which_the_next_layer_takes_the_mean() -> None:
    graph = before(
        imported(chain(layer.AvgPool2d(2), layer.Conv2d(4, 5, 3), neuron.LIFNode(), layer.Flatten())), sum_pools
    )
    result = sum_pools(graph)
    assert isinstance(result["2"].op, nir.SumPool2d)
    np.testing.assert_array_equal(result["3"].op.weight, graph["3"].op.weight / 4)
    assert result["3"].op.metadata[POOL_AREA] == 4


def test_pools_that_neurons_read_are_convolutions_of_each_channel() -> None:
    result = sum_pools(before(imported(chain(layer.AvgPool2d(3, 1, 1), neuron.LIFNode(), layer.Flatten())), sum_pools))
    conv = result["2"].op
    assert isinstance(conv, nir.Conv2d)
    assert (conv.weight.shape, int(conv.groups)) == ((4, 1, 3, 3), 4)
    assert np.unique(conv.weight).tolist() == [1 / 9]


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (
            nn.Sequential(layer.Conv2d(3, 4, 3), layer.AvgPool2d(2), neuron.LIFNode(), layer.Flatten()),
            "1: averages currents",
        ),
        (
            chain(layer.AvgPool2d(3, 1, 1), layer.Conv2d(4, 4, 3), neuron.LIFNode(), layer.Flatten()),
            r"2: .* pads by \(1, 1\)",
        ),
        (
            chain(layer.AvgPool2d(2), layer.AvgPool2d(2), layer.Conv2d(4, 4, 1), neuron.LIFNode(), layer.Flatten()),
            r"2: .* is read by 3 \(AvgPool2d\)",
        ),
    ],
)
def test_pools_without_an_exact_form_are_refused(module: nn.Module, words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        sum_pools(before(imported(module), merge_chains))


def stream(*layers: nn.Module) -> nn.Module:
    """A max-pool of currents, which no convolution can compute, with layers behind it."""
    return chain(layer.Conv2d(4, 4, 3), layer.MaxPool2d(2), *layers, layer.Flatten(), layer.Linear(16, 2))


@pytest.mark.parametrize(
    ("neurons", "larger"),
    [
        (lambda: neuron.LIFNode(), {"v_threshold": 8.0, "r": 2.0}),
        (lambda: neuron.IFNode(v_threshold=0.5), {"v_threshold": 2.0}),
        (lambda: neuron.LIFNode(v_reset=None), {"v_threshold": 8.0, "v_drop": 8.0, "v_bias": 0.0}),
    ],
)
def test_means_of_currents_are_sums_and_thresholds_as_much_larger(
    neurons: Callable[[], nn.Module], larger: dict[str, float]
) -> None:
    graph = before(imported(stream(layer.AvgPool2d(2, 1), neurons())), sum_streams)
    result = sum_streams(graph)
    assert isinstance(result["4"].op, nir.SumPool2d)
    assert {name: float(np.unique(getattr(result["5"].op, name)).item()) for name in larger} == larger
    assert result["5"].op.metadata[POOL_AREA] == 4
    assert format_graph(sum_pools(result)) == format_graph(result)


class SummedNet(nn.Module):
    """Currents that hold maxima, summed over all pixels and added to others."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool, self.other = layer.Conv2d(3, 4, 3), layer.MaxPool2d(2), layer.Conv2d(3, 4, 8)
        self.neurons, self.head = neuron.LIFNode(), layer.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = self.pool(self.conv(x)).sum((3, 4), keepdim=True) + self.other(x)
        return self.head(self.neurons(total).flatten(2)).mean(0)


def test_sums_of_currents_among_others_are_refused() -> None:
    graph = before(imported(SummedNet()), sum_streams)
    with pytest.raises(UnsupportedError, match=r"sum: sums currents over windows, and is read by add \(Add\); put neu"):
        sum_streams(graph)


def test_spikes_added_to_currents_get_a_synapse_of_weight_one() -> None:
    graph = before(imported(MembraneBlock(4, lif)), weigh_spikes)
    result = weigh_spikes(graph)
    (new,) = [node for node in result if node.name not in graph]
    assert (new.inputs, new.op.weight.shape, int(new.op.groups)) == (("sn2",), (4, 1, 1, 1), 4)
    assert result["add.1"].inputs == ("conv2.0", new.name)
    assert result["add"].inputs == graph["add"].inputs


def test_sums_of_spikes_alone_stay() -> None:
    graph = before(imported(SEWResNet((4, 6), (1, 1), lif)), weigh_spikes)
    assert format_graph(weigh_spikes(graph)) == format_graph(graph)
    assert {"layers.0.add", "maxpool", "layers.1.add"} < message_names(graph)
    assert not {"conv1", "layers.0.conv1"} & message_names(graph)
    assert {"avgpool", "fc"} & names_before_neurons(graph) == set()


def test_potentials_count_from_their_reset() -> None:
    neurons = neuron.LIFNode(tau=4.0, v_threshold=0.75, v_reset=-0.25)
    graph = imported(nn.Sequential(layer.Conv2d(3, 4, 3), neurons, layer.Flatten()))
    op = fold_input_gain(graph)["1"].op
    values = [float(np.unique(each).item()) for each in (op.v_threshold, op.v_reset, op.v_leak)]
    assert values == [4.0, 0.0, 0.0]


def test_the_last_pools_division_reaches_the_bias_of_the_classifier() -> None:
    graph = before(imported(SEWResNet((4,), (1,), lif)), fold_average_pool)
    result = fold_average_pool(graph)
    np.testing.assert_array_equal(result["fc"].op.bias, graph["fc"].op.bias * 16)
    assert np.unique(result["fc.scale"].op.scale).tolist() == [1 / 16]
