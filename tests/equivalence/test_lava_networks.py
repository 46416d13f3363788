"""E2, whole networks: Lava against the reference interpreter, as we run it and as a user of Lava may."""

from typing import Any

import resformer.compiler.backends.lava  # noqa: F401 # First: since Python 3.11, Lava cannot be imported without it.

# isort: split

import numpy as np
import pytest
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg
from lava.proc.io.sink import RingBuffer as Sink
from lava.proc.io.source import RingBuffer as Source
from numpy.testing import assert_array_equal

from resformer.compiler.backends.lava.backend import LavaBackend
from resformer.compiler.backends.lava.build import CHANNEL_SIZE, build_network, run_config
from resformer.compiler.ir import reference
from resformer.compiler.ir.ops import Delay
from support.lava_user.half_of import HalfOf
from support.program_builder import ProgramBuilder, tiny_resformer
from support.traces import assert_same_trace


@pytest.mark.parametrize("stock_models", [False, True])
def test_samples_stream_through_a_resformer(stock_models: bool) -> None:
    program, net = tiny_resformer(timesteps=4)
    assert any(isinstance(node.op, Delay) for node in program)
    assert program.latency % program.timesteps, "resets at step 0 would do as well"
    samples = net.samples(5)
    expected = reference.run(program, samples, record=True)
    assert len(expected.spikes) == 13
    assert all(0 < train.count < train.size for train in expected.spikes.values())
    assert expected.saturated["layers.0.0.add.relay"]
    assert expected.saturated["layers.0.0.matmul2"]
    told: list[tuple[int, int]] = []

    trace = LavaBackend().run(
        program,
        samples,
        record=True,
        stock_models=stock_models,
        progress=lambda done, total: told.append((done, total)),
    )

    assert_same_trace(trace, expected)
    assert len(trace.saturated) == 8
    assert told == sorted(told)
    assert told[-1] == (program.latency + 4 * 5,) * 2


@pytest.mark.parametrize(("timesteps", "frames"), [(1, None), (5, 5)])
def test_other_numbers_of_steps(timesteps: int, frames: int | None) -> None:
    program, net = tiny_resformer(timesteps=timesteps)
    samples = net.samples(3, timesteps=frames)
    trace = LavaBackend().run(program, samples)
    expected = reference.run(program, samples)
    assert_same_trace(trace, expected)
    assert expected.logits.any()


def test_no_samples() -> None:
    net = ProgramBuilder((1, 2, 2))
    net.conv("conv", "input", 2)
    program = net.finish()
    trace = LavaBackend().run(program, net.samples(0), record=True)
    assert trace.logits.shape == (4, 0, 2, 2, 2)


@pytest.mark.parametrize("config", [run_config(), Loihi2SimCfg(select_tag="fixed_pt")], ids=["ours", "Lava's own"])
def test_a_user_connects_a_network_to_processes_of_their_own(config: Any) -> None:
    net = ProgramBuilder((3, 6, 4))
    x = net.conv("prologue.0", "input", 4, (3, 3), padding=(1, 1), largest=20)
    x = net.max_pool("prologue.2", x, (3, 3), (2, 2), (1, 1))
    x = net.plus("layers.0.0.add", net.feed_forward("layers.0.0", x, groups=2), x)
    relay = net.relay("relay", x, limit=3000)
    net.dense("classifier", net.flatten("flatten", relay), 5)
    program = net.finish(timesteps=3)
    samples = net.samples(2, largest=40)
    steps = program.latency + 2 * 3

    frames = np.zeros((*samples.shape[:-4:-1], steps), dtype=np.int32)
    frames[..., : 2 * 3] = np.repeat(samples, 3, axis=0).T
    source, half, sink = Source(data=frames), HalfOf(frames.shape[:-1]), Sink(shape=(5,), buffer=steps)
    network = build_network(program)
    source.s_out.connect(half.s_in)
    half.s_out.connect(network.in_port)
    network.out_port.connect(sink.a_in)
    try:
        source.run(RunSteps(steps), config, {"pypy_channel_size": CHANNEL_SIZE})
        logits = sink.data.get()[:, program.latency :].T
    finally:
        source.stop()

    expected = reference.run(program, samples // 2).logits
    assert expected.any()
    assert_array_equal(logits, expected.swapaxes(0, 1).reshape(2 * 3, 5))
