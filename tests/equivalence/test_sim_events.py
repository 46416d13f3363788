"""E2 of convolutions by events: against plain integers, and against the reference where they run in a network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from numpy.testing import assert_array_equal

from resformer.compiler.backends.sim import SimBackend, cpu_kernels, products
from resformer.compiler.backends.sim.cpu_kernels import EVENTS, event_convolution
from resformer.compiler.backends.sim.products import KernelRefusedError, Products, Synapses
from resformer.compiler.ir import reference
from resformer.compiler.ir.arrays import InvariantError
from support.networks import with_input_range
from support.program_builder import ProgramBuilder
from support.sim_runs import assert_same_as, what_events_lack

if lacking := what_events_lack():
    pytest.skip(lacking, allow_module_level=True)

Pair = tuple[int, int]


def synapses(
    outputs: int = 8, channels: int = 16, *, kernel: Pair = (3, 3), stride: Pair = (1, 1), padding: Pair = (1, 1),
    dilation: Pair = (1, 1), groups: int = 1, images: int = 3, size: Pair = (6, 5), largest: int = 127,
) -> Synapses:  # fmt: skip
    """Random synapses."""
    rng = np.random.default_rng(outputs * channels)
    weight = rng.integers(-largest - 1, largest + 1, (outputs, channels // groups, *kernel)).astype(np.int8)
    exponents, bias = rng.integers(0, 3, outputs).astype(np.int8), rng.integers(-99, 99, outputs).astype(np.int32)
    f32, cpu = torch.float32, torch.device("cpu")
    return Synapses(
        "conv", weight, exponents, bias, stride, padding, dilation, groups, images, size, torch.uint8, 1, f32, f32, cpu
    )


def defined(of: Synapses, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """The convolution by its definition, target by target in plain integers, (images * R * S, outputs)."""
    (top, left), (down, along), (rows, columns) = of.padding, of.dilation, of.kernel
    made = of.window.targets(of.size)
    padded = np.pad(image.astype(np.int64), ((0, 0), (top, top), (left, left), (0, 0)))
    out = np.zeros((len(image), *made, len(of.weight)), np.int64)
    each_out, each_in = len(of.weight) // of.groups, of.channels // of.groups
    weight = of.weight.astype(np.int64) << of.weight_exp.astype(np.int64)[:, None, None, None]
    for y, x, group in np.ndindex(*made, of.groups):
        y0, x0 = y * of.stride[0], x * of.stride[1]
        read = padded[:, y0 : y0 + rows * down : down, x0 : x0 + columns * along : along]
        read = read[..., group * each_in : (group + 1) * each_in]
        mine = slice(group * each_out, (group + 1) * each_out)
        out[:, y, x, mine] = np.einsum("nyxc,ocyx->no", read, weight[mine]) + of.bias[mine]
    return out.reshape(-1, len(of.weight))


CASES = {
    "plain": synapses(),
    "one channel, one output": synapses(1, 1, kernel=(1, 1), padding=(0, 0)),
    "not whole vectors": synapses(33, 37),
    "dense": synapses(65, 48, kernel=(1, 1), padding=(0, 0)),
    "wide": synapses(200, 24, kernel=(2, 2), padding=(0, 0)),
    "groups": synapses(96, 40, groups=4),
    "depthwise": synapses(24, 24, groups=24),
    "stride, padding and dilation of two sizes": synapses(
        12, 16, kernel=(3, 2), stride=(2, 1), padding=(2, 3), dilation=(1, 2), size=(7, 9)
    ),
    "padding larger than the image": synapses(8, 16, padding=(4, 4), size=(2, 1)),
    "sums beyond 16 bits, by taps": synapses(7, 150, kernel=(5, 5), padding=(2, 2), images=1),
    "sums beyond 16 bits, by parts": synapses(40, 1280, kernel=(1, 1), padding=(0, 0), images=1),
    "groups of sums beyond 16 bits": synapses(6, 1040, kernel=(3, 3), groups=2, images=1),
}


@pytest.mark.parametrize("density", [0.0, 0.02, 0.2, 0.7, 1.0])
@pytest.mark.parametrize("case", CASES)
def test_convolutions_are_what_they_are_defined_as(case: str, density: float) -> None:
    of = CASES[case]
    image = (np.random.default_rng(1).random((of.images, *of.size, of.channels)) < density).astype(np.uint8)
    made = event_convolution(of)(torch.from_numpy(image))
    assert made.dtype is torch.float32
    assert_array_equal(made.numpy(), defined(of, image))


def test_the_largest_sums_of_each_sign_are_held() -> None:
    """All weights of an output are equal and every input spikes; even so, no sum of a chunk may exceed 16 bits."""
    for channels in (255, 256, 257, 512, 1023, 2048):
        of = synapses(3, channels, kernel=(1, 1), padding=(0, 0), images=1)
        for extreme in (127, -128):
            of = replace(of, weight=np.full_like(of.weight, extreme))
            image = np.ones((1, *of.size, channels), np.uint8)
            assert_array_equal(event_convolution(of)(torch.from_numpy(image)).numpy(), defined(of, image))


def test_weights_of_one_sign_are_cut_where_they_must() -> None:
    from resformer.compiler.backends.sim.guarded_events import Convolution

    of = synapses(2, 258, kernel=(1, 1), padding=(0, 0))
    assert len(Convolution(replace(of, weight=np.full_like(of.weight, 127)))._lines.chunks) == 2
    assert len(Convolution(replace(of, weight=np.full_like(of.weight, -128)))._lines.chunks) == 3


def test_what_a_thread_summed_before_does_not_matter() -> None:
    """Convolutions of other sizes use the same memory again."""
    rng = np.random.default_rng(3)
    for case in (*CASES, *reversed(CASES)):
        of = CASES[case]
        image = (rng.random((of.images, *of.size, of.channels)) < 0.3).astype(np.uint8)
        assert_array_equal(event_convolution(of)(torch.from_numpy(image)).numpy(), defined(of, image), case)


@pytest.mark.parametrize("case", CASES)
def test_the_trial_takes_what_is_right(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "VERDICTS", {})
    assert Products().choose([CASES[case]], [EVENTS]) is EVENTS


def a_network() -> tuple[Any, Any]:
    net = ProgramBuilder((8, 9, 9))
    spikes = net.lif("spikes", "input", vth=5, bias=0)
    conv = net.conv("conv", spikes, 70, (3, 3), stride=(2, 2))
    net.conv("last", net.lif("neurons", conv, vth=100), 20)
    samples = net.samples(3, largest=20)
    return with_input_range(net.finish(timesteps=3), samples), samples


def test_a_network_by_events_is_the_references(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_kernels, "events_pay", lambda: True)
    monkeypatch.setattr(products, "VERDICTS", {})
    program, samples = a_network()
    expected = reference.run(program, samples, record=True)
    assert 0 < expected.spikes["neurons"].count < expected.spikes["neurons"].size
    for self_check in (False, True):
        backend = SimBackend()
        assert_same_as(backend.run(program, samples, record=True, self_check=self_check), expected, record=True)
        assert backend.notes == ()
    assert [key for key in products.VERDICTS if key[0] == EVENTS.name]


def test_one_wrong_sum_is_found_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    from resformer.compiler.backends.sim import events

    monkeypatch.setattr(cpu_kernels, "events_pay", lambda: True)
    monkeypatch.setattr(products, "VERDICTS", {})
    right = events.convolve

    def wrong(*arguments: Any) -> None:
        right(*arguments)
        arguments[-1][-1, -1] += 1

    monkeypatch.setattr(events, "convolve", wrong)
    program, samples = a_network()
    backend = SimBackend()
    assert_same_as(backend.run(program, samples), reference.run(program, samples), record=False)
    assert "conv: this machine's convolution by events (kernel 3x3, 8 channels) sums wrongly" in " ".join(backend.notes)


def test_what_does_not_fit_is_refused() -> None:
    of = synapses()
    convolve = event_convolution(of)
    image = torch.zeros(of.images, *of.size, of.channels, dtype=torch.uint8)
    for wrong in (image[..., 1:], image[:, 1:], image[0], image.to(torch.int32)):
        with pytest.raises(InvariantError, match="images of"):
            convolve(wrong)
    changed: list[dict[str, Any]] = [
        {"groups": 3},
        {"weight": of.weight.astype(np.int16)},
        {"weight_exp": of.weight_exp[1:]},
        {"bias": of.bias[1:]},
    ]
    for each in changed:
        with pytest.raises(InvariantError, match="conv"):
            event_convolution(replace(of, **each))


def test_what_its_lists_do_not_count_another_kernel_computes() -> None:
    of = synapses(16, 2**16, kernel=(1, 1), padding=(0, 0), images=1, size=(1, 1))
    with pytest.raises(KernelRefusedError, match="65536 channels of"):
        event_convolution(of)
