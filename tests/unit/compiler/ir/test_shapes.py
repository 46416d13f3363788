"""Shape rules against PyTorch, and what they refuse."""

import re

import nir
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from resformer.compiler.ir import ops as program
from resformer.compiler.ir.primitives import Add, BatchNorm2d, MaxPool2d, SpikeMatMul
from resformer.compiler.ir.shapes import check_shape, output_shape
from resformer.compiler.ir.signal import SPIKE, Signal, SignalKind

CURRENT = Signal(SignalKind.CURRENT, 0)


@pytest.mark.parametrize("size", [(7, 7), (8, 5), (14, 9)])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (3, 2)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (2, 3)])
@pytest.mark.parametrize("padding", [(0, 0), (1, 1), (0, 1)])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 1)])
def test_windows_are_counted_as_pytorch_does(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> None:
    weight = np.zeros((6, 2, *kernel))
    x = torch.zeros(1, 4, *size)
    wanted = tuple(F.conv2d(x, torch.zeros(6, 2, *kernel), None, stride, padding, dilation, groups=2).shape[1:])
    assert output_shape(nir.Conv2d(None, weight, stride, padding, dilation, 2, np.zeros(6)), [(4, *size)]) == wanted
    integer = program.Conv2d(
        CURRENT, weight.astype(np.int8), np.zeros(6, np.int8), np.zeros(6, np.int32), stride, padding, dilation, 2
    )
    assert output_shape(integer, [(4, *size)]) == wanted
    if dilation == (1, 1) and all(2 * pad <= edge for pad, edge in zip(padding, kernel, strict=True)):
        pooled = tuple(F.max_pool2d(x, kernel, stride, padding).shape[1:])
        assert output_shape(MaxPool2d(*map(np.array, (kernel, stride, padding))), [(4, *size)]) == pooled
        assert output_shape(program.MaxPool2d(CURRENT, kernel, stride, padding), [(4, *size)]) == pooled


@pytest.mark.parametrize(
    ("op", "inputs", "shape"),
    [
        (nir.Input({"input": np.array([2, 4, 4])}), [], (2, 4, 4)),
        (nir.Flatten({"input": np.array([2, 4, 4])}, 0), [(2, 4, 4)], (32,)),
        (nir.Flatten({"input": np.array([2, 4, 4])}, 1), [(2, 4, 4)], (2, 16)),
        (nir.Linear(np.zeros((3, 5))), [(5,)], (3,)),
        (nir.Affine(np.zeros((3, 5)), np.zeros(3)), [(5,)], (3,)),
        (Add(), [(2, 4, 4)] * 3, (2, 4, 4)),
        (SpikeMatMul(2, True, "y1"), [(12, 2, 2), (6, 4, 4)], (2, 4, 16)),
        (SpikeMatMul(2, True, "all"), [(6, 2, 2), (6, 4, 4)], (2, 4, 16)),
        (SpikeMatMul(2, False, "y2"), [(12, 2, 2), (2, 4, 16)], (6, 16)),
        (SpikeMatMul(2, False, "all"), [(6, 2, 2), (2, 4, 16)], (6, 16)),
        (program.Flatten(CURRENT), [(2, 4, 4)], (32,)),
        (program.Delay(SPIKE, 3), [(2, 4, 4)], (2, 4, 4)),
        (program.SumPool2d(CURRENT, (4, 4), (4, 4)), [(2, 4, 4)], (2, 1, 1)),
    ],
)
def test_shapes(op: object, inputs: list[tuple[int, ...]], shape: tuple[int, ...]) -> None:
    assert output_shape(op, inputs) == shape


def conv(groups: int = 1, bias: int = 6) -> nir.Conv2d:
    return nir.Conv2d(None, np.zeros((6, 4, 3, 3)), (1, 1), (0, 0), (1, 1), groups, np.zeros(bias))


@pytest.mark.parametrize(
    ("op", "inputs", "complaint"),
    [
        (conv(), [(3, 8, 8)], "weights for 4 x 1 channels, but 3 come in"),
        (conv(groups=4), [(16, 8, 8)], "6 output channels do not split into 4 groups"),
        (conv(bias=5), [(4, 8, 8)], "bias of shape (5,) does not fit 6 channels"),
        (conv(), [(4, 2, 8)], "a window of 3 does not fit 2 padded by 0"),
        (conv(), [(4, 8, 8), (4, 8, 8)], "takes one input, not 2"),
        (conv(), [(4,)], "takes an input of 3 axes, not (4,)"),
        (nir.Linear(np.zeros((3, 5))), [(4,)], "weights for 5 features, but 4 come in"),
        (nir.Affine(np.zeros((3, 5)), np.zeros(2)), [(5,)], "bias does not fit 3 outputs"),
        (BatchNorm2d(*np.zeros((4, 5)), 1e-5), [(4, 2, 2)], "weight of shape (5,) does not fit 4 channels"),
        (nir.Scale(np.zeros((4, 2, 1))), [(4, 2, 2)], "scale of shape (4, 2, 1) does not fit"),
        (nir.LIF(*np.zeros((5, 3))), [(4,)], "tau of shape (3,) does not fit"),
        (Add(), [(4, 2, 2)], "adds two inputs or more, not 1"),
        (Add(), [(4, 2, 2), (4, 2, 1)], "cannot add shapes (4, 2, 2), (4, 2, 1)"),
        (SpikeMatMul(2, True, "y1"), [(12, 2, 2)], "takes y and spikes, not 1 inputs"),
        (SpikeMatMul(2, True, "y1"), [(10, 2, 2), (6, 4, 4)], "10 channels do not split into 4"),
        (SpikeMatMul(2, True, "all"), [(12, 2, 2), (6, 4, 4)], "12 channels of y meet spikes of 6"),
        (
            SpikeMatMul(2, False, "y2"),
            [(12, 2, 2), (2, 5, 16)],
            "4 patches meets spikes of shape (2, 5, 16)",
        ),
        (object(), [], "no shape rule for object"),
    ],
)
def test_misfits_are_refused(op: object, inputs: list[tuple[int, ...]], complaint: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(complaint)):
        output_shape(op, inputs)


def test_check_shape() -> None:
    check_shape(SpikeMatMul(2, False, "all"), [(6, 2, 2), (2, 4, 16)], (6, 4, 4))
    check_shape(program.Input(CURRENT), [], (2, 4, 4))
    for op, inputs, shape in [
        (SpikeMatMul(2, False, "all"), [(6, 2, 2), (2, 4, 16)], (6, 4, 5)),
        (SpikeMatMul(2, False, "all"), [(6, 2, 2), (2, 4, 16)], (6, 16)),
        (Add(), [(2, 4, 4)] * 2, (2, 4, 3)),
        (program.Input(CURRENT), [(2, 4, 4)], (2, 4, 4)),
        (program.Input(CURRENT), [], (2, 0, 4)),
    ]:
        with pytest.raises(AssertionError):
            check_shape(op, inputs, shape)
