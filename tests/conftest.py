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

# The same examples on every machine and every run; machines that are busy are no reason to fail.
settings.register_profile("resformer", max_examples=50, derandomize=True, deadline=None)
settings.load_profile("resformer")

# These networks are tiny: on a busy machine, threads wait for each other far longer than they work.
torch.set_num_threads(1)

# A shell's background job ignores Ctrl-C, and so would the commands that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# What commands say on standard error is compared, and how long they take depends on the machine.
os.environ.setdefault("RESFORMER_PROGRESS", "off")

# Without a GPU, the kernels for one run in Triton's interpreter, which is chosen when they are imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of this project's own."""
    parser.addoption("--update-golden", action="store_true", help="rewrite the files of tests/golden")
    parser.addoption("--device", default=sim_runs.CPU, help="where sim runs: cpu, cuda or cuda:1 (make test-gpu)")


def pytest_configure(config: pytest.Config) -> None:
    """Let sim run where it should."""
    sim_runs.choose_device(config.getoption("--device"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the files that take long; skip all where there is no such device, and say so."""
    slow = {item.path for item in items if item.get_closest_marker("slow") is not None}
    items.sort(key=lambda item: item.path not in slow)
    reason = sim_runs.why_not_on(config.getoption("--device"))
    if reason is not None:
        for item in items:
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish() -> None:
    """Look no more at what was imported: neither here nor in processes forked from here, which would copy it all."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """As Python ends, it takes apart what it looks at alone, and Triton complains of the rest."""
    gc.unfreeze()


MNIST = Path(__file__).parents[1] / "examples" / "mnist"


@pytest.fixture(scope="session")
def make_model() -> Callable[..., SpikingResformer]:
    """The function of that name."""
    return networks.make_model


@pytest.fixture(scope="session")
def mnist_checkpoint() -> Path:
    """The trained example's checkpoint."""
    return MNIST / "spikingresformer_mnist.pt"


@pytest.fixture(scope="session")
def mnist_images(mnist_checkpoint: Path) -> np.ndarray:
    """The trained example's test images, (1000, 1, 32, 32), in [0, 1]."""
    return np.load(mnist_checkpoint.parent / "test_images.npy").astype(np.float32) / 255
