"""Networks of the zoo, and attention of counts as code writes it: compiled from modules, every check at zero."""

from __future__ import annotations

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

import resformer
from resformer.compiler.ir.ops import SpikeAttention
from resformer.errors import UnsupportedError
from resformer.models.zoo.meta_spikeformer import MetaSpikeFormerArchitecture
from resformer.models.zoo.recognise import ZooArchitecture, build
from resformer.models.zoo.spikformer import SpikformerArchitecture
from resformer.models.zoo.spikingformer import SpikingformerArchitecture
from resformer.runtime.compiled import Compiled
from support.modules import calibrated
from support.verified import assert_equal

ARCHITECTURES = {
    "Spikformer": SpikformerArchitecture(embed_dims=16, depth=1, num_heads=2, mlp_ratio=2),
    "Spikformer, ImageNet": SpikformerArchitecture(
        embed_dims=16, depth=1, num_heads=2, mlp_ratio=1, layout="imagenet", pooling="0011"
    ),
    "Spikingformer": SpikingformerArchitecture(embed_dims=16, depth=1, num_heads=2, mlp_ratio=2),
}


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_a_family_compiles(architecture: ZooArchitecture) -> None:
    size = 32 if isinstance(architecture, SpikingformerArchitecture) else 16  # its stem halves the image four times
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    assert_equal(resformer.compile(calibrated(build(architecture, timesteps=3), images), images, "sim"), images)


def test_meta_spikeformer() -> None:
    """Its convolutions follow each other without neurons between, so that no module has a place for what they merge to;
    among them are RepConv's, whose first pads an image that others convolve again."""
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
        threshold: float = 0.5,  # of two counts at once: half or twice the factor is seen in spikes
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
