"""Export to SANA-FE: its input, whether or not it is installed, and its results, where it is installed."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import yaml

from resformer.compiler.chips.chip import load_chip
from resformer.compiler.ir import reference
from resformer.compiler.ir.program import Program
from resformer.compiler.placement.activity import measure
from resformer.compiler.placement.place import place
from resformer.errors import BackendMissingError, UnsupportedError
from resformer.runtime.cost import sanafe as sanafe_chip
from resformer.runtime.cost.cost import estimate
from support.program_builder import ProgramBuilder, tiny_resformer

LOIHI1 = load_chip("loihi1")


def spiking(seed: int = 0) -> tuple[Program, ProgramBuilder]:
    """Three populations, with strides, padding, groups and a dense layer."""
    net = ProgramBuilder((2, 6, 6), seed)
    first = net.lif("first", net.conv("stem", "input", 4, (3, 3), padding=(1, 1)), vth=40, bias=0)
    second = net.lif(
        "second", net.conv("conv", first, 6, (3, 3), stride=(2, 2), padding=(1, 1), groups=2), vth=60, bias=0
    )
    net.lif("third", net.dense("dense", net.flatten("flatten", second), 5), vth=50, bias=0)
    return net.finish(timesteps=4), net


def test_synapses_are_those_that_the_definition_sums() -> None:
    program, _ = spiking()
    for name, source in (("conv", "first"), ("dense", "flatten")):
        shape = program[source].shape
        pairs, weights = sanafe_chip._synapses(program[name], shape)
        x = np.random.default_rng(1).integers(0, 2, (1, 1, *shape))
        expected = program[name].op.evaluate(x)[0].reshape(-1)
        sums = np.zeros(expected.size, dtype=np.int64)
        np.add.at(sums, pairs[:, 1], weights * x.reshape(-1)[pairs[:, 0]])
        np.testing.assert_array_equal(sums, expected)


def test_the_chips_constants_are_written_in_its_language() -> None:
    content = yaml.safe_load(sanafe_chip.architecture_yaml(LOIHI1))["architecture"]
    assert (content["attributes"]["width"], content["attributes"]["height"]) == (8, 4)
    (tile,) = content["tile"]
    (core,) = tile["core"]
    assert tile["name"] == "tile[0..31]"
    assert tile["attributes"]["energy_east_hop"] == pytest.approx(3e-12)
    assert tile["attributes"]["energy_north_hop"] == pytest.approx(4e-12)
    soma = core["soma"][0]["attributes"]
    assert soma["energy_access_neuron"] == pytest.approx(52e-12)
    assert soma["energy_spike_out"] == pytest.approx(29e-12)
    assert core["synapse"][0]["attributes"]["energy_process_spike"] == pytest.approx(23.6e-12)


def test_it_is_imported_only_when_asked_and_its_absence_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    program, net = spiking()
    monkeypatch.setitem(sys.modules, "sanafe", None)
    spikes = reference.run(program, net.samples(1), record=True).spikes
    with pytest.raises(BackendMissingError, match="pip install sanafe"):
        sanafe_chip.simulate(program, spikes, 0, place(program, LOIHI1), own_constants=True)


def test_networks_of_values_are_refused() -> None:
    program, _ = tiny_resformer()
    with pytest.raises(UnsupportedError, match="only synapses are compared"):
        sanafe_chip._populations(program)


def test_other_neurons_are_refused_wherever_they_are() -> None:
    """The first population's spikes are played back, and its neurons are refused all the same."""
    net = ProgramBuilder((2, 6, 6))
    net.cuba_lif("first", net.conv("stem", "input", 4, (3, 3)))
    net.lif("second", net.dense("dense", net.flatten("flatten", "first"), 5), bias=0)
    with pytest.raises(UnsupportedError, match="first: a CubaLIF; only LIF neurons are compared"):
        sanafe_chip._populations(net.finish())


@pytest.mark.parametrize("seed", [0, 1])
def test_sanafe_agrees(seed: int) -> None:
    pytest.importorskip("sanafe", reason="SANA-FE (GPL-3.0) is not installed: pip install sanafe")
    program, net = spiking(seed)
    spikes = reference.run(program, net.samples(1), record=True).spikes
    placement = place(program, LOIHI1)
    assert all(layer.cores == 1 for layer in placement.layers), "averages over cores would be compared"
    cost = estimate(program, measure(program, spikes), placement)
    run = sanafe_chip.simulate(program, spikes, 0, placement, own_constants=False)
    lines = sanafe_chip.compare(cost, spikes, run)
    # neighbouring cores share a tile, so nothing hops
    assert min(line.ours for line in lines if line.name != "hops") > 0
    for line in lines:
        assert line.theirs == pytest.approx(line.ours, rel=1e-9), line.name
