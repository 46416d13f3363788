"""Networks of the zoo, and attention of counts as code writes it: compiled from modules, every check at zero."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn
from torch.nn.utils import parametrizations

import resformer
from resformer.compiler.ir.ops import SpikeAttention, SpikeGate
from resformer.errors import ResformerWarning, UnsupportedError
from resformer.models.zoo.maxformer import MaxFormerArchitecture
from resformer.models.zoo.meta_spikeformer import MetaSpikeFormerArchitecture
from resformer.models.zoo.qkformer import QKFormerArchitecture
from resformer.models.zoo.recognise import build
from resformer.models.zoo.sdt import SDTArchitecture
from resformer.models.zoo.spikformer import SpikformerArchitecture
from resformer.models.zoo.spikingformer import SpikingformerArchitecture
from resformer.runtime.compiled import Compiled
from resformer.runtime.verify.module_sides import require_same_spikes
from resformer.runtime.verify.result import QUANTIZED
from support.modules import calibrated
from support.verified import assert_equal

ARCHITECTURES = {
    "Spikformer": (SpikformerArchitecture(embed_dims=16, depth=1, num_heads=2, mlp_ratio=2), 16),
    "Spikformer, ImageNet": (
        SpikformerArchitecture(embed_dims=16, depth=1, num_heads=2, mlp_ratio=1, layout="imagenet", pooling="0011"),
        16,
    ),
    "Spikingformer": (SpikingformerArchitecture(embed_dims=16, depth=1, num_heads=2, mlp_ratio=2), 32),
    "QKFormer": (QKFormerArchitecture(embed_dims=32, depths=(1, 1, 1), num_heads=4, mlp_ratio=1), 32),
    "QKFormer, ImageNet": (
        QKFormerArchitecture(embed_dims=32, depths=(1, 1, 1), num_heads=4, mlp_ratio=1, layout="imagenet"),
        64,
    ),
    "Spike-driven Transformer": (SDTArchitecture(embed_dims=16, depth=1, num_heads=2, mlp_ratio=2), 16),
    "Max-Former": (MaxFormerArchitecture(embed_dims=32, depths=(1, 1, 1), num_heads=2, mlp_ratio=1), 16),
    "Max-Former, events": (
        MaxFormerArchitecture(embed_dims=32, depths=(1, 1), num_heads=2, mlp_ratio=2, layout="event", in_channels=3),
        64,
    ),
}
"""Each architecture with the edge of its images."""

ROUNDED = ("Max-Former", "Max-Former, events")
"""Architectures whose head reads sums too large to be sent on exactly; their quantized module need not be equal."""


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_family_compiles(name: str) -> None:
    architecture, size = ARCHITECTURES[name]
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    compiled = resformer.compile(calibrated(build(architecture, timesteps=3), images), images, "sim")
    assert_equal(compiled, images, exact=name not in ROUNDED)


def test_meta_spikeformer() -> None:
    """No module has a place for the layer that its convolutions merge to, as no neurons lie between them.

    Among them are RepConv's, the first of which pads an image that others convolve again.
    """
    architecture = MetaSpikeFormerArchitecture(embed_dims=(4, 4, 24, 24), depths=(1, 1), num_heads=1, num_classes=3)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    compiled = resformer.compile(calibrated(build(architecture, timesteps=2), images), images, "sim")
    assert_equal(compiled, images, exact=False)


class CountingNet(nn.Module):
    """Spikes, attention of them in one of several ways to write it, and a classifier; it takes (T, N, 3, 4, 4)."""

    def __init__(
        self,
        how: str,
        *,
        heads: int = 2,
        scale: float = 0.5,
        width: int = 6,
        channels: int = 8,
        threshold: float = 0.5,  # two counts at once reach it: half or twice the factor changes spikes
    ) -> None:
        super().__init__()
        self.how, self.heads, self.scale = how, heads, scale
        self.widths = {"q": channels, "k": channels, "v": width}
        for name, count in self.widths.items():
            self.add_module(name, layer.Conv2d(3, count, 1, bias=False))
            self.add_module(f"{name}_bn", layer.BatchNorm2d(count))
            self.add_module(f"{name}_lif", neuron.LIFNode())
        self.attn_lif = neuron.LIFNode(v_threshold=threshold)
        self.head = layer.Linear(width, 3)
        functional.set_step_mode(self, "m")

    def tokens(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """(T, N, heads, tokens, channels of a head)."""
        fired = self.get_submodule(f"{name}_lif")(self.get_submodule(f"{name}_bn")(self.get_submodule(name)(x)))
        return fired.flatten(3).reshape(*x.shape[:2], self.heads, -1, 16).transpose(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (self.tokens(name, x) for name in "qkv")
        if self.how == "values first":
            made = q @ (k.transpose(-2, -1) @ v) * self.scale
        elif self.how == "scores first":
            made = (q @ k.transpose(-2, -1)) * self.scale @ v
        elif self.how == "scaled before":
            made = (q * self.scale) @ (k.mT @ v)
        elif self.how == "transposed":
            made = ((v.mT @ k) @ q.mT).mT * self.scale
        elif self.how == "einsum":
            made = torch.einsum("tnhij,tnhjc->tnhic", torch.einsum("tnhid,tnhjd->tnhij", q, k), v) * self.scale
        elif self.how == "twice":
            pairs = k.mT @ v
            made = q @ pairs / 4 * (4 * self.scale)
        elif self.how == "scaled everywhere":
            made = (q * 4 / 2) @ (k.mT * self.scale @ v / 2)
        elif self.how == "first alone":
            return self.attn_lif(q @ k.mT).flatten(2)
        else:  # added to spikes before neurons
            made = q @ (k.mT @ v) * self.scale + v
        made = made.transpose(3, 4).reshape(*x.shape[:2], -1, 4, 4)
        return self.head(self.attn_lif(made).flatten(3).mean(3)).mean(0)


FRAMES = torch.rand(3, 2, 3, 4, 4, generator=torch.Generator().manual_seed(2))


def counting(how: str, **options: float) -> Compiled:
    return resformer.compile(calibrated(CountingNet(how, **options), FRAMES), FRAMES, "sim")


@pytest.mark.parametrize(
    "how", ["values first", "scores first", "scaled before", "transposed", "einsum", "twice", "scaled everywhere"]
)
def test_attention_of_counts_however_it_is_written(how: str) -> None:
    compiled = counting(how)
    ops = [node.op for node in compiled.program if isinstance(node.op, SpikeAttention)]
    assert [op.num_heads for op in ops] == [2]
    assert_equal(compiled, FRAMES.transpose(0, 1))


@pytest.mark.parametrize("options", [{"heads": 1}, {"heads": 2, "width": 2, "channels": 2, "threshold": 0.25}])
def test_one_head_and_one_channel_a_head(options: dict[str, float]) -> None:
    assert_equal(counting("values first", **options), FRAMES.transpose(0, 1))


@pytest.mark.parametrize("scale", [8**-0.5, 2.0, 4.0])
def test_a_factor_that_is_no_shift_becomes_a_threshold(scale: float) -> None:
    assert_equal(counting("values first", scale=scale), FRAMES.transpose(0, 1), exact=scale >= 2)


@pytest.mark.parametrize(
    ("how", "options", "message"),
    [
        ("added", {"scale": 0.3}, r"scales matmul.1 by 0\.3; a factor of attention must be.*test_zoo_networks\.py"),
        ("values first", {"scale": -1.0}, r"scales matmul.1 by -1; a factor of attention must be"),
        ("first alone", {}, r"matmul: no lowering for a product of spikes with spikes alone; write attention"),
    ],
)
def test_what_attention_of_counts_is_refused(how: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        counting(how, **options)


class MaskingNet(nn.Module):
    """Spikes masked by spikes that stand for all pixels, or for a head's channels; it takes (T, N, 3, 4, 4)."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.conv, self.norm, self.lif = layer.Conv2d(3, 8, 1), layer.BatchNorm2d(8), neuron.LIFNode()
        self.mask_lif = neuron.LIFNode(v_threshold=0.5 if how == "heads of one channel" else 1.5)
        self.last, self.last_norm, self.last_lif = layer.Conv2d(8, 6, 3), layer.BatchNorm2d(6), neuron.LIFNode()
        self.head = layer.Linear(24, 3)
        functional.set_step_mode(self, "m")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.lif(self.norm(self.conv(x)))
        if self.how == "pixels":
            made = x * self.mask_lif(x.sum((3, 4), keepdim=True))
        elif self.how == "channels":
            made = x * (1 - self.mask_lif(x.sum(2, keepdim=True)))
        elif self.how == "other heads":
            mask = self.mask_lif(x.unflatten(2, (2, 4)).sum(3))
            made = (x.unflatten(2, (4, 2)) * mask.unsqueeze(2)).flatten(2, 3)
        else:
            by_head = x.unflatten(2, (2, 4) if self.how == "heads" else (8, 1))
            made = (self.mask_lif(by_head.sum(3, keepdim=True)) * by_head).flatten(2, 3)
        return self.head(self.last_lif(self.last_norm(self.last(made))).flatten(2)).mean(0)


@pytest.mark.parametrize("how", ["pixels", "channels", "heads", "heads of one channel"])
def test_masks_that_are_spread(how: str) -> None:
    compiled = resformer.compile(calibrated(MaskingNet(how), FRAMES), FRAMES, "sim")
    assert any(isinstance(node.op, SpikeGate) for node in compiled.program)
    assert_equal(
        compiled,
        FRAMES.transpose(0, 1),
    )


def test_masks_of_other_channels_are_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"combines spikes .* or some that stand for all pixels or all channels"):
        resformer.compile(calibrated(MaskingNet("other heads"), FRAMES), FRAMES, "sim")


class StreamNet(nn.Module):
    """A stream of currents that holds a max-pool, averaged before neurons; it takes (T, N, 3, 4, 4)."""

    def __init__(self, neurons: nn.Module, window: tuple[int, int] = (2, 2)) -> None:
        super().__init__()
        self.conv, self.norm, self.lif = layer.Conv2d(3, 8, 3, padding=1), layer.BatchNorm2d(8), neuron.LIFNode()
        self.pool = layer.MaxPool2d(3, 1, 1)
        self.mean = layer.AvgPool2d(window, 1)
        self.last, self.last_norm = layer.Conv2d(8, 8, 1), layer.BatchNorm2d(8)
        self.neurons = neurons
        self.head = layer.Linear(8 * (5 - window[0]) * (5 - window[1]), 3)
        functional.set_step_mode(self, "m")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.norm(self.conv(x)))
        x = x + self.last_norm(self.last(self.lif(x)))
        return self.head(self.neurons(self.mean(x)).flatten(2)).mean(0)


@pytest.mark.parametrize(
    "neurons",
    [
        lambda: neuron.LIFNode(v_threshold=2.0),
        lambda: neuron.LIFNode(v_threshold=2.0, v_reset=None),
        lambda: neuron.IFNode(v_threshold=0.5),
        lambda: neuron.ParametricLIFNode(init_tau=2.0, v_threshold=0.25),
    ],
    ids=["LIF", "soft LIF", "IF", "PLIF"],
)
def test_means_of_streams_before_neurons(neurons: Callable[[], nn.Module]) -> None:
    compiled = resformer.compile(calibrated(StreamNet(neurons()), FRAMES), FRAMES, "sim")
    assert_equal(compiled, FRAMES.transpose(0, 1))


def test_a_mean_that_float64_rounds_is_measured() -> None:
    net = StreamNet(neuron.LIFNode(v_threshold=2.0), window=(1, 3))
    compiled = resformer.compile(calibrated(net, FRAMES), FRAMES, "sim")
    assert_equal(compiled, FRAMES.transpose(0, 1), exact=False)
    checks = compiled.verify(FRAMES.transpose(0, 1), backend="sim").checks
    assert checks[QUANTIZED].note == "not demanded: the mean that neurons reads is rounded in float64"


def test_a_mean_of_a_stream_that_is_rounded() -> None:
    """Values too large for one sum are sent on rounded: all backends round alike, and the module is only measured."""
    net = calibrated(StreamNet(neuron.LIFNode(v_threshold=100.0), window=(4, 4)), FRAMES)
    for norm in (net.norm, net.last_norm):
        norm.weight.data *= 64
    compiled = resformer.compile(net, FRAMES, "sim")
    assert "mean.input" in compiled.program
    assert_equal(compiled, FRAMES.transpose(0, 1), exact=False)
    for backend in ("onnx", "lava"):
        assert compiled.verify(FRAMES.transpose(0, 1), backend=backend).equivalent


class MergingNet(nn.Module):
    """Neurons that are given (T * N, ...), as QKFormer's are; it takes (N, T, 3, 4, 4) and returns a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.lif = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), neuron.LIFNode(step_mode="m")
        self.token_lif = neuron.LIFNode(v_threshold=0.5, step_mode="m")
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        steps, samples = x.shape[1], x.shape[0]
        merged = x.transpose(0, 1).flatten(0, 1)
        fired = self.lif(self.norm(self.conv(merged)))
        tokens = self.token_lif(fired.flatten(2).transpose(1, 2))
        return self.head(tokens.transpose(1, 2).reshape(steps, samples, 8, 16).mean(3)).mean(0), None


def test_neurons_that_read_steps_and_samples_merged_are_right_of_one_sample() -> None:
    frames = FRAMES.transpose(0, 1)
    net = calibrated(MergingNet(), frames[:1])
    with pytest.warns(ResformerWarning, match=r"lif: the module's code merges T and samples before these neurons"):
        compiled = resformer.compile(net, frames[:1], "sim")
    assert_equal(compiled, frames)
    require_same_spikes(compiled.compilation, frames)  # two samples at once, each by itself
    with pytest.raises(UnsupportedError, match=r"or give the module one sample at a time, as the example too \(/"):
        resformer.compile(net, frames, "sim")


def test_weights_that_code_computes_are_no_parameters() -> None:
    net = nn.Sequential(
        parametrizations.weight_norm(layer.Conv2d(3, 8, 1)),
        neuron.LIFNode(v_threshold=0.1),
        layer.Flatten(),
        layer.Linear(128, 3),
    )
    functional.set_step_mode(net, "m")
    compiled = resformer.compile(net, FRAMES, "sim")
    assert_equal(compiled, FRAMES.transpose(0, 1), exact=False)
    note = compiled.verify(FRAMES.transpose(0, 1), backend="sim").checks[QUANTIZED].note
    assert note == "not demanded: 0 has numbers that the module's code computes or states, and no parameter holds"
