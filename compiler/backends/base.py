"""What every backend that runs a program looks like."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from resformer.compiler.ir.arrays import require
from resformer.compiler.ir.program import Program, Scheduled
from resformer.compiler.ir.trace import Trace
from resformer.errors import CapacityError

StepProgress: TypeAlias = Callable[[int, int], None]
"""Called with (steps done, steps in all) as a run goes on; what a step is, each backend says itself."""


class Backend(Protocol):
    """Runs programs; all backends give equal traces, bit for bit."""

    def run(
        self,
        program: Scheduled,
        samples: npt.NDArray[np.int32],
        *,
        record: bool = False,
        progress: StepProgress | None = None,
    ) -> Trace:
        """Run samples through a scheduled program.

        Args:
            program: With its delays balanced.
            samples: (N, C, H, W), the same frame for all T steps, or (N, T, C, H, W); encoded.
            record: Keep every LIF's spikes and every graded value.
            progress: Told how far the run is.

        Raises:
            BackendMissingError: A package that the backend needs is not installed.
            BackendFailedError: The run ended before its work did.
        """
        ...


def does_not_fit(samples: int, memory: str = "memory") -> CapacityError:
    """What to raise when so many samples at once were too many."""
    remedy = f"give a smaller --batch-size, such as {samples // 2}" if samples > 1 else "take a larger machine"
    do_not = "samples at once do not" if samples > 1 else "sample at once does not"
    return CapacityError(f"{samples} {do_not} fit in {memory}; {remedy}")


def check_samples(program: Program, samples: npt.NDArray[np.integer]) -> None:
    """See of encoded samples what the program rests on, as the reference interpreter does.

    Raises:
        InvariantError: They have another shape than the input, or leave the range that it promises.
    """
    check_shape(program, samples)
    if samples.size:
        check_range(program, int(samples.min()), int(samples.max()))


def check_shape(program: Program, samples: npt.NDArray[np.integer]) -> None:
    """See that samples have the input's shape, with or without steps.

    Raises:
        InvariantError: They have not.
    """
    shape, steps = program.input.shape, program.timesteps
    require(samples.shape[1:] in (shape, (steps, *shape)), f"samples of shape {samples.shape[1:]} for {shape}")


def check_range(program: Program, low: int, high: int) -> None:
    """See that samples, which lie between two numbers, keep the range that the input promises.

    Raises:
        InvariantError: They do not.
    """
    signal = program.input.op.signal
    if signal.low is not None and signal.high is not None:
        require(
            signal.low <= low and high <= signal.high,
            f"{program.input.name}: [{low}, {high}] leaves the promised [{signal.low}, {signal.high}]",
        )
