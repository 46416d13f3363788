"""Networks and files that many tests need."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from spikingjelly.activation_based import functional
from torch import nn

from resformer.models.spikingresformer import Architecture, SpikingResformer

# The same examples on every machine and every run; machines that are busy are no reason to fail.
settings.register_profile("resformer", max_examples=50, derandomize=True, deadline=None)
settings.load_profile("resformer")

# These networks are tiny: on a busy machine, threads wait for each other far longer than they work.
torch.set_num_threads(1)

# A shell's background job ignores Ctrl-C, and so would the commands that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of this project's own."""
    parser.addoption("--update-golden", action="store_true", help="rewrite the files of tests/golden")


MNIST = Path(__file__).parents[1] / "examples" / "mnist"


@pytest.fixture(scope="session")
def make_model() -> Callable[..., SpikingResformer]:
    """A function that makes small random networks in eval mode, float64, whose populations all fire now and then.

    Its keywords are ``seed``, ``timesteps``, ``image_size`` and those of ``Architecture``.
    """

    def make(*, seed: int = 0, timesteps: int = 4, image_size: int = 0, **fields: Any) -> SpikingResformer:
        small = {
            "planes": (8, 12),
            "blocks": (("DSSA", "GWFFN"), ("DSSA", "GWFFN")),
            "num_heads": (1, 2),
            "patch_sizes": (2, 1),
            "ffn_ratios": (2, 2),
            "ffn_convs": (1, 2),
            "group_sizes": (4, 6),
            "in_channels": 2,
            "num_classes": 5,
        }
        architecture = Architecture(**(small | fields))
        image_size = image_size or (16 if architecture.stem == "imagenet" else 8)
        torch.manual_seed(seed)
        model = SpikingResformer(architecture, timesteps=timesteps, image_size=image_size).double()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 2.0)
                nn.init.uniform_(module.bias, 0.0, 1.5)
                module.momentum = 1.0  # one batch sets the running statistics
        for name, parameter in model.named_parameters():
            if name.endswith(".w"):
                nn.init.uniform_(parameter, -0.5, 1.5)
        model.train()
        with torch.no_grad():
            model(torch.rand(8, architecture.in_channels, image_size, image_size, dtype=torch.float64))
        functional.reset_net(model)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def mnist_checkpoint() -> Path:
    """The trained example's checkpoint."""
    return MNIST / "spikingresformer_mnist.pt"


@pytest.fixture(scope="session")
def mnist_images(mnist_checkpoint: Path) -> np.ndarray:
    """The trained example's test images, (1000, 1, 32, 32), in [0, 1]."""
    return np.load(mnist_checkpoint.parent / "test_images.npy").astype(np.float32) / 255
