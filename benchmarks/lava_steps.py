"""Seconds for a step in Lava: our process models against stock Lava's, and a whole SpikingResformer-Ti at 224x224.

    python benchmarks/lava_steps.py                 # about five minutes, most of them stock Lava's
    python benchmarks/lava_steps.py --rounds 5

Both kinds of models run the same processes over our channels, from which stock models profit too, and what they send is
compared bit for bit. Whole networks are timed from the end of their first step to the end of their last step. Single
layers are timed without any channel, on random spikes as dense as the paper's. Stock models would take days for one
image of Ti. Memory is what all processes hold together (PSS), the largest sum that is seen in a run of its own, since
looking takes time.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from networks import ROOT, network, print_machine, print_table

import resformer.compiler.backends.lava  # noqa: F401 # First: since Python 3.11, Lava cannot be imported without it.

# isort: split

from lava.magma.core.model.py.model import AbstractPyProcessModel
from lava.proc.lif.models import PyLifResetModelBitAcc
from threadpoolctl import threadpool_limits

from resformer.compiler.backends.lava.backend import LavaBackend
from resformer.compiler.backends.lava.processes.conv import PyFastConvModel, PyWideConvModel
from resformer.compiler.backends.lava.processes.lif import PyFastLifResetModel
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.trace import Trace
from resformer.compiler.pipeline import compile_checkpoint
from resformer.runtime.run.encode import encode

MNIST = ROOT / "examples" / "mnist"
STREAM = 100
"""The number of MNIST samples for our models, one after the other; stock models get one."""
OUR_STEPS = 5
"""The number of steps of our model of a single layer for each step of the stock model."""
DENSITY = 0.175
"""The share of neurons that spike in a step, over the paper's networks."""
MEBI = 2**20


@dataclass
class Clock:
    """A ``progress`` callback of a run that notes when each step ends.

    Attributes:
        weighs: Whether to look at the memory too, which takes longer than a step.
        ends: The number of steps that had ended, and the time then, in seconds: (steps, seconds).
        peak: The most memory seen, in bytes.
        started: The time at which the run began, in seconds.
    """

    weighs: bool = False
    ends: list[tuple[int, float]] = field(default_factory=list)
    peak: int = 0
    started: float = field(default_factory=time.perf_counter)

    def __call__(self, done: int, _total: int) -> None:
        """Note the end of a step."""
        self.ends.append((done, time.perf_counter()))
        if self.weighs:
            self.peak = max(self.peak, memory())

    @property
    def seconds_a_step(self) -> float:
        """The mean time of a step, from the end of the first step to the end of the last."""
        (first, started), (last, ended) = next(end for end in self.ends if end[0]), self.ends[-1]
        return (ended - started) / (last - first)

    @property
    def start_up(self) -> float:
        """Seconds to the end of the first step."""
        return next(end for done, end in self.ends if done) - self.started


def memory() -> int:
    """The memory of this process and its children, in bytes; shared memory counts once."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="utf-8").split()
    total = 0
    for pid in (str(os.getpid()), *children):
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:"))
    return total


@dataclass
class Wire:
    """A replacement for a model's ports: it delivers one message again and again, and keeps the last one sent."""

    message: npt.NDArray[np.generic]
    sent: npt.NDArray[np.generic] | None = None

    def recv(self) -> npt.NDArray[np.generic]:
        """Return the message."""
        return self.message

    def send(self, message: npt.NDArray[np.generic]) -> None:
        """Keep the message that is sent."""
        self.sent = message


def convolution(
    model_class: type[PyWideConvModel], outputs: int, inputs: int, side: int, kernel: int, groups: int
) -> AbstractPyProcessModel:
    """A model of Conv, with weights of eight bits and random spikes to convolve."""
    rng = np.random.default_rng(0)
    model = model_class({})
    model.kernel_size, model.stride, model.padding, model.dilation = np.array(
        [[kernel] * 2, [1, 1], [kernel // 2] * 2, [1, 1]]
    )
    model.groups, model.num_message_bits = np.array([groups]), np.array([0])
    model.weight = rng.integers(-127, 128, (outputs, kernel, kernel, inputs // groups), dtype=np.int32)
    model.a_buf = np.zeros((side, side, outputs), dtype=np.int32)
    model.s_in, model.a_out = Wire(rng.random((side, side, inputs)) < DENSITY), Wire(model.a_buf)
    return model


def population(model_class: type[PyLifResetModelBitAcc], channels: int, side: int) -> AbstractPyProcessModel:
    """A model of LIFReset, with random currents and biases."""
    rng = np.random.default_rng(0)
    shape = (side, side, channels)
    model = model_class({"reset_interval": 4, "reset_offset": 1})
    model.du, model.dv, model.vth = 4095, 2048, 2**12
    model.u, model.v = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    model.bias_mant = np.broadcast_to(rng.integers(-4095, 4096, channels, dtype=np.int16), shape).copy()
    model.bias_exp = np.full(shape, 4, np.int16)
    model.a_in = model.s_out = Wire(rng.integers(-(2**13), 2**13, shape, dtype=np.int32))
    return model


LAYERS: dict[str, tuple[Callable[[], AbstractPyProcessModel], Callable[[], AbstractPyProcessModel], str]] = {
    "1x1 convolution, 384 to 1536, 14x14": (
        lambda: convolution(PyFastConvModel, 1536, 384, 14, 1, 1),
        lambda: convolution(PyWideConvModel, 1536, 384, 14, 1, 1),
        "a_buf",
    ),
    "3x3 convolution, 256, 4 groups, 56x56": (
        lambda: convolution(PyFastConvModel, 256, 256, 56, 3, 4),
        lambda: convolution(PyWideConvModel, 256, 256, 56, 3, 4),
        "a_buf",
    ),
    "LIF, 256x56x56": (
        lambda: population(PyFastLifResetModel, 256, 56),
        lambda: population(PyLifResetModelBitAcc, 256, 56),
        "v",
    ),
}
"""Full-size layers: a function that makes our model, one that makes the stock model, and the variable that must be the
same in both after a step."""


def time_layer(name: str, rounds: int) -> tuple[float, float, float]:
    """Seconds for a step of a layer, ours and stock, and their ratio: medians of rounds taken in turn."""
    make_ours, make_stock, state = LAYERS[name]
    ours, stock = make_ours(), make_stock()
    one_step(ours), one_step(stock)
    np.testing.assert_array_equal(getattr(ours, state), getattr(stock, state))
    taken = []
    for _ in range(rounds):
        mine = statistics.median(one_step(ours) for _ in range(OUR_STEPS))
        taken.append((mine, one_step(stock)))
    return medians(taken)


def one_step(model: AbstractPyProcessModel) -> float:
    """Seconds that a model takes for its next step."""
    started = time.perf_counter()
    model.time_step += 1
    model.run_spk()
    return time.perf_counter() - started


def medians(taken: list[tuple[float, float]]) -> tuple[float, float, float]:
    """The medians of our seconds, of stock Lava's, and of their ratio in each round."""
    ours, stock = zip(*taken, strict=True)
    ratios = [theirs / mine for mine, theirs in taken]
    return statistics.median(ours), statistics.median(stock), statistics.median(ratios)


def time_mnist(rounds: int) -> tuple[float, float, float]:
    """Seconds for a step of the MNIST network, ours and stock, and their ratio, as in :func:`time_layer`."""
    program = compile_checkpoint(MNIST / "spikingresformer_mnist.pt").program
    images = np.load(MNIST / "test_images.npy")[:STREAM].astype(np.float64) / 255
    samples = encode(images.reshape(-1, *program.input.shape), program).values
    taken = []
    for _ in range(rounds):
        ours, clock = run(program, samples)
        stock, stock_clock = run(program, samples[:1], stock_models=True)
        np.testing.assert_array_equal(ours.logits[:, :1], stock.logits)
        taken.append((clock.seconds_a_step, stock_clock.seconds_a_step))
    one, _ = run(program, samples[:1], record=True)
    stock, _ = run(program, samples[:1], record=True, stock_models=True)
    assert one.spikes.keys() == stock.spikes.keys()
    assert not any(train.mismatches(stock.spikes[name]) for name, train in one.spikes.items())
    return medians(taken)


def run(
    program: Program,
    samples: npt.NDArray[np.int32],
    *,
    record: bool = False,
    stock_models: bool = False,
    weighs: bool = False,
) -> tuple[Trace, Clock]:
    """Run a program in Lava; return the trace, and the clock that saw its steps."""
    clock = Clock(weighs)
    trace = LavaBackend().run(program, samples, record=record, stock_models=stock_models, progress=clock)
    return trace, clock


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Seconds a step in Lava, our process models and stock Lava's.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variant", default="ti", help="the network to run whole: ti, s, m or l (default: ti)")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "benchmarks", help="where checkpoints are")
    args = parser.parse_args()

    print_machine()
    whole = network(args.variant, args.folder)
    trace, clock = run(whole.program, whole.samples(1), record=True)
    _, scales = run(whole.program, whole.samples(1), record=True, weighs=True)
    neurons = sum(train.size for train in trace.spikes.values()) // whole.program.timesteps
    print_table(
        ["one image, ours", "LIF neurons", "to the first step", "s/step", "steps", "all", "memory"],
        [
            [
                f"{args.variant} whole, every LIF recorded",
                f"{neurons:,}",
                f"{clock.start_up:.1f} s",
                f"{clock.seconds_a_step:.3f}",
                str(clock.ends[-1][0]),
                f"{clock.ends[-1][1] - clock.started:.1f} s",
                f"{scales.peak / MEBI:.0f} MiB",
            ]
        ],
    )
    with threadpool_limits(limits=1, user_api="blas"):
        rows = [[name, *figures(time_layer(name, args.rounds))] for name in LAYERS]
    rows.append(["MNIST network, whole", *figures(time_mnist(args.rounds))])
    print_table(["s/step", "ours", "stock models", "ratio"], rows)


def figures(each: tuple[float, float, float]) -> list[str]:
    """Our seconds, stock Lava's and the ratio, as a table shows them."""
    ours, stock, ratio = each
    return [f"{ours:.5f}", f"{stock:.4f}", f"{ratio:,.0f}"]


if __name__ == "__main__":
    main()
