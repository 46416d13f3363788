"""Membrane traces: the integers against the definition, the real numbers against a plain restatement of neurons."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest

import resformer
from resformer.compiler.ir import reference
from resformer.compiler.ir.graph import Graph
from resformer.compiler.ir.ops import LIF
from resformer.compiler.ir.primitives import DiscreteCubaLIF, IntegerLIF, MultiSpikeIF, RecurrentCubaLIF
from resformer.errors import InputError
from resformer.runtime.membrane import Membrane, real_traces, trace
from resformer.runtime.run.encode import encode
from support.builds import Tiny, program_of
from support.graphs import GraphBuilder, integrate, lif, samples_for
from support.networks import with_input_range
from support.program_builder import ProgramBuilder

STEPS = 6


@pytest.fixture(scope="module")
def traced(tiny: Tiny) -> tuple[Membrane, np.ndarray, Tiny]:
    """The busiest neuron of a population of the tiny network on two samples, and the samples."""
    images, program = np.load(tiny.images)[:2].astype(np.float64), program_of(tiny.build)
    name = program.lif_names[2]
    fired: dict[str, np.ndarray] = {}
    reference.run(program, encode(images, program).values, observe=fired.__setitem__)
    neuron = int(fired[name].sum(axis=(0, 1)).reshape(-1).argmax())
    return resformer.load(tiny.build).membrane(images, name, neuron), images, tiny


def test_integers_are_the_definitions(traced: tuple[Membrane, np.ndarray, Tiny]) -> None:
    found, images, tiny = traced
    program = program_of(tiny.build)
    op, caught = program[found.name].op, {}
    assert isinstance(op, LIF)
    reference.run(program, encode(images, program).values, observe=caught.__setitem__)
    at = (slice(None), slice(None), *found.neuron)
    given, fired = caught[program[found.name].inputs[0]][at].T, caught[found.name][at].T
    bias = int(op.bias[found.neuron[0]]) if op.bias.size > 1 else int(op.bias[0])
    assert fired.any()
    for sample in range(2):
        u = v = 0
        for step in range(program.timesteps):
            u = int(u * (4095 - op.du) / 4096) + 64 * int(given[sample, step])
            v = int(v * (4096 - op.dv) / 4096) + u + bias
            assert found.integer.current[sample, step] == u + bias
            assert found.integer.potential[sample, step] == v
            v = 0 if v > 64 * op.vth else v
            assert found.integer.left[sample, step] == v
    assert (found.integer.spikes == fired).all()
    assert found.integer.threshold == 64 * op.vth


def test_both_are_the_same_neuron(traced: tuple[Membrane, np.ndarray, Tiny]) -> None:
    found, images, tiny = traced
    compiled = resformer.load(tiny.build)
    # behind the stem alone no spike differs yet, and weights of 8 bits are near the original's
    first = compiled.membrane(images, compiled.program.lif_names[0], (1, 2, 3))
    program, real = first.in_thresholds()
    assert real is not None
    assert np.abs(program).max() > 0.2
    np.testing.assert_allclose(program, real, atol=0.05)
    table = dict(found.summary()[1])
    assert table["steps"] == "2 samples, 4 steps each"
    assert f"{found.integer.spikes.sum()} of the program" in table["spikes"]
    index = np.ravel_multi_index(found.neuron, compiled.program[found.name].shape)
    again = compiled.membrane(images, found.name, index, samples=1)
    assert again.neuron == found.neuron
    assert (again.integer.potential == found.integer.potential[:1]).all()
    assert found.real is not None
    assert again.real is not None
    assert (again.real.potential == found.real.potential[:1]).all()


CUBA: dict[str, Any] = {"syn_decay": 0.5, "mem_decay": 0.25, "v_threshold": 1.0, "v_bias": 0.125, "v_drop": 0.75}


def discrete(kind: type = DiscreteCubaLIF, *, soft: bool, metadata: dict[str, Any] | None = None, **more: Any) -> Any:
    fields = {name: np.full((2, 1, 1), value) for name, value in CUBA.items()}
    return kind(**fields, soft_reset=soft, metadata={"fires_at": ">=", **(metadata or {})}, **more)


def leaky(reset: str) -> nir.LIF:
    op = lif((2, 1, 1), tau_steps=2.5)
    op.metadata["reset"] = reset
    return op


def multi(kind: type = MultiSpikeIF, **more: Any) -> Any:
    height, floor = (np.full((2, 1, 1), value) for value in (0.75, -0.5))
    return kind(v_threshold=height, v_floor=floor, max_spikes=3, **more)


RECURRENT: dict[str, Any] = {
    "weight": np.array([[0.5, -0.25], [0.125, 1.0]])[:, :, None, None],
    "bias": np.array([0.0625, -0.125]),
    "padding": (0, 0),
    "dilation": (1, 1),
    "groups": 1,
}
REAL: dict[str, Callable[[], Any]] = {
    "lif": lambda: lif((2, 1, 1)),
    "soft": lambda: leaky("soft"),
    "late": lambda: leaky("late"),
    "prompt": lambda: leaky("prompt"),
    "if": lambda: integrate((2, 1, 1)),
    "cuba": lambda: discrete(soft=False),
    "cuba, soft": lambda: discrete(soft=True),
    "cuba, prompt": lambda: discrete(soft=True, metadata={"reset": "prompt"}),
    "recurrent": lambda: discrete(RecurrentCubaLIF, soft=False, **RECURRENT),
    "several spikes": multi,
    "levels": lambda: multi(IntegerLIF, mem_decay=0.5, even=True),
}


def neurons_alone(op: Any) -> Graph[nir.NIRNode]:
    build = GraphBuilder((2, 1, 1))
    build.output(build.add("neurons", op, "input"))
    return build.finish(STEPS)


@pytest.mark.parametrize("kind", REAL)
def test_real_numbers_add_up(kind: str) -> None:
    """The potential is what a step adds plus what the last step left; neurons fire at or above their threshold."""
    op = REAL[kind]()
    graph = neurons_alone(op)
    samples = 1.5 * samples_for(graph, 8).repeat(STEPS, axis=0).reshape(8, STEPS, 2, 1, 1)
    samples += 0.5 * np.random.default_rng(1).standard_normal(samples.shape)
    keep = {"lif": 0.5, "soft": 0.6, "late": 0.6, "prompt": 0.6, "if": 1, "several spikes": 1, "levels": 0.5}
    for index, found in enumerate(real_traces(graph, samples, {"neurons": (0, 1)})["neurons"]):
        assert found.spikes.any(), index
        before = np.concatenate([np.zeros((8, 1)), found.left[:, :-1]], axis=1)
        taken = np.zeros_like(before)
        if kind == "late":
            taken[:, 1:] = found.spikes[:, :-1]
        elif "prompt" in kind:
            taken = (before >= found.threshold) * (CUBA["v_drop"] if "cuba" in kind else 1.0)
        np.testing.assert_allclose(found.potential, keep.get(kind, 0.75) * before + found.current - taken, atol=1e-12)
        fired = found.spikes > 0
        if kind != "levels":
            assert (fired == (found.potential >= found.threshold)).all()
        assert (found.left[~fired] <= np.maximum(found.potential[~fired] + taken[~fired], -0.5)).all()
        if kind in ("lif", "if", "cuba", "recurrent"):
            assert not found.left[fired].any()


@pytest.mark.parametrize("kind", ["cuba_lif", "multi_spike", "integer_lif"])
def test_integers_of_other_neurons_add_up(kind: str) -> None:
    net = ProgramBuilder((2, 3, 3))
    getattr(net, kind)("neurons", net.conv("conv", "input", 3))
    net.dense("classifier", net.flatten("flatten", "neurons"), 2)
    samples = net.samples(3)
    program = with_input_range(net.finish(), samples)
    op: Any = program["neurons"].op
    decays = np.broadcast_to(op.dv if hasattr(op, "dv") else 0, program["neurons"].shape)
    fired = 0
    for neuron in np.ndindex(3, 1, 3):
        found = trace(program, None, samples.astype(np.float64), "neurons", neuron).integer
        before = np.concatenate([np.zeros((3, 1), dtype=np.int64), found.left[:, :-1]], axis=1)
        decayed = np.trunc(before * (4096 - int(decays[neuron])) / 4096).astype(np.int64)
        assert (found.potential == decayed + found.current).all()
        fired += found.spikes.sum()
    assert fired


def test_prompt_resets_are_taken_before_the_threshold_is_met() -> None:
    net = ProgramBuilder((2, 3, 3))
    net.cuba_lif("neurons", net.conv("conv", "input", 3), soft_reset=True, prompt=True, bias=20_000)
    net.dense("classifier", net.flatten("flatten", "neurons"), 2)
    samples = net.samples(3)
    program = with_input_range(net.finish(timesteps=8), samples)
    crossed = 0
    for neuron in np.ndindex(3, 1, 3):
        found = trace(program, None, samples.astype(np.float64), "neurons", neuron).integer
        assert ((found.spikes > 0) == (found.potential > found.threshold)).all(), neuron
        crossed += int((found.left[:, :-1] > found.threshold).sum())
    assert crossed, "no neuron began a step above its threshold"


@pytest.mark.parametrize(
    ("name", "neuron", "message"),
    [
        ("absent", 0, "absent: no population that fires has this name; there are "),
        (None, 10**6, "there is no neuron 1000000"),
        (None, -1, "there is no neuron -1"),
        (None, (0, 0), "there is no neuron (0, 0)"),
        (None, (0, 99, 0), "there is no neuron (0, 99, 0)"),
    ],
)
def test_there_must_be_such_a_neuron(tiny: Tiny, name: str | None, neuron: Any, message: str) -> None:
    compiled = resformer.load(tiny.build)
    with pytest.raises(InputError) as caught:
        compiled.membrane(Path("never-read.npy"), name or compiled.program.lif_names[0], neuron)
    assert message in str(caught.value)
