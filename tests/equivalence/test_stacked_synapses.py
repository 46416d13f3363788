"""E2 and E3 of weights of more than eight bits: each weight is two synapses, which count as one layer elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from resformer.compiler.backends.sim.backend import SimBackend
from resformer.compiler.export.checkpoint import quantized_state
from resformer.compiler.files.program import read_program, write_program
from resformer.compiler.frontend.checkpoint import import_model
from resformer.compiler.ir import reference
from resformer.compiler.ir.program import layer_names, stacked_parts
from resformer.compiler.placement.activity import measure, stem_macs
from resformer.models.spikingresformer import SpikingResformer
from resformer.runtime.verify.checks import differing_weights
from support.compare import first_difference
from support.programs import Lowered, encode, lower
from support.traces import assert_same_trace

Samples = np.ndarray[tuple[int, ...], np.dtype[np.int32]]


@pytest.fixture(scope="module", params=[9, 12])
def stacked(make_model: Callable[..., SpikingResformer], request: pytest.FixtureRequest) -> tuple[Lowered, Samples]:
    """A network with weights of 9 bits, which need few second synapses, or of 12 bits, and samples."""
    model = make_model(seed=12)
    shape = (3, model.architecture.in_channels, model.image_size, model.image_size)
    images = np.random.default_rng(7).random(shape)
    lowered = lower(import_model(model), images, weight_bits=request.param, input_scale_exp=4)
    assert len(stacked_parts(lowered.program)) >= 10
    return lowered, encode(lowered.program, images)


def test_stacking_changes_no_spike(stacked: tuple[Lowered, Samples]) -> None:
    lowered, samples = stacked
    wide, program = (reference.run(each, samples, record=True) for each in (lowered.quantized, lowered.program))
    assert wide.spikes.keys() == program.spikes.keys()
    assert sum(train.mismatches(wide.spikes[name]) for name, train in program.spikes.items()) == 0
    assert all(0 < train.count < train.size for train in program.spikes.values())


@pytest.mark.parametrize("backend", ["sim", "onnx", "lava"])
def test_backends_run_stacks_as_the_reference_does(stacked: tuple[Lowered, Samples], backend: str) -> None:
    lowered, samples = stacked
    expected = reference.run(lowered.program, samples, record=True)
    if backend == "sim":
        trace = SimBackend().run(lowered.program, samples, record=True)
    elif backend == "onnx":
        pytest.importorskip("onnxruntime")
        from resformer.compiler.backends.onnx import OnnxBackend

        trace = OnnxBackend().run(lowered.program, samples, record=True)
    else:
        pytest.importorskip("lava")
        from resformer.compiler.backends.lava.backend import LavaBackend

        trace = LavaBackend().run(lowered.program, samples, record=True)
    assert_same_trace(trace, expected)


def test_the_file_holds_both_parts(stacked: tuple[Lowered, Samples], tmp_path: Path) -> None:
    program = stacked[0].program
    write_program(program, tmp_path / "program.safetensors")
    assert first_difference(read_program(tmp_path / "program.safetensors"), program) is None


def test_the_checkpoint_s_weights_are_the_sums(stacked: tuple[Lowered, Samples]) -> None:
    lowered, _ = stacked
    assert layer_names(lowered.program) == layer_names(lowered.quantized)
    state = quantized_state(lowered.quantized)
    counts = differing_weights(lowered.program, state)
    assert counts.keys() == set(layer_names(lowered.program))
    assert all(differing == 0 for _, differing in counts.values())
    state["layers.0.0.Wproj.weight"][0, 0] += 2.0**-20
    assert differing_weights(lowered.program, state)["layers.0.0.Wproj"][1] == 1


def test_a_stack_s_operations_count_once(stacked: tuple[Lowered, Samples]) -> None:
    lowered, samples = stacked
    spikes = reference.run(lowered.program, samples, record=True).spikes
    found, expected = (measure(each, spikes).sops for each in (lowered.program, lowered.quantized))
    assert found.keys() == expected.keys()
    for name, steps in expected.items():
        np.testing.assert_array_equal(found[name], steps)
    assert stem_macs(lowered.program) == stem_macs(lowered.quantized)
