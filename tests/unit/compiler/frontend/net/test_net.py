"""Netx networks become programs of their own integers; what has no lowering is refused in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import h5py
import numpy as np
import pytest

from resformer.compiler.frontend.net.importer import import_net, pixels_preprocessing
from resformer.compiler.ir import reference
from resformer.compiler.ir.ops import LIF, Conv2d, CubaLI, CubaLIF, RecurrentCubaLIF
from resformer.compiler.ir.program import Scheduled
from resformer.compiler.pipeline import CompileOptions, compile_network
from resformer.compiler.quantize.choose import QuantizationConfig
from resformer.errors import FileFormatError, InputError, RangeError, UnsupportedError
from support.net_files import (
    Fields,
    conv,
    dense,
    even,
    flatten,
    lava_spikes,
    neurons,
    pixels,
    spikes,
    without,
    write_net,
)

T = 7


def compiled(tmp_path: Path, *layers: Fields, **options: Any) -> Scheduled:
    return compile_network(write_net(tmp_path / "x.net", *layers, steps=T), CompileOptions(**options)).program


def given_spikes(rng: np.random.Generator, features: int) -> np.ndarray:
    return (rng.random((T, features)) < 0.4).astype(np.int64)


def fired(program: Scheduled, given: np.ndarray, name: str) -> np.ndarray:
    """The spikes of a population, (T, neurons), for an input (T, F)."""
    samples = given.reshape(1, T, *program.input.shape)
    return reference.run(program, samples, record=True).spikes[name].dense().reshape(T, -1).astype(np.int64)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({}, LIF),
        ({"vDecay": 0}, LIF),
        ({"vDecay": 4096}, CubaLIF),
        ({"iDecay": 1}, CubaLIF),
        ({"iDecay": 410, "vDecay": 123}, CubaLIF),
        ({"iDecay": [410, 4096, 9, 1], "vDecay": [0, 4096, 415, 1], "vThMant": [5, 20, 30, 1]}, CubaLIF),
    ],
)
def test_neurons_are_lavas(tmp_path: Path, values: Fields, kind: type) -> None:
    rng = np.random.default_rng(1)
    weight, bias = even(rng, (4, 6)), np.array([3.0, -7.0, 0.0, 11.0])
    program = compiled(tmp_path, dense(weight, neuron=neurons(**values), bias=bias))
    assert type(program["layer.0.neuron"].op) is kind
    given = given_spikes(rng, 6)
    own = neurons(**values)
    wanted = lava_spikes(
        given @ weight.T.astype(np.int64), i_decay=own["iDecay"], v_decay=own["vDecay"], vth=own["vThMant"], bias=bias
    )
    assert 0 < wanted.sum() < wanted.size
    np.testing.assert_array_equal(fired(program, given, "layer.0.neuron"), wanted)


def test_a_potential_at_the_threshold_does_not_fire(tmp_path: Path) -> None:
    program = compiled(tmp_path, dense(np.array([[20], [22]]), neuron=neurons(vThMant=20, vDecay=4096)))
    given = np.ones((T, 1), dtype=np.int64)
    np.testing.assert_array_equal(fired(program, given, "layer.0.neuron"), np.tile([0, 1], (T, 1)))


@pytest.mark.parametrize(
    "weight",
    [
        [[2, -4, 250]],
        [[8, -16, 120]],
        [[1, 3, -127]],
        [[-256, 6, 2]],
        [[255, 1, 0]],
        [[128, 64, -256]],
        [[0, 0, 0]],
    ],
)
def test_weights_are_the_files_with_the_largest_exact_exponent(tmp_path: Path, weight: list[list[int]]) -> None:
    array = np.array(weight * 2)
    for name, layers in (
        ("layer.0", [dense(array)]),
        ("layer.1", [spikes(3, 1, 1), conv(array[..., None, None], (2, 1, 1))]),
    ):
        program = compiled(tmp_path, *layers)
        given = np.eye(3, dtype=np.int64)[np.arange(T) % 3]
        seen: dict[str, np.ndarray] = {}
        reference.run(program, given.reshape(1, T, 3, 1, 1), observe=seen.__setitem__)
        np.testing.assert_array_equal(seen[name].reshape(T, 2), given @ array.T)
        op = program[name].op
        if isinstance(op, Conv2d) and array.any():
            assert (op.weight.astype(int) % 2).any() or int(np.max(op.weight_exp)) == 7


def test_a_convolution_is_pytorchs_correlation(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    weight, bias = even(rng, (4, 2, 3, 2)), np.array([5, 0, -9, 1])
    layer = conv(weight[..., None], (4, 3, 4), stride=[2, 1], padding=[1, 0], groups=1, bias=bias)
    program = compiled(tmp_path, spikes(2, 5, 5), layer)
    image = (rng.random((2, 5, 5)) < 0.5).astype(np.int64)
    wanted = np.zeros((4, 3, 4), dtype=np.int64)
    padded = np.pad(image, ((0, 0), (1, 1), (0, 0)))
    for row in range(3):
        for column in range(4):
            window = padded[:, 2 * row : 2 * row + 3, column : column + 2]
            wanted[:, row, column] = (weight.astype(np.int64) * window).sum(axis=(1, 2, 3))
    seen: dict[str, np.ndarray] = {}
    reference.run(program, np.broadcast_to(image, (1, T, 2, 5, 5)), observe=seen.__setitem__)
    np.testing.assert_array_equal(seen["layer.1"][0, 0], wanted)
    once = lava_spikes(
        np.tile(wanted.reshape(1, -1), (T, 1)), i_decay=4096, v_decay=2048, vth=20, bias=np.repeat(bias, 12)
    )
    np.testing.assert_array_equal(seen["layer.1.neuron"][:, 0].reshape(T, -1), once)


@pytest.mark.parametrize("values", [{}, {"iDecay": 1000}])
def test_recurrent_spikes_come_back_a_step_later(tmp_path: Path, values: Fields) -> None:
    rng = np.random.default_rng(3)
    weight, back = even(rng, (5, 4)), even(rng, (5, 5))
    layer = {**dense(weight, neuron=neurons(**values), bias=np.arange(5)), "type": [b"dense_rec"], "weight_rec": back}
    program = compiled(tmp_path, layer)
    assert isinstance(program["layer.0.neuron"].op, RecurrentCubaLIF)
    given, own = given_spikes(rng, 4), neurons(**values)
    wanted = lava_spikes(
        given @ weight.T.astype(np.int64),
        i_decay=own["iDecay"],
        v_decay=2048,
        vth=20,
        bias=np.arange(5),
        recurrent=back,
    )
    assert wanted[1:].any()
    np.testing.assert_array_equal(fired(program, given, "layer.0.neuron"), wanted)


@pytest.mark.parametrize("delay", [2, [0, 1, 3, 6], [5, 0, 0, 1, 2, 9]])
def test_delays_are_of_axons_or_of_inputs(tmp_path: Path, delay: Any) -> None:
    rng = np.random.default_rng(4)
    weight = even(rng, (4, 6))
    second = dense(even(rng, (3, 4)))
    program = compiled(tmp_path, dense(weight, delay=np.asarray(delay, dtype=np.float32)), second)
    given = given_spikes(rng, 6)
    amounts = np.broadcast_to(delay, 4 if np.size(delay) != 6 else 6)

    def late(values: np.ndarray) -> np.ndarray:
        made = np.zeros_like(values)
        for each, amount in enumerate(amounts):
            made[amount:, each] = values[: max(0, T - amount), each]
        return made

    current = weight.T.astype(np.int64)
    constants = {"i_decay": 4096, "v_decay": 2048, "vth": 20}
    sent = late(given) if len(amounts) == 6 else given
    first = lava_spikes(sent @ current, **constants)
    sent = first if len(amounts) == 6 else late(first)
    wanted = lava_spikes(sent @ second["weight"].T.astype(np.int64), **constants)
    assert wanted.any()
    np.testing.assert_array_equal(fired(program, given, "layer.1.neuron"), wanted)


def test_pixels_are_what_the_first_neurons_are_given(tmp_path: Path) -> None:
    path = write_net(tmp_path / "x.net", pixels(2, 3, 3), conv(np.full((1, 2, 3, 3), 8), (1, 1, 1)), steps=T)
    made = compile_network(path, CompileOptions(mean=0.5, std=0.25))
    assert (made.program.input.op.signal.low, made.program.input.op.signal.high) == (-4095, 4095)
    mean, std = made.preprocessing.mean, made.preprocessing.std
    assert mean is not None
    assert std is not None
    pixel = np.array([0.1, 0.5, 0.9])
    # with a tolerance, since the mean and the deviation are rounded in float64
    np.testing.assert_allclose((pixel - mean[0]) / std[0], 40 * (pixel - 0.5) / 0.25 + 3, rtol=1e-12)
    image = np.full((1, 2, 3, 3), 13)
    spikes_of_input = reference.run(made.program, image, record=True).spikes["layer.0.neuron"].dense()
    wanted = lava_spikes(np.full((T, 1), 13), i_decay=4096, v_decay=2048, vth=20)
    np.testing.assert_array_equal(spikes_of_input[:, 0].reshape(T, -1), np.tile(wanted, (1, 18)))


def test_pixels_may_be_normalized_channel_by_channel() -> None:
    mean, std = pixels_preprocessing((10, 5), (1.0, 2.0), (4.0,))
    assert (mean, std) == ((-1.0, 0.0), (0.4, 0.4))
    assert pixels_preprocessing((2, 4), None, None) == ((-2.0,), (0.5,))


@pytest.mark.parametrize(("stated", "delay"), [(True, 0), (False, 0), (True, 2)])
def test_a_layer_that_never_fires_is_read_out(tmp_path: Path, stated: bool, delay: int) -> None:
    rng = np.random.default_rng(5)
    last = dense(even(rng, (2, 4)), neuron=neurons(vDecay=0, vThMant=2**18 - 1), delay=[delay])
    program = compiled(tmp_path, dense(even(rng, (4, 6))), last if stated else without(last, "neuron"))
    assert isinstance(program["layer.1.neuron"].op, CubaLI)
    given = given_spikes(rng, 6)
    sent = fired(program, given, "layer.0.neuron")
    logits = reference.run(program, given.reshape(1, T, 6, 1, 1)).logits[:, 0]
    potentials = 64 * np.cumsum(sent @ last["weight"].T.astype(np.int64), axis=0)
    np.testing.assert_array_equal(logits[delay:], potentials[: T - delay])
    assert not logits[:delay].any()


def test_our_own_file_of_it_has_the_same_integers(tmp_path: Path) -> None:
    from resformer.compiler.files.nir import write_nir

    rng = np.random.default_rng(6)
    path = write_net(
        tmp_path / "x.net",
        pixels(2, 4, 4),
        conv(even(rng, (3, 2, 3, 3)), (3, 2, 2)),
        flatten(12),
        dense(even(rng, (4, 12), 250)),
        steps=T,
    )
    made = compile_network(path)
    write_nir(made.network, tmp_path / "network.nir")
    again = compile_network(tmp_path / "network.nir")
    image = rng.integers(0, 60, (3, 2, 4, 4))
    first, second = (reference.run(each.program, image, record=True) for each in (made, again))
    assert first.spikes.keys() == second.spikes.keys()
    for name, train in first.spikes.items():
        assert train.count
        assert not train.mismatches(second.spikes[name])
    with pytest.raises(InputError, match="taken as they are"):
        compile_network(tmp_path / "network.nir", CompileOptions(quantization=QuantizationConfig(weight_bits=4)))


def test_the_file_says_how_many_steps(tmp_path: Path) -> None:
    layer = dense(np.ones((2, 3)))
    assert import_net(write_net(tmp_path / "x.net", layer, steps=16)).graph.timesteps == 16
    path = write_net(tmp_path / "y.net", layer)
    with pytest.raises(InputError, match="give --timesteps, netx's reset_interval"):
        import_net(path)
    assert import_net(path, timesteps=5).graph.timesteps == 5


def test_more_than_spikes_may_come_in(tmp_path: Path) -> None:
    path = write_net(tmp_path / "x.net", dense(np.ones((2, 3))), steps=T)
    assert import_net(path).input_high == 1
    assert import_net(path, input_range=6.5).input_high == 7
    with pytest.raises(InputError, match=r"--input-range: is 0\.5"):
        import_net(path, input_range=0.5)


@pytest.mark.parametrize(
    "options",
    [
        {"quantization": QuantizationConfig(weight_bits=4)},
        {"calibration": np.zeros((1, 3, 1, 1))},
        {"synapse_budget": 0.5},
    ],
)
def test_nothing_chooses_its_integers(tmp_path: Path, options: Fields) -> None:
    with pytest.raises(InputError, match="integers are taken as they are"):
        compiled(tmp_path, dense(np.ones((2, 3))), **options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"dt": 1e-3}, "for NIR files"),
        ({"reset": "soft"}, "for NIR files"),
        ({"image_size": 3}, "for checkpoints; a netx network states"),
    ],
)
def test_options_of_other_files_are_refused(tmp_path: Path, options: Fields, says: str) -> None:
    with pytest.raises(InputError, match=says):
        compiled(tmp_path, dense(np.ones((2, 3))), **options)


W = np.ones((2, 3))
MAPS, ONES = spikes(1, 4, 4), np.ones((1, 1, 3, 3))
SDNN = {"type": b"SDNN", "vThMant": 3, "activation": b"relu"}
NEVER = neurons(vThMant=131071)
BACK = {**dense(W), "type": [b"dense_rec"], "weight_rec": W}
Refusal: TypeAlias = "tuple[tuple[Fields, ...], str]"
UNSUPPORTED: dict[str, Refusal] = {
    "sigma-delta": ((dense(W, neuron=SDNN),), "layer.0: its neurons are sigma-delta .*CUBA"),
    "resonators": ((dense(W, neuron=neurons(type=b"RF")),), "layer.0: its neurons are of type RF"),
    "average": ((dense(W), {"type": [b"average"], "shape": (2,)}), "layer.1: a layer of type average"),
    "pool": ((MAPS, {"type": [b"pool"], "shape": (1, 2, 2)}), "layer.1: a layer of type pool"),
    "complex": (({"type": [b"dense_comp"], "shape": (2,)},), "layer.0: a layer of type dense_comp"),
    "refractory": ((dense(W, neuron=neurons(refDelay=3)),), "layer.0: its neurons' refDelay is 3, only 1"),
    "exponent": ((dense(W, neuron=neurons(wgtExp=2)),), "wgtExp is 2, only 0"),
    "graded": ((dense(W, neuron=neurons(gradedSpike=True)),), "gradedSpike is 1, only 0"),
    "no loss of current": ((dense(W, neuron=neurons(iDecay=0)),), "layer.0: its neurons' iDecay is 0"),
    "some never fire": ((dense(W, neuron=neurons(vThMant=[5, 131071])),), "layer.0: some of its neurons"),
    "after a readout": ((dense(W, neuron=NEVER), dense(np.ones((1, 2)))), "layer.1: reads layer.0, whose threshold"),
    "nothing fires": ((dense(W, neuron=NEVER),), "none of its layers fires"),
    "an input that never fires": ((pixels(1, 2, 2, vThMant=131071),), "layer.0: .*nothing comes in"),
    "delay and bias": ((dense(W, delay=[1], bias=[1]),), "layer.0: has axonal delays of up to 1 steps and biases"),
    "delay and recurrence": (({**BACK, "weight_rec": np.ones((2, 2)), "delay": [1]},), "and synapses onto itself"),
    "delayed convolution": ((MAPS, conv(ONES, (1, 2, 2), delay=[2])), "layer.1: a convolution with axonal delays"),
    "two inputs": ((spikes(3), dense(W), spikes(2)), "layer.2: is an input layer, but not the first"),
    "convolution first": ((conv(ONES, (1, 2, 2)),), "layer.0: is the first layer"),
    "convolution of a vector": ((MAPS, flatten(16), conv(ONES, (1, 2, 2))), "layer.2: .*reads a vector"),
    "dense of maps": ((MAPS, dense(np.ones((2, 16)))), "layer.1: .*export a flatten layer"),
}
OUT_OF_RANGE: dict[str, Refusal] = {
    "weight": ((dense(W * 300),), "layer.0: weight holds 300, the limit is -256 to 255"),
    "bias": ((dense(W, bias=[5000, 0]),), "layer.0: bias holds 5000, the limit is -4095 to 4095"),
    "delay": ((dense(W, delay=[63]),), "layer.0: delay holds 63, the limit is 0 to 62"),
    "decay": ((dense(W, neuron=neurons(vDecay=4097)),), "layer.0.neuron: vDecay holds 4097, the limit is 0 to 4096"),
    "threshold": ((dense(W, neuron=neurons(vThMant=0)),), "layer.0.neuron: vThMant holds 0"),
}
DAMAGED: dict[str, Refusal] = {
    "fraction": ((dense(W * 1.5),), "layer.0: weight holds 1.5, which is no whole number"),
    "not finite": ((dense(W * np.nan),), "layer.0: weight holds NaN"),
    "text": ((dense(W, bias=b"x"),), "layer.0: bias is .*, not numbers"),
    "empty": ((dense(W, bias=np.zeros(0)),), "layer.0: bias has shape .*, which is empty"),
    "no weight": ((without(dense(W), "weight"),), "layer.0: has no weight"),
    "no type": ((without(dense(W), "type"),), "layer.0: has no type"),
    "no shape": ((without(dense(W), "shape"),), "layer.0: has no shape"),
    "no shape of spikes": ((without(MAPS, "shape"), dense(W)), "layer.0: has no shape"),
    "no decay": ((dense(W, neuron=without(neurons(), "iDecay")),), "layer.0.neuron: has no iDecay"),
    "other decays": ((dense(W, neuron=neurons(vDecay=[1, 2, 3])),), "layer.0.neuron: vDecay has shape"),
    "other weights": ((dense(W), dense(np.ones((2, 5)))), "layer.1: weight has shape .* but reads 2 values"),
    "other shape": ((MAPS, conv(ONES, (1, 3, 3))), "layer.1: states the shape"),
    "other channels": ((spikes(2, 4, 4), conv(ONES, (1, 2, 2))), "layer.1: weights for 1"),
    "other delays": ((dense(W, delay=[1, 2, 3, 4]),), "layer.0: delay has 4 values"),
    "recurrent shape": ((BACK,), "layer.0: weight_rec has shape"),
    "other biases": ((dense(W, bias=[1, 2, 3]),), "layer.0: bias has 3 values"),
    "too much padding": ((MAPS, conv(ONES, (1, 2, 2), stride=4999, padding=5000)), "layer.1: pads what it reads to"),
    "too large": ((spikes(2**20, 2**10, 2**10), dense(W)), "layer.0: makes .* values a step"),
}
REFUSED = {
    f"{kind.__name__} {name}": (kind, *refusal)
    for kind, cases in ((UnsupportedError, UNSUPPORTED), (RangeError, OUT_OF_RANGE), (FileFormatError, DAMAGED))
    for name, refusal in cases.items()
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_lowering_is_refused_in_a_sentence(tmp_path: Path, case: str) -> None:
    kind, layers, says = REFUSED[case]
    with pytest.raises(kind, match=says) as caught:
        compiled(tmp_path, *layers)
    assert "\n" not in str(caught.value)
    assert "; " in str(caught.value)  # behind it stands what to do


def test_layers_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    weights = [np.full((count + 2, count + 3), 8) for count in reversed(range(12))]
    program = compiled(tmp_path, *map(dense, weights))
    assert program.spiking_names == tuple(f"layer.{index}.neuron" for index in range(12))


def test_layers_are_numbered(tmp_path: Path) -> None:
    path = write_net(tmp_path / "x.net", dense(W), steps=T)
    with h5py.File(path, "r+") as file:
        file.move("layer/0", "layer/1")
    with pytest.raises(FileFormatError, match=r"layer\.1: the layers are not numbered 0 to 0"):
        import_net(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "is a pointer of Git LFS .*git lfs pull"),
        (b"text", "damaged, or no netx network"),
        (b"", "damaged, or no netx network"),
    ],
)
def test_a_file_that_is_none_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "x.net").write_bytes(content)
    with pytest.raises(FileFormatError, match=f"x.net: .*{says}|x.net: {says}"):
        import_net(tmp_path / "x.net", timesteps=T)


def test_another_hdf5_file_is_none(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.net", "w") as file:
        file["node"] = 1
    with pytest.raises(FileFormatError, match="no netx network: it has no group 'layer'"):
        import_net(tmp_path / "x.net", timesteps=T)


def test_a_dense_layer_reads_maps_channel_by_channel(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    weight = even(rng, (3, 12))
    program = compiled(tmp_path, spikes(2, 2, 3), flatten(12), dense(weight))
    image = (rng.random((2, 2, 3)) < 0.5).astype(np.int64)
    seen: dict[str, np.ndarray] = {}
    reference.run(program, np.broadcast_to(image, (1, T, 2, 2, 3)), observe=seen.__setitem__)
    np.testing.assert_array_equal(seen["layer.2"][0, 0].reshape(-1), weight.astype(np.int64) @ image.reshape(-1))


def test_currents_that_lavas_lif_would_wrap_go_to_neurons_that_saturate(tmp_path: Path) -> None:
    large = dense(np.full((1, 600), 254), neuron=neurons(vThMant=131070))
    program = compiled(tmp_path, large)
    assert type(program["layer.0.neuron"].op) is CubaLIF
    given = np.ones((T, 600), dtype=np.int64)
    assert fired(program, given, "layer.0.neuron").all()  # 152400 a step
    assert type(compiled(tmp_path, dense(np.full((1, 400), 254)))["layer.0.neuron"].op) is LIF
