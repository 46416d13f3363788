"""A stream of samples through one run of Lava: processes start once, and memory does not depend on the stream's length.

Shared memory holds one batch of samples at a time. Lava runs for the steps of this batch and then stops. The samples
that have left the network by then are read, and the next batch takes the place of the last. Populations and delays keep
their state in between, so the network sees one stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from resformer.compiler.backends.lava.build import build_network, run_config
from resformer.compiler.backends.lava.layout import lava_shape
from resformer.compiler.backends.lava.logs import unchanged_logging
from resformer.compiler.backends.lava.processes.chunk_source import ChunkSource
from resformer.compiler.backends.lava.processes.logit_sink import LogitSink
from resformer.compiler.backends.lava.record import StreamRecorder
from resformer.compiler.backends.lava.session import forgotten_processes, open_session
from resformer.compiler.backends.lava.shared import shared_array
from resformer.compiler.ir.arrays import require
from resformer.compiler.ir.program import Scheduled
from resformer.compiler.ir.trace import Trace


def stream(
    program: Scheduled,
    batches: Iterable[npt.NDArray[np.int32]],
    *,
    at_once: int,
    record: bool = False,
    stock_models: bool = False,
) -> Iterator[Trace]:
    """Run batches of samples that follow one another without a gap.

    Args:
        program: The program, with its delays balanced.
        batches: Encoded samples, each batch (N, C, H, W) or (N, T, C, H, W).
        at_once: The most samples that a batch may have.
        record: Keep every LIF's spikes and every graded value.
        stock_models: Use stock Lava's models of its own processes instead of ours, which are many times faster.

    Yields:
        Traces of the samples that have left the network, in order. After a batch, its last samples may still be under
        way; they come with a later trace. A trace counts all clips that occurred since the trace before it.

    Raises:
        BackendFailedError: The system refused a process, or a process ended too early; the message names it.
    """
    timesteps = program.timesteps
    under_way = -(-program.latency // timesteps)
    recorder = StreamRecorder(program, max(at_once, under_way) + under_way + 1, values=record)
    frames = shared_array((at_once, timesteps, *program.input.shape), np.int32)
    place = shared_array((2,), np.int64)
    with forgotten_processes():
        with unchanged_logging():
            source = ChunkSource(frames=frames, place=place, name=program.input.name)
            clock = shared_array((1,), np.int64)
            shape = lava_shape(program.output.shape)
            sink = LogitSink(shape=shape, record=recorder.logits, clock=clock, name=program.output.name)
        network = build_network(program, recorder=recorder)
        source.s_out.connect(network.in_port)
        network.out_port.connect(sink.a_in)
        with open_session(source, run_config(stock_models=stock_models), clock) as session:
            given = told = 0
            for batch in batches:
                count = len(batch)
                require(count <= at_once, f"a batch of {count} samples, more than {at_once}")
                if not count:
                    continue
                frames[:count] = batch if batch.ndim == 5 else batch[:, None]
                place[:] = given, given + count
                given += count
                recorder.given[0] = given * timesteps
                session.run(count * timesteps)
                done = max((given * timesteps - program.latency) // timesteps, told)
                if done > told:
                    yield recorder.part(told, done)
                    told = done
            if given > told:
                session.run(program.latency)
                yield recorder.part(told, given)
