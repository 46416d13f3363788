"""Runs of the sim backend in all the ways that must give one result."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import pytest
import torch
from numpy.testing import assert_array_equal

from resformer.compiler.backends.sim import SimBackend, byte_products, cpu_kernels
from resformer.compiler.backends.sim.engine import Engine
from resformer.compiler.backends.sim.plan import build_plan
from resformer.compiler.backends.sim.products import Products
from resformer.compiler.backends.sim.recorder import Recorder
from resformer.compiler.backends.sim.torch_kernels import TorchKernels
from resformer.compiler.ir import reference
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.trace import Trace
from support.traces import assert_same_trace

CPU = "cpu"
INTERPRETER = "interpreter"
"""In place of a device's name: Triton's interpreter runs a GPU's kernels on a CPU's tensors."""
_chosen = {"device": CPU}
"""Where sim runs in these tests: what ``pytest --device`` says."""


def choose_device(device: str) -> None:
    """Let ``assert_sim_is_the_reference`` and ``sim_backend`` run on a device from now on."""
    _chosen["device"] = device


def examples(count: int) -> int:
    """How many examples a test should draw: fewer where an interpreter runs them."""
    return max(count // 5, 4) if _chosen["device"] == INTERPRETER else count


def sim_backend() -> SimBackend:
    """A sim backend on the chosen device."""
    return SimBackend(CPU if _chosen["device"] == INTERPRETER else _chosen["device"])


def why_not_on(device: str) -> str | None:
    """Why nothing can run on a device; None where it can."""
    if device == INTERPRETER:
        return None if importlib.util.find_spec("triton") else "Triton is not installed"
    if torch.device(device).type != "cuda" or torch.cuda.is_available():
        return None
    return f"--device {device}: torch {torch.__version__} sees no GPU here"


def assert_sim_is_the_reference(program: Program, samples: npt.NDArray[np.int32]) -> Trace:
    """Require that sim, run in every way, gives the reference's trace; returns that trace.

    The ways: recorded or not, on one thread or two, in batches of several sizes, with a CPU's kernels or a device's.
    On another device than a CPU (``choose_device``), sim runs only there.
    """
    expected = reference.run(program, samples, record=True)
    if _chosen["device"] == INTERPRETER:
        for record in (True, False):
            trace = run_interpreted(program, samples, record=record)
            assert_same_as(trace, expected, record=record)
            assert trace.ties == expected.ties
        return expected
    if _chosen["device"] != CPU:
        backend = sim_backend()
        for record in (True, False):
            for batch_size in (None, 1):
                trace = backend.run(program, samples, record=record, batch_size=batch_size)
                assert_same_as(trace, expected, record=record)
                assert trace.ties == expected.ties
        return expected
    for record in (True, False):
        with threads(1):
            assert_same_as(SimBackend().run(program, samples, record=record), expected, record=record)
        with threads(2):
            trace = SimBackend().run(program, samples, record=record, batch_size=1)
            assert_same_as(trace, expected, record=record)
    for int8 in (True, False):
        assert_same_as(run_as_on_a_device(program, samples, int8=int8), expected, record=True)
    return expected


def run_as_on_a_device(program: Program, samples: npt.NDArray[np.int32], *, int8: bool) -> Trace:
    """Run on the CPU as on a GPU: all samples and channels at once, in torch alone."""
    recorder = Recorder(program, len(samples), values=True)
    plan = build_plan(program, samples=len(samples), static_input=samples.ndim == 4, keep_graded=True, workers=None)
    Engine(plan, TorchKernels(plan, torch.device("cpu"), int8=int8)).run(samples, recorder, 0)
    return recorder.trace()


def run_interpreted(
    program: Program, samples: npt.NDArray[np.int32], *, record: bool, products: Products | None = None
) -> Trace:
    """Run the kernels of a GPU in Triton's interpreter, all samples at once."""
    from resformer.compiler.backends.sim.gpu.batches import Batches, finish
    from resformer.compiler.backends.sim.gpu.kernels import GpuKernels, can_attend, can_join

    recorder = Recorder(program, len(samples), values=record)
    plan = build_plan(
        program,
        samples=len(samples),
        static_input=samples.ndim == 4,
        keep_graded=record,
        workers=None,
        can_attend=can_attend,
        can_join=can_join,
    )
    tried = Products() if products is None else products
    device = torch.device("cpu")
    engine = Engine(plan, GpuKernels(plan, device, tried))
    if record:
        engine.run(samples, recorder, 0)
    else:
        batches = Batches(engine, device, capture=False)
        batches.stage(samples)
        finish(batches.begin(0), recorder)
    if products is None:
        # notes on products in parts are allowed: those call this processor's own kernels, some of which sum wrongly
        assert not [note for note in tried.notes if "in Triton" in note], "a kernel in Triton was refused"
    return recorder.trace()


def assert_same_as(trace: Trace, expected: Trace, *, record: bool) -> None:
    """Require equality of all that was recorded, and of the saturation counts, which are always recorded."""
    assert trace.saturated == expected.saturated
    if record:
        assert_same_trace(trace, expected)
    else:
        assert_array_equal(trace.logits, expected.logits)
        assert trace.logits.dtype == expected.logits.dtype
        assert not trace.spikes
        assert not trace.graded


NO_NUMBA = "numba, which is optional, is not installed"


def needs_compiled_loops() -> None:
    """Skip a test of compiled loops where nothing compiles them."""
    if cpu_kernels.compiled_loops() is None:
        pytest.skip(NO_NUMBA)


def what_events_lack() -> str | None:
    """Why this machine cannot run convolutions by events; None where it can."""
    if cpu_kernels.compiled_loops() is None:
        return NO_NUMBA
    return None if byte_products._has(byte_products.WORDS) else "this processor, or ONEDNN_MAX_CPU_ISA, has no AVX2"


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use ``count`` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
