"""The kernels of a GPU in Triton's interpreter: what joins, in which types, and what happens to a wrong one."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resformer.compiler.backends.sim import products
from resformer.compiler.backends.sim.engine import Engine
from resformer.compiler.backends.sim.plan import AttentionStep, LayerStep, OpStep, Plan, build_plan
from resformer.compiler.backends.sim.products import Products
from resformer.compiler.ir import reference
from resformer.compiler.ir.ops import LIF, Conv2d, Relay
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.signal import SPIKE
from resformer.compiler.pipeline import compile_checkpoint
from resformer.compiler.target import LOIHI
from support.program_builder import GRADED, ProgramBuilder
from support.sim_runs import assert_same_as, run_interpreted
from support.traces import assert_same_trace

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or torch.cuda.is_available(),
    reason="needs Triton, and its interpreter: a GPU compiles the kernels (make test-gpu)",
)


def plan_of(program: Program, *, record: bool = False) -> Plan:
    from resformer.compiler.backends.sim.gpu.kernels import can_attend, can_join

    return build_plan(
        program,
        samples=1,
        static_input=True,
        keep_graded=record,
        workers=None,
        can_attend=can_attend,
        can_join=can_join,
    )


def two_layers() -> tuple[Program, np.ndarray]:
    net = ProgramBuilder((16, 5, 6))
    spikes = net.lif("first", net.relay("relay", "input", limit=500))
    net.conv("last", net.lif("second", net.conv("conv", spikes, 32, (3, 3), padding=(1, 1))), 16)
    return net.finish(timesteps=3), net.samples(2, timesteps=3, largest=1000)


def test_all_of_the_trained_example_joins(mnist_checkpoint: Path) -> None:
    """Otherwise, tests on the example would say nothing about the kernels."""
    plan = plan_of(compile_checkpoint(mnist_checkpoint).program)
    steps = [step for segment in plan.segments for step in segment.steps]
    assert sum(isinstance(step, LayerStep) for step in steps) == 13
    assert sum(isinstance(step, AttentionStep) for step in steps) == 2
    alone = [step.name for step in steps if isinstance(step, OpStep) and isinstance(step.op, Conv2d)]
    assert alone == ["prologue.0"], "its input is 128 at most, one more than a byte of either sign holds"


def test_values_are_kept_in_as_few_bytes_as_hold_them(mnist_checkpoint: Path) -> None:
    from resformer.compiler.backends.sim.gpu.kernels import GpuKernels

    plan = plan_of(compile_checkpoint(mnist_checkpoint).program)
    kernels = GpuKernels(plan, torch.device("cpu"), Products())
    kept = {name: kernels.stored(name) for name in plan.values}
    for name, value in plan.values.items():
        assert value.is_spikes or value.magnitude.value <= torch.iinfo(torch.int32).max or kept[name] is torch.float64
        if kept[name] is torch.int16:
            assert value.magnitude.value <= 32767
    assert {torch.int16, torch.int32} <= set(kept.values())
    assert not kept[plan.output].is_complex
    assert kept[plan.output].is_floating_point


@pytest.mark.parametrize("wrong", ["spikes", "stream", "sums", "counts"])
def test_a_layer_that_is_wrong_runs_in_parts(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial compares each of a kernel's outputs."""
    from resformer.compiler.backends.sim.gpu.launch import LayerKernel, Outputs, Tiles

    right = LayerKernel.run

    def run(self: LayerKernel, x: torch.Tensor, other: torch.Tensor | None, outputs: Outputs, tiles: Tiles) -> None:
        right(self, x, other, outputs, tiles)
        broken = getattr(outputs, wrong)
        if broken is not None:
            broken.view(-1)[-1] ^= 1

    monkeypatch.setattr(products, "VERDICTS", {})
    monkeypatch.setattr(LayerKernel, "run", run)
    program, samples = two_layers()
    tried = Products()
    trace = run_interpreted(program, samples, record=True, products=tried)
    assert_same_trace(trace, reference.run(program, samples, record=True))
    refused = [note for note in tried.notes if "sums wrongly; replaced by a kernel for each of its parts" in note]
    assert any(note.startswith("conv: this machine's fused layer in Triton") for note in refused)


def test_a_kernel_that_triton_refuses_runs_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    import triton

    from resformer.compiler.backends.sim.gpu import loops

    class Refusing:
        def __getitem__(self, grid: object) -> object:
            raise triton.TritonError("no such instruction")

    monkeypatch.setattr(products, "VERDICTS", {})
    monkeypatch.setattr(loops, "synapses", Refusing())
    program, samples = two_layers()
    tried = Products()
    trace = run_interpreted(program, samples, record=True, products=tried)
    assert_same_trace(trace, reference.run(program, samples, record=True))
    assert any("does not run; replaced by a kernel for each of its parts" in note for note in tried.notes)


def attention() -> tuple[Program, np.ndarray]:
    """DSSA of two heads, whose trials compare all positions."""
    net = ProgramBuilder((32, 4, 4))
    x = net.lif("x", "input", vth=20)
    for name in ("y1", "y2"):
        net.conv(name, x, 32, (2, 2), stride=(2, 2))
    scores = net.matmul("scores", "y1", x, heads=2, transpose=True, limit=300)
    gates = net.lif("gates", scores, vth=100, bias=0)
    mixed = net.matmul("mixed", "y2", gates, heads=2, transpose=False, limit=300)
    net.conv("last", net.lif("out", mixed, vth=100, bias=0), 32)
    return net.finish(timesteps=3), net.samples(2, timesteps=3, largest=40)


@pytest.mark.parametrize("wrong", ["spikes", *((half, count) for half in range(2) for count in range(3))], ids=str)
def test_attention_that_is_wrong_runs_in_parts(wrong: str | tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial compares spikes and each count: clipped sums, potentials clipped from below, ties of either product."""
    from resformer.compiler.backends.sim.gpu.launch import AttentionKernel

    right = AttentionKernel.run

    def run(self: AttentionKernel, *inputs: Any) -> None:
        right(self, *inputs)
        spikes, counts = inputs[3:5]
        if isinstance(wrong, str):
            spikes.view(-1)[-1] ^= 1
        else:
            counts[wrong[0]][wrong[1]] += 1

    monkeypatch.setattr(products, "VERDICTS", {})
    program, samples = attention()
    tried = Products()
    assert_same_trace(run_interpreted(program, samples, record=False, products=tried), reference.run(program, samples))
    assert not [note for note in tried.notes if "fused attention" in note]

    monkeypatch.setattr(products, "VERDICTS", {})
    monkeypatch.setattr(AttentionKernel, "run", run)
    tried = Products()
    assert_same_trace(run_interpreted(program, samples, record=False, products=tried), reference.run(program, samples))
    refused = [note for note in tried.notes if "fused attention in Triton" in note]
    assert len(refused) == 1
    assert "sums wrongly; replaced by a kernel for each of its parts" in refused[0]


def assert_replaced_by_torch(tried: Products, *names: str, why: str) -> None:
    for name in names:
        notes = [note for note in tried.notes if note.startswith(f"{name}: ")]
        assert len(notes) == 1, tried.notes
        assert " in Triton (" in notes[0]
        assert notes[0].endswith(f" {why}; replaced by a kernel in PyTorch")


def alone() -> tuple[Program, np.ndarray]:
    """Neurons that read an input with a small range, and so have a kernel of their own."""
    program, samples = two_layers()
    return with_range(program, 1000), samples


@pytest.mark.parametrize("wrong", ["spikes", "stream", "counts"])
@pytest.mark.parametrize("record", [True, False])
def test_neurons_alone_that_are_wrong_run_in_torch(wrong: str, record: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from resformer.compiler.backends.sim.gpu.launch import Outputs, TailKernel

    right = TailKernel.run

    def run(self: TailKernel, x: torch.Tensor, other: torch.Tensor | None, outputs: Outputs) -> None:
        right(self, x, other, outputs)
        broken = getattr(outputs, wrong)
        if broken is not None:
            broken.view(-1)[-1] ^= 1

    monkeypatch.setattr(products, "VERDICTS", {})
    monkeypatch.setattr(TailKernel, "run", run)
    program, samples = alone()
    tried = Products()
    trace = run_interpreted(program, samples, record=record, products=tried)
    assert_same_as(trace, reference.run(program, samples, record=True), record=record)
    assert_replaced_by_torch(tried, "first", why="sums wrongly")


def pools() -> tuple[Program, np.ndarray]:
    net = ProgramBuilder((3, 6, 5))
    largest = net.max_pool("largest", "input", (3, 2), (1, 2), (1, 0))
    net.sum_pool("sum", largest, (2, 2), (1, 1))
    samples = net.samples(2, timesteps=2, largest=1000) - 900
    return with_range(net.finish(timesteps=2), 2000), samples


@pytest.mark.parametrize("wrong", [(0, 0, 0), (-1, -1, -1), (0, 3, 1)])
def test_pools_that_are_wrong_run_in_torch(wrong: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    from resformer.compiler.backends.sim.gpu import kernels

    right = kernels.pool

    def pool(x: torch.Tensor, made: torch.Tensor, *others: Any, **named: Any) -> None:
        right(x, made, *others, **named)
        made[wrong] += 1

    monkeypatch.setattr(products, "VERDICTS", {})
    monkeypatch.setattr(kernels, "pool", pool)
    program, samples = pools()
    tried = Products()
    trace = run_interpreted(program, samples, record=True, products=tried)
    assert_same_trace(trace, reference.run(program, samples, record=True))
    assert_replaced_by_torch(tried, "largest", "sum", why="sums wrongly")


def test_neurons_and_pools_alone_that_triton_refuses_run_in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    import triton

    from resformer.compiler.backends.sim.gpu import loops

    class Refusing:
        def __getitem__(self, grid: object) -> object:
            raise triton.TritonError("no such instruction")

    monkeypatch.setattr(products, "VERDICTS", {})
    monkeypatch.setattr(loops, "neurons", Refusing())
    monkeypatch.setattr(loops, "pool", Refusing())
    for (program, samples), names in ((alone(), ("first",)), (pools(), ("largest", "sum"))):
        tried = Products()
        trace = run_interpreted(program, samples, record=True, products=tried)
        assert_same_trace(trace, reference.run(program, samples, record=True))
        assert_replaced_by_torch(tried, *names, why="does not run")


@pytest.mark.parametrize("relayed", [False, True])
@pytest.mark.parametrize("summands", [1, 2])
def test_the_trial_of_neurons_meets_all_that_it_counts(summands: int, relayed: bool) -> None:
    from resformer.compiler.backends.sim.gpu.kernels import TAIL
    from resformer.compiler.backends.sim.gpu.launch import Tail
    from resformer.compiler.backends.sim.gpu.trials import Summand, TailTrial

    channels, mantissas = 5, np.array([0, 7, -300, 64, 4095], np.int16)
    lif = LIF(SPIKE, 60_000, LOIHI.du_no_memory, 1, mantissas, np.zeros(channels, np.int8))
    relay = Relay(GRADED, np.arange(channels, dtype=np.int32), 100_000, 1) if relayed else None
    tail = Tail(relay, lif, channels, 100_000 if relayed else LOIHI.a_max, may_clip=True)
    each = Summand(200_000 if relayed else 65_000, torch.int32, static=False)
    trial = TailTrial("lif", tail, 5, (each,) * summands, 6, 2, torch.int32, torch.device("cpu"))
    met = np.zeros(3, np.int64)
    for drawn, inputs in trial.trials(TAIL.limit):
        whole, own = TAIL.make(trial)(*inputs)
        assert drawn.is_right(inputs, (whole, own))
        met += whole.counts.numpy()
        for name in ("stream", "spikes", "counts"):
            for at in np.random.default_rng(1).integers(0, getattr(whole, name).numel(), 10):
                wrong = getattr(whole, name).clone()
                wrong.view(-1)[at] ^= 1
                assert not drawn.is_right(inputs, (whole._replace(**{name: wrong}), own))
    assert met[1:].all()
    assert bool(met[0]) == relayed


def test_what_a_kernel_leaves_out_makes_it_another() -> None:
    """A tail that can reach neither floor nor limit is compiled without checks of them, and has its own verdict."""
    from resformer.compiler.backends.sim.gpu.launch import Tail
    from resformer.compiler.backends.sim.gpu.trials import Summand, TailTrial

    zeros = np.zeros(1, np.int16), np.zeros(1, np.int8)
    tail = Tail(Relay(GRADED, np.zeros(1, np.int32), 100), LIF(SPIKE, 9, 4095, 2048, *zeros), 1, 100, may_clip=False)
    keys = {
        TailTrial("lif", each, 2, (Summand(100, torch.int32, static=True),), 1, 1, None, torch.device("cpu")).key
        for each in (tail, replace(tail, may_clip=True), replace(tail, reach=LOIHI.a_max))
    }
    assert len(keys) == 3


@pytest.mark.parametrize("by_channel", [False, True])
@pytest.mark.parametrize("reach", [127, 128, 32639, 32640, 8388607])
def test_digits_hold_every_number(reach: int, by_channel: bool) -> None:
    from resformer.compiler.backends.sim.gpu import loops
    from resformer.compiler.backends.sim.products import digits_for

    count, patches, padded, channels = digits_for(reach), 5, 32, 3
    rng = np.random.default_rng(reach)
    y = rng.integers(-reach, reach + 1, (2, patches, channels)).astype(np.int32)
    y[0, 0], y[1, 1] = reach, -reach
    planes = torch.empty((count, 2, padded, channels), dtype=torch.int8)
    bias = torch.zeros(channels, dtype=torch.int32)
    loops.digits[2, 1](
        torch.from_numpy(y), bias, planes, 2 * padded, patches, channels,
        PADDED=padded, DIGITS=count, BY_CHANNEL=by_channel, ROWS=32, CHANNELS=16,
    )  # fmt: skip
    found = planes.numpy().astype(np.int64)
    if by_channel:
        found = found.reshape(count, 2, channels, padded).swapaxes(2, 3)
    whole = sum(found[digit] * 256 ** (count - 1 - digit) for digit in range(count))
    np.testing.assert_array_equal(whole[:, :patches], y)
    assert not whole[:, patches:].any()


def test_samples_travel_in_as_few_bytes_as_their_range_takes() -> None:
    from resformer.compiler.backends.sim.gpu.batches import Batches
    from resformer.compiler.backends.sim.gpu.kernels import GpuKernels

    program, samples = two_layers()
    for promised, wanted in ((program, torch.int32), (with_range(program, 100), torch.int8)):
        plan = build_plan(promised, samples=2, static_input=False, keep_graded=False, workers=None)
        engine = Engine(plan, GpuKernels(plan, torch.device("cpu"), Products()))
        batches = Batches(engine, torch.device("cpu"), capture=False)
        assert batches.stage(samples) == (samples.min(), samples.max())
        assert batches.staged.dtype is wanted


@pytest.mark.parametrize("kind", [np.uint16, np.uint32, np.uint64])
def test_samples_without_a_sign_are_looked_at(kind: type) -> None:
    """torch cannot compare values of these types."""
    from resformer.compiler.backends.sim.gpu.batches import Batches
    from resformer.compiler.backends.sim.gpu.kernels import GpuKernels

    program, samples = two_layers()
    plan = build_plan(program, samples=2, static_input=False, keep_graded=False, workers=None)
    batches = Batches(
        Engine(plan, GpuKernels(plan, torch.device("cpu"), Products())), torch.device("cpu"), capture=False
    )
    given = np.abs(samples)
    assert batches.stage(given.astype(kind)) == (given.min(), given.max())
    np.testing.assert_array_equal(batches.staged.numpy(), given)


def with_range(program: Program, most: int) -> Program:
    from support.networks import with_input_range

    return with_input_range(program, np.array([-most, most]))


def test_offsets_beyond_32_bits_run_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of 32-bit offsets is lowered here below what a step has, so that the kernels' offsets would wrap."""
    from resformer.compiler.backends.sim.gpu import kernels

    started: list[str] = []
    right = kernels.LayerKernel.run

    def run(self: kernels.LayerKernel, *arguments: object) -> None:
        started.append(self.synapses.name)
        right(self, *arguments)

    monkeypatch.setattr(kernels, "ELEMENTS", 2 * 5 * 6 * 32)
    program, samples = two_layers()
    expected = reference.run(program, samples, record=True)
    run_interpreted(program, samples, record=True)  # all kernels are tried by now
    monkeypatch.setattr(kernels.LayerKernel, "run", run)
    assert_same_trace(run_interpreted(program, samples, record=True), expected)
    assert "conv" not in started, "2 samples of 5x6 positions and 32 channels"


def test_a_layer_beyond_32_bits_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, tiles are timed by launches; a launch that leaves its memory would break all later ones."""
    from resformer.compiler.backends.sim.gpu import kernels

    timed: list[str] = []
    right = kernels.GpuKernels._layer_tiles

    def layer_tiles(self: kernels.GpuKernels, kernel: kernels.LayerKernel, *others: object) -> object:
        timed.append(kernel.synapses.name)
        return right(self, kernel, *others)

    monkeypatch.setattr(kernels.GpuKernels, "_layer_tiles", layer_tiles)
    program, samples = two_layers()
    run_interpreted(program, samples, record=True)
    assert "conv" in timed
    timed.clear()
    monkeypatch.setattr(kernels, "ELEMENTS", 2 * 5 * 6 * 32)
    run_interpreted(program, samples, record=True)
    assert "conv" not in timed


@pytest.mark.parametrize("most", [2 * 64 * 16, 3 * 2 * 32 * 16], ids=["a step of x", "a plane of digits"])
def test_attention_beyond_32_bits_runs_in_parts(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither timed nor run: 2 samples of 64 positions and 16 channels, or 3 steps of 16 patches that take 32."""
    from resformer.compiler.backends.sim.gpu import kernels

    net = ProgramBuilder((16, 8, 8))
    x = net.lif("x", "input", vth=5, bias=0)
    for name in ("y1", "y2"):
        net.conv(name, x, 16, (2, 2), stride=(2, 2))
    gates = net.lif("gates", net.matmul("scores", "y1", x, heads=2, transpose=True, limit=1000), vth=300, bias=0)
    mixed = net.matmul("mixed", "y2", gates, heads=2, transpose=False, limit=1000)
    net.conv("last", net.lif("out", mixed, vth=350, bias=0), 16)
    program, samples = net.finish(timesteps=3), net.samples(2, largest=20)
    expected = reference.run(program, samples)
    runs: list[int] = []
    right = kernels.AttentionKernel.run

    def run(self: kernels.AttentionKernel, *arguments: object) -> None:
        runs.append(self.plane_elements)
        right(self, *arguments)

    monkeypatch.setattr(kernels.AttentionKernel, "run", run)
    np.testing.assert_array_equal(run_interpreted(program, samples, record=False).logits, expected.logits)
    assert 3 * 2 * 32 * 16 in runs
    runs.clear()
    monkeypatch.setattr(kernels, "ELEMENTS", most)
    np.testing.assert_array_equal(run_interpreted(program, samples, record=False).logits, expected.logits)
    assert not runs


ONE_NUMBER_A_STEP = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from resformer.compiler.backends.sim.gpu import loops

given = dict.fromkeys(("x", "other", "relay_bias", "lif_bias", "tie", "stream"), "*i32")
given |= {"spikes": "*i8", "counts": "*i64"}
constants = dict.fromkeys(("x_step", "other_step", "channels", "CHANNELS", "SHIFT"), 1)
constants |= {"ROWS": 32, "KEEP": 2048, "V_MAX": 8}
constants |= dict.fromkeys(("OTHER", "RELAY", "STREAM", "FLOORS", "TIES", "FIRE"), True)
names = loops.neurons.arg_names
signature = {name: "constexpr" if name in constants else given.get(name, "i32") for name in names}
triton.compile(ASTSource(loops.neurons, signature, constants), target=GPUTarget("cuda", 90, 32))
print("compiled")
"""


def test_a_single_neuron_compiles(tmp_path: Path) -> None:
    """Triton, unlike its interpreter, compiles in an argument of 1, such as the size of a step of one number."""
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", ONE_NUMBER_A_STEP], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == "compiled\n", done.stderr
