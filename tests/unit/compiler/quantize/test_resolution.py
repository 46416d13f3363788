"""Warnings of values that are too small for the scales that a current may have."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import nir
import numpy as np
import pytest

from resformer.compiler.pipeline import CompileOptions, compile_nir
from support.nir_files import lif


def warnings(folder: Path, weight: float, threshold: float, readout: float = 1.0) -> tuple[str, ...]:
    """Compile one population behind a layer, and return what its user is warned of."""
    nodes = {
        "input": nir.Input({"input": np.array([2])}),
        "a": nir.Affine(np.full((3, 2), weight), np.zeros(3)),
        "n": lif((3,), reset="hard", v_threshold=threshold),
        "b": nir.Affine(np.full((2, 3), readout), np.zeros(2)),
        "output": nir.Output({"output": np.array([2])}),
    }
    names = list(nodes)
    nir.write(folder / "net.nir", nir.NIRGraph(nodes=nodes, edges=list(pairwise(names))))
    return compile_nir(folder / "net.nir", CompileOptions(timesteps=4, dt=1e-4)).warnings


SMALL = "its values are too small for Loihi's scales, of which the finest is 2^-13: scale"


def test_values_of_a_usual_size_give_no_warning(tmp_path: Path) -> None:
    assert warnings(tmp_path, 1.0, 1.0) == ()


@pytest.mark.parametrize(("threshold", "units", "rounded"), [(1e-4, "0.82", 1), (2e-5, "0.16", 0)])
def test_a_threshold_of_few_units(tmp_path: Path, threshold: float, units: str, rounded: int) -> None:
    first, *_ = warnings(tmp_path, 1e-3, threshold)
    assert first == (
        f"n: the threshold, {threshold:.3g}, is {units} units of the scale 2^-13 of its current, and is rounded to "
        f"{rounded}; {SMALL} weights, biases and threshold up by the same factor"
    )


def test_weights_that_all_round_to_zero(tmp_path: Path) -> None:
    first, *_ = warnings(tmp_path, 1e-9, 1.0)
    assert first.startswith("a: all weights round to 0: the largest is 1e-09, in units of 2^-")
    assert f"; {SMALL} the weights up, and with them the biases and thresholds" in first
    (only,) = warnings(tmp_path, 1.0, 1.0, readout=1e-9)
    assert only.startswith("b: all weights round to 0: the largest is 1e-09")
    first, *_ = warnings(tmp_path, 1e-8, 1.0, readout=1e-9)
    assert first.startswith("a, b: all weights round to 0: b's largest is 1e-09")


def test_weights_of_zero_are_no_loss(tmp_path: Path) -> None:
    assert not any("round to 0" in each for each in warnings(tmp_path, 0.0, 1.0))
