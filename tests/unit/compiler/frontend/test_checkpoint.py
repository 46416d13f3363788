"""The import of each module: names, inputs, parameters, and what is refused."""

import re
from collections.abc import Callable

import nir
import numpy as np
import pytest
import torch
from spikingjelly.activation_based import layer, neuron
from torch import nn

from resformer.compiler.frontend.checkpoint import import_model
from resformer.compiler.ir.primitives import BatchNorm2d, MaxPool2d, SpikeMatMul
from resformer.compiler.ir.verify import verify_graph
from resformer.errors import UnsupportedError
from resformer.models.layers import spiking_neuron
from resformer.models.spikingresformer import SpikingResformer

MakeModel = Callable[..., SpikingResformer]

# name, operation, inputs, shape; the first stage of a network with a ImageNet stem and 16x16 pixels
FIRST_STAGE = """
input                     Input                                                               2x16x16
prologue.0                Conv2d      input                                                   8x8x8
prologue.1                BatchNorm2d prologue.0                                              8x8x8
prologue.2                MaxPool2d   prologue.1                                              8x4x4
layers.0.0.activation_in  LIF         prologue.2                                              8x4x4
layers.0.0.W              Conv2d      layers.0.0.activation_in                                16x2x2
layers.0.0.norm           BatchNorm2d layers.0.0.W                                            16x2x2
layers.0.0.matmul1        SpikeMatMul layers.0.0.norm,layers.0.0.activation_in                1x4x16
layers.0.0.scale1         Scale       layers.0.0.matmul1                                      1x4x16
layers.0.0.activation_attn LIF        layers.0.0.scale1                                       1x4x16
layers.0.0.matmul2        SpikeMatMul layers.0.0.norm,layers.0.0.activation_attn              8x4x4
layers.0.0.scale2         Scale       layers.0.0.matmul2                                      8x4x4
layers.0.0.activation_out LIF         layers.0.0.scale2                                       8x4x4
layers.0.0.Wproj          Conv2d      layers.0.0.activation_out                               8x4x4
layers.0.0.norm_proj      BatchNorm2d layers.0.0.Wproj                                        8x4x4
layers.0.0.add            Add         layers.0.0.norm_proj,prologue.2                         8x4x4
layers.0.1.up.0           LIF         layers.0.0.add                                          8x4x4
layers.0.1.up.1           Conv2d      layers.0.1.up.0                                         16x4x4
layers.0.1.up.2           BatchNorm2d layers.0.1.up.1                                         16x4x4
layers.0.1.conv.0.0       LIF         layers.0.1.up.2                                         16x4x4
layers.0.1.conv.0.1       Conv2d      layers.0.1.conv.0.0                                     16x4x4
layers.0.1.conv.0.2       BatchNorm2d layers.0.1.conv.0.1                                     16x4x4
layers.0.1.add_inner      Add         layers.0.1.conv.0.2,layers.0.1.up.2                     16x4x4
layers.0.1.down.0         LIF         layers.0.1.add_inner                                    16x4x4
layers.0.1.down.1         Conv2d      layers.0.1.down.0                                       8x4x4
layers.0.1.down.2         BatchNorm2d layers.0.1.down.1                                       8x4x4
layers.0.1.add            Add         layers.0.1.down.2,layers.0.0.add                        8x4x4
layers.1.0.activation     LIF         layers.0.1.add                                          8x4x4
layers.1.0.conv           Conv2d      layers.1.0.activation                                   12x2x2
layers.1.0.norm           BatchNorm2d layers.1.0.conv                                         12x2x2
layers.1.1.activation_in  LIF         layers.1.0.norm                                         12x2x2
"""


def test_names_inputs_and_shapes(make_model: MakeModel) -> None:
    graph = import_model(make_model())
    verify_graph(graph)
    rows = [
        [node.name, type(node.op).__name__, ",".join(node.inputs), "x".join(map(str, node.shape))] for node in graph
    ]
    expected = [line.split() for line in FIRST_STAGE.strip().splitlines()]
    expected[0].insert(2, "")
    assert rows[: len(expected)] == expected
    assert [row[:3] for row in rows[-4:]] == [
        ["avgpool", "AvgPool2d", "layers.1.2.add"],
        ["flatten", "Flatten", "avgpool"],
        ["classifier", "Linear", "flatten"],
        ["output", "Output", "classifier"],
    ]


def test_names_are_paths_in_the_state_dict(make_model: MakeModel) -> None:
    model = make_model(stem="conv3x3", neuron="PLIF")
    graph = import_model(model)
    paths = {
        name.removesuffix(".weight").removesuffix(".bn") for name in model.state_dict() if name.endswith(".weight")
    }
    paths |= {name.removesuffix(".w") for name in model.state_dict() if name.endswith(".w")}
    with_parameters = (nir.Conv2d, nir.Linear, BatchNorm2d, nir.LIF)
    assert {node.name for node in graph if isinstance(node.op, with_parameters)} == paths


def test_two_grouped_convolutions_chain(make_model: MakeModel) -> None:
    graph = import_model(make_model())
    assert graph["layers.1.2.conv.1.0"].inputs == ("layers.1.2.conv.0.2",)
    assert graph["layers.1.2.add_inner"].inputs == ("layers.1.2.conv.1.2", "layers.1.2.up.2")
    assert graph["layers.1.2.conv.1.1"].op.groups == 4


def test_attention(make_model: MakeModel) -> None:
    model = make_model()
    graph = import_model(model)
    first, second = graph["layers.1.1.matmul1"].op, graph["layers.1.1.matmul2"].op
    assert isinstance(first, SpikeMatMul)
    assert (first.num_heads, first.transpose, first.part) == (2, True, "y1")
    assert (second.num_heads, second.transpose, second.part) == (2, False, "y2")

    dssa = model.layers[1][1]
    rate_x, rate_attn = dssa.firing_rate_x.flatten().tolist(), dssa.firing_rate_attn.flatten().tolist()
    c1, c2 = graph["layers.1.1.scale1"].op.scale, graph["layers.1.1.scale2"].op.scale
    for head in range(2):  # 12 channels in 2 heads; 2x2 pixels, patches of 1: L = 4
        np.testing.assert_array_equal(c1[head], np.full((4, 4), 1 / np.sqrt(rate_x[head] * 6)))
        np.testing.assert_array_equal(c2[6 * head : 6 * head + 6], np.full((6, 2, 2), 1 / np.sqrt(rate_attn[head] * 4)))


def test_neurons(make_model: MakeModel) -> None:
    lif = import_model(make_model())["layers.0.1.up.0"].op
    assert lif.metadata == {"reset": "hard", "fires_at": ">=", "tau_steps": 2.0}
    assert (1e-4 / lif.tau == 0.5).all()
    for name, value in {"r": 1, "v_leak": 0, "v_threshold": 1, "v_reset": 0}.items():
        assert getattr(lif, name).shape == (8, 4, 4)
        assert (getattr(lif, name) == value).all()
    assert lif.tau.strides == (0, 0, 0), "a population's parameters must take no memory"


def test_parametric_neurons(make_model: MakeModel) -> None:
    model = make_model(stem="conv3x3", neuron="PLIF")
    graph = import_model(model)
    module = model.layers[0][1].up[0]
    lif = graph["layers.0.1.up.0"].op
    assert lif.metadata["dt_over_tau"] == torch.sigmoid(module.w).item()
    np.testing.assert_allclose(lif.metadata["tau_steps"], 1 + np.exp(-module.w.item()), rtol=1e-14)
    assert graph.metadata == {"dt": 1e-4, "input": "frames"}


def test_input_kind(make_model: MakeModel) -> None:
    model = make_model()
    assert import_model(model).metadata == {"dt": 1e-4, "input": "static"}
    assert import_model(model, input_kind="frames").metadata["input"] == "frames"


def test_weights_are_copies_in_float64(make_model: MakeModel) -> None:
    model = make_model().float()
    conv = import_model(model)["prologue.0"].op
    assert conv.weight.dtype == np.float64
    before = conv.weight.copy()
    with torch.no_grad():
        model.prologue[0].weight += 1
    np.testing.assert_array_equal(conv.weight, before)


def test_stems(make_model: MakeModel) -> None:
    graph = import_model(make_model(stem="conv3x3"))
    assert "prologue.2" not in graph
    assert graph["layers.0.0.activation_in"].inputs == ("prologue.1",)
    pool = import_model(make_model())["prologue.2"].op
    assert isinstance(pool, MaxPool2d)
    assert [each.tolist() for each in (pool.kernel_size, pool.stride, pool.padding)] == [[3, 3], [2, 2], [1, 1]]


def test_classifier_with_bias(make_model: MakeModel) -> None:
    model = make_model()
    model.classifier = layer.Linear(12, 5, bias=True, step_mode="m").double()
    graph = import_model(model)
    verify_graph(graph)
    assert isinstance(graph["classifier"].op, nir.Affine)
    np.testing.assert_array_equal(graph["classifier"].op.bias, model.classifier.bias.detach().numpy())


def replace(model: SpikingResformer, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def soft_reset() -> nn.Module:
    node = spiking_neuron("LIF")
    node.v_reset = None
    return node


def without_decay() -> nn.Module:
    node = spiking_neuron("LIF")
    node.decay_input = False
    return node


def dead_plif() -> nn.Module:
    node = spiking_neuron("PLIF").double()
    node.w.data.fill_(-1e4)
    return node


@pytest.mark.parametrize(
    ("path", "module", "complaint"),
    [
        ("layers.0.1.up.0", neuron.QIFNode(step_mode="m"), "layers.0.1.up.0: no importer for a QIFNode"),
        ("layers.0.1.up.0", soft_reset(), "layers.0.1.up.0: v_reset=None"),
        ("layers.0.1.up.0", without_decay(), "layers.0.1.up.0: v_reset=0.0, decay_input=False"),
        ("layers.0.1.up.0", dead_plif(), "layers.0.1.up.0: w is -10000"),
        ("layers.0.1.up.1", nn.Identity(), "layers.0.1.up.1: no importer for a Identity"),
        (
            "layers.0.1.up.1",
            layer.Conv2d(8, 16, 3, padding=1, padding_mode="circular"),
            "layers.0.1.up.1: padding (1, 1) of mode 'circular'",
        ),
        ("layers.0.1.up.1", layer.Conv2d(8, 16, 3, padding="same"), "layers.0.1.up.1: padding 'same'"),
        ("prologue.2", layer.MaxPool2d(3, 2, 1, ceil_mode=True), "prologue.2: ceil_mode=True"),
        ("prologue.2", layer.MaxPool2d(2, 2, dilation=2), "prologue.2: ceil_mode=False, dilation=2"),
        ("avgpool", layer.AdaptiveAvgPool2d((2, 2)), "avgpool: averages to (2, 2)"),
        ("layers.0.0.norm.bn", nn.BatchNorm2d(16, track_running_stats=False), "layers.0.0.norm: no running statistics"),
    ],
)
def test_refusals_name_the_module(make_model: MakeModel, path: str, module: nn.Module, complaint: str) -> None:
    model = make_model()
    replace(model, path, module)
    with pytest.raises(UnsupportedError, match=re.escape(complaint)):
        import_model(model)


def test_silent_heads_are_refused(make_model: MakeModel) -> None:
    model = make_model()
    model.layers[1][1].firing_rate_attn[..., 1, :, :] = 0
    with pytest.raises(UnsupportedError, match=r"layers\.1\.1\.firing_rate_attn: head 1"):
        import_model(model)
