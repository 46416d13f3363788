"""The preprocessing of samples before a network gets them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from resformer.compiler.ir.graph import Node
from resformer.compiler.ir.ops import Input, Output
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.signal import Signal, SignalKind
from resformer.compiler.samples.arrays import ArraySamples
from resformer.compiler.samples.preprocessing import (
    NO_PREPROCESSING,
    Preprocessing,
    disagreement,
    is_normalized_already,
    numbers,
)
from resformer.errors import InputError

HALF = Preprocessing(mean=(0.5,), std=(0.5,))


def network(shape: tuple[int, int, int] = (3, 8, 8), kind: str = "static") -> Program:
    entry = Input(Signal(SignalKind.GRADED, 6, -256, 256))
    output = Output(Signal(SignalKind.CURRENT, 3), divisor=1, bias=np.zeros(2))
    nodes = (Node("input", entry, (), shape), Node("output", output, ("input",), (2,)))
    return Program(nodes, timesteps=2, metadata={"input": kind})


@pytest.mark.parametrize(
    ("mean", "std", "says"),
    [
        ((0.5, 0.5), None, "--mean: 2 numbers for 3 channels"),
        ((), None, "--mean: 0 numbers"),
        ((float("nan"),), None, "--mean: nan is outside"),
        ((1e30,), None, r"--mean: 1e\+30 is outside"),
        (None, (1.0, 1.0, 0.0), "--std: 0 is below"),
        (None, (-1.0,), "--std: -1 is below"),
        (None, (float("inf"),), "--std: inf is outside"),
    ],
)
def test_numbers_that_nothing_can_be_normalized_by(mean: Any, std: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        Preprocessing(mean=mean, std=std).normalized(ArraySamples(np.zeros((1, 3, 8, 8)), False), 3)


def test_one_number_or_several() -> None:
    assert (numbers(0.5), numbers([1, 2]), numbers(None)) == ((0.5,), (1.0, 2.0), None)
    assert numbers(np.float32([0.5, 0.25])) == (0.5, 0.25)


def test_what_is_the_same_said_otherwise() -> None:
    assert HALF.is_same(Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3), 3, of_folder=True)
    assert Preprocessing(mean=(0.0,), std=(1.0,)).is_same(NO_PREPROCESSING, 3, of_folder=True)
    assert not HALF.is_same(Preprocessing(mean=(0.5,), std=(0.25,)), 3, of_folder=False)
    assert not HALF.is_same(Preprocessing(mean=(0.25,), std=(0.5,)), 3, of_folder=False)
    assert Preprocessing(resize=True).is_same(NO_PREPROCESSING, 3, of_folder=False)
    assert not Preprocessing(resize=True).is_same(NO_PREPROCESSING, 3, of_folder=True)


def test_another_choice_is_warned_of() -> None:
    assert disagreement(HALF, HALF, 3, of_folder=True) == ()
    (warning,) = disagreement(NO_PREPROCESSING, HALF, 3, of_folder=True)
    assert "compiled without preprocessing, this run uses mean 0.5, std 0.5; compile with these" in warning
    (warning,) = disagreement(Preprocessing(True, (0.25,)), NO_PREPROCESSING, 3, of_folder=True)
    assert "compiled with preprocessing resized, mean 0.25, this run uses none; leave the options out" in warning


@pytest.mark.parametrize(
    ("held", "raw", "graph", "expected"),
    [
        (HALF, np.float32, network(), True),
        (HALF, np.float64, network((1, 8, 8)), True),
        (Preprocessing(std=(0.5,)), np.float32, network(), False),
        (Preprocessing(mean=(-4.0,)), np.float32, network(), False),
        (HALF, np.int16, network(kind="frames"), False),
        (HALF, np.float32, network(kind="frames"), False),
        (HALF, np.float32, network((3, 1, 8)), False),
    ],
)
def test_negative_values_of_maps_are_no_pixels(held: Preprocessing, raw: Any, graph: Program, expected: bool) -> None:
    values = np.zeros((300, *graph.input.shape), raw)
    counts = graph.metadata["input"] == "frames"
    assert not is_normalized_already(ArraySamples(values, counts), held, graph)
    values[280, 0, 0, 0] = -1
    assert is_normalized_already(ArraySamples(values, counts), held, graph) is expected
