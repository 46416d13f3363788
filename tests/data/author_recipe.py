"""The networks, weights and inputs on which our SpikingResformer is held against the authors'.

Everything follows from names and shapes alone, so that ``make_author_vectors.py``, which runs the authors' code, and
``test_author_vectors.py``, which does not, arrive at the same network.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from spikingjelly.activation_based import neuron
from torch import nn

from resformer.models.spikingresformer import VARIANTS, Architecture


@dataclass(frozen=True, kw_only=True)
class Case:
    """One network and the input that it is given.

    ``timesteps`` is T. With ``frames`` the input is (N, T, C, H, W), another image at each step, else (N, C, H, W).
    """

    name: str
    architecture: Architecture
    image_size: int
    timesteps: int = 4
    samples: int = 2
    frames: bool = False


CASES = (
    Case(name="ti", architecture=VARIANTS["ti"], image_size=64),
    Case(name="s", architecture=VARIANTS["s"], image_size=64),
    Case(name="m", architecture=VARIANTS["m"], image_size=64),
    Case(name="l", architecture=VARIANTS["l"], image_size=64, samples=1),
    Case(name="cifar", architecture=VARIANTS["cifar"], image_size=32),
    Case(name="dvsg", architecture=VARIANTS["dvsg"], image_size=64, timesteps=6, frames=True),
    Case(
        name="two_stages_one_channel",
        architecture=Architecture(
            planes=(32, 64),
            blocks=(("DSSA", "GWFFN"), ("DSSA", "GWFFN")),
            num_heads=(4, 2),
            patch_sizes=(2, 1),
            ffn_ratios=(4, 4),
            ffn_convs=(1, 1),
            group_sizes=(16, 16),
            in_channels=1,
            num_classes=10,
        ),
        image_size=32,
        samples=3,
    ),
    Case(
        name="uneven_blocks_and_deep_feed_forward",
        architecture=Architecture(
            planes=(24, 48),
            blocks=(("GWFFN", "DSSA", "DSSA"), ("GWFFN",)),
            num_heads=(3, 1),
            patch_sizes=(4, 1),
            ffn_ratios=(2, 3),
            ffn_convs=(2, 3),
            group_sizes=(16, 48),
            in_channels=2,
            num_classes=7,
            stem="conv3x3",
            neuron="PLIF",
        ),
        image_size=16,
        timesteps=5,
        frames=True,
    ),
)


def uniform(name: str, shape: Iterable[int], low: float, high: float) -> torch.Tensor:
    """Return float64 numbers in [low, high) that depend on the name and the shape only."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return torch.tensor(low + (high - low) * np.random.default_rng(seed).random(tuple(shape)), dtype=torch.float64)


def state_dict(template: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return weights for each name and shape of the template, such that every neuron layer fires now and then.

    A convolution's weights make its output's variance about 1 where a fifth of its inputs fire.
    """
    return {name: _tensor(name, tensor) for name, tensor in template.items()}


def _tensor(name: str, tensor: torch.Tensor) -> torch.Tensor:
    shape = tuple(tensor.shape)
    if name.endswith("num_batches_tracked"):
        return tensor
    if name.endswith(("firing_rate_x", "firing_rate_attn")):
        return uniform(name, shape, 0.1, 0.3)
    if name.endswith("running_mean"):
        return uniform(name, shape, -0.1, 0.1)
    if name.endswith("running_var"):
        return uniform(name, shape, 0.8, 1.2)
    if name.endswith(".w"):  # tau is 1 / sigmoid(w): from 1.6 to 2.6
        return uniform(name, shape, -0.5, 0.5)
    if name.endswith(("norm_proj.bn.weight", "down.2.bn.weight")):  # these add to a stream that grows block by block
        return uniform(name, shape, 0.5, 1.0)
    if name.endswith("bn.weight"):
        return uniform(name, shape, 1.0, 1.8)
    if name == "prologue.1.bn.bias":  # a max-pool may follow
        return uniform(name, shape, -0.4, 0.4)
    if name.endswith("bn.bias"):
        return uniform(name, shape, -0.1, 0.5)
    mean_square = 0.3 if name.startswith("prologue") else 0.2
    limit = math.sqrt(3 / (math.prod(shape[1:]) * mean_square))
    return uniform(name, shape, -limit, limit)


def network_input(case: Case) -> torch.Tensor:
    """Return the case's input: values in [0, 1), float64."""
    shape = (case.samples, case.architecture.in_channels, case.image_size, case.image_size)
    if case.frames:
        shape = (shape[0], case.timesteps, *shape[1:])
    return uniform(f"input of {case.name}", shape, 0.0, 1.0)


class SpikeRecorder:
    """Keeps what every neuron layer of a network emits, by the layer's name: (T, N, …), as of the latest call."""

    def __init__(self, model: nn.Module) -> None:
        self.spikes: dict[str, npt.NDArray[np.bool_]] = {}
        for name, module in model.named_modules():
            if isinstance(module, neuron.BaseNode):
                module.register_forward_hook(
                    lambda _module, _inputs, output, name=name: self.spikes.__setitem__(
                        name, output.detach().numpy() == 1
                    )
                )

    def digests(self) -> dict[str, list[int | str]]:
        """Return, by layer, the number of spikes, of how many possible, and a hash of them all."""
        return {
            name: [int(spikes.sum()), spikes.size, hashlib.sha256(np.packbits(spikes).tobytes()).hexdigest()[:16]]
            for name, spikes in self.spikes.items()
        }
