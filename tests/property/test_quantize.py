"""Quantization: the numbers that it stores, over random networks, widths and granularities."""

from __future__ import annotations

import math
from dataclasses import replace

import nir
import numpy as np
import numpy.typing as npt
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from resformer.compiler.ir.ops import LIF, Conv2d, Dense
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.verify import verify_program
from resformer.compiler.quantize.choose import QuantizationConfig, choose_plan
from resformer.compiler.quantize.lower import quantize
from resformer.compiler.quantize.plan import SCALE_EXP_MAX
from resformer.compiler.quantize.ranges import estimated_ranges, measured_ranges
from resformer.errors import RangeError
from support.graphs import float_graphs, samples_for
from support.programs import fold

A_MAX = VTH_MAX = 2**17 - 1

configs = st.builds(
    QuantizationConfig,
    weight_bits=st.integers(2, 8),
    per_channel=st.booleans(),
    clip_weights=st.booleans(),
    input_scale_exp=st.sampled_from([None, 0, 3, 7]),
)


def scale_exp(program: Program, name: str) -> int:
    return program[name].op.signal.scale_exp


@settings(max_examples=60)
@given(float_graphs(), configs, st.booleans(), st.sampled_from([1.0, 30.0, 0.001]))
def test_every_number_is_the_nearest_that_its_format_holds(
    graph: nir.NIRNode, config: QuantizationConfig, measured: bool, stretch: float
) -> None:
    folded = stretch_weights(fold(graph), stretch)
    ranges = measured_ranges(folded, samples_for(folded)) if measured else estimated_ranges(folded)
    try:
        program = quantize(folded, choose_plan(folded, ranges, config, measured=measured))
    except RangeError:
        reject()
    verify_program(program)
    for node in program:
        match node.op:
            case Conv2d(weight=weight, weight_exp=exponent, bias=bias):
                exp = scale_exp(program, node.name)
                assert exp <= SCALE_EXP_MAX
                real = folded[node.name].op.weight * 2.0 ** (exp - scale_exp(program, node.inputs[0]))
                check_weights(real, weight, exponent, config)
                assert np.abs(folded[node.name].op.bias * 2.0**exp - bias).max() <= 0.5
            case Dense(weight=weight, weight_exp=one):
                exp = scale_exp(program, node.name) - scale_exp(program, node.inputs[0])
                exponent = np.full(len(weight), one, dtype=np.int8)
                one_exponent = replace(config, per_channel=False)
                check_weights(folded[node.name].op.weight * 2.0**exp, weight, exponent, one_exponent)
            case LIF(dv=dv):
                lif, vth = folded[node.name].op, int(node.op.meant_thresholds)
                assert abs(vth - lif.v_threshold.flat[0] * 2.0 ** scale_exp(program, node.inputs[0])) <= 0.5
                assert vth <= VTH_MAX
                assert abs(dv - 4096 * graph.metadata["dt"] / lif.tau.flat[0]) <= 0.5 + 1e-9
            case _:
                pass
        if not isinstance(node.op, (Dense, LIF)) and node.name in ranges and not measured:
            assert ranges[node.name] * 2.0 ** scale_exp(program, node.name) <= A_MAX or is_readout(program, node.name)


def is_readout(program: Program, name: str) -> bool:
    """Whether no neurons lie behind a node, so that thresholds do not limit its range."""
    return name in ("avgpool", "flatten", "classifier", "output")


def stretch_weights(graph: nir.NIRNode, factor: float) -> nir.NIRNode:
    """The same network with larger or smaller weights in all convolutions but the first."""
    edit = graph.edit()
    for node in graph:
        if isinstance(node.op, nir.Conv2d) and node.inputs != ("input",):
            op = node.op
            edit.set_op(
                node.name,
                nir.Conv2d(
                    op.input_shape, op.weight * factor, op.stride, op.padding, op.dilation, op.groups, op.bias * factor
                ),
            )
    return edit.finish()


def check_weights(
    wanted: npt.NDArray[np.float64],
    mantissa: npt.NDArray[np.int8],
    exponent: npt.NDArray[np.int8],
    config: QuantizationConfig,
) -> None:
    """Require mantissas in range and nearest to the weights, and the least exponents, unless clipping loses less.

    Weights are in units of the finest step.
    """
    largest_mantissa = 2 ** (config.weight_bits - 1) - 1
    assert np.abs(mantissa).max() <= largest_mantissa
    assert 0 <= exponent.min() <= exponent.max() <= 7
    step = 2.0 ** exponent.reshape(-1, *(1,) * (wanted.ndim - 1))
    clipped = np.abs(mantissa) == largest_mantissa if config.clip_weights else False
    assert (
        (np.abs(wanted - mantissa * step) <= step / 2) | (clipped & (np.abs(wanted) > np.abs(mantissa) * step))
    ).all()
    largest = np.abs(wanted).reshape(len(wanted), -1).max(axis=1)
    if not config.per_channel:
        assert len(set(exponent.tolist())) == 1
        largest = np.full_like(largest, largest.max())
    for each, largest_weight in zip(exponent.tolist(), largest.tolist(), strict=True):
        # with the next smaller exponent, the largest weight would be out of reach by more than rounding
        assert each == 0 or largest_weight > (largest_mantissa + 0.5) * 2.0 ** (each - 1)
        assert config.clip_weights or largest_weight <= (largest_mantissa + 0.5) * 2.0**each


@given(float_graphs(), configs)
@settings(max_examples=20)
def test_what_meets_in_a_sum_shares_one_scale(graph: nir.NIRNode, config: QuantizationConfig) -> None:
    folded = fold(graph)
    try:
        program = quantize(folded, choose_plan(folded, estimated_ranges(folded), config, measured=False))
    except RangeError:
        reject()
    for node in program:
        if type(node.op).__name__ in ("Add", "MaxPool2d", "Flatten", "SumPool2d"):
            assert {scale_exp(program, source) for source in node.inputs} == {scale_exp(program, node.name)}
    assert math.isclose(program.output.op.signal.scale_exp, scale_exp(program, "classifier"))
