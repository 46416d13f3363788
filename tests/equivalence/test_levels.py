"""Neurons of levels, I-LIF: in plain Python, then every backend against the definition, then modules that have them."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import resformer
from resformer.compiler.backends.lava.backend import LavaBackend
from resformer.compiler.ir import reference
from resformer.compiler.ir.ops import IntegerLIF, SpikeAttention
from resformer.compiler.ir.program import Program, may_clip
from resformer.compiler.ir.trace import CountTrain
from resformer.compiler.pipeline import MODULE
from resformer.errors import RangeError, UnsupportedError
from resformer.models.zoo.recognise import build
from resformer.models.zoo.sdt_v3 import SDTV3Architecture
from resformer.runtime.compiled import Compiled
from resformer.runtime.run.encode import encode
from resformer.runtime.verify.result import BACKEND, FLOAT_GRAPH, QUANTIZED
from support.modules import calibrated
from support.networks import with_input_range
from support.program_builder import ProgramBuilder
from support.sim_runs import assert_sim_is_the_reference
from support.traces import assert_same_trace


def alone(
    seed: int, vth: int, dv: int, even: bool, most: int, timesteps: int, frames: bool
) -> tuple[Program, np.ndarray]:
    """A population with many ties in its input."""
    net = ProgramBuilder((4, 3, 5), seed)
    net.integer_lif("levels", "input", vth=vth, dv=dv, even=even, most=most)
    op = net.nodes["levels"].op
    assert isinstance(op, IntegerLIF)
    op.bias[:2] = 0
    op.vth[1] += op.vth[1] & 1
    samples = net.samples(2, timesteps=timesteps if frames else None, largest=(most + 2) * vth)
    halves = np.arange(samples[..., 1, :, :].size).reshape(samples[..., 1, :, :].shape) % (2 * most + 3)
    samples[..., 1, :, :] = (halves - 1) * (op.vth[1] // 2)  # -1/2 of a threshold, to more than the most levels
    return with_input_range(net.finish(timesteps=timesteps), samples), samples


CASES: dict[str, Any] = {
    "seed": st.integers(0, 2**16),
    "vth": st.sampled_from([1, 30, 401, 20000]),
    "dv": st.sampled_from([0, 1000, 3072, 4096]),
    "even": st.booleans(),
    "most": st.sampled_from([1, 4, 255]),
    "timesteps": st.integers(1, 4),
    "frames": st.booleans(),
}


@settings(max_examples=25)
@given(**CASES)
def test_backends(**case: Any) -> None:
    pytest.importorskip("onnxruntime")
    from resformer.compiler.backends.onnx import OnnxBackend

    case["vth"] = min(case["vth"], 100000 // (case["most"] + 2))
    program, samples = alone(**case)
    expected = reference.run(program, samples, record=True)
    assert_sim_is_the_reference(program, samples)
    found = OnnxBackend().run(program, samples, record=True)
    assert_same_trace(found, expected)
    assert found.saturated == expected.saturated
    assert may_clip(program, "levels") or not expected.saturated["levels"]


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("dv", [4096, 3072])
def test_levels_are_those_of_fractions(even: bool, dv: int) -> None:
    program, samples = alone(seed=2, vth=30, dv=dv, even=even, most=4, timesteps=3, frames=True)
    op = program["levels"].op
    assert isinstance(op, IntegerLIF)
    found = reference.run(program, samples, record=True).graded["levels"]
    ties = 0
    for sample, channel, row, column in np.ndindex(2, 4, 3, 5):
        v, threshold, bias = 0, 64 * int(op.vth[channel, 0, 0]), int(op.bias[channel, 0, 0])
        for step in range(3):
            arriving = 64 * int(samples[sample, step, channel, row, column]) + bias
            v = math.trunc(Fraction(v * (4096 - dv), 4096)) + arriving
            exact = Fraction(v, threshold)
            # Python rounds a half to the even number
            level = min(max(round(exact) if even else math.floor(exact + Fraction(1, 2)), 0), 4)
            ties += exact.denominator == 2 and 0 < exact < 4
            assert found[step, sample, channel, row, column] == level
            v -= level * threshold
    assert ties > 10
    assert set(np.unique(found)) == {0, 1, 2, 3, 4}
    assert_same_trace(LavaBackend().run(program, samples, record=True), reference.run(program, samples, record=True))


class Rounds(torch.autograd.Function):
    """Rounding as authors write it: a function of its own, for its gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, most: int) -> torch.Tensor:
        ctx.save_for_backward(x)
        return torch.round(torch.clamp(x, min=0, max=most))


WAYS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "function": lambda x: Rounds.apply(x, 4) / 4,  # type: ignore[no-untyped-call]
    "half up": lambda x: torch.floor(torch.clamp(x, 0, 4) + 0.5) / 4,
    "rounded first": lambda x: x.round().clamp(min=0).clamp_max(4) * 0.25,
    "many": lambda x: torch.clamp(x, 0, 255).round(),
    "relu6": lambda x: F.relu6(x).round(),
    "hardtanh": lambda x: F.hardtanh(x, 0, 3).round() / 2,
    "straight through": lambda x: (x.clamp(0, 4) + (x.clamp(0, 4).round() - x.clamp(0, 4)).detach()) / 4,
}


class Levels(nn.Module):
    """Neurons of levels in one of the ways to write them."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return WAYS[self.how](x)


class LevelNet(nn.Module):
    """Images, without an axis of time: convolutions, attention of levels as SDT v3 writes it, and a classifier."""

    def __init__(
        self, how: str, *, shared: bool = False, scale: float = 0.5, channels: int = 8, heads: int = 2
    ) -> None:
        super().__init__()
        self.scale, self.shared, self.heads = scale, shared, heads
        self.stem = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), nn.BatchNorm2d(channels))
        self.first = Levels(how)
        self.pool = nn.MaxPool2d(2)
        for name in "qkv":
            conv = nn.Conv2d(channels, channels, 1, bias=False)
            self.add_module(f"{name}_conv", nn.Sequential(conv, nn.BatchNorm2d(channels)))
            self.add_module(f"{name}_levels", Levels(how))
        self.attended = Levels(how)
        self.proj = nn.Sequential(nn.Conv2d(channels, 8, 1, bias=False), nn.BatchNorm2d(8))
        self.last = Levels(how)
        self.head = nn.Linear(8 * 16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stream = self.stem(x)
        given = self.pool(self.first(stream))
        q, k, v = (
            (self.first if self.shared else self.get_submodule(f"{name}_levels"))(
                self.get_submodule(f"{name}_conv")(given)
            )
            .flatten(2).transpose(1, 2).reshape(len(x), 16, self.heads, -1).permute(0, 2, 1, 3)
            for name in "qkv"
        )  # fmt: skip
        made = (q @ k.transpose(-2, -1) @ v * self.scale).transpose(2, 3).reshape(len(x), -1, 16)
        stream = self.proj(self.attended(made).reshape(len(x), -1, 4, 4))
        return self.head(self.last(stream).flatten(1))


IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def assert_verifies(compiled: Compiled, samples: torch.Tensor, backend: str = "sim", *, exact: bool = True) -> None:
    """Require that no level differs in any check that must hold, and that populations send levels above one."""
    result = compiled.verify(samples, backend=backend)
    assert result.equivalent
    levels = sum(result.layers.values())
    for name, compared in {FLOAT_GRAPH: (len(MODULE.float_passes) + 1) * levels, BACKEND: levels}.items():
        assert (result.checks[name].compared, result.checks[name].mismatched) == (compared, 0)
    assert result.checks[QUANTIZED].demanded == exact, result.checks[QUANTIZED].note
    if exact:
        assert (result.checks[QUANTIZED].compared, result.checks[QUANTIZED].mismatched) == (levels, 0)


@pytest.mark.parametrize("how", WAYS)
def test_however_they_are_written(how: str) -> None:
    compiled = resformer.compile(calibrated(LevelNet(how), IMAGES), IMAGES, "sim")
    found = {node.name: node.op for node in compiled.program if isinstance(node.op, IntegerLIF)}
    assert set(found) == {"first", "q_levels", "k_levels", "v_levels", "attended", "last"}
    assert {op.max_spikes for op in found.values()} == {{"relu6": 6, "hardtanh": 3, "many": 255}.get(how, 4)}
    assert {op.even for op in found.values()} == {how != "half up"}
    assert any(isinstance(node.op, SpikeAttention) for node in compiled.program)
    assert_verifies(compiled, IMAGES)


def test_a_level_is_one_event() -> None:
    compiled = resformer.compile(calibrated(LevelNet("function"), IMAGES), IMAGES, "sim")
    result = compiled.run(IMAGES, record=True)
    cost = compiled.cost(result)
    levels = reference.run(
        compiled.program, encode(IMAGES.double().numpy(), compiled.program).values, record=True
    ).graded
    for name in compiled.program.spiking_names:
        train = result.spikes[name]
        assert isinstance(train, CountTrain)
        np.testing.assert_array_equal(train.values(), levels[name])
        sent = (levels[name] != 0).sum((1, 2))
        np.testing.assert_array_equal(cost.activity.spikes[name], sent.reshape(cost.activity.spikes[name].shape))
    assert cost.activity.sops["proj.0"].sum() == 8 * np.count_nonzero(levels["attended"])
    # in the second product each q meets four v, in the first each v four k, as tokens are more than channels
    wanted = 4 * (np.count_nonzero(levels["q_levels"]) + np.count_nonzero(levels["v_levels"]))
    attention = next(node.name for node in compiled.program if isinstance(node.op, SpikeAttention))
    assert cost.activity.sops[attention].sum() == wanted


def test_neurons_that_are_used_several_times() -> None:
    compiled = resformer.compile(calibrated(LevelNet("function", shared=True), IMAGES), IMAGES, "sim")
    assert compiled.program.spiking_names == ("first", "first.1", "first.2", "first.3", "attended", "last")
    assert_verifies(compiled, IMAGES)


@pytest.mark.parametrize("backend", ["sim", "lava", "onnx"])
def test_a_factor_that_is_no_shift_becomes_a_threshold(backend: str) -> None:
    module = calibrated(LevelNet("function", scale=0.3), IMAGES)
    assert_verifies(resformer.compile(module, IMAGES, "sim"), IMAGES, backend, exact=False)


@pytest.mark.parametrize("size", [16, 32])
def test_sdt_v3(size: int) -> None:
    architecture = SDTV3Architecture(embed_dims=(4, 4, 8, 8), depths=(1, 1), num_heads=2, num_classes=3)
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    compiled = resformer.compile(calibrated(build(architecture, timesteps=1), images), images, "sim")
    # a mean over several pixels, and all layers that add to it, are one layer of the last population
    assert_verifies(compiled, images, "onnx", exact=size == 16)


def test_counts_that_no_graded_spike_holds_are_refused() -> None:
    net = LevelNet("many", channels=144, heads=1)
    with pytest.raises(RangeError, match=r"first product may count to 9363600, the limit of a 24-bit value is 8388607"):
        resformer.compile(calibrated(net, IMAGES), IMAGES, "sim")


class Remembers(nn.Module):
    """SpikeYOLO's neurons: the share ``decay`` of what the last step left stays."""

    def __init__(self, decay: float, *, backwards: bool = False, fills: bool = False) -> None:
        super().__init__()
        self.decay, self.backwards, self.fills = decay, backwards, fills

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sent: list[torch.Tensor] = []
        filled = torch.zeros_like(x)
        for step in reversed(range(len(x))) if self.backwards else range(len(x)):
            potential = (before - spike.detach()) * self.decay + x[step] if sent else x[step]  # noqa: F821
            spike = Rounds.apply(potential, 4)  # type: ignore[no-untyped-call]
            before = potential.clone()  # noqa: F841
            sent.append(spike)
            if self.fills:
                filled[step] = spike
        if self.fills:
            return filled
        return torch.stack(sent[::-1] if self.backwards else sent)


class OverTime(nn.Module):
    """Neurons that remember, between convolutions; it takes (T, N, 3, 4, 4)."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.first, self.second = Remembers(**options), Remembers(**options)
        self.hidden, self.norm2 = nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6)
        self.head = nn.Linear(96, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.first(self.norm(self.conv(x.flatten(0, 1))).unflatten(0, x.shape[:2]))
        made = self.second(self.norm2(self.hidden(hidden.flatten(0, 1))).unflatten(0, x.shape[:2]))
        return self.head(made.flatten(2)).mean(0)


FRAMES = torch.rand(4, 2, 3, 4, 4, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize(
    ("decay", "exact", "fills"), [(0.25, True, False), (0.25, True, True), (1.0, True, False), (0.3, False, True)]
)
def test_neurons_that_remember(decay: float, exact: bool, fills: bool) -> None:
    compiled = resformer.compile(calibrated(OverTime(decay=decay, fills=fills), FRAMES), FRAMES, "sim")
    ops = [node.op for node in compiled.program if isinstance(node.op, IntegerLIF)]
    assert [op.dv for op in ops] == [round(4096 * (1 - decay))] * 2
    assert_verifies(compiled, FRAMES.transpose(0, 1), "onnx", exact=exact)


def test_steps_out_of_order_are_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"first: remembers, and is given step 3 when it runs for the 1st time"):
        resformer.compile(OverTime(decay=0.25, backwards=True), FRAMES, "sim")


class LayerScaled(nn.Module):
    """A last block whose branch is scaled by channel, as Model_Large of SDT v3 has it; only layers follow."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.conv = nn.Conv2d(3, 4, 3), Levels("half up"), nn.Conv2d(4, 4, 1)
        self.gamma, self.head = nn.Parameter(torch.rand(4)), nn.Linear(4, 3, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.conv(self.first(x)) * self.gamma[:, None, None]
        return self.head(x.mean((2, 3)))


def test_a_scaled_layer_behind_all_neurons() -> None:
    torch.manual_seed(6)
    assert_verifies(resformer.compile(LayerScaled(), IMAGES, "sim"), IMAGES, exact=False)


class Odd(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.conv, self.head, self.function = nn.Conv2d(3, 4, 1), nn.Linear(256, 2), function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.function(self.conv(x)).flatten(1))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x.round(), r"clamped to None and None, .*clamp their current to 0 and a whole number D"),
        (lambda x: x.clamp(-2, 2).round(), r"rounds what is clamped to -2 and 2, .*test_levels\.py"),
        (lambda x: x.clamp(0, 2.5).round(), r"clamped to 0 and 2\.5"),
        (lambda x: x.clamp(0, math.inf).round(), "rounds what is clamped to 0 and inf"),
        (lambda x: x.clamp(0, 4).floor(), "does not round to the nearest"),
        (lambda x: x.clamp(0, 300).round(), "has 300 levels, the limit is 255"),
    ],
)
def test_what_are_no_levels_is_refused(function: Callable[[torch.Tensor], torch.Tensor], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        resformer.compile(Odd(function), IMAGES, "sim")
