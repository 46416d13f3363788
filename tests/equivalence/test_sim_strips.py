"""E2 of DSSA by strips: every kernel of this machine against the reference, and what replaces a wrong kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from numpy.testing import assert_array_equal

from resformer.compiler.backends.sim import SimBackend, byte_products, cpu_kernels, products
from resformer.compiler.backends.sim.byte_products import in_words, shapes_of, strip_kernels
from resformer.compiler.backends.sim.cpu_kernels import BY_LIBRARY as LAST
from resformer.compiler.backends.sim.products import Products, StripProduct
from resformer.compiler.backends.sim.strip_trials import HeadAttention, attention_by
from resformer.compiler.backends.sim.widths import HELD
from resformer.compiler.ir import reference
from resformer.compiler.ir.arrays import InvariantError
from resformer.compiler.ir.ops import Conv2d
from resformer.compiler.ir.program import Program
from resformer.errors import BackendFailedError
from support.networks import with_input_range
from support.program_builder import ProgramBuilder
from support.sim_runs import assert_same_as, needs_compiled_loops

KERNELS = ("product of bytes in tiles", "product of bytes in vectors", "product of words in vectors")
SHAPES = [
    # channels, heads, map, patch, exponent of y's weights
    (16, 2, 8, 2, 0),
    (20, 1, 6, 2, 3),
    (32, 2, 7, 1, 0),
    (66, 1, 10, 2, 4),
    (96, 3, 12, 3, 2),
    (64, 1, 15, 5, 5),
]


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The only kernel that sim finds, as on a machine that has no other."""
    needs_compiled_loops()
    found = [each for each in strip_kernels() if each.name == request.param]
    if not found:
        pytest.skip(f"this processor has no {request.param}")
    monkeypatch.setattr(products, "VERDICTS", {})
    monkeypatch.setattr(cpu_kernels, "strip_kernels", lambda: tuple(found))
    return str(request.param)


def an_attention(
    channels: int, heads: int, size: int, patch: int, exponent: int
) -> tuple[Program, npt.NDArray[np.int32]]:
    """DSSA with clips, floors and ties; the exponent of y1's and y2's weights sets how large y1 is."""
    net = ProgramBuilder((channels, size, size), size)
    x = net.lif("x", "input", vth=5, bias=0)
    for name in ("y1", "y2"):
        net.conv(name, x, channels, (patch, patch), stride=(patch, patch))
        node = net.nodes[name]
        assert isinstance(node.op, Conv2d)
        exponents = node.op.weight_exp + np.int8(exponent)
        net.nodes[name] = replace(node, op=replace(node.op, weight_exp=exponents))
    scores = net.matmul("scores", "y1", x, heads=heads, transpose=True, limit=1000)
    gates = net.lif("gates", scores, vth=300, bias=0)
    mixed = net.matmul("mixed", "y2", gates, heads=heads, transpose=False, limit=1000)
    net.conv("last", net.lif("out", mixed, vth=350, bias=0), 16)
    samples = net.samples(2, largest=20)
    return with_input_range(net.finish(timesteps=3), samples), samples


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_attention_is_the_references(shape: tuple[int, int, int, int, int], kernel: str) -> None:
    program, samples = an_attention(*shape)
    expected = reference.run(program, samples, record=True)
    assert 0 < expected.spikes["out"].count < expected.spikes["out"].size
    assert expected.saturated["scores"] > 0
    for self_check in (False, True):
        backend = SimBackend()
        assert_same_as(backend.run(program, samples, self_check=self_check), expected, record=False)
        assert not [note for note in backend.notes if kernel.removeprefix("product") in note]


@pytest.mark.usefixtures("kernel")
def test_y_beyond_two_digits_goes_to_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    program, samples = an_attention(96, 1, 8, 4, 5)
    expected = reference.run(program, samples, record=True)
    by_library = cpu_kernels.Attention.run
    largest: list[int] = []

    def run(self: Any, frame: Any) -> None:
        largest.append(max(int(frame.read(name).view.abs().max()) for name in ("y1", "y2")))
        by_library(self, frame)

    monkeypatch.setattr(cpu_kernels.Attention, "run", run)
    assert_same_as(SimBackend().run(program, samples), expected, record=False)
    assert largest
    assert min(largest) > HELD - 200


def flip_one(right: Callable[..., Any]) -> Callable[..., None]:
    """A product whose last sum is one too large."""

    def broken(shapes: Any, second: Any, a: Any, b: Any, c: Any) -> None:
        right(shapes, second, a, b, c)
        c[-1, -1, -1] += 1

    return broken


def test_a_wrong_product_is_replaced(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program, samples = an_attention(*SHAPES[0])
    expected = reference.run(program, samples)
    strips = cpu_kernels.compiled_strips()
    monkeypatch.setattr(strips, "multiply_all", flip_one(strips.multiply_all))
    backend = SimBackend()
    assert_same_as(backend.run(program, samples), expected, record=False)
    for name in ("scores", "mixed"):
        wanted = f"{name}: this machine's {kernel} ({shown(kernel)}) sums wrongly; replaced by a product of a library"
        assert wanted in backend.notes


def shown(kernel: str) -> str:
    """The size of each product of the first shape, as notes state it."""
    return "16x32 by 32x16" if kernel == KERNELS[2] else "16x64 by 64x16"


def test_a_product_that_breaks_later_is_noticed_by_self_check(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program, samples = an_attention(*SHAPES[0])
    backend = SimBackend()
    backend.run(program, samples, self_check=True)
    strips = cpu_kernels.compiled_strips()
    monkeypatch.setattr(strips, "multiply_all", flip_one(strips.multiply_all))
    with pytest.raises(BackendFailedError, match=rf"^scores: a {kernel} \({shown(kernel)}\) summed wrongly"):
        backend.run(program, samples, self_check=True)


@pytest.mark.parametrize("count", range(6))
def test_attention_that_counts_wrongly_is_replaced(count: int, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program, samples = an_attention(*SHAPES[0])
    expected = reference.run(program, samples)
    strips = cpu_kernels.compiled_strips()
    right = strips.attend

    def broken(*arguments: Any) -> list[int]:
        counts = list(right(*arguments))
        counts[count] += 1
        return counts

    monkeypatch.setattr(strips, "attend", broken)
    backend = SimBackend()
    assert_same_as(backend.run(program, samples), expected, record=False)
    name = kernel.replace("product", "products")
    wanted = f"out: this machine's attention by {name} (8 channels, 16 patches) sums wrongly; replaced by a {LAST}"
    assert wanted in backend.notes


@pytest.mark.parametrize("name", ["attend", "multiply_all"])
def test_what_numba_does_not_compile_is_replaced(name: str, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version of LLVM may have the instructions under other names."""
    from numba.core.errors import NumbaError

    def refuse(*_arguments: Any) -> None:
        raise NumbaError("no such intrinsic")

    program, samples = an_attention(*SHAPES[0])
    monkeypatch.setattr(cpu_kernels.compiled_strips(), name, refuse)
    backend = SimBackend()
    assert_same_as(backend.run(program, samples), reference.run(program, samples), record=False)
    assert any(note.endswith(f"does not run; replaced by a {LAST}") for note in backend.notes)


@pytest.mark.parametrize("ties", [(True, False), (False, True), (False, False)])
def test_where_no_ties_are_counted_the_trial_counts_none(ties: tuple[bool, bool], kernel: str) -> None:
    """numba compiles other code where ties are not counted."""
    (chosen,) = cpu_kernels.strip_kernels()
    head = HeadAttention("out", 4, 8, 49, ties)
    met = np.zeros(6, np.int64)
    for drawn, inputs in head.trials(2**31):
        made = attention_by(chosen).make(head)(*inputs)
        assert drawn.is_right(inputs, made), kernel
        met += made[-6:].numpy()
    assert [bool(each) for each in met[2::3]] == list(ties)
    assert head.key != replace(head, ties=(True, True)).key


@pytest.mark.parametrize(("width", "patches", "steps"), [(1, 1, 1), (8, 49, 4), (64, 196, 2), (33, 20, 5)])
def test_the_trial_of_attention_meets_all_that_it_counts(width: int, patches: int, steps: int, kernel: str) -> None:
    (chosen,) = cpu_kernels.strip_kernels()
    head = HeadAttention("out", steps, width, patches)
    met = np.zeros(6, np.int64)
    for drawn, inputs in head.trials(2**31):
        made = attention_by(chosen).make(head)(*inputs)
        assert drawn.is_right(inputs, made), kernel
        met += made[-6:].numpy()
        for at in np.random.default_rng(1).integers(0, made.numel(), 30):
            wrong = made.clone()
            wrong[at] += 1 - 2 * wrong[at]
            assert not drawn.is_right(inputs, wrong)
    if min(width, patches, steps) > 1:
        assert met.all()


@pytest.mark.parametrize("words", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
def test_the_check_of_strips_finds_every_single_error(steps: int, words: bool) -> None:
    """Digits are laid out as for the kernels; the check passes a product of plain integers, and no other."""
    product = StripProduct("product", steps, 64, 16, words)
    terms, types = (32, (np.int16, np.int16)) if words else (64, (np.uint8, np.int8))
    for drawn, (spikes, digits, _) in product.trials(2**31):
        unpacked = digits.numpy().view(types[1]).reshape(steps, 16, 16, -1).swapaxes(2, 3).reshape(steps, terms, 16)
        gates = spikes.numpy().view(types[0])
        assert (unpacked.min(), unpacked.max()) == ((-HELD, HELD) if words else (-128, 127))
        assert int(gates.max()) == (1 if words else 255)
        result = torch.from_numpy((gates.astype(np.int64) @ unpacked.astype(np.int64)).astype(np.int32))
        assert drawn.is_right((spikes, digits, result), result)
        for at in np.random.default_rng(0).integers(0, result.numel(), 50):
            wrong = result.clone()
            wrong.view(-1)[at] -= 1
            assert not drawn.is_right((spikes, digits, wrong), wrong)


def test_kernels_of_strips_are_right_and_wrap_nothing(kernel: str) -> None:
    (chosen,) = cpu_kernels.strip_kernels()
    assert (shapes_of(chosen) is not None, in_words(chosen)) == (kernel == KERNELS[0], kernel == KERNELS[2])
    for depth, columns in ((64, 16), (128, 48), (448, 64), (192, 208)):
        product = StripProduct("product", 2, depth, columns, in_words(chosen))
        assert Products().choose([product], [chosen]) is chosen
        # a kernel sums operands wrongly that are laid out for another kernel, and the trial finds that
        assert Products().choose([replace(product, words=not product.words)], [chosen]) is None


@pytest.mark.parametrize(
    ("told", "words", "vectors", "tiles"),
    [
        ("", True, True, True),
        ("default", True, True, True),
        ("AVX512_CORE_AMX", True, True, True),
        ("AVX512_CORE_FP16", True, True, False),
        ("AVX512_CORE_VNNI", True, True, False),
        ("AVX512_CORE", True, False, False),
        ("AVX2_VNNI", True, False, False),
        ("AVX2", True, False, False),
        ("AVX", False, False, False),
        ("SSE41", False, False, False),
    ],
)
def test_what_onednn_may_not_use_strips_do_not_either(
    told: str, words: bool, vectors: bool, tiles: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", told)
    assert byte_products.allowed(byte_products.WORDS) == words
    assert byte_products.allowed(byte_products.VNNI) == vectors
    assert byte_products.allowed(byte_products.AMX) == tiles


def test_what_does_not_fit_is_refused() -> None:
    needs_compiled_loops()
    strips = cpu_kernels.compiled_strips()
    f32, sizes = np.float32, strips.Sizes(2, 2, 16, 20, 9)
    neurons = np.int32(1), f32(0), f32(0.5), f32(1), f32(-1)
    matrices = np.zeros((2, 16, 64), np.uint8), np.zeros((2, 16, 16), np.int32), np.zeros((2, 16, 16), np.int32)
    y, bias = np.zeros((2, 18, 40), f32), np.zeros(32, f32)
    half = strips.StripHalf(*matrices, 16, neurons, y, 8, bias, None)
    x = np.zeros((2, 40, 40), np.uint8)

    def attend(first: Any = half, second: Any = half, x: Any = x, x0: int = 8, p0: int = 8, shape: Any = sizes) -> None:
        strips.attend(None, shape, x, x0, first, second, np.zeros((2, 40, 40), np.uint8), p0, (0, shape.positions))

    wrong: list[dict[str, Any]] = [
        {"x0": 9},
        {"x0": -1},
        {"p0": 9},
        {"x": x[:1]},
        {"x": x[:, :39]},
        {"x": x.astype(np.int32)},
        {"x": np.asfortranarray(x)},
        {"shape": sizes._replace(samples=3)},
        {"shape": sizes._replace(heads=3)},
        {"shape": sizes._replace(width=17)},
        {"shape": sizes._replace(patches=17)},
        {"shape": sizes._replace(patches=-1)},
        {"shape": sizes._replace(positions=21)},
    ]
    changed: list[dict[str, Any]] = [
        {"second": 12},
        {"second": 52},
        {"second": 18},
        {"first": 9},
        {"bias": bias[:31]},
        {"y": y[:, :17]},
        {"y": y.astype(np.float64)},
        {"sums": matrices[2][:, :, :15]},
        {"sums": matrices[2][:1]},
        {"digits": matrices[1][:, :15]},
        {"digits": matrices[1].astype(np.int64)},
        {"second": None},
        {"spikes": matrices[0][:, :15]},
    ]
    wrong += [{name: half._replace(**each)} for each in changed for name in ("first", "second")]
    for each in wrong:
        with pytest.raises(InvariantError):
            attend(**each)
    for shapes in (np.zeros(63, np.uint8), np.zeros(64, np.int8)):
        with pytest.raises(InvariantError):
            strips.multiply_all(shapes, 0, *matrices)
    with pytest.raises(InvariantError):
        strips.multiply_all(np.zeros(64, np.uint8), None, *matrices)
    for row0, first, rows, width in ((25, 0, 16, 16), (0, 25, 16, 16), (0, 0, 17, 16), (-1, 0, 16, 16), (0, 0, 16, 17)):
        with pytest.raises(InvariantError):
            strips.spread_spikes(x, row0, first, rows, width, half)
        with pytest.raises(InvariantError):
            strips.fire_into_rows(half, rows, width, x, row0, first)
    for sample, head in ((2, 0), (0, 2), (-1, 0), (0, -1)):
        with pytest.raises(InvariantError):
            strips.digits_by_row(half, sizes, sample, head)
        with pytest.raises(InvariantError):
            strips.digits_by_channel(half, sizes, sample, head)
    assert_array_equal(x, 0)


@pytest.mark.parametrize("width", [5, 16, 37])
@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize("words", [False, True])
def test_two_digits_and_words_hold_all_that_they_should(width: int, by_row: bool, words: bool) -> None:
    needs_compiled_loops()
    strips = cpu_kernels.compiled_strips()
    rng = np.random.default_rng(width)
    patches, steps, second = 7, 2, 48
    y = rng.integers(-HELD + 3, HELD - 2, (steps, 2 * patches, width + 4)).astype(np.float32)
    bias = rng.integers(-3, 4, width).astype(np.float32)
    y[0, patches:, 2 : 2 + width] = np.linspace(-HELD, HELD, patches * width).round().reshape(patches, width) - bias
    matrices = (np.full((steps, 16, 128), 7, np.uint8), np.full((steps, 32, 48), 7, np.int32))
    neurons = np.int32(1), *(np.float32(each) for each in (0, 0.5, 1, -1))
    begins = None if words else second
    half = strips.StripHalf(*matrices, np.zeros((steps, 16, 48), np.int32), begins, neurons, y, 2, bias, None)
    split = strips.digits_by_row if by_row else strips.digits_by_channel
    split(half, strips.Sizes(2, 1, width, 0, patches), 1, 0)
    digits = half.digits.view(np.int16 if words else np.int8).reshape(steps, 32, 48, -1).swapaxes(2, 3)
    digits = digits.reshape(steps, -1, 48).astype(np.int64)
    whole = digits[:, :second] + (0 if words else 255 * digits[:, second : 2 * second])
    wanted = np.zeros((steps, 48, 48))
    taken = y[:, patches:, 2 : 2 + width] + bias
    if by_row:
        wanted[:, :patches, :width] = taken
    else:
        wanted[:, :width, :patches] = taken.swapaxes(1, 2)
    assert_array_equal(whole, wanted)
    assert not digits[:, 2 * second :].any()
