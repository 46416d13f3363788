"""How programs are run in ONNX Runtime: batch by batch, from one model."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from resformer.compiler.backends import open_backend
from resformer.compiler.ir import reference
from resformer.compiler.ir.program import Program
from resformer.errors import BackendMissingError
from resformer.models.spikingresformer import SpikingResformer
from support.networks import compiled, images, with_input_range
from support.program_builder import tiny_resformer
from support.traces import assert_same_trace

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from resformer.compiler.backends import onnx as module
from resformer.compiler.backends.onnx import OnnxBackend


@pytest.fixture(scope="module")
def programs(make_model: Callable[..., SpikingResformer], tmp_path_factory: pytest.TempPathFactory) -> list[Program]:
    return [compiled(make_model(seed=seed), tmp_path_factory.mktemp("model")) for seed in (1, 2)]


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The options of each export."""
    made: list[dict[str, Any]] = []
    original = module.export_integer

    def export(program: Program, **options: Any) -> Any:
        made.append(options)
        return original(program, **options)

    monkeypatch.setattr(module, "export_integer", export)
    return made


def test_batches_of_any_size(exports: list[dict[str, Any]]) -> None:
    """One model runs all of them."""
    program, net = tiny_resformer()
    samples, backend = net.samples(7), OnnxBackend()
    program = with_input_range(program, samples)
    expected = reference.run(program, samples, record=True)
    assert any(expected.saturated.values())
    for batch_size in (None, 1, 3, 7, 100):
        for record in (True, False):
            done: list[tuple[int, int]] = []
            trace = backend.run(
                program,
                samples,
                record=record,
                batch_size=batch_size,
                progress=lambda *each, done=done: done.append(each),
            )
            if record:
                assert_same_trace(trace, expected)
            np.testing.assert_array_equal(trace.logits, expected.logits)
            assert trace.saturated == expected.saturated
            size = min(batch_size or 7, 7)
            assert done == [(min(start + size, 7), 7) for start in range(0, 7, size)]
    assert exports == [{"debug": True, "counts": True}, {"debug": False, "counts": True}]


def test_memory_bounds_a_batch(programs: list[Program], monkeypatch: pytest.MonkeyPatch) -> None:
    program, done = programs[0], []
    samples = images(program, 3)
    monkeypatch.setattr(module, "BATCH_BYTES", 1)
    OnnxBackend().run(program, samples, progress=lambda *each: done.append(each))
    assert done == [(1, 3), (2, 3), (3, 3)]


def test_one_backend_runs_several_programs(programs: list[Program]) -> None:
    """It also runs frames after images."""
    backend = OnnxBackend()
    for program in (*programs, *programs):
        for steps in (None, 4):
            samples = images(program, 2, steps)
            expected = reference.run(program, samples)
            np.testing.assert_array_equal(backend.run(program, samples).logits, expected.logits)


def test_no_samples(programs: list[Program]) -> None:
    trace = OnnxBackend().run(programs[0], images(programs[0], 0), record=True)
    assert trace.logits.shape == (4, 0, 5)
    assert all(train.shape[:2] == (4, 0) for train in trace.spikes.values())


def test_samples_beyond_the_promised_range_are_no_input(programs: list[Program]) -> None:
    samples = images(programs[0], 1)
    high = programs[0].input.op.signal.high
    assert high is not None
    samples[0, 0, 0, 0] = high + 1
    with pytest.raises(AssertionError, match="leaves the promised"):
        OnnxBackend().run(programs[0], samples)


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_found_as_the_backend_is_opened(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(BackendMissingError, match=rf"{package} cannot be imported .*: pip install 'resformer\[onnx\]'"):
        open_backend("onnx")
