"""A stream of samples through one run of Lava: its processes start once, and memory does not depend on its length.

Some samples at a time lie in shared memory. Lava runs for as many steps as they take, and stops where the next are
due; then what has left the network by now is read, and the next samples take their place. Populations and delays keep
what they hold in between, so the network sees one stream.
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
        program: With its delays balanced.
        batches: (N, C, H, W) or (N, T, C, H, W), encoded.
        at_once: The most samples that a batch may have.
        record: Keep every LIF's spikes and every graded value.
        stock_models: As ``LavaBackend.run`` takes it.

    Yields:
        What has left the network, in the samples' order: of a batch it may be fewer samples than it has, since the
        last are still under way, and the others come with the next. Saturation is counted as far as it occurred.

    Raises:
        BackendFailedError: As ``LavaBackend.run`` has it.
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
