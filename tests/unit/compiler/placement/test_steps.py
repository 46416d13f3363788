"""How long steps last: the slowest term of the slowest layer or of links, for each step by itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from resformer.compiler.chips.chip import load_chip
from resformer.compiler.placement.steps import TERMS, Work, lasting

CHIP = replace(
    load_chip("loihi2"),
    synaptic_op_ns=1.0,
    synaptic_op_wide_ns=10.0,
    neuron_update_active_ns=3.0,
    neuron_update_inactive_ns=2.0,
    message_in_ns=5.0,
    message_out_ns=7.0,
    link_ns=0.5,
    step_ns=100.0,
)


def work(name: str, depth: int = 0, **counts: list[float]) -> Work:
    kinds = ("narrow", "wide", "active", "inactive", "arriving", "leaving")
    steps = len(next(iter(counts.values())))
    return Work(name, depth, *(np.array(counts.get(kind, [0.0] * steps)) for kind in kinds))


def links(rows: list[float], columns: list[float]) -> dict[str, np.ndarray]:
    return {"east-west": np.array(rows), "north-south": np.array(columns)}


def test_a_cores_terms_are_its_counts_times_the_constants() -> None:
    each = work("a", narrow=[1, 0, 2], wide=[0, 1, 1], active=[1, 1, 0], inactive=[0, 1, 1], arriving=[2, 0, 1])
    found = {name: times.tolist() for name, times in each.terms(CHIP).items()}
    assert found == dict(
        zip(TERMS, ([1.0, 10.0, 12.0], [3.0, 5.0, 2.0], [10.0, 0.0, 5.0], [0.0, 0.0, 0.0]), strict=True)
    )


def test_each_step_waits_for_its_slowest_part() -> None:
    works = [work("a", narrow=[50, 1, 1]), work("b", leaving=[1, 2, 1])]
    steps = lasting(works, links([0, 0, 60], [0, 0, 40]), CHIP, 4.0)
    assert steps.slowest == (("a", "synapses"), ("b", "messages out"), ("east-west", "links"))
    assert steps.busy_ns.tolist() == [50, 14, 30]
    assert steps.ns.tolist() == [154, 118, 134]
    assert steps.mean_ns == pytest.approx((154 + 118 + 134) / 3)


def test_a_layer_works_on_a_step_when_it_has_reached_it() -> None:
    """At the chip's step 0 the second layer is at the last step of the sample before."""
    works = [work("a", narrow=[9, 1, 1]), work("b", depth=1, narrow=[8, 5, 1])]
    steps = lasting(works, links([0] * 3, [0] * 3), CHIP, 0.0)
    assert steps.busy_ns.tolist() == [9, 8, 5]
    assert [layer for layer, _ in steps.slowest] == ["a", "b", "b"]


def test_pilotnets_printed_steps() -> None:
    """lava-dl, pilotnet_snn/benchmark.ipynb: the work of its busiest cores, and the times of its repeating steps."""
    chip = load_chip("loihi2")
    third = work("conv3", wide=[195_104, 106_176, 177_184, 124_376])
    second = work("conv2", narrow=[108_419, 153_600, 108_419, 153_600])
    steps = lasting([second, third], links([0] * 4, [0] * 4), chip, 0.0)
    assert steps.ns * 1e-3 == pytest.approx([201, 107, 181, 125], rel=0.05)
    assert steps.mean_ns * 1e-3 == pytest.approx(152.8, rel=0.01)
    assert [layer for layer, _ in steps.slowest] == ["conv3"] * 4
