"""E2 where libraries sum wrongly: kernels are tried before they are trusted, and products can be checked in a run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resformer.compiler.backends.sim import SimBackend, cpu_kernels, products
from resformer.compiler.backends.sim.products import HeadProducts, Int8Product, Products, Synapses
from resformer.compiler.backends.sim.torch_kernels import HEAD_PRODUCTS, MATRIX
from resformer.compiler.ir import reference
from resformer.compiler.ir.program import Program
from resformer.errors import BackendFailedError
from support.networks import compiled, images, with_input_range
from support.program_builder import ProgramBuilder, tiny_resformer
from support.sim_runs import assert_same_as

SUSPECT = [
    # channels, kernel, stride, map: shapes that an Intel Xeon with AMX sums wrongly, or did with fewer instructions
    (32, 4, 4, 16),
    (48, 4, 4, 8),
    (32, 6, 6, 12),
    (16, 8, 8, 16),
    (24, 8, 8, 8),
    (32, 8, 8, 8),
    (32, 10, 10, 20),
    (16, 12, 12, 24),
    (48, 12, 12, 12),
    (32, 14, 14, 14),
    (8, 16, 16, 32),
    (56, 16, 16, 16),
    (16, 8, 2, 16),
    (24, 8, 4, 16),
    (24, 8, 2, 12),
    (32, 8, 2, 32),
    (32, 8, 4, 32),
    (48, 8, 4, 16),
]
NEEDS_INT8 = pytest.mark.skipif(
    not cpu_kernels.int8_is_exact() or cpu_kernels.compiled_loops() is None, reason="no exact int8 kernels, or no numba"
)
INSTRUCTIONS = {
    "AVX2": "avx2",
    "AVX512_CORE": "avx512bw",
    "AVX512_CORE_VNNI": "avx512_vnni",
}
"""Instruction sets to which oneDNN can be limited, and the flag of processors that have them."""


def a_convolution(channels: int, kernel: int, stride: int, size: int) -> tuple[Program, np.ndarray]:
    """A convolution of spikes and neurons that fire by its sums."""
    net = ProgramBuilder((channels, size, size), kernel)
    spikes = net.lif("spikes", "input", vth=5, bias=0)
    conv = net.conv("conv", spikes, channels, (kernel, kernel), stride=(stride, stride))
    net.conv("last", net.lif("neurons", conv, vth=1000), channels)
    samples = net.samples(2, largest=20)
    return with_input_range(net.finish(timesteps=2), samples), samples


@pytest.fixture
def nothing_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the verdicts of other tests, and let sim take a library's int8 products before all others."""
    monkeypatch.setattr(products, "VERDICTS", {})
    monkeypatch.setattr(cpu_kernels, "int8_matrices_pay", lambda: True)
    monkeypatch.setattr(cpu_kernels, "events_pay", lambda: False)


# --- shapes that are suspect


@pytest.mark.parametrize("shape", SUSPECT, ids=str)
def test_suspect_shapes(shape: tuple[int, int, int, int]) -> None:
    program, samples = a_convolution(*shape)
    expected = reference.run(program, samples, record=True)
    assert 0 < expected.spikes["neurons"].count < expected.spikes["neurons"].size
    for record in (True, False):
        assert_same_as(SimBackend().run(program, samples, record=record), expected, record=record)
    assert_same_as(SimBackend().run(program, samples, record=True, self_check=True), expected, record=True)


@pytest.mark.parametrize("patch", [4, 6, 8, 12, 16])
def test_networks_like_those_for_gestures(make_model: Callable[..., Any], tmp_path: Path, patch: int) -> None:
    """The authors' network for DVS-Gesture, small: 32 channels, a 3x3 stem, PLIF, frames, patches of any size."""
    model = make_model(
        stem="conv3x3", neuron="PLIF", planes=(32, 48), num_heads=(1, 3), patch_sizes=(patch, patch // 2),
        group_sizes=(32, 32), timesteps=3, image_size=2 * patch, in_channels=3,
    )  # fmt: skip
    program = compiled(model, tmp_path)
    samples = images(program, 2, 3)
    expected = reference.run(program, samples, record=True)
    assert_same_as(SimBackend().run(program, samples, record=True), expected, record=True)
    assert_same_as(SimBackend().run(program, samples, self_check=True), expected, record=False)


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
def test_whatever_instructions_a_machine_has(instructions: str) -> None:
    """Runs the tests above in a process whose oneDNN is limited to some instructions; here they run with all."""
    cpuinfo = Path("/proc/cpuinfo")
    known = cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else ""
    if INSTRUCTIONS[instructions] not in known:
        pytest.skip(f"this processor has no {instructions}")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, __file__, "-k", "suspect or gestures"],
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": instructions},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(SUSPECT) + 5} passed" in done.stdout


# --- kernels broken on purpose


def flip_one(kernel: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A kernel whose last sum is one too large; int64 products, which are the last resort, stay right."""

    def broken(*arguments: Any, **options: Any) -> torch.Tensor:
        made = kernel(*arguments, **options)
        if made.dtype is torch.int64:
            return made
        made.view(-1)[-1:].add_(1) if made.is_contiguous() else made[(-1,) * made.ndim].add_(1)
        return made

    return broken


BREAKABLE = {
    "int8 convolution": (torch.ops.onednn, "qconv2d_pointwise"),
    "matrix product in int8": (torch, "_int_mm"),
    "convolution in float32": (torch, "mkldnn_convolution"),
    "matrix product in float": (torch, "matmul"),
}


@NEEDS_INT8
@pytest.mark.usefixtures("nothing_tried")
@pytest.mark.parametrize("kernel", BREAKABLE)
def test_a_kernel_with_one_wrong_sum_is_replaced(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program, net = tiny_resformer(width=32)
    samples = net.samples(2)
    program = with_input_range(program, samples)
    expected = reference.run(program, samples, record=True)
    owner, name = BREAKABLE[kernel]
    monkeypatch.setattr(owner, name, flip_one(getattr(owner, name)))
    backend = SimBackend()
    assert backend.notes == ()
    for record in (False, True):
        assert_same_as(backend.run(program, samples, record=record), expected, record=record)
    assert any(f"this machine's {kernel}" in note and "sums wrongly; replaced by a" in note for note in backend.notes)
    if kernel == "int8 convolution":
        wanted = (
            "layers.0.0.Wproj: this machine's int8 convolution (kernel 1x1, 32 channels) sums wrongly; "
            "replaced by a matrix product in int8"
        )
        assert wanted in backend.notes


@NEEDS_INT8
@pytest.mark.usefixtures("nothing_tried")
@pytest.mark.parametrize("kernel", BREAKABLE)
def test_a_kernel_that_breaks_later_is_noticed_by_self_check(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program, net = tiny_resformer(width=32)
    samples = net.samples(2)
    program = with_input_range(program, samples)
    backend = SimBackend()
    backend.run(program, samples, record=True, self_check=True)
    owner, name = BREAKABLE[kernel]
    monkeypatch.setattr(owner, name, flip_one(getattr(owner, name)))
    with pytest.raises(BackendFailedError, match=rf"^(layers|prologue|classifier)\S*: a {kernel}.* summed wrongly"):
        backend.run(program, samples, record=True, self_check=True)


@NEEDS_INT8
@pytest.mark.usefixtures("nothing_tried")
def test_products_of_fused_attention_are_tried_and_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The products are a library's; test_sim_strips tries our own."""
    monkeypatch.setattr(cpu_kernels, "strip_kernels", tuple)
    net = ProgramBuilder((16, 8, 8))
    x = net.lif("x", "input", vth=5, bias=0)
    for name in ("y1", "y2"):
        net.conv(name, x, 16, (2, 2), stride=(2, 2))
    scores = net.matmul("scores", "y1", x, heads=2, transpose=True, limit=10_000)
    mixed = net.matmul("mixed", "y2", net.lif("gates", scores, bias=0), heads=2, transpose=False, limit=10_000)
    net.conv("last", net.lif("out", mixed, bias=0), 16)
    samples = net.samples(2, largest=20)
    program = with_input_range(net.finish(timesteps=3), samples)
    expected = reference.run(program, samples)
    trusting = SimBackend()
    assert_same_as(trusting.run(program, samples, self_check=True), expected, record=False)
    right = torch._int_mm
    monkeypatch.setattr(torch, "_int_mm", flip_one(right))
    with pytest.raises(BackendFailedError, match=r"^scores: a matrix product in int8 \(64x8 by 8x\d+\) summed wrongly"):
        trusting.run(program, samples, self_check=True)
    products.VERDICTS.clear()
    backend = SimBackend()
    assert_same_as(backend.run(program, samples), expected, record=False)
    assert {note.split(":")[0] for note in backend.notes} >= {"scores", "mixed"}


@pytest.mark.usefixtures("nothing_tried")
def test_where_every_kernel_is_wrong_the_node_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    net = ProgramBuilder((4, 1, 1))
    net.dense("dense", net.flatten("flatten", "input"), 3)
    samples = net.samples(2)
    program = with_input_range(net.finish(), samples)
    right = torch.matmul
    monkeypatch.setattr(torch, "matmul", lambda *arguments: right(*arguments) + 1)
    with pytest.raises(BackendFailedError, match=r"^dense: this machine has no kernel .*int64 matrix product sums"):
        SimBackend().run(program, samples)


@pytest.mark.usefixtures("nothing_tried")
def test_notes_are_of_the_last_program() -> None:
    backend = SimBackend()
    for shape in (SUSPECT[0], (32, 1, 1, 8)):
        backend.run(*a_convolution(*shape))
    assert not [note for note in backend.notes if "4x4" in note]


@pytest.mark.usefixtures("nothing_tried")
def test_equal_layers_are_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    once = products._try

    def count(product: Any, kernel: Any) -> str:
        tried.append(product.name)
        return once(product, kernel)

    monkeypatch.setattr(products, "_try", count)
    net = ProgramBuilder((16, 4, 4))
    for index in range(5):
        (*_, last) = net.nodes
        net.conv(f"conv{index}", net.lif(f"lif{index}", last), 16)
    samples = net.samples(1)
    program = with_input_range(net.finish(), samples)
    SimBackend().run(program, samples)
    assert len(tried) == len(set(tried)) == 1
    SimBackend().run(program, samples)
    assert len(tried) == 1


# --- the check itself


SIZES = st.integers(1, 5)


@settings(max_examples=60)
@given(
    data=st.data(),
    groups=st.integers(1, 3),
    per_group=st.tuples(SIZES, SIZES),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    biased=st.booleans(),
    graded=st.booleans(),
)
def test_the_check_of_synapses_finds_every_single_error(
    data, groups, per_group, kernel, stride, padding, dilation, biased, graded
) -> None:
    """It accepts torch's float64 convolution, and no result with one wrong sum."""
    outputs = groups * per_group[1]
    synapses = Synapses(
        name="conv",
        weight=np.ones((outputs, per_group[0], *kernel), np.int8),
        weight_exp=np.zeros(outputs, np.int8),
        bias=np.full(outputs, int(biased), np.int32),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        images=2,
        size=(8, 7),
        dtype=torch.float64 if graded else torch.uint8,
        reach=1000 if graded else 1,
        sum_dtype=torch.float64,
        out_dtype=torch.float64,
        device=torch.device("cpu"),
    )
    for drawn, (image,) in synapses.trials(2**24):
        weight = drawn.weight.astype(np.float64) * 2.0 ** drawn.weight_exp[:, None, None, None]
        made = torch.nn.functional.conv2d(
            image.double().permute(0, 3, 1, 2), torch.from_numpy(weight), torch.from_numpy(drawn.bias).double(),
            stride, padding, dilation, groups,
        )  # fmt: skip
        result = made.permute(0, 2, 3, 1).reshape(-1, outputs).contiguous()
        assert drawn.is_right((image,), result)
        assert float(result.abs().max()) < 2**24
        at = data.draw(st.integers(0, result.numel() - 1))
        for error in (1.0, -256.0, 0.5, float("nan"), float("inf")):
            wrong = result.clone()
            wrong.view(-1)[at] += error
            assert not drawn.is_right((image,), wrong)


@pytest.mark.parametrize("types", [(torch.float64, torch.float32), (torch.float32, torch.float32)])
def test_types_that_hold_the_real_sums_are_not_tried_with_larger_ones(types: tuple[torch.dtype, torch.dtype]) -> None:
    """Float32 holds the sums of these weights of 1, but not those of the largest int8 weights."""
    synapses = Synapses(
        name="dense",
        weight=np.ones((8, 63, 1, 1), np.int8),
        weight_exp=np.zeros(8, np.int8),
        bias=np.zeros(8, np.int32),
        stride=(1, 1),
        padding=(0, 0),
        dilation=(1, 1),
        groups=1,
        images=3,
        size=(1, 1),
        dtype=torch.float64,
        reach=45_391,
        sum_dtype=types[0],
        out_dtype=types[1],
        device=torch.device("cpu"),
    )
    for kernel in MATRIX:
        if kernel.limit >= synapses.reach * synapses.depth:
            products = Products()
            assert products.bind(synapses, [kernel]) is not None
            assert not products.notes


@pytest.mark.parametrize("transpose", [True, False])
def test_the_check_of_head_products_finds_every_single_error(transpose: bool) -> None:
    shapes = ((3, 2, 9, 2, 4), (3, 2, 5, 2, 4)) if transpose else ((3, 2, 9, 2, 5), (3, 2, 5, 2, 4))
    asked = HeadProducts("product", *shapes, transpose, 1000, torch.float64, torch.device("cpu"))
    for drawn, (gates, y) in asked.trials(2**24):
        by_definition = "tnphd,tnqhd->tnphq" if transpose else "tnphq,tnqhd->tnphd"
        result = torch.from_numpy(np.einsum(by_definition, gates.numpy().astype(np.int64), y.long().numpy())).double()
        result = result.contiguous()
        assert drawn.is_right((gates, y), result)
        for at in range(result.numel()):
            wrong = result.clone()
            wrong.view(-1)[at] += 1
            assert not drawn.is_right((gates, y), wrong)


def test_the_check_of_int8_products_finds_every_single_error() -> None:
    left, right = torch.zeros(6, 20, dtype=torch.int8)[:, :4], torch.zeros(7, 4, dtype=torch.int8).T
    for drawn, (spikes, digits, out) in Int8Product.of("product", left, right).trials(2**31):
        assert (spikes.stride(), digits.stride()) == (left.stride(), right.stride())
        assert (int(digits.min()), int(digits.max())) == (-128, 127)
        result = torch.from_numpy(spikes.numpy().astype(np.int64) @ digits.numpy().astype(np.int64))
        assert drawn.is_right((spikes, digits, out), result.int())
        for at in range(result.numel()):
            wrong = result.int()
            wrong.view(-1)[at] += 1
            assert not drawn.is_right((spikes, digits, out), wrong)


def test_trials_reach_the_largest_sums_of_int8() -> None:
    """Trials have weights of either extreme and spikes everywhere, which shows instructions that saturate."""
    net = ProgramBuilder((64, 4, 4))
    net.conv("conv", "input", 16)
    op = net.nodes["conv"].op
    synapses = Synapses(
        "conv", op.weight, op.weight_exp, op.bias, (1, 1), (0, 0), (1, 1), 1, 4, (4, 4),
        torch.uint8, 1, torch.float32, torch.float32, torch.device("cpu"),
    )  # fmt: skip
    ((drawn, (image,)),) = synapses.trials(2**24)
    assert bool((image[0] == 1).all())
    sums = drawn.weight.reshape(16, -1).astype(np.int64).sum(axis=1)
    assert (sums.min(), sums.max()) == (-128 * 64, 127 * 64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exact_kernels_need_no_floats(dtype: torch.dtype) -> None:
    """The last resort is chosen where both float products are wrong, and counts in int64."""
    assert [kernel.name for kernel in (MATRIX[-1], HEAD_PRODUCTS[-1])] == ["int64 matrix product"] * 2
    asked = HeadProducts("product", (1, 1, 4, 1, 3), (1, 1, 3, 1, 2), False, 1000, dtype, torch.device("cpu"))
    compute = Products().bind(asked, HEAD_PRODUCTS[-1:])
    ((_, inputs),) = asked.trials(2**20)
    assert compute(*inputs).dtype == torch.int64
    assert replace(asked).is_right(inputs, compute(*inputs))
