"""Counting rules, by hand."""

from __future__ import annotations

import numpy as np

from resformer.compiler.ir.ops import SampleDelay
from resformer.compiler.ir.signal import SPIKE
from resformer.compiler.ir.trace import SpikeTrain
from resformer.compiler.placement.activity import measure, stem_macs
from support.program_builder import ProgramBuilder


def test_a_corner_spike_reaches_fewer_targets() -> None:
    net = ProgramBuilder((1, 4, 4))
    first = net.lif("first", net.conv("stem", "input", 2, (3, 3), padding=(1, 1)))
    second = net.lif("second", net.conv("conv", first, 6, (3, 3), padding=(1, 1), groups=2))
    net.dense("classifier", net.flatten("flatten", second), 3)
    program = net.finish(timesteps=2)
    spikes = np.zeros((2, 1, 2, 4, 4), dtype=bool)
    spikes[0, 0, 0, 0, 0] = spikes[1, 0, 1, 1, 1] = spikes[1, 0, 0, 0, 1] = True
    trains = {"first": SpikeTrain.pack(spikes), "second": SpikeTrain.pack(np.ones((2, 1, 6, 4, 4), dtype=bool))}
    activity = measure(program, trains)
    # 3 targets a group: a corner reaches 4 places, the middle 9, an edge 6
    assert {name: steps.tolist() for name, steps in activity.sops.items()} == {"conv": [4 * 3, (9 + 6) * 3]}
    assert activity.sops_per_sample == 57
    assert stem_macs(program) == 2 * 4 * 4 * 9


def test_a_dilated_convolution_skips_the_neighbours() -> None:
    net = ProgramBuilder((1, 5, 5))
    first = net.lif("first", net.conv("stem", "input", 1))
    net.lif("second", net.conv("conv", first, 2, (3, 2), padding=(0, 1), dilation=(2, 3)))
    spikes = np.zeros((1, 1, 1, 5, 5), dtype=bool)
    spikes[0, 0, 0, 2, 2] = spikes[0, 0, 0, 1, 2] = True
    trains = {"first": SpikeTrain.pack(spikes), "second": SpikeTrain.pack(np.zeros((1, 1, 2, 1, 4), dtype=bool))}
    # the only row of targets reads rows 0, 2 and 4; its columns -1 and 2, 0 and 3, 1 and 4, 2 and 5
    assert measure(net.finish(timesteps=1), trains).sops["conv"].tolist() == [2 * 2]


def test_recurrent_operations_come_a_step_later_and_the_last_ones_not_at_all() -> None:
    net = ProgramBuilder((1, 4, 4))
    net.cuba_lif("cuba", net.conv("stem", "input", 2), kernel=(3, 3))
    spikes = np.zeros((3, 1, 2, 4, 4), dtype=bool)
    spikes[0, 0, 0, 0, 0] = spikes[1, 0, 1, 1, 1] = True
    spikes[2] = True
    activity = measure(net.finish(timesteps=3), {"cuba": SpikeTrain.pack(spikes)})
    assert {name: steps.tolist() for name, steps in activity.sops.items()} == {"cuba": [0, 4 * 2, 9 * 2]}


def test_spikes_that_wait_are_counted_where_they_arrive() -> None:
    net = ProgramBuilder((1, 4, 4))
    first = net.lif("first", net.conv("stem", "input", 2))
    wait = net.add("wait", SampleDelay(SPIKE, np.array([[[1]], [[2]]], np.int32)), first)
    net.lif("second", net.conv("conv", wait, 3, (3, 3), padding=(1, 1)))
    spikes = np.zeros((3, 1, 2, 4, 4), dtype=bool)
    spikes[0, 0, 0, 0, 0] = spikes[0, 0, 1, 1, 1] = spikes[2, 0, :, 1, 1] = True
    trains = {"first": SpikeTrain.pack(spikes), "second": SpikeTrain.pack(np.zeros((3, 1, 3, 4, 4), dtype=bool))}
    activity = measure(net.finish(timesteps=3), trains)
    assert activity.sops["conv"].tolist() == [0, 4 * 3, 9 * 3]


def test_the_stem_is_found_behind_a_pool() -> None:
    net = ProgramBuilder((2, 8, 8))
    pooled = net.relay("relay", net.sum_pool("pool", "input", (2, 2), (2, 2)), limit=1000)
    stem = net.conv("stem", net.max_pool("most", pooled, (2, 2), (2, 2), (0, 0)), 3, (3, 3), padding=(1, 1))
    second = net.conv("second", net.lif("first", stem), 4, (3, 3), padding=(1, 1))
    net.dense("classifier", net.flatten("flatten", net.lif("third", second)), 3)
    assert stem_macs(net.finish(timesteps=2)) == 3 * 2 * 2 * 2 * 9
