"""What a run shows: rasters, attention maps and potentials, against counts by hand."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from resformer.compiler.ir import fixedpoint, reference
from resformer.compiler.ir.ops import LIF
from resformer.compiler.ir.trace import SpikeTrain
from resformer.compiler.samples.arrays import check_samples
from resformer.compiler.target import LOIHI
from resformer.runtime.page import observe
from resformer.runtime.run.encode import encode
from support.builds import Tiny, program_of
from support.program_builder import tiny_resformer


def decoded(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype=np.uint8)


def test_a_raster_streams_samples_one_after_the_other() -> None:
    spikes = np.zeros((3, 2, 2, 1, 2), dtype=bool)
    spikes[1, 0, 0, 0, 1] = spikes[2, 1, 1, 0, 0] = True
    found = observe.raster(SpikeTrain.pack(spikes))
    assert (found["rows"], found["of"], found["samples"]) == (4, 4, 2)
    bits = np.unpackbits(decoded(found["bits"]).reshape(4, -1), axis=1)[:, :6]
    # neuron 1 at step 1 of the first sample; neuron 2 at step 2 of the second
    assert np.argwhere(bits).tolist() == [[1, 1], [2, 3 + 2]]


def test_a_raster_shows_the_first_and_the_last_neuron_of_many() -> None:
    spikes = np.zeros((2, 1, 5000), dtype=bool)
    spikes[0, 0, [0, -1]] = True
    found = observe.raster(SpikeTrain.pack(spikes))
    assert (found["rows"], found["of"]) == (observe.RASTER_ROWS, 5000)
    bits = np.unpackbits(decoded(found["bits"]).reshape(found["rows"], -1), axis=1)
    assert bits[[0, -1], 0].tolist() == [1, 1]
    assert bits.sum() == 2


def test_attention_counts_the_patches_that_attend() -> None:
    program, net = tiny_resformer()
    spikes = reference.run(program, net.samples(2), record=True).spikes
    layers = observe.attention(program, spikes, 2)
    assert layers
    for layer in layers:
        dense = spikes[layer["name"]].dense().astype(float)
        assert dense.shape[2:] == (layer["heads"], layer["patches"], layer["rows"] * layer["columns"])
        maps = decoded(layer["maps"]).reshape(2, layer["heads"], layer["rows"], layer["columns"])
        share = dense.mean(axis=(0, 3)).reshape(maps.shape)
        assert layer["highest"] == share.max()
        np.testing.assert_allclose(maps / 255 * layer["highest"], share, atol=layer["highest"] / 500)


def test_potentials_are_those_of_the_definition(tiny: Tiny) -> None:
    program, images = program_of(tiny.build), np.load(tiny.images)[:2].astype(np.float64)
    samples = check_samples(images, program, "images")
    found = observe.margins(program, samples)
    caught: dict[str, np.ndarray] = {}
    reference.run(program, encode(images, program).values, observe=caught.__setitem__)
    assert found["samples"] == 2
    assert found["layers"].keys() == set(program.lif_names)
    for name in program.lif_names:
        op, layer = program[name].op, found["layers"][name]
        assert isinstance(op, LIF)
        # potentials that fire are above the threshold; those on it do not fire, and are counted as near
        fired = int(caught[name].sum())
        edge = int((1.0 - found["low"]) / (found["high"] - found["low"]) * found["bins"])
        above = sum(layer["counts"][edge:]) + layer["above"]
        assert fired <= above <= fired + layer["near"]
        assert layer["total"] == caught[name].size
        # at the first step the potential is the input and the bias
        first = caught[program[name].inputs[0]][0] << LOIHI.a_shift
        bias = fixedpoint.scale_bias(op.bias_mant, op.bias_exp).reshape(-1, 1, 1)
        assert ((first + bias > op.vth << LOIHI.a_shift) == caught[name][0]).all()
        assert layer["near"] >= np.count_nonzero(np.abs(first + bias - (op.vth << LOIHI.a_shift)) <= 64)


@pytest.mark.parametrize(("channels", "pixel"), [(1, (255, 255, 255)), (2, (255, 0, 255)), (3, (255, 255, 255))])
def test_images_have_three_colours(channels: int, pixel: tuple[int, ...]) -> None:
    class Few:
        def __len__(self) -> int:
            return 1

        def real(self, start: int = 0, stop: int | None = None) -> np.ndarray:
            values = np.zeros((1, channels, 4, 300))
            values[..., 0, 0] = 7.0
            return values

    (image,) = observe.images(Few(), 1)
    assert (image["rows"], image["columns"]) == (2, 100)
    pixels = decoded(image["rgb"]).reshape(2, 100, 3)
    assert tuple(pixels[0, 0]) == pixel
    assert not pixels[1:].any()
