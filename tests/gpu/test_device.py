"""E2 where ``pytest --device`` says: the trained example, recorded and not, in all kinds of batches (make test-gpu)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from resformer.compiler.ir import reference
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.trace import Trace
from resformer.compiler.pipeline import compile_checkpoint
from resformer.runtime.run.encode import encode
from support import sim_runs
from support.program_builder import ProgramBuilder, tiny_resformer
from support.sim_runs import assert_same_as, choose_device, sim_backend, why_not_on

ARGUMENTS = Path(__file__).with_name("arguments.txt")
IMAGES = 5


@pytest.fixture(scope="module")
def program(mnist_checkpoint: Path) -> Program:
    """The trained example's."""
    return compile_checkpoint(mnist_checkpoint).program


@pytest.fixture(scope="module")
def samples(program: Program, mnist_images: np.ndarray) -> np.ndarray:
    """Some test images, encoded."""
    return encode(mnist_images[:IMAGES].astype(np.float64), program).values


@pytest.fixture(scope="module")
def expected(program: Program, samples: np.ndarray) -> Trace:
    """What the reference makes of them."""
    return reference.run(program, samples, record=True)


@pytest.mark.parametrize("record", [True, False], ids=["recorded", "not recorded"])
@pytest.mark.parametrize("batch_size", [None, 1, 2, 3])
def test_mnist(program: Program, samples: np.ndarray, expected: Trace, batch_size: int | None, record: bool) -> None:
    """Whole batches and a last one that is smaller, and the same engine again."""
    backend = sim_backend()
    for _ in range(2):
        trace = backend.run(program, samples, record=record, batch_size=batch_size)
        assert_same_as(trace, expected, record=record)
        assert trace.ties == expected.ties


def test_every_product_is_checked(program: Program, samples: np.ndarray, expected: Trace) -> None:
    trace = sim_backend().run(program, samples[:2], record=True, self_check=True)
    for name, train in expected.spikes.items():
        np.testing.assert_array_equal(trace.spikes[name].dense(), train.dense()[:, :2], err_msg=name)
    np.testing.assert_array_equal(trace.logits, expected.logits[:, :2])


@pytest.mark.parametrize("kind", [np.int8, np.int16, np.int64])
def test_integers_of_any_width(program: Program, samples: np.ndarray, expected: Trace, kind: type) -> None:
    held = samples.clip(np.iinfo(kind).min, np.iinfo(kind).max)
    wanted = expected if np.array_equal(held, samples) else reference.run(program, held, record=True)
    trace = sim_backend().run(program, held.astype(kind), record=True)
    assert_same_as(trace, wanted, record=True)


def test_one_neuron_alone() -> None:
    """A step of one number: Triton compiles an argument of 1 in."""
    net = ProgramBuilder((1, 1, 1))
    net.conv("last", net.lif("neurons", net.relay("relay", "input", limit=500)), 1)
    program = net.finish(timesteps=3)
    samples = net.samples(1, timesteps=3)
    wanted = reference.run(program, samples, record=True)
    for record in (True, False):
        assert_same_as(sim_backend().run(program, samples, record=record), wanted, record=record)


def test_a_batch_larger_than_all_at_once() -> None:
    """Frames and static images by turns, of a network that saturates: nothing of one run stays in the next."""
    program, net = tiny_resformer(timesteps=3)
    backend = sim_backend()
    for steps in (None, 3, None):
        samples = net.samples(70, timesteps=steps)
        wanted = reference.run(program, samples, record=True)
        for record in (False, True):
            trace = backend.run(program, samples, record=record)
            assert_same_as(trace, wanted, record=record)
            assert trace.ties == wanted.ties


# --- how make test-gpu chooses and skips


def test_a_missing_gpu_is_a_reason_to_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert why_not_on("cpu") is None
    assert "--device cuda:1: torch" in (why_not_on("cuda:1") or "")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert why_not_on("cuda") is None


@pytest.fixture
def elsewhere() -> Iterator[None]:
    """Sim runs where it ran, afterwards."""
    before = sim_runs._chosen["device"]
    yield
    choose_device(before)


@pytest.mark.usefixtures("elsewhere")
def test_sim_runs_where_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(sim_runs, "SimBackend", seen.append)
    choose_device("cuda:7")
    sim_backend()
    assert seen == ["cuda:7"]


def test_make_test_gpu_runs_files_that_are_there() -> None:
    given = ARGUMENTS.read_text(encoding="utf-8").split()
    assert given[:2] == ["--device", "cuda"]
    assert all((Path(__file__).parents[2] / path).exists() for path in given[2:])
