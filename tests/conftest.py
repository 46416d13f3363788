"""Networks and files that many tests need."""

import gc
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

from resformer.models.spikingresformer import SpikingResformer
from support import networks, sim_runs

# The same examples on every machine and every run; a busy machine must not make a test fail.
settings.register_profile("resformer", max_examples=50, derandomize=True, deadline=None)
settings.load_profile("resformer")

# These networks are tiny: on a busy machine, threads wait for each other far longer than they work.
torch.set_num_threads(1)

# A shell's background job ignores Ctrl-C, and so would the commands that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests compare what commands print on standard error; progress would depend on the machine's speed.
os.environ.setdefault("RESFORMER_PROGRESS", "off")

# Without a GPU, the GPU kernels run in Triton's interpreter, which is chosen when they are imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add this project's own options."""
    parser.addoption("--update-golden", action="store_true", help="rewrite the files of tests/golden")
    parser.addoption("--device", default=sim_runs.CPU, help="where sim runs: cpu, cuda or cuda:1 (make test-gpu)")


def pytest_configure(config: pytest.Config) -> None:
    """Let sim run on the device that ``--device`` names."""
    sim_runs.choose_device(config.getoption("--device"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the files that hold slow tests; skip all tests where the chosen device is missing, and say why."""
    slow = {item.path for item in items if item.get_closest_marker("slow") is not None}
    items.sort(key=lambda item: item.path not in slow)
    reason = sim_runs.why_not_on(config.getoption("--device"))
    if reason is not None:
        for item in items:
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish() -> None:
    """Exempt what was imported from garbage collection, which would copy all of it in every forked process."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Unfreeze before Python ends: it takes apart only objects that are not frozen, and Triton complains otherwise."""
    gc.unfreeze()


MNIST = Path(__file__).parents[1] / "examples" / "mnist"


@pytest.fixture(scope="session")
def make_model() -> Callable[..., SpikingResformer]:
    """The function :func:`support.networks.make_model`."""
    return networks.make_model


@pytest.fixture(scope="session")
def mnist_checkpoint() -> Path:
    """The trained example's checkpoint."""
    return MNIST / "spikingresformer_mnist.pt"


@pytest.fixture(scope="session")
def mnist_images(mnist_checkpoint: Path) -> np.ndarray:
    """The trained example's test images, (1000, 1, 32, 32), in [0, 1]."""
    return np.load(mnist_checkpoint.parent / "test_images.npy").astype(np.float32) / 255
