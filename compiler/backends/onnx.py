"""Runs programs in ONNX Runtime, whose code and whose reading of ONNX's integer operators are independent of ours."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from resformer.compiler.backends.base import StepProgress, check_samples
from resformer.compiler.export.onnx import require
from resformer.compiler.export.onnx.integer_model import INTEGER_LOGITS, count_name, export_integer
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.trace import SpikeTrain, Trace

BATCH_BYTES = 2**29
"""The memory, in bytes, that the values of one batch that exist at the same time may take."""
VALUES_ALIVE = 16
"""How many values of the largest node's size exist at the same time; measured at full size, most in a LIF's loop."""


class OnnxBackend:
    """Runs programs on the CPU.

    Raises:
        BackendMissingError: onnx or onnxruntime is not installed.
    """

    def __init__(self) -> None:
        require("onnx")
        self._runtime = require("onnxruntime")
        self._program: Program | None = None
        self._sessions: dict[tuple[bool, bool], Any] = {}

    def run(
        self,
        program: Program,
        samples: npt.NDArray[np.integer],
        *,
        record: bool = False,
        progress: StepProgress | None = None,
        batch_size: int | None = None,
    ) -> Trace:
        """Run samples through a program, as ``resformer.compiler.backends.base.Backend`` says.

        The model is exported and loaded once, and kept for the next run of the same program object.

        Args:
            program: A program with proven ranges, scheduled or not.
            samples: (N, C, H, W), the same frame for all T steps, or (N, T, C, H, W); encoded.
            record: Keep every LIF's spikes and every graded value, which takes memory for all samples.
            progress: Called with the number of samples done and the number of all samples.
            batch_size: How many samples are run together; None: as many as fit in ``BATCH_BYTES``.

        Raises:
            RangeError: A sum may exceed 32 bits.
            InvariantError: Samples have another shape than the input, or leave the range that the input promises.
        """
        check_samples(program, samples)
        session = self._session(program, record=record, frames=samples.ndim > 1 + len(program.input.shape))
        recorder = _Recorder(program, len(samples), record=record)
        size = batch_size or _batch_size(program, record=record)
        for start in range(0, len(samples), size):
            batch = samples[start : start + size].astype(np.int32)
            values = session.run(recorder.outputs, {program.input.name: batch})
            recorder.put(start, len(batch), zip(recorder.outputs, values, strict=True))
            if progress is not None:
                progress(start + len(batch), len(samples))
        return recorder.trace()

    def _session(self, program: Program, *, record: bool, frames: bool) -> Any:
        """The session that holds the loaded model; it is made at the first call."""
        if program is not self._program:
            self._program, self._sessions = program, {}
        if (record, frames) not in self._sessions:
            metadata = {**program.metadata, "input": "frames" if frames else "static"}
            model = export_integer(dataclasses.replace(program, metadata=metadata), debug=record, counts=True)
            options = self._runtime.SessionOptions()
            # with few processors, threads that wait in a busy loop take time from the threads that work
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            self._sessions[record, frames] = self._runtime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        return self._sessions[record, frames]


class _Recorder:
    """The arrays of a trace, filled batch by batch.

    Attributes:
        outputs: The names of the model's outputs that are recorded.
    """

    def __init__(self, program: Program, samples: int, *, record: bool) -> None:
        clipping = [node.name for node in program if node.op.clips]
        self._saturated = {count_name(name): 0 for name in clipping}
        self._counted = dict(zip(clipping, self._saturated, strict=True))
        steps = program.timesteps
        self._logits = np.empty((samples, steps, *program.output.shape), dtype=np.int64)
        self._values: Mapping[str, npt.NDArray[Any]] = {
            node.name: np.empty((steps, samples, *node.shape), dtype=np.uint8 if node.op.fires else np.int32)
            for node in program
            if record and node.op.recorded
        }
        self.outputs = [INTEGER_LOGITS, *self._saturated, *self._values]

    def put(self, first: int, count: int, outputs: Iterable[tuple[str, npt.NDArray[Any]]]) -> None:
        """Keep the model's outputs for ``count`` samples, the first of which is sample ``first``."""
        for name, value in outputs:
            if name == INTEGER_LOGITS:
                self._logits[first : first + count] = value
            elif name in self._saturated:
                self._saturated[name] += int(value)
            else:
                kept = self._values[name]
                kept[:, first : first + count] = value.reshape(len(kept), count, *kept.shape[2:])

    def trace(self) -> Trace:
        """The trace of all samples that were kept."""
        return Trace(
            logits=self._logits.swapaxes(0, 1),
            spikes={name: SpikeTrain.pack(each) for name, each in self._values.items() if each.dtype == np.uint8},
            graded={name: each for name, each in self._values.items() if each.dtype == np.int32},
            saturated={name: self._saturated[output] for name, output in self._counted.items()},
        )


def _batch_size(program: Program, *, record: bool) -> int:
    """How many samples to run together, so that their values fit in ``BATCH_BYTES``."""
    sizes = [math.prod(node.shape) for node in program]
    elements = VALUES_ALIVE * max(sizes) + (sum(sizes) if record else 0)
    return max(1, BATCH_BYTES // (program.timesteps * elements * np.dtype(np.int32).itemsize))
