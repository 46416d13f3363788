"""The reference interpreter as a backend: slow, and right by definition."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from resformer.compiler.backends.base import StepProgress
from resformer.compiler.ir import reference
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.trace import Trace


class ReferenceBackend:
    """Runs programs in numpy."""

    def run(
        self,
        program: Program,
        samples: npt.NDArray[np.int32],
        *,
        record: bool = False,
        progress: StepProgress | None = None,
    ) -> Trace:
        """Run all samples at once, as ``resformer.compiler.backends.base.Backend`` says."""
        trace = reference.run(program, samples, record=record)
        if progress is not None:
            progress(len(samples), len(samples))
        return trace
