"""Runs programs in Lava."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from resformer.compiler.backends.base import StepProgress
from resformer.compiler.backends.lava.build import build_network, run_config
from resformer.compiler.backends.lava.layout import lava_shape
from resformer.compiler.backends.lava.logs import unchanged_logging
from resformer.compiler.backends.lava.processes.frame_source import FrameSource
from resformer.compiler.backends.lava.processes.logit_sink import LogitSink
from resformer.compiler.backends.lava.record import Recorder
from resformer.compiler.backends.lava.session import forgotten_processes, run_steps
from resformer.compiler.backends.lava.shared import shared_array
from resformer.compiler.backends.lava.stream import stream
from resformer.compiler.ir.program import Scheduled
from resformer.compiler.ir.trace import Trace


class LavaBackend:
    """Runs each operation as a Lava process in an operating-system process of its own; samples stream back to back."""

    stream = staticmethod(stream)

    def run(
        self,
        program: Scheduled,
        samples: npt.NDArray[np.int32],
        *,
        record: bool = False,
        progress: StepProgress | None = None,
        stock_models: bool = False,
    ) -> Trace:
        """Run samples through a scheduled program, as ``resformer.compiler.backends.base.Backend`` says.

        The trace has no saturation counts of LIF neurons: stock Lava's neurons clip their potential without counting.

        Args:
            program: The program, with its delays balanced.
            samples: (N, C, H, W), the same frame for all T steps, or (N, T, C, H, W); encoded.
            record: Keep every LIF's spikes and every graded value.
            progress: Called with the number of Lava's steps that have passed, and the number of all steps.
            stock_models: Use stock Lava's models of its own processes instead of ours, which are many times faster.

        Raises:
            BackendFailedError: The system refused a process, or a process ended too early; the message names it.
        """
        steps = program.latency + program.timesteps * len(samples)
        recorder = Recorder(program, len(samples), values=record)
        clock = shared_array((1,), np.int64)
        with forgotten_processes():
            with unchanged_logging():
                source = FrameSource(samples=samples, timesteps=program.timesteps, name=program.input.name)
                sink = LogitSink(
                    shape=lava_shape(program.output.shape),
                    record=recorder.logits,
                    clock=clock,
                    name=program.output.name,
                )
            network = build_network(program, recorder=recorder)
            source.s_out.connect(network.in_port)
            network.out_port.connect(sink.a_in)
            run_steps(source, steps, run_config(stock_models=stock_models), clock, progress)
        return recorder.trace()
