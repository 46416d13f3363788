"""Each block against a plain restatement of the paper's equations."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from spikingjelly.activation_based import functional
from torch import nn

from resformer.models.layers import DSSA, GWFFN, BatchNorm, Downsample, SpikeMatMul, spiking_neuron


def lif(x: torch.Tensor, *, tau: float = 2.0) -> torch.Tensor:
    """The neuron by its definition; x is (T, ...)."""
    v, spikes = torch.zeros_like(x[0]), []
    for current in x:
        v = v + (current - v) / tau
        fired = v >= 1
        spikes.append(fired.to(x.dtype))
        v = torch.where(fired, torch.zeros_like(v), v)
    return torch.stack(spikes)


def randomize(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter and statistic a value of its own, in float64, and switch to eval mode."""
    generator = torch.Generator().manual_seed(seed)
    module.double().eval()
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=torch.float64))
                if name.endswith(("running_var", "bn.bias")):
                    tensor.abs_().add_(0.1)
                if "firing_rate" in name:
                    tensor.abs_().mul_(0.1).add_(0.05)
    return module


def batch_norm(x: torch.Tensor, norm: BatchNorm) -> torch.Tensor:
    """x is (T, N, C, H, W)."""
    bn = norm.bn
    scale = bn.weight / torch.sqrt(bn.running_var + bn.eps)
    return (x - bn.running_mean.view(-1, 1, 1)) * scale.view(-1, 1, 1) + bn.bias.view(-1, 1, 1)


def convolve(x: torch.Tensor, conv: nn.Module, **options: int) -> torch.Tensor:
    return F.conv2d(x.flatten(0, 1), conv.weight, **options).unflatten(0, x.shape[:2])


def normal(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_lif_follows_its_definition() -> None:
    x = 1.5 * normal(6, 3, 50)
    spikes = spiking_neuron("LIF").eval()(x)
    assert torch.equal(spikes, lif(x))
    assert 0.05 < spikes.mean() < 0.5


def test_lif_fires_where_the_potential_is_exactly_one_and_resets_to_zero() -> None:
    x = torch.tensor([[2.0], [1.0], [1.5]], dtype=torch.float64)  # v: 1, fire, 0; then 0.5; then 1, fire
    assert spiking_neuron("LIF").eval()(x).flatten().tolist() == [1, 0, 1]


def test_plif_time_constant_is_one_over_sigmoid_of_w() -> None:
    node = spiking_neuron("PLIF").double().eval()
    assert torch.sigmoid(node.w).item() == pytest.approx(0.5)
    with torch.no_grad():
        node.w.fill_(0.7)
    x = 1.5 * normal(6, 3, 50)
    assert torch.equal(node(x), lif(x, tau=1 / torch.sigmoid(torch.tensor(0.7, dtype=torch.float64)).item()))


@pytest.mark.parametrize("kind", ["LIF", "PLIF"])
def test_neurons_pass_gradients_through_a_surrogate(kind: str) -> None:
    x = normal(4, 8).requires_grad_()
    spiking_neuron(kind).double()(x).sum().backward()
    assert x.grad.abs().min() > 0


def test_batch_norm_learns_its_statistics_over_steps_and_samples_together() -> None:
    norm, x = BatchNorm(5).double().train(), 3 + normal(4, 2, 5, 6, 6)
    norm(x)
    torch.testing.assert_close(norm.bn.running_mean, 0.1 * x.mean((0, 1, 3, 4)))
    torch.testing.assert_close(norm.bn.running_var, 0.9 + 0.1 * x.transpose(1, 2).transpose(0, 1).flatten(1).var(1))


def test_spike_matmul() -> None:
    real, spikes = normal(2, 3, 4, 5), (normal(2, 3, 5, 6) > 0).double()
    assert torch.equal(SpikeMatMul()(real, spikes), real @ spikes)


@pytest.mark.parametrize(("num_heads", "patch_size"), [(1, 1), (2, 2), (3, 4)])
def test_dssa_follows_the_paper(num_heads: int, patch_size: int) -> None:
    channels, size = 12, 8
    patches = (size // patch_size) ** 2
    block = DSSA(channels, num_heads=num_heads, num_patches=patches, patch_size=patch_size, neuron_kind="LIF")
    randomize(block)
    x = 0.5 + 1.5 * normal(4, 2, channels, size, size)

    spikes = lif(x)
    y = batch_norm(convolve(spikes, block.W, stride=patch_size), block.norm)
    heads = []
    width = channels // num_heads
    for head in range(num_heads):
        pixels = spikes[:, :, head * width : (head + 1) * width].flatten(3)
        y1 = y[:, :, 2 * head * width : (2 * head + 1) * width].flatten(3)
        y2 = y[:, :, (2 * head + 1) * width : (2 * head + 2) * width].flatten(3)
        rate_x, rate_attn = block.firing_rate_x.flatten()[head], block.firing_rate_attn.flatten()[head]
        attention = lif(torch.einsum("tncl,tnck->tnlk", y1, pixels) / (rate_x * width).sqrt())
        heads.append(torch.einsum("tncl,tnlk->tnck", y2, attention) / (rate_attn * patches).sqrt())
        assert 0.01 < attention.mean() < 0.99
    out = lif(torch.cat(heads, dim=2).unflatten(3, (size, size)))
    assert 0.01 < out.mean() < 0.99
    expected = batch_norm(convolve(out, block.Wproj), block.norm_proj) + x

    # Sums of a few hundred float64 values, in another order.
    torch.testing.assert_close(block(x), expected, rtol=1e-12, atol=1e-12)


def test_dssa_rates_start_at_the_first_batch_and_then_move_by_a_thousandth() -> None:
    block = DSSA(4, num_heads=2, num_patches=4, patch_size=2, neuron_kind="LIF")
    randomize(block)
    block.firing_rate_x.zero_()
    block.firing_rate_attn.zero_()
    block.train()
    rates = []
    for seed in (1, 2):
        x = normal(4, 3, 4, 4, 4, seed=seed)
        fired = lif(x).unflatten(2, (2, 2)).mean((0, 1, 3, 4, 5))
        block(x)
        functional.reset_net(block)
        rates.append((fired, block.firing_rate_x.flatten().clone()))
    (first, after_first), (second, after_second) = rates
    torch.testing.assert_close(after_first, first)
    torch.testing.assert_close(after_second, 0.999 * first + 0.001 * second)
    assert not torch.allclose(first, second)
    assert (block.firing_rate_attn > 0).all()


def test_only_the_first_batch_starts_the_rates() -> None:
    """As in the authors' code, rates that are 0 after a silent first batch then move as slowly as any."""
    block = randomize(DSSA(4, num_heads=2, num_patches=4, patch_size=2, neuron_kind="LIF"))
    block.firing_rate_x.zero_()
    block.train()
    x = normal(4, 3, 4, 4, 4)
    for batch in (torch.zeros_like(x), x):
        block(batch)
        functional.reset_net(block)
    torch.testing.assert_close(
        block.firing_rate_x.flatten(), 0.001 * lif(x).unflatten(2, (2, 2)).mean((0, 1, 3, 4, 5)), rtol=1e-12, atol=0
    )


def test_attention_rates_keep_their_precision_under_autocast() -> None:
    """In bfloat16, 0.999 is 1."""
    block = DSSA(4, num_heads=2, num_patches=4, patch_size=2, neuron_kind="LIF").train()
    with torch.autocast("cpu", torch.bfloat16):
        for step in range(3):
            block(torch.full((2, 1, 4, 4, 4), 3.0 if step == 0 else 0.0))
            functional.reset_net(block)
    assert block.firing_rate_x.dtype == block.firing_rate_attn.dtype == torch.float32
    torch.testing.assert_close(block.firing_rate_x.flatten(), torch.full((2,), 0.999**2))


def test_dssa_rates_stay_in_eval_mode() -> None:
    block = randomize(DSSA(4, num_heads=2, num_patches=4, patch_size=2, neuron_kind="LIF"))
    before = {name: tensor.clone() for name, tensor in block.state_dict().items()}
    block(normal(4, 3, 4, 4, 4))
    assert all(torch.equal(tensor, before[name]) for name, tensor in block.state_dict().items())


@pytest.mark.parametrize(("ratio", "num_convs", "group_size"), [(4, 1, 8), (2, 3, 4), (1, 2, 8)])
def test_gwffn_follows_the_paper(ratio: int, num_convs: int, group_size: int) -> None:
    block = GWFFN(8, ratio=ratio, num_convs=num_convs, group_size=group_size, neuron_kind="LIF")
    randomize(block)
    x = normal(4, 2, 8, 5, 5)

    widened = batch_norm(convolve(lif(x), block.up[1]), block.up[2])
    mixed = widened
    for conv in block.conv:
        mixed = batch_norm(convolve(lif(mixed), conv[1], padding=1, groups=8 * ratio // group_size), conv[2])
    expected = batch_norm(convolve(lif(mixed + widened), block.down[1]), block.down[2]) + x

    # Sums of a few hundred float64 values, in another order.
    torch.testing.assert_close(block(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("size", "halved"), [(8, 4), (7, 4)])
def test_downsample(size: int, halved: int) -> None:
    block = randomize(Downsample(6, 10, neuron_kind="LIF"))
    x = normal(4, 2, 6, size, size)
    expected = batch_norm(convolve(lif(x), block.conv, stride=2, padding=1), block.norm)
    assert expected.shape[-1] == halved
    torch.testing.assert_close(block(x), expected, rtol=1e-12, atol=1e-12)


def test_importing_the_models_needs_neither_torchvision_nor_timm() -> None:
    code = "import sys, resformer.models.checkpoint; sys.exit(bool({'torchvision', 'timm'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
