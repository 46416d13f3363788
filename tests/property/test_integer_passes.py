"""Integer passes: they keep every spike where nothing saturates, and what they prove holds against adversaries."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from resformer.compiler.ir import fixedpoint, reference
from resformer.compiler.ir.ops import LIF, Conv2d, Dense, Relay
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.trace import Trace
from resformer.compiler.ir.verify import verify_program
from resformer.compiler.passes.integer.balance_delays import balance_delays
from resformer.compiler.passes.integer.bound_ranges import bound_ranges
from resformer.compiler.passes.integer.place_biases import place_biases
from resformer.compiler.pipeline import INTEGER_PASSES
from support.compare import first_difference
from support.graphs import float_graphs, samples_for
from support.programs import Lowered, encode, lower, lowered_graphs

IntArray = npt.NDArray[np.int64]


def real_logits(program: Program, trace: Trace) -> npt.NDArray[np.float64]:
    op: Any = program.output.op
    logits: npt.NDArray[np.float64] = trace.logits / (2.0**op.signal.scale_exp * op.divisor) + op.bias
    return logits


@settings(max_examples=25)
@given(lowered_graphs())
def test_placing_and_bounding_keep_every_spike_and_logit(lowered: Lowered) -> None:
    encoded = encode(lowered.program, samples_for(lowered.folded))
    program = lowered.quantized
    expected = reference.run(program, encoded, record=True)
    expected_logits = real_logits(program, expected)
    for integer_pass in (*INTEGER_PASSES, balance_delays):
        before = copy.deepcopy(program)
        transformed = integer_pass(program)
        assert first_difference(program, before) is None, f"{integer_pass.__name__} changed its input"
        verify_program(transformed)
        trace = reference.run(transformed, encoded, record=True)
        if not any(trace.saturated.values()):
            assert trace.spikes.keys() == expected.spikes.keys()
            for name, train in trace.spikes.items():
                assert train.mismatches(expected.spikes[name]) == 0, name
            # the bias of the logits is rounded once, to float64
            np.testing.assert_allclose(real_logits(transformed, trace), expected_logits, rtol=1e-12, atol=1e-12)
        program = transformed


@settings(max_examples=25)
@given(float_graphs(), st.integers(0, 2**16), st.sampled_from([1.0, 40.0]))
def test_no_input_and_no_spikes_leave_the_proven_bounds(graph: Any, seed: int, stretch: float) -> None:
    """The reference asserts every bound. Populations get random spikes, then all fire, then none.

    With a ``stretch`` of 40, the scales suit currents a fortieth as large, so that values saturate.
    """
    lowered = lower(graph, samples_for(graph) / stretch)
    program, rng = lowered.program, np.random.default_rng(seed)
    signal = program.input.op.signal
    assert signal.low is not None
    assert signal.high is not None
    images = rng.choice([signal.low, signal.high], (2, *program.input.shape)).astype(np.int32)
    shape = (program.timesteps, len(images))
    for density in (None, 0.0, 0.1, 0.5, 1.0):
        spikes = {
            name: (rng.random((*shape, *program[name].shape)) < density).astype(np.int64)
            for name in program.lif_names
            if density is not None
        }
        reference.run(program, images, overrides=spikes)


@settings(max_examples=25)
@given(lowered_graphs())
def test_bounds_of_kernels_are_met_by_their_worst_spikes(lowered: Lowered) -> None:
    """So the bounds are not only safe, but the tightest that a single layer allows."""
    program = bound_ranges(place_biases(lowered.quantized))
    checked = 0
    for node in program:
        op = node.op
        if not isinstance(op, Conv2d) or not isinstance(program[node.inputs[0]].op, LIF):
            continue
        weight = fixedpoint.scale_weight(op.weight, op.weight_exp).astype(np.int64)
        # one window for each output channel and sign: the spikes that hurt it most
        per_group = weight.shape[1]
        lows: list[int] = []
        highs: list[int] = []
        for channel, kernel in enumerate(weight):
            group = channel // (len(weight) // op.groups)
            for sign, found in ((1, highs), (-1, lows)):
                spikes = np.zeros((1, 1, per_group * op.groups, *kernel.shape[1:]), dtype=np.int64)
                spikes[0, 0, group * per_group : (group + 1) * per_group] = sign * kernel > 0
                value, _ = replace(op, padding=(0, 0)).evaluate(spikes)
                found.append(int(value[0, 0, channel, 0, 0]))
        assert (op.signal.low, op.signal.high) == (min(lows), max(highs)), node.name
        checked += 1
    assert checked


@settings(max_examples=25)
@given(lowered_graphs())
def test_relays_stand_where_the_proof_fails_and_nowhere_else(lowered: Lowered) -> None:
    placed = place_biases(lowered.quantized)
    program = bound_ranges(placed)
    for node in program:
        signal = node.op.signal
        assert signal.low is not None
        assert signal.high is not None
        assert signal.low <= 0 <= signal.high
        readers = [each.op for each in program.consumers[node.name]]
        if any(isinstance(reader, LIF) for reader in readers):
            assert max(-signal.low, signal.high) <= 2**17 - 1, f"{node.name} may wrap"
        if isinstance(node.op, Relay) and node.name not in placed:
            source = program[node.inputs[0]].op.signal
            assert source.low is not None
            assert source.high is not None
            too_large = max(-source.low, source.high) > node.op.limit
            assert too_large or not any(isinstance(reader, LIF) for reader in readers), f"{node.name} is idle"
        if isinstance(node.op, Dense):
            assert max(-signal.low, signal.high) <= 2**30 - 1


@settings(max_examples=10)
@given(lowered_graphs())
def test_bounding_again_finds_nothing_to_do(lowered: Lowered) -> None:
    once = bound_ranges(place_biases(lowered.quantized))
    assert first_difference(bound_ranges(once), once) is None
