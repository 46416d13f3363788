"""What sim plans, promises and refuses; tests/equivalence shows that its results are right."""

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from resformer.compiler.backends.sim import SimBackend, cpu_kernels
from resformer.compiler.backends.sim.backend import _exact_float32
from resformer.compiler.backends.sim.cpu_kernels import can_attend, int8_is_exact
from resformer.compiler.backends.sim.engine import Engine, Workers
from resformer.compiler.backends.sim.frame import Arena
from resformer.compiler.backends.sim.plan import AttentionStep, NeuronStep, OpStep, Plan, build_plan
from resformer.compiler.backends.sim.products import digits_for
from resformer.compiler.ir import reference
from resformer.compiler.ir.bounds import magnitudes
from resformer.compiler.ir.interval import EXACT_IN_FLOAT32, Interval
from resformer.compiler.ir.ops import LIF, Conv2d, Op, Relay, Shapes, SpikeMatMul
from resformer.compiler.ir.program import Program
from resformer.errors import BackendMissingError, CapacityError, UnsupportedError
from support.networks import with_input_range
from support.program_builder import ProgramBuilder, tiny_resformer
from support.sim_runs import assert_same_as, threads

needs_fast_kernels = pytest.mark.skipif(
    not int8_is_exact() or cpu_kernels.compiled_loops() is None, reason="no exact int8 kernels, or no numba"
)


def plan_of(program: Program, *, workers: int | None = 2, keep_graded: bool = False, samples: int = 1) -> Plan:
    return build_plan(
        program,
        samples=samples,
        static_input=True,
        keep_graded=keep_graded,
        workers=workers,
        can_attend=can_attend if workers else None,
    )


def steps_of(plan: Plan) -> list:
    return [step for segment in plan.segments for step in segment.steps]


# --- the plan


class Strange(Op):
    """An operation that sim has never heard of."""

    def interval(self, inputs: Sequence[Interval], shapes: Shapes) -> Interval:
        return inputs[0]


@pytest.mark.parametrize("name", ["conv", "relay", "pool", "flatten", "last"])
def test_an_operation_that_sim_does_not_know_is_refused(name: str) -> None:
    net = ProgramBuilder((2, 4, 4))
    net.relay("relay", net.conv("conv", "input", 4), limit=50)
    net.dense("last", net.flatten("flatten", net.max_pool("pool", "relay", (2, 2), (2, 2), (0, 0))), 3)
    program = net.finish()
    nodes = tuple(replace(node, op=Strange(node.op.signal)) if node.name == name else node for node in program)
    with pytest.raises(UnsupportedError, match=f"^{name}: sim has no kernel for a Strange; use --backend reference"):
        plan_of(Program(nodes, program.timesteps))


@needs_fast_kernels
def test_attention_is_fused_unless_its_values_are_recorded() -> None:
    program, net = tiny_resformer()
    for name, node in net.nodes.items():
        if isinstance(node.op, LIF):
            op = replace(node.op, bias_mant=np.zeros(1, np.int16), bias_exp=np.zeros(1, np.int8))
            net.nodes[name] = replace(node, op=op)
    del net.nodes["output"]
    unbiased = net.finish()
    fused = [step for step in steps_of(plan_of(unbiased)) if isinstance(step, AttentionStep)]
    assert [step.writes for step in fused] == [("layers.0.0.activation_out",), ("layers.1.1.activation_out",)]
    for plan in (plan_of(unbiased, keep_graded=True), plan_of(unbiased, workers=None), plan_of(program)):
        products = [step for step in steps_of(plan) if isinstance(step, OpStep) and isinstance(step.op, SpikeMatMul)]
        assert len(products) == 4


def test_sums_relays_and_neurons_are_one_step() -> None:
    net = ProgramBuilder((4, 3, 3))
    first = net.lif("first", "input")
    total = net.plus("sum", net.conv("conv", first, 4), "input")
    net.conv("last", net.lif("second", net.relay("relay", total, limit=50)), 4)
    program = net.finish()
    plan = plan_of(program)
    step = next(step for step in steps_of(plan) if "second" in step.writes)
    assert isinstance(step, NeuronStep)
    assert step.relay is not None
    assert (step.inputs, step.relay[0], step.stream, step.writes) == (("conv", "input"), "relay", None, ("second",))
    kept = next(step for step in steps_of(plan_of(program, keep_graded=True)) if "second" in step.writes)
    assert kept.writes == ("relay", "second")


def test_what_is_the_same_at_all_steps_is_computed_once() -> None:
    program, _ = tiny_resformer()
    static = {name for name, value in plan_of(program).values.items() if value.static}
    assert static == {"input", "prologue.0", "prologue.2"}
    frames = build_plan(program, samples=1, static_input=False, keep_graded=False, workers=1)
    assert not any(value.static for value in frames.values.values())


@pytest.mark.parametrize("workers", [1, 2, None])
def test_every_value_is_made_before_it_is_read_and_given_back_once(workers: int | None) -> None:
    program, _ = tiny_resformer(pairs=2, width=64)
    plan = plan_of(program, workers=workers)
    kept = {plan.input}
    released: list[str] = []
    for segment in plan.segments:
        local = set()
        for step in segment.steps:
            for name in step.inputs:
                assert name in kept | local, f"{step.writes} reads {name}"
                if isinstance(step, OpStep) and isinstance(step.op, Conv2d) and step.op.groups == 1:
                    assert name in kept, f"{step.name} needs all channels of {name}"
            local |= {*step.writes}
        assert segment.exports <= local
        kept |= segment.exports
        for name in segment.last_reads:
            kept.remove(name)
            released.append(name)
        if workers is None:
            assert segment.blocks == 1
    assert kept == {plan.output}
    assert len(released) == len(set(released))


def test_blocks_share_a_sample_and_hold_whole_heads_and_groups() -> None:
    program, _ = tiny_resformer(width=64)
    blocks = {step.writes[-1]: segment.blocks for segment in plan_of(program).segments for step in segment.steps}
    assert blocks["layers.0.0.W.y1"] == 2 == program["layers.0.0.matmul1"].op.num_heads
    assert blocks["layers.0.1.down.0"] == 2 == program["layers.0.1.conv.0.1"].op.groups
    assert blocks["layers.1.0.activation"] >= 2
    assert blocks["classifier"] == 1
    small, _ = tiny_resformer(width=4)
    assert {segment.blocks for segment in plan_of(small).segments} == {1}


# --- bounds


def test_bounds_hold_and_follow_what_is_proven() -> None:
    program, net = tiny_resformer()
    samples = net.samples(3)
    bounds = magnitudes(with_input_range(program, samples))
    seen: dict[str, int] = {}
    reference.run(program, samples, observe=lambda name, value: seen.update({name: int(np.abs(value).max())}))
    assert all(seen[name] <= bounds[name].value <= bounds[name].sums for name in seen)
    assert magnitudes(program)["prologue.0"].sums > EXACT_IN_FLOAT32 > bounds["prologue.0"].sums

    conv = program["layers.0.0.Wproj"]
    signal = replace(conv.op.signal, low=-5, high=7)
    edit = program.edit()
    edit.set_op(conv.name, replace(conv.op, signal=signal))
    proven = magnitudes(edit.finish())
    assert proven[conv.name].value == 7
    assert proven[conv.name].sums == magnitudes(program)[conv.name].sums


@given(st.integers(0, 2**31 - 2**24))
def test_digits_hold_what_they_are_chosen_for(largest: int) -> None:
    digits = digits_for(largest)
    assert sum(127 * 256**digit for digit in range(digits)) >= largest
    assert digits == 1 or sum(127 * 256**digit for digit in range(digits - 1)) < largest


@needs_fast_kernels
@given(st.integers(0, 2**16), st.integers(1, 4), st.booleans())
def test_digits_add_up(seed: int, digits: int, by_row: bool) -> None:
    loops = cpu_kernels.compiled_loops()
    rng = np.random.default_rng(seed)
    largest = min(sum(127 * 256**digit for digit in range(digits)), EXACT_IN_FLOAT32 - 10)
    y = rng.integers(-largest, largest + 1, (2, 7, 12)).astype(np.float32)
    y.flat[:2] = -largest, largest
    bias = rng.integers(-1, 2, 5).astype(np.float32)
    y = np.clip(y, -largest + 1, largest - 1)
    out = np.zeros((2, digits * 3, 5) if by_row else (2, 3, digits * 5), np.int8)
    loops.split_digits(y, 2, 4, bias, digits, by_row, out)
    parts = out.reshape(2, digits, 3, 5) if by_row else out.reshape(2, 3, digits, 5).swapaxes(1, 2)
    weights = 256 ** np.arange(digits, dtype=np.int64)[:, None, None]
    assert_array_equal((parts * weights).sum(axis=1), y[:, 2:5, 4:9] + bias)
    assert loops.largest(y, 4, bias) == np.abs(y[:, :, 4:9] + bias).max()


# --- kernels that a machine may lack


def test_int8_is_used_where_the_machine_sums_in_32_bits() -> None:
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists() or "avx512_vnni" not in cpuinfo.read_text(encoding="utf-8"):
        pytest.skip("this processor has no AVX-512 VNNI, without which PyTorch's int8 sums may saturate")
    told = os.environ.get("ONEDNN_MAX_CPU_ISA", "DEFAULT").upper()
    if told in ("SSE41", "AVX", "AVX2", "AVX512_CORE"):
        pytest.skip(f"ONEDNN_MAX_CPU_ISA is {told}, which hides AVX-512 VNNI from oneDNN")
    assert int8_is_exact()


@pytest.mark.parametrize("lacking", ["compiled_loops", "int8_is_exact", "both"])
def test_without_numba_or_exact_int8_it_is_slower_but_the_same(lacking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program, net = tiny_resformer()
    samples = net.samples(3)
    program = with_input_range(program, samples)
    expected = reference.run(program, samples, record=True)
    if lacking != "int8_is_exact":
        monkeypatch.setattr(cpu_kernels, "compiled_loops", lambda: None)
    if lacking != "compiled_loops":
        monkeypatch.setattr(cpu_kernels, "int8_is_exact", lambda: False)
    for record in (True, False):
        assert_same_as(SimBackend().run(program, samples, record=record), expected, record=record)


# --- the backend


def test_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendMissingError, match="sees no GPU; use --device cpu"):
        SimBackend("cuda")


def test_a_gpu_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    SimBackend("cuda:1")
    with pytest.raises(BackendMissingError, match="device cuda:2: this machine has 2 GPUs"):
        SimBackend("cuda:2")


@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.cuda.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory: 1 TB")],
)
def test_a_batch_that_does_not_fit(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    program, net = tiny_resformer()

    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(Engine, "run", fail)
    with pytest.raises(
        CapacityError, match=r"64 samples at once do not fit in the memory of cpu; .* --batch-size, such as 32"
    ):
        SimBackend().run(program, net.samples(100), batch_size=64)
    monkeypatch.setattr(Engine, "run", lambda *arguments: (_ for _ in ()).throw(RuntimeError("another")))
    with pytest.raises(RuntimeError, match="another"):
        SimBackend().run(program, net.samples(2))


def test_samples_that_the_program_did_not_promise() -> None:
    program, net = tiny_resformer()
    samples = net.samples(3)
    promised = with_input_range(program, samples)
    with pytest.raises(AssertionError, match=r"leaves the promised"):
        SimBackend().run(promised, samples + 1)
    with pytest.raises(AssertionError, match="samples of shape"):
        SimBackend().run(promised, samples[:, :, :8])
    with pytest.raises(AssertionError, match="samples of shape"):
        SimBackend().run(promised, net.samples(2, timesteps=3))


def test_torch_is_left_as_it_was() -> None:
    program, net = tiny_resformer()
    with threads(3):
        before = torch.backends.cuda.matmul.fp32_precision
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        try:
            SimBackend().run(program, net.samples(5))
            assert torch.backends.cuda.matmul.fp32_precision == "tf32"
        finally:
            torch.backends.cuda.matmul.fp32_precision = before
        seen = [torch.get_num_threads()]
        thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert seen == [3, 3]


def test_torch_before_2_9_is_left_as_it_was_by_a_run_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no precision for each kind of product, which this test imitates."""

    @_exact_float32()
    def fail() -> None:
        assert torch.get_float32_matmul_precision() == "highest"
        raise ValueError("a run fails")

    monkeypatch.setattr(torch.backends.cuda, "matmul", object())
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with pytest.raises(ValueError, match="a run fails"):
            fail()
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_workers_use_one_thread_each_and_keep_order() -> None:
    with threads(2):
        workers = Workers(2)
        assert list(workers.map(lambda item: (item, torch.get_num_threads()), range(5))) == [(i, 1) for i in range(5)]


def test_an_arena_hands_out_what_came_back_last() -> None:
    arena = Arena(torch.device("cpu"))
    first, second = (arena.take((2, 3), torch.float32) for _ in range(2))
    arena.give(first)
    arena.give(second)
    again = arena.take((3, 2), torch.float32)
    assert again.data_ptr() == second.data_ptr()
    assert arena.take((6,), torch.int32).data_ptr() not in (first.data_ptr(), second.data_ptr())


def test_memory_does_not_grow_from_run_to_run() -> None:
    program, net = tiny_resformer()
    samples = net.samples(4)
    backend = SimBackend()
    backend.run(program, samples)
    (engine,) = backend._engines.values()
    arena = engine._arena()
    held = sum(len(free) for free in arena._free.values())
    backend.run(program, samples)
    assert sum(len(free) for free in arena._free.values()) == held > 0


def test_relays_count_every_step_of_a_static_image() -> None:
    net = ProgramBuilder((1, 1, 2))
    net.add("relay", Relay(replace(net.nodes["input"].op.signal), np.zeros(1, np.int32), 3), "input")
    net.conv("conv", net.lif("lif", "relay"), 1)
    program = net.finish(timesteps=5)
    samples = np.array([[[[4, -9]]]], np.int32)
    assert SimBackend().run(program, samples).saturated["relay"] == 10


OLDER_MACHINE = """
import torch
from resformer.compiler.backends.sim.cpu_kernels import int8_verdict
from support.program_builder import tiny_resformer
from support.networks import with_input_range
from support.sim_runs import assert_sim_is_the_reference

program, net = tiny_resformer(width=32)
samples = net.samples(2)
assert_sim_is_the_reference(with_input_range(program, samples), samples)
spikes, digits = torch.ones(32, 64, dtype=torch.int8), torch.full((64, 32), -128, dtype=torch.int8)
print(bool((torch._int_mm(spikes, digits) == 64 * -128).all()), int8_verdict())
"""


def test_a_machine_whose_int8_instructions_saturate() -> None:
    """oneDNN is told to use what processors had before VNNI: sim notices, and stays exact."""
    if not cpu_kernels.HAS_ONEDNN or cpu_kernels.int8_verdict() is None:
        pytest.skip("this build of PyTorch has no int8 kernels of oneDNN")
    # the code under test before any that is installed
    path = os.pathsep.join([str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", OLDER_MACHINE],
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    sums, verdict = done.stdout.split()
    assert verdict == sums
    if sums == "True":
        pytest.skip("this machine's int8 instructions do not saturate, whatever oneDNN is told")
    assert sums == "False"
