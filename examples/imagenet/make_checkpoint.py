"""Write a full-size checkpoint to work on where no trained one is at hand: random weights that fire as trained ones do.

    python examples/imagenet/make_checkpoint.py ti -o build/ti.pt --images 8     # and build/ti_images.npy

The variants are the authors': ti, s, m and l for ImageNet at 224x224, cifar at 32x32, dvsg for event frames at 64x64.
Such a network recognises nothing, and small differences grow in it as in no trained network: of what quantizing costs,
only the local errors mean anything. But its layers have their true sizes, its batch normalisations the statistics of
real input, its neurons realistic firing rates and its residual streams realistic magnitudes: what compile time, memory,
speed and bit-exactness depend on.

Input is crops of the two photographs that scikit-learn ships; for dvsg, the events that a camera would see that moves
over them. One batch runs through the network once. Each batch normalisation takes its statistics from what reaches it.
Then its bias is shifted, by the same amount for all channels, until the neurons behind it fire at their target rate,
which is drawn for each layer around the paper's mean density of 17.5 %. DSSA's rates are those measured.

The same variant, seed, size and T give the same tensors, bit for bit, on the same machine with the same version of
PyTorch and number of threads.
"""

import argparse
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from spikingjelly.activation_based import functional, neuron
from torch import nn

from resformer.compiler.ir.primitives import half_rows
from resformer.errors import ResformerError
from resformer.models.checkpoint import default_image_size, default_timesteps, save_checkpoint
from resformer.models.layers import DSSA, GWFFN
from resformer.models.spikingresformer import VARIANTS, Architecture, SpikingResformer

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

CALIBRATION_SAMPLES = 4
"""Samples that the statistics come from."""
CHECK_SAMPLES = 2
"""Fresh samples on which the printed rates are measured."""

TARGET_RATES = (0.12, 0.23)
"""Least and largest target rate of a layer; 17.5 % in the mean, which is the paper's density for Ti."""
RATE_LIMITS = (0.01, 0.60)
"""A layer that fires less is dead, one that fires more is saturated: the network is refused."""
GAINS = (0.4, 1.2)
"""Least and largest weight of a batch normalisation: seven such sums make a residual stream of 12 to 16 at most."""
BIAS_SPREAD = 0.3
"""Standard deviation of a batch normalisation's bias between channels."""
PLIF_W = (-0.7, 0.7)
"""Least and largest w of a PLIF: tau from 1.5 to 3."""

SHIFT_MAX = 16.0
"""Largest shift of a bias that is tried."""
SHIFT_HALVINGS = 16
RATE_NEURONS = 2**14
"""Neurons, evenly spread over a layer, on which a shift is tried."""

EVENT_CONTRAST = 0.1
"""Change of a pixel's log intensity that makes one event."""
EVENT_SPEED = 3
"""Pixels by which the camera moves in a frame, at most, along each axis."""

Hook: TypeAlias = Callable[..., Any]
"""What PyTorch calls before or after a module."""


@dataclass(frozen=True)
class Population:
    """How the neurons of one layer fire.

    Attributes:
        shape: Theirs, without steps and samples.
        rate: Mean firing rate, in spikes a step.
        largest: The largest magnitude of their input current.
    """

    shape: tuple[int, ...]
    rate: float
    largest: float

    @property
    def neurons(self) -> int:
        """How many there are."""
        return math.prod(self.shape)


def photographs() -> list[torch.Tensor]:
    """Return scikit-learn's two photographs, each (3, 427, 640), in [0, 1]."""
    try:
        from sklearn.datasets import load_sample_images
    except ModuleNotFoundError as error:
        raise SystemExit(f"{error}; pip install 'resformer[examples]' installs it") from None

    return [torch.tensor(image).permute(2, 0, 1).float() / 255 for image in load_sample_images().images]


def crops(count: int, size: int, generator: torch.Generator) -> torch.Tensor:
    """Return square crops of the photographs in turn, (N, 3, size, size), in [0, 1].

    Each covers a third of the photograph's height or more, is resized to ``size`` pixels and half of the time mirrored.
    """
    pictures = photographs()
    made = []
    for index in range(count):
        picture = pictures[index % len(pictures)]
        height, width = picture.shape[1:]
        edge = _draw(height // 3, height, generator)
        top, left = _draw(0, height - edge, generator), _draw(0, width - edge, generator)
        crop = picture[None, :, top : top + edge, left : left + edge]
        crop = F.interpolate(crop, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
        made.append(crop.flip(-1) if _draw(0, 1, generator) else crop)
    return torch.cat(made)


def event_frames(count: int, size: int, timesteps: int, generator: torch.Generator) -> torch.Tensor:
    """Return counts of events, (N, T, 3, size, size): brighter, darker, and their sum, as the authors' DVStransform.

    A window moves over a crop at constant speed; a pixel makes one event for each ``EVENT_CONTRAST`` by which its log
    intensity changes from one frame to the next.
    """
    margin = EVENT_SPEED * timesteps
    log_intensity = torch.log(crops(count, size + margin, generator).mean(1) + 0.1)
    frames = []
    for scene in log_intensity:
        down, right = _draw(0, EVENT_SPEED, generator), _draw(1, EVENT_SPEED, generator)
        seen = torch.stack(
            [
                scene[step * down : step * down + size, step * right : step * right + size]
                for step in range(timesteps + 1)
            ]
        )
        change = seen.diff(dim=0)
        polarities = torch.stack([change.clamp(min=0), -change.clamp(max=0)], dim=1)
        frames.append(torch.floor(polarities / EVENT_CONTRAST))
    counts = torch.stack(frames)
    return torch.cat([counts, counts.sum(2, keepdim=True)], dim=2)


def samples(model: SpikingResformer, count: int, generator: torch.Generator) -> torch.Tensor:
    """Return input for a network: event frames if it has PLIF neurons, else crops normalised as for ImageNet."""
    if model.architecture.neuron == "PLIF":
        return event_frames(count, model.image_size, model.timesteps, generator)
    mean, std = (torch.tensor(each)[:, None, None] for each in (IMAGENET_MEAN, IMAGENET_STD))
    return (crops(count, model.image_size, generator) - mean) / std


def make_network(
    architecture: Architecture, *, seed: int, image_size: int, timesteps: int
) -> tuple[SpikingResformer, torch.Generator]:
    """Return a network whose layers fire at realistic rates, and the generator for more samples."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SpikingResformer(architecture, timesteps=timesteps, image_size=image_size).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, *GAINS, generator=generator)
            nn.init.normal_(module.bias, std=BIAS_SPREAD, generator=generator)
        elif isinstance(module, neuron.ParametricLIFNode):
            nn.init.uniform_(module.w, *PLIF_W, generator=generator)
    calibrate(model, samples(model, CALIBRATION_SAMPLES, generator), generator)
    return model, generator


@torch.no_grad()
def calibrate(model: SpikingResformer, batch: torch.Tensor, generator: torch.Generator) -> None:
    """Set each layer's statistics, bias and rates as a batch, (N, C, H, W) or (N, T, C, H, W), passes through."""

    def target() -> float:
        return float(torch.empty(1).uniform_(*TARGET_RATES, generator=generator))

    handles = [
        module.register_forward_pre_hook(_take_statistics)
        for module in model.modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    blocks: list[nn.Module] = [model.prologue, *(block for stage in model.layers for block in stage)]
    for block, following in pairwise(blocks):
        handles.append(block.register_forward_hook(_shift_output(_last_norm(block), _neurons(following)[0], target())))
        if isinstance(following, DSSA):
            handles += [
                following.activation_in.register_forward_hook(_take_rate(following.firing_rate_x)),
                following.activation_attn.register_forward_hook(_take_rate(following.firing_rate_attn)),
                following.matmul1.register_forward_hook(_shift_product(following, "y1", target())),
                following.matmul2.register_forward_hook(_shift_product(following, "y2", target())),
            ]
        elif isinstance(following, GWFFN):
            norms = [following.up[2].bn, *(conv[2].bn for conv in following.conv)]
            first, *others = _neurons(following)[1:]
            handles.append(following.up.register_forward_hook(_shift_output(norms[0], first, target())))
            for norm, population in zip(norms[1:], others, strict=True):
                handles.append(population.register_forward_pre_hook(_shift_input(norm, target())))
    model(batch)
    functional.reset_net(model)
    for handle in handles:
        handle.remove()


def _neurons(module: nn.Module) -> list[neuron.BaseNode]:
    return [each for each in module.modules() if isinstance(each, neuron.BaseNode)]


def _last_norm(module: nn.Module) -> nn.BatchNorm2d:
    return [each for each in module.modules() if isinstance(each, nn.BatchNorm2d)][-1]


def _take_statistics(norm: nn.BatchNorm2d, args: tuple[torch.Tensor]) -> None:
    """Before a batch normalisation: take mean and variance from its input, (T * N, C, H, W)."""
    norm.running_var, norm.running_mean = torch.var_mean(args[0], dim=(0, 2, 3))


def _take_rate(buffer: torch.Tensor) -> Hook:
    """After a population of DSSA: take each head's firing rate into the buffer, (1, 1, heads, 1, 1)."""

    def hook(_: nn.Module, __: Any, spikes: torch.Tensor) -> None:
        steps, batch = spikes.shape[:2]
        rate = spikes.reshape(steps, batch, buffer.numel(), -1).mean((0, 1, 3))
        buffer.copy_(rate.reshape(buffer.shape))

    return hook


def _shift_output(norm: nn.BatchNorm2d, population: neuron.BaseNode, target: float) -> Hook:
    """After what a normalisation ends: shift it for all that read it, so that one population fires at its target."""

    def hook(_: nn.Module, __: Any, current: torch.Tensor) -> torch.Tensor:
        shift = find_shift(population, current, torch.ones(()), target)
        norm.bias.add_(shift)
        return current + shift

    return hook


def _shift_input(norm: nn.BatchNorm2d, target: float) -> Hook:
    """Before a population that alone reads what a normalisation ends."""

    def hook(population: neuron.BaseNode, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        shift = find_shift(population, args[0], torch.ones(()), target)
        norm.bias.add_(shift)
        return (args[0] + shift,)

    return hook


def _shift_product(dssa: DSSA, part: Literal["y1", "y2"], target: float) -> Hook:
    """After one of DSSA's products: shift the real operand, and with it the product by as many spikes as gate it."""

    def hook(_: nn.Module, operands: tuple[torch.Tensor, torch.Tensor], product: torch.Tensor) -> torch.Tensor:
        real, spikes = operands
        rate, population = (
            (dssa.firing_rate_x, dssa.activation_attn) if part == "y1" else (dssa.firing_rate_attn, dssa.activation_out)
        )
        scale = 1.0 / torch.sqrt(rate * real.shape[-1])
        gates = spikes.sum(-2, keepdim=True)
        shift = find_shift(population, product * scale, gates * scale, target)
        dssa.norm.bn.bias[half_rows(2 * dssa.channels, dssa.num_heads, part)] += shift
        return product + shift * gates

    return hook


def find_shift(population: neuron.BaseNode, current: torch.Tensor, unit: torch.Tensor, target: float) -> float:
    """Return the shift by which current + shift * unit, (T, N, ...), makes the neurons fire at the target rate.

    A spread of the neurons is tried, not all; the rate grows with the shift, so the interval is halved.
    """
    stride = max(current[0].numel() // RATE_NEURONS, 1) | 1  # odd, to meet all rows and columns of even maps
    current, unit = (each.expand_as(current).flatten(1)[:, ::stride].contiguous() for each in (current, unit))
    low, high = -SHIFT_MAX, SHIFT_MAX
    for _ in range(SHIFT_HALVINGS):
        middle = (low + high) / 2
        rate = float(population.multi_step_forward(current + middle * unit).mean())
        population.reset()
        low, high = (middle, high) if rate < target else (low, middle)
    return high


@torch.no_grad()
def measure(model: SpikingResformer, batch: torch.Tensor) -> dict[str, Population]:
    """Return how each population of neurons fires on a batch."""
    found: dict[str, Population] = {}

    def note(name: str) -> Hook:
        def hook(_: nn.Module, args: tuple[torch.Tensor], spikes: torch.Tensor) -> None:
            found[name] = Population(tuple(spikes.shape[2:]), float(spikes.mean()), float(args[0].abs().max()))

        return hook

    handles = [
        module.register_forward_hook(note(name))
        for name, module in model.named_modules()
        if isinstance(module, neuron.BaseNode)
    ]
    model(batch)
    functional.reset_net(model)
    for handle in handles:
        handle.remove()
    return found


def mean_rate(populations: Iterable[Population]) -> float:
    """Return the rate of all neurons together."""
    each = list(populations)
    return sum(one.rate * one.neurons for one in each) / sum(one.neurons for one in each)


def print_rates(found: Mapping[str, Population]) -> None:
    """Print a row for each population, and one for all."""
    print(f"{'population':34}{'neurons':>12}{'rate':>9}{'largest current':>18}")
    for name, each in found.items():
        print(f"{name:34}{each.neurons:12,}{each.rate:9.2%}{each.largest:18.1f}")
    total = sum(each.neurons for each in found.values())
    print(f"{'all':34}{total:12,}{mean_rate(found.values()):9.2%}")


def main(argv: Sequence[str] | None = None) -> int:
    """Make a checkpoint, as the command line says."""
    parser = argparse.ArgumentParser(description="Write a checkpoint of random weights that fires as a trained one.")
    parser.add_argument("variant", choices=VARIANTS, help="which of the authors' networks")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the checkpoint to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--input-size", type=int, help="edge of the input, in pixels (default: as the authors train)")
    parser.add_argument("--timesteps", type=int, help="T (default: as the authors train)")
    parser.add_argument("--images", type=int, default=0, help="also write so many samples, beside the checkpoint")
    parser.add_argument("--threads", type=int, help="CPU threads (PyTorch chooses if not given)")
    args = parser.parse_args(argv)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    net = VARIANTS[args.variant]
    try:
        model, generator = make_network(
            net,
            seed=args.seed,
            image_size=args.input_size or default_image_size(net),
            timesteps=args.timesteps or default_timesteps(net),
        )
    except ResformerError as error:
        parser.error(str(error))
    found = measure(model, samples(model, CHECK_SAMPLES, generator))
    print_rates(found)
    if abnormal := [name for name, each in found.items() if not RATE_LIMITS[0] <= each.rate <= RATE_LIMITS[1]]:
        least, most = RATE_LIMITS
        print(f"{', '.join(abnormal)}: fires outside {least:.0%} to {most:.0%}; try another --seed")
        return 1
    args.output.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(model, args.output)
    print(f"wrote {args.output}")
    if args.images:
        path = args.output.with_name(f"{args.output.stem}_images.npy")
        np.save(path, samples(model, args.images, generator).numpy())
        print(f"wrote {path}")
    return 0


def _draw(low: int, high: int, generator: torch.Generator) -> int:
    """Return a random integer between two, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


if __name__ == "__main__":
    raise SystemExit(main())
