"""The interface of all backends, and the checks of samples that they share."""

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
"""A callback that a run calls with (steps done, steps in all); each backend documents what it counts as a step."""


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
            program: The program, with its delays balanced.
            samples: (N, C, H, W), the same frame for all T steps, or (N, T, C, H, W); encoded.
            record: Keep every LIF's spikes and every graded value.
            progress: Called as the run goes on, with the steps done and the steps in all.

        Raises:
            BackendMissingError: A package that the backend needs is not installed.
            BackendFailedError: The run ended before its work was done.
        """
        ...


def does_not_fit(samples: int, memory: str = "memory") -> CapacityError:
    """The error to raise when ``samples`` samples at once do not fit in ``memory``, a name for the message."""
    remedy = f"give a smaller --batch-size, such as {samples // 2}" if samples > 1 else "take a larger machine"
    do_not = "samples at once do not" if samples > 1 else "sample at once does not"
    return CapacityError(f"{samples} {do_not} fit in {memory}; {remedy}")


def check_samples(program: Program, samples: npt.NDArray[np.integer]) -> None:
    """Check the shape and the range of encoded samples, which the program relies on, as the reference interpreter does.

    Raises:
        InvariantError: The samples have another shape than the input, or leave the range that the input promises.
    """
    check_shape(program, samples)
    if samples.size:
        check_range(program, int(samples.min()), int(samples.max()))


def check_shape(program: Program, samples: npt.NDArray[np.integer]) -> None:
    """Check that samples have the input's shape, with or without an axis of timesteps.

    Raises:
        InvariantError: The samples have another shape.
    """
    shape, steps = program.input.shape, program.timesteps
    require(samples.shape[1:] in (shape, (steps, *shape)), f"samples of shape {samples.shape[1:]} for {shape}")


def check_range(program: Program, low: int, high: int) -> None:
    """Check that samples, whose values lie between ``low`` and ``high``, keep the range that the input promises.

    Raises:
        InvariantError: The samples may leave that range.
    """
    signal = program.input.op.signal
    if signal.low is not None and signal.high is not None:
        require(
            signal.low <= low and high <= signal.high,
            f"{program.input.name}: [{low}, {high}] leaves the promised [{signal.low}, {signal.high}]",
        )
