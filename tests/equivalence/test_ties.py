"""Ties: SpikingJelly's neurons fire where a potential meets its threshold, and so do the integers made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

import resformer
from resformer.compiler.export.checkpoint import TIE_SHIFT, unit_rate
from resformer.compiler.ir import fixedpoint, reference
from resformer.compiler.ir.ops import LIF, CubaLIF, Shapes, Spiking
from resformer.compiler.ir.signal import SPIKE
from resformer.compiler.ir.ties import settled_currents
from resformer.runtime.compiled import Compiled
from resformer.runtime.run.encode import encode
from resformer.runtime.verify.result import BACKEND, ORIGINAL, QUANTIZED, Verification, layer_rows

MakeNeuron = Callable[[], nn.Module]

# The rule, for single neurons


def lif(dv: int, vth: int = 300) -> LIF:
    zero = np.zeros(1)
    return LIF(SPIKE, vth=vth, du=4095, dv=dv, bias_mant=zero.astype(np.int16), bias_exp=zero.astype(np.int8))


def cuba(dv: int, vth: int = 300, *, soft: bool = False) -> CubaLIF:
    def one(value: int, dtype: type[np.signedinteger]) -> np.ndarray:
        return np.full((1,), value, dtype=dtype)

    drop = one(64 * vth if soft else 0, np.int32)
    nothing = one(0, np.int32)
    du, decay = one(4095, np.int16), one(dv, np.int16)
    return CubaLIF(
        SPIKE, vth=one(vth, np.int32), v_drop=drop, du=du, dv=decay, u_bias=nothing, v_bias=nothing, soft_reset=soft
    )


def at_threshold(op: Spiking, bias: np.ndarray, a: np.ndarray) -> np.ndarray:
    """What the neurons would fire, if they fired at their threshold and truncated nothing, (T, N, F)."""
    keep = 1 - np.asarray(op.decays) / 4096
    drop = op.v_drop / 64 if isinstance(op, CubaLIF) and op.soft_reset else None
    v = np.zeros(a.shape[1:])
    spikes = np.empty(a.shape, dtype=np.int64)
    for step, now in enumerate(a):
        v = v * keep + now + bias
        spikes[step] = v >= op.thresholds
        v = np.where(spikes[step], 0.0 if drop is None else v - drop, v)
    return spikes


def inputs_full_of_ties(op: Spiking, bias: np.ndarray, timesteps: int, rng: np.random.Generator) -> np.ndarray:
    """(T, N, F): random sums; about half of them bring the potential to its threshold, or one short of it."""
    keep = 1 - int(np.asarray(op.decays).flat[0]) / 4096
    a = rng.integers(-700, 500, (timesteps, 1000, len(bias)))
    v = np.zeros(a.shape[1:])
    for step in range(timesteps):
        missing = int(np.asarray(op.thresholds).flat[0]) - v * keep - bias
        lands = (missing == np.rint(missing)) & (rng.random(missing.shape) < 0.5)
        a[step] = np.where(lands, missing - (rng.random(missing.shape) < 0.3), a[step])
        v = v * keep + a[step] + bias
        v = np.where(v >= op.thresholds, 0, v)
    return a


KINDS: dict[str, tuple[Callable[[], Spiking], tuple[int, ...]]] = {
    "IF": (lambda: lif(0), (1, 4, 63, 64, 65, 100)),
    "LIF of tau 2": (lambda: lif(2048), (1, 2, 3, 4, 5, 6)),
    "LIF of tau 4": (lambda: lif(1024), (1, 2, 3)),
    "LIF without memory": (lambda: lif(4096), (1, 5, 20)),
    "soft IF": (lambda: cuba(0, soft=True), (1, 8, 70)),
    "soft LIF": (lambda: cuba(2048, soft=True), (1, 3, 6)),
    "our LIF of tau 2": (lambda: cuba(2048), (1, 4, 6)),
}


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_surplus_decides_ties_and_nothing_else(kind: str, *, lower: bool) -> None:
    make, durations = KINDS[kind]
    rng = np.random.default_rng(6)
    for timesteps in durations:
        bias = np.array([0, 1, -3, 17, 60, -64, 63, 250, -250, 1000, 4095, -4095], dtype=np.int64)
        op = make()
        surplus = op.settling_surplus(bias, timesteps, lower=lower)
        bias, surplus = bias[surplus > 0], surplus[surplus > 0]
        if not len(bias):
            continue
        settled = op.with_surplus(surplus).carry_bias([bias], Shapes((bias.shape,), bias.shape)).op
        settled.check_fields()
        a = inputs_full_of_ties(op, bias, timesteps, rng)
        (made, _), ties = settled.evaluate_with_ties(a)
        np.testing.assert_array_equal(made, at_threshold(op, bias, a), err_msg=f"T = {timesteps}")
        assert ties == 0
        plain = op.carry_bias([bias], Shapes((bias.shape,), bias.shape)).op.evaluate(a).value
        assert (made != plain).any(), "there was a tie"


@pytest.mark.parametrize(
    ("op", "timesteps", "bias", "lower", "surplus"),
    [
        (lif(2048), 1, 4095, True, 64),
        (lif(2048), 1, 2047, False, 1 << 5),
        (lif(2048), 1, 2048, False, 0),
        (lif(2048), 6, 63, True, 1),
        (lif(2048), 6, 64, True, 0),
        (lif(2048), 6, -64, True, 1),
        (lif(2048), 6, -65, True, 0),
        (lif(2048), 4, 64, True, 2),
        (lif(2048), 4, 255, True, 4),
        (lif(2048), 4, 256, True, 0),
        (lif(2048), 7, 0, True, 0),
        (lif(1024), 3, 0, True, 1),
        (lif(1024), 4, 0, True, 0),
        (lif(1365), 2, 0, True, 0),
        (lif(1365), 1, 0, True, 64),
        (lif(0), 10**5, 4095, True, 64),
        (lif(0), 64, 0, False, 1),
        (lif(0), 65, 0, False, 0),
        (replace(lif(2048), du=4000), 4, 0, True, 0),
        (cuba(2048), 6, 10**4, True, 1),
        (cuba(2048), 7, 0, True, 0),
        (replace(cuba(2048), v_bias=np.array([3], np.int32)), 2, 0, True, 0),
        (replace(cuba(0), v_bias=np.array([8], np.int32)), 8, 0, True, 1),
        (replace(cuba(0), v_bias=np.array([8], np.int32)), 9, 0, True, 0),
    ],
)
def test_where_there_is_a_surplus(op: Spiking, timesteps: int, bias: int, *, lower: bool, surplus: int) -> None:
    assert op.settling_surplus(np.array([bias]), timesteps, lower=lower).tolist() == [surplus]


@pytest.mark.parametrize("make", [lambda: lif(2048, 3), lambda: cuba(2048, 3), lambda: lif(0, 0)])
def test_ties_that_do_not_fire_are_counted(make: Callable[[], Spiking]) -> None:
    op = make()
    a = np.random.default_rng(1).integers(-4, 6, (9, 50, 3))
    ties, v = 0, np.zeros(a.shape[1:], dtype=np.int64)
    for now in a:
        v = fixedpoint.decay(v, int(np.asarray(op.decays).flat[0])) + 64 * now
        ties += int((v == 64 * int(np.asarray(op.thresholds).flat[0])).sum())
        v = np.where(v > 64 * int(np.asarray(op.thresholds).flat[0]), 0, v)
    assert op.counts_ties
    assert op.evaluate_with_ties(a)[1] == ties > 0


def test_attention_is_scaled_by_one_for_any_count() -> None:
    for count in range(1, 5000):
        assert float(1.0 / torch.sqrt(torch.tensor(unit_rate(count), dtype=torch.float64) * count)) == 1.0, count


# Networks


def integrate_and_fire() -> nn.Module:
    return neuron.IFNode()


NEURONS: dict[str, MakeNeuron] = {
    "IF": integrate_and_fire,
    "IF at one half": lambda: neuron.IFNode(v_threshold=0.5),
    "soft IF": lambda: neuron.IFNode(v_reset=None),
    "LIF, reset below zero": lambda: neuron.LIFNode(tau=2.0, v_reset=-0.5),
    "LIF at one half": lambda: neuron.LIFNode(tau=2.0, v_threshold=0.5),
    "LIF, input not decayed": lambda: neuron.LIFNode(tau=2.0, decay_input=False),
    "soft LIF": lambda: neuron.LIFNode(tau=2.0, v_reset=None),
    "LIF": lambda: neuron.LIFNode(tau=2.0),
}
KEEPS_ANY_TIME = ("IF", "IF at one half", "soft IF")


class Dyadic(nn.Module):
    """A random network of weights in eighths: sums of spikes and of currents, pools, neurons behind neurons."""

    def __init__(self, make: MakeNeuron, *, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def conv(inputs: int, outputs: int, kernel: int, *, bias: bool = False) -> layer.Conv2d:
            made = layer.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias)
            for tensor in made.parameters():
                tensor.data = torch.randint(-2, 5, tensor.shape, generator=generator) / 8
            return made

        self.stem, self.sn1 = conv(2, 4, 3), make()
        self.norm, self.sn2 = layer.BatchNorm2d(4), make()
        self.conv = conv(4, 4, 3)
        self.pool, self.sn3 = layer.MaxPool2d(2), make()
        self.mean, self.sn4 = layer.AvgPool2d(2), make()
        self.last, self.sn5 = conv(4, 3, 1), make()
        self.again = make()
        functional.set_step_mode(self, "m")
        self.norm.eps, self.norm.running_var = 0.0, torch.ones(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.sn1(self.stem(x))
        second = self.sn2(self.norm(self.conv(first)) + first)
        pooled = self.sn3(self.pool(second + first))
        return torch.flatten(self.again(self.sn5(self.last(self.sn4(self.mean(pooled))))), 2)


def compiled(module: nn.Module, timesteps: int, size: int = 8) -> tuple[Compiled, torch.Tensor]:
    """A module, and samples (N, T, C, H, W) of quarters."""
    generator = torch.Generator().manual_seed(timesteps)
    example = torch.randint(0, 5, (timesteps, 3, 2, size, size), generator=generator) / 4
    return resformer.compile(module.eval(), example, "sim"), example.transpose(0, 1)


def assert_no_tie_is_wrong(result: Verification) -> None:
    assert result.equivalent
    assert not result.clipped
    assert not result.saturation
    assert not result.ties
    assert all(check.mismatched == 0 for check in result.checks.values())
    assert result.checks[QUANTIZED].demanded


def durations() -> Iterator[tuple[str, int]]:
    for index, name in enumerate(NEURONS):
        yield name, 1 + index % 6
        yield name, 12 if name in KEEPS_ANY_TIME else 6


@pytest.mark.parametrize(("neurons", "timesteps"), durations())
def test_networks_full_of_ties_fire_spikingjellys_spikes(neurons: str, timesteps: int) -> None:
    network, samples = compiled(Dyadic(NEURONS[neurons], seed=timesteps), timesteps)
    assert_no_tie_is_wrong(network.verify(samples, backend="sim"))
    trains = network.run(samples, backend="sim", record=True).spikes
    assert sum(0 < train.count < train.size for train in trains.values()) >= 1, "a population is live"
    assert all((op.surplus > 0).all() for op in populations(network).values())
    assert without_surplus(network, samples) > 0, "without it, ties must show"


def populations(network: Compiled) -> dict[str, Spiking]:
    return {node.name: node.op for node in network.program if isinstance(node.op, Spiking)}


def without_surplus(network: Compiled, samples: torch.Tensor) -> int:
    """How many ties the neurons would miss on the same inputs, if they had no surplus and unlowered thresholds."""
    program = network.program
    encoded = encode(samples.numpy().astype(np.float64), program).values
    given = {program[name].inputs[0]: name for name in populations(network)}
    missed = 0

    def see(name: str, value: np.ndarray) -> None:
        nonlocal missed
        if name in given:
            op = populations(network)[given[name]]
            zero = np.zeros(1, dtype=np.int8)
            raised = op.thresholds + int(op.lowers_threshold)
            if isinstance(op, LIF):
                bias = (op.bias - op.added_surplus) >> 6
                plain = (
                    replace(op, surplus=zero, vth=int(raised)).carry_bias([bias], Shapes((bias.shape,), bias.shape)).op
                )
            else:
                assert isinstance(op, CubaLIF)
                meant = op.meant_v_bias.astype(np.int32)
                plain = replace(op, surplus=zero, vth=raised.astype(np.int32), v_bias=meant)
            missed += plain.evaluate_with_ties(value)[1]

    reference.run(program, encoded, observe=see)
    return missed


def test_a_small_network_in_lava() -> None:
    for name in ("IF", "LIF"):
        module = nn.Sequential(layer.Conv2d(2, 3, 1, bias=False), NEURONS[name](), NEURONS[name](), layer.Flatten())
        module[0].weight.data = torch.tensor([[1.0, 0.5], [0.5, -0.25], [1.0, 1.0]])[:, :, None, None]
        functional.set_step_mode(module, "m")
        network, samples = compiled(module, 4, size=2)
        assert_no_tie_is_wrong(network.verify(samples, backend="lava"))


# Where the program cannot be exact at its thresholds


class Biased(nn.Module):
    """A layer in which half of the channels have a bias, read by two populations, and then a layer without biases."""

    def __init__(self, first: MakeNeuron, second: MakeNeuron) -> None:
        super().__init__()
        self.conv = layer.Conv2d(2, 4, 1)
        self.sn1, self.sn2, self.sn3 = first(), second(), first()
        self.last = layer.Conv2d(4, 3, 1, bias=False)
        functional.set_step_mode(self, "m")
        self.conv.weight.data = torch.tensor([1.0, 0.5]).repeat(4, 1)[:, :, None, None]
        self.last.weight.data = torch.tensor([0.5, 0.25, -0.25, 0.5]).repeat(3, 1)[:, :, None, None]
        self.conv.bias.data = torch.tensor([0.0, 0.25, 0.0, -0.375])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        current = self.conv(x)
        return torch.flatten(self.sn3(self.last(self.sn1(current) + self.sn2(current))), 2)


def shifts(network: Compiled, name: str) -> np.ndarray:
    """What the quantized checkpoint subtracts from each bias of a layer."""
    state, op = network.quantized_state(), network.compilation.quantized[name].op
    taken: np.ndarray = op.bias * 2.0**-op.signal.scale_exp - state[f"{name}.bias"].numpy()
    return taken


def test_channels_whose_bias_fills_its_mantissa_are_counted_and_shifted() -> None:
    network, samples = compiled(Biased(NEURONS["LIF"], NEURONS["LIF"]), 6)
    assert (populations(network)["sn1"].surplus > 0).tolist() == [True, False, True, False]
    np.testing.assert_array_equal(shifts(network, "conv"), [0, TIE_SHIFT, 0, TIE_SHIFT])
    result = network.verify(samples, backend="sim")
    assert result.equivalent
    assert result.checks[QUANTIZED].demanded
    assert result.ties.keys() == {"sn1", "sn2"}
    assert result.ties["sn1"] > 0
    inference = network.run(samples, backend="sim")
    assert inference.ties == result.ties == network.run(samples, backend="reference").ties
    assert network.run(samples, backend="sim", batch_size=1).ties == result.ties
    headings, rows = layer_rows(result)
    assert headings[-1] == " ties"
    assert {row[0]: row[-1] for row in rows} == {
        "sn1": f"{result.ties['sn1']:,}",
        "sn2": f"{result.ties['sn2']:,}",
        "sn3": "fire",
    }


def test_populations_that_share_a_bias_agree() -> None:
    """A shift of the shared bias for one population would keep the other from firing at its ties."""
    network, samples = compiled(Biased(NEURONS["IF"], NEURONS["LIF"]), 6)
    found = populations(network)
    assert not any(op.lowers_threshold for name, op in found.items() if name != "sn3")
    for name in ("sn1", "sn2"):
        assert (found[name].surplus > 0).tolist() == [True, False, True, False]
    assert found["sn3"].lowers_threshold
    result = network.verify(samples, backend="sim")
    assert result.equivalent
    assert result.checks[QUANTIZED].demanded


@pytest.mark.parametrize(("window", "note"), [(2, ""), (3, "not demanded: the mean of 2 is rounded")])
def test_neurons_behind_a_mean(window: int, note: str) -> None:
    """A quarter is exact in float64. A ninth is not, and the sum of nine rounded ninths need not be one."""
    modules = layer.Conv2d(2, 4, 1, bias=False), neuron.IFNode(), layer.AvgPool2d(window), neuron.IFNode()
    module = nn.Sequential(*modules, layer.Flatten())
    module[0].weight.data = torch.tensor([1.0, 0.5]).repeat(4, 1)[:, :, None, None]
    functional.set_step_mode(module, "m")
    network, samples = compiled(module, 6, size=6)
    result = network.verify(samples, backend="sim")
    assert result.checks[BACKEND].mismatched == 0
    assert result.checks[QUANTIZED].demanded == (not note)
    assert result.checks[QUANTIZED].note.startswith(note)
    if not note:
        assert_no_tie_is_wrong(result)


def test_a_mean_that_float64_rounds_does_not_lose_a_tie() -> None:
    """In the quantized checkpoint, a layer behind a mean of nine has a slightly larger bias, so that ties fire."""
    conv = layer.Conv2d(4, 3, 1)
    modules = layer.Conv2d(2, 4, 1, bias=False), neuron.IFNode(), layer.AvgPool2d(3), conv, neuron.IFNode()
    module = nn.Sequential(*modules, layer.Flatten())
    module[0].weight.data = torch.tensor([1.0, 0.5]).repeat(4, 1)[:, :, None, None]
    conv.weight.data = torch.tensor([0.25, 0.125, 0.25, 0.5]).repeat(3, 1)[:, :, None, None]
    conv.bias.data = torch.zeros(3)
    functional.set_step_mode(module, "m")
    network, samples = compiled(module, 6, size=6)
    np.testing.assert_array_equal(shifts(network, "3"), 3 * [-TIE_SHIFT])
    result = network.verify(samples, backend="sim")
    assert result.equivalent
    assert result.checks[QUANTIZED].demanded


def test_a_step_too_many_is_counted_and_the_shift_stays() -> None:
    network, samples = compiled(Dyadic(NEURONS["LIF"], seed=7), 7)
    assert not any(op.surplus.any() for op in populations(network).values())
    result = network.verify(samples, backend="sim")
    assert result.checks[BACKEND].mismatched == 0
    assert sum(result.ties.values()) > 20
    assert result.checks[ORIGINAL].mismatched > 0, "ties that SpikingJelly fires"
    assert not any(
        each.any() for name, each in settled_currents(network.compilation.quantized).items() if name == "stem"
    )
