"""Modules with attention written in any way: the module, the float graphs and the program fire the same spikes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from spikingjelly.activation_based import functional, layer
from torch import nn

import resformer
from resformer.errors import UnsupportedError
from resformer.runtime.compiled import Compiled
from resformer.runtime.verify.result import QUANTIZED
from support.attention import AttentiveNet, Fires, Projections, TokenNet
from support.modules import calibrated
from support.verified import assert_equal

IMAGES = torch.rand(3, 3, 6, 6, generator=torch.Generator().manual_seed(3))


def attentive(how: str, example: torch.Tensor = IMAGES, **options: int) -> Compiled:
    return resformer.compile(calibrated(AttentiveNet(how, **options), example), example, "sim")


@pytest.mark.parametrize(
    "how", ["as the authors do", "two layers", "halves", "split", "transposed", "einsum", "batched"]
)
def test_attention_is_recognised_however_it_is_written(how: str) -> None:
    assert_equal(attentive(how), IMAGES)


@pytest.mark.parametrize("heads", [1, 8])
def test_one_head_and_one_channel_a_head(heads: int) -> None:
    assert_equal(attentive("as the authors do", heads=heads), IMAGES)


def test_a_scale_that_no_buffer_decides_stays_in_the_code() -> None:
    compiled = attentive("constant", heads=4)
    assert_equal(compiled, IMAGES, exact=False)
    note = compiled.verify(IMAGES, backend="sim").checks[QUANTIZED].note
    assert "by a constant that is no power of two" in note
    # four channels a head: the first scale is one, the second a half
    assert_equal(attentive("constant", heads=2), IMAGES)


def test_samples_may_come_before_time() -> None:
    frames = torch.rand(3, 5, 3, 6, 6, generator=torch.Generator().manual_seed(4))
    compiled = attentive("as the authors do", frames)
    assert compiled.program.timesteps == 5
    assert_equal(compiled, frames)


def test_the_buffers_of_the_quantized_module_make_its_scales_one() -> None:
    module = calibrated(AttentiveNet("as the authors do"), IMAGES)
    state = resformer.compile(module, IMAGES, "sim").quantized_state()
    rates = {name: tensor for name, tensor in state.items() if "rate" in name}
    assert len(rates) == 4
    for name, rate in rates.items():
        count = 4 if name.endswith("rate_x") else {"blocks.0.rate_attn": 9, "blocks.1.rate_attn": 4}[name]
        assert (torch.sqrt(rate * count) == 1).all(), name


def test_parts_of_one_layer_are_layers() -> None:
    frames = torch.rand(4, 3, 3, 6, 6, generator=torch.Generator().manual_seed(6))
    compiled = resformer.compile(calibrated(Projections(), frames), frames, "sim")
    assert_equal(compiled, frames.transpose(0, 1))
    weights = compiled.verify(frames.transpose(0, 1), backend="sim").checks[QUANTIZED].extra["weights"]
    assert weights == {"compared": 12 * 27 + 5 * 4, "mismatched": 0}


class LinearParts(nn.Module):
    """Neurons behind parts of a linear layer's vector."""

    def __init__(self, cut: Callable[[torch.Tensor], tuple[torch.Tensor, ...]]) -> None:
        super().__init__()
        self.cut = cut
        self.stem = layer.Conv2d(3, 4, 3, 2, step_mode="m")
        self.fire, self.left, self.right = Fires(), Fires(), Fires()
        self.both = layer.Linear(16, 12, step_mode="m")
        self.fc = layer.Linear(6, 5, step_mode="m")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = self.cut(self.both(self.fire(self.stem(x)).flatten(2)))
        return self.fc(self.left(left) + self.right(right))


@pytest.mark.parametrize(
    "cut",
    [lambda y: (y[..., :6], y[..., 6:]), lambda y: y.chunk(2, -1), lambda y: y.split(6, dim=2)],
    ids=["slices", "chunks", "split"],
)
def test_parts_of_a_linear_layer_are_layers(cut: Callable[[torch.Tensor], tuple[torch.Tensor, ...]]) -> None:
    frames = torch.rand(4, 3, 3, 6, 6, generator=torch.Generator().manual_seed(7))
    compiled = resformer.compile(calibrated(LinearParts(cut), frames), frames, "sim")
    assert compiled.program["left"].shape == compiled.program["right"].shape == (6, 1, 1)
    assert_equal(compiled, frames.transpose(0, 1))
    weights = compiled.verify(frames.transpose(0, 1), backend="sim").checks[QUANTIZED].extra["weights"]
    assert weights == {"compared": 4 * 27 + 12 * 16 + 5 * 6, "mismatched": 0}


class WholeAndPart(Projections):
    """Neurons on all channels of a layer, and others on some of them."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = layer.Conv2d(12, 4, 1, step_mode="m")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        whole = self.norm(self.stem(x))
        return self.fc((self.value(self.mix(self.query(whole))) + self.key(whole[:, :, 4:8])).mean((3, 4)))


def test_a_layer_read_whole_and_in_parts_is_refused() -> None:
    frames = torch.rand(4, 3, 3, 6, 6, generator=torch.Generator().manual_seed(6))
    with pytest.raises(UnsupportedError, match=r"(stem|norm\.bn): is read whole and in parts"):
        resformer.compile(calibrated(WholeAndPart(), frames), frames, "sim")


def test_tokens_are_views_of_maps() -> None:
    frames = torch.rand(4, 3, 3, 6, 6, generator=torch.Generator().manual_seed(5))
    module = calibrated(TokenNet(), frames)
    functional.reset_net(module)
    compiled = resformer.compile(module, frames, "sim")
    assert {compiled.program[name].shape for name in compiled.program.lif_names} == {(6, 3, 3), (10, 3, 3)}
    assert_equal(compiled, frames.transpose(0, 1))


def test_a_rate_of_zero_is_refused() -> None:
    module = calibrated(AttentiveNet("as the authors do"), IMAGES)
    module.blocks[1].rate_x.zero_()
    with pytest.raises(UnsupportedError, match=r"blocks\.1\.mul.*not finite.*until every head fires"):
        resformer.compile(module, IMAGES, "sim")
