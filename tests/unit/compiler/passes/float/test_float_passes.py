"""What each float pass makes of a network by hand, and what it refuses."""

from __future__ import annotations

import nir
import numpy as np
import pytest

from resformer.compiler.ir.graph import Node
from resformer.compiler.ir.primitives import BatchNorm2d, SpikeMatMul
from resformer.compiler.passes.float.fold_attention_scale import fold_attention_scale
from resformer.compiler.passes.float.fold_average_pool import fold_average_pool
from resformer.compiler.passes.float.fold_batchnorm import fold_batchnorm
from resformer.compiler.passes.float.fold_input_gain import fold_input_gain
from resformer.compiler.passes.float.split_attention_projection import split_attention_projection
from resformer.errors import UnsupportedError
from support.graphs import GraphBuilder


def attention(heads: int = 2, *, channels: int = 4) -> GraphBuilder:
    build = GraphBuilder((1, 4, 4))
    build.random_conv("stem", "input", channels, 1)
    build.attention("dssa", "stem", heads=heads, patch=2)
    return build


def test_batch_normalisation_goes_into_weights_and_bias() -> None:
    build = GraphBuilder((1, 4, 4))
    build.conv("conv", "input", np.array([1.0, 2.0]).reshape(2, 1, 1, 1), np.array([10.0, 20.0]))
    # a standard deviation of 2, then of 4
    norm = BatchNorm2d(
        weight=np.array([3.0, 5.0]),
        bias=np.array([0.5, 0.25]),
        running_mean=np.array([4.0, 12.0]),
        running_var=np.array([3.0, 15.0]),
        eps=1.0,
    )
    build.head(build.add("norm", norm, "conv"))
    folded = fold_batchnorm(build.finish())
    assert "norm" not in folded
    assert folded["avgpool"].inputs == ("conv",)
    assert folded["conv"].op.weight.reshape(-1).tolist() == [1.5, 2.5]
    assert folded["conv"].op.bias.tolist() == [(10 - 4) * 1.5 + 0.5, (20 - 12) * 1.25 + 0.25]


def test_batch_normalisation_of_a_sum_is_refused() -> None:
    build = GraphBuilder((1, 4, 4))
    build.random_conv("conv", "input", 1, 1)
    build.head(build.norm("norm", build.pool("pool", "conv", 2, 2, 0)))
    with pytest.raises(UnsupportedError, match=r"norm: .* pool \(MaxPool2d\) is none; put it right behind"):
        fold_batchnorm(build.finish())


def test_batch_normalisation_of_a_convolution_that_others_read_is_refused() -> None:
    build = attention()
    build.norm("norm", "stem")
    with pytest.raises(UnsupportedError, match=r"norm: .* nothing else reads, and stem"):
        fold_batchnorm(build.finish())


def test_the_halves_of_the_projection_are_interleaved_by_head() -> None:
    build = attention(heads=2, channels=4)
    build.head("dssa.add")
    graph = fold_batchnorm(build.finish())
    halves = split_attention_projection(graph)
    weight = graph["dssa.W"].op.weight
    assert weight.shape[0] == 8
    np.testing.assert_array_equal(halves["dssa.W.y1"].op.weight, weight[[0, 1, 4, 5]])
    np.testing.assert_array_equal(halves["dssa.W.y2"].op.weight, weight[[2, 3, 6, 7]])
    np.testing.assert_array_equal(halves["dssa.W.y2"].op.bias, graph["dssa.W"].op.bias[[2, 3, 6, 7]])
    assert halves["dssa.matmul1"].inputs == ("dssa.W.y1", "dssa.activation_in")
    assert halves["dssa.matmul2"].inputs == ("dssa.W.y2", "dssa.activation_attn")
    assert "dssa.W" not in halves


def test_half_of_anything_but_a_convolution_is_refused() -> None:
    build = attention()
    build.head("dssa.add")
    with pytest.raises(UnsupportedError, match=r"dssa.matmul1: reads half .* dssa.norm \(BatchNorm2d\); only a conv"):
        split_attention_projection(build.finish())


def test_a_projection_with_another_reader_is_refused() -> None:
    build = GraphBuilder((1, 4, 4))
    x = build.lif("lif", build.random_conv("stem", "input", 4, 1))
    y = build.random_conv("W", x, 8, 2, stride=2)
    for name in ("first", "second"):
        build.add(name, SpikeMatMul(num_heads=2, transpose=True, part="y1"), y, x)
    with pytest.raises(UnsupportedError, match="W: is read by first, second; only one product"):
        split_attention_projection(build.finish())


def scaled_product() -> GraphBuilder:
    """One product of two heads, times a scale."""
    build = GraphBuilder((1, 4, 4))
    x = build.lif("x", build.random_conv("stem", "input", 4, 1))
    y = build.conv("y", x, np.ones((4, 4, 2, 2)), np.arange(4.0), stride=2)
    build.add("product", SpikeMatMul(num_heads=2, transpose=True, part="all"), y, x)
    return build


def scale_by(build: GraphBuilder, values: np.ndarray) -> None:
    scale = build.add("scale", nir.Scale(np.broadcast_to(values, build.shape("product"))), "product")
    build.output(build.lif("spikes", scale))


def test_attention_scales_go_into_the_rows_of_their_head() -> None:
    build = scaled_product()
    scale_by(build, np.array([0.5, 3.0])[:, None, None])
    folded = fold_attention_scale(build.finish())
    assert "scale" not in folded
    assert folded["spikes"].inputs == ("product",)
    assert folded["y"].op.weight[:, 0, 0, 0].tolist() == [0.5, 0.5, 3.0, 3.0]
    assert folded["y"].op.bias.tolist() == [0.0, 0.5, 6.0, 9.0]


def test_a_scale_that_varies_within_a_head_is_refused() -> None:
    build = scaled_product()
    scale_by(build, np.arange(1.0, 5.0)[None, :, None])
    with pytest.raises(UnsupportedError, match="scale: the scale varies within a head; one value a head"):
        fold_attention_scale(build.finish())


def test_a_scaled_product_that_others_read_is_refused() -> None:
    build = scaled_product()
    build.lif("other", "product")
    scale_by(build, np.array([0.5, 3.0])[:, None, None])
    with pytest.raises(UnsupportedError, match="scale: must be all that reads product, which other, scale read"):
        fold_attention_scale(build.finish())


def test_a_scale_of_a_shared_projection_is_refused() -> None:
    build = attention()
    build.head("dssa.add")
    with pytest.raises(UnsupportedError, match=r"dssa.scale1: .* dssa.W \(Conv2d\) is not one"):
        fold_attention_scale(fold_batchnorm(build.finish()))


@pytest.mark.parametrize(("tau_steps", "threshold"), [(2.0, 2.0), (1.0, 1.0), (4.0, 4.0)])
def test_the_gain_of_the_input_goes_into_the_threshold(tau_steps: float, threshold: float) -> None:
    build = GraphBuilder((1, 2, 2))
    build.head(build.lif("lif", build.random_conv("conv", "input", 2, 1), tau_steps=tau_steps))
    lif = fold_input_gain(build.finish())["lif"].op
    assert np.unique(lif.v_threshold).tolist() == [threshold]
    assert lif.v_threshold.shape == (2, 2, 2)
    assert lif.metadata["tau_steps"] == tau_steps


def test_an_average_pool_becomes_a_sum_and_a_division_of_the_logits() -> None:
    build = GraphBuilder((2, 3, 4))
    build.head("input")
    folded = fold_average_pool(build.finish())
    assert isinstance(folded["avgpool"].op, nir.SumPool2d)
    assert folded["output"].inputs == ("classifier.scale",)
    assert np.unique(folded["classifier.scale"].op.scale).tolist() == [1 / 12]


def test_a_pool_before_anything_but_a_classifier_is_refused() -> None:
    build = GraphBuilder((2, 3, 4))
    build.head("input")
    edit = build.finish().edit()
    edit.insert_after("classifier", Node("scale", nir.Scale(np.full(3, 2.0)), ("classifier",), (3,)))
    with pytest.raises(UnsupportedError, match=r"avgpool: .* it is followed by Flatten, Linear, Scale, Output"):
        fold_average_pool(edit.finish())


def test_a_pool_that_several_read_is_refused() -> None:
    build = GraphBuilder((2, 4, 4))
    build.head("input")
    build.lif("other", "avgpool")
    with pytest.raises(UnsupportedError, match=r"avgpool: .* followed by several readers"):
        fold_average_pool(build.finish())


def test_a_padded_pool_is_refused() -> None:
    build = GraphBuilder((2, 4, 4))
    build.head("input")
    edit = build.finish().edit()
    edit.set_op("avgpool", nir.AvgPool2d(np.array([4, 4]), np.array([4, 4]), np.array([1, 1])))
    with pytest.raises(UnsupportedError, match=r"avgpool: .* without padding"):
        fold_average_pool(edit.finish())
