"""Hostile programs: refused in one line, with status 1, with and without ``python -O``, which removes asserts."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from resformer.compiler.files.program import read_program
from resformer.compiler.ir import reference
from resformer.compiler.ir.arrays import InvariantError
from resformer.compiler.ir.effort import products
from resformer.compiler.ir.program import Program
from resformer.errors import FileFormatError
from support.builds import Tiny
from support.program_builder import ProgramBuilder
from support.program_files import Tensors, put_together, take_apart

PROGRAM = "program.safetensors"
CONV = "prologue.0"
NEURONS = "layers.0.0.activation_in"
PRODUCT = "layers.0.0.matmul1"
GROUPED = "layers.0.1.conv.0.1"

RUN = """
import contextlib, io, json, pathlib, sys
from resformer.runtime.cli.run import main as run_main

images, folder, *backends = sys.argv[1:]
for build in sorted(pathlib.Path(folder).iterdir()):
    for backend in backends:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = run_main([str(build), "--input", images, "--backend", backend, "--samples", "1"])
            except BaseException as error:
                status = f"{type(error).__name__}: {error}"
        print(json.dumps([build.name, backend, status, out.getvalue(), err.getvalue()]), flush=True)
"""
"""Runs each build of a folder on each backend, and prints a line of JSON for each."""


class Case(NamedTuple):
    """A damage: a function that changes the program and its tensors, the node at fault, and a part of the error."""

    damage: Callable[[Any, Tensors], object]
    node: str
    says: str


def entry(program: Any, name: str) -> Any:
    (found,) = (each for each in program["nodes"] if each["name"] == name)
    return found


def value(name: str, field: str, to: Any, says: str) -> Case:
    return Case(lambda program, _tensors: entry(program, name)["values"].update({field: to}), name, says)


def bounds(name: str, low: int, high: int, says: str) -> Case:
    def damage(program: Any, _tensors: Tensors) -> None:
        entry(program, name)["signal"][2:] = [low, high]

    return Case(damage, name, says)


def resized(name: str, field: str, shape: tuple[int, ...], says: str) -> Case:
    def damage(_program: Any, tensors: Tensors) -> None:
        key = f"{name}/{field}"
        tensors[key] = np.resize(tensors[key], shape)

    return Case(damage, name, says)


def program_field(key: str, to: Any, node: str, says: str) -> Case:
    """A damage to the program as a whole."""
    return Case(lambda program, _tensors: program.update({key: to}), node, says)


def nothing_declared(program: Any, _tensors: Tensors) -> None:
    for each in program["nodes"]:
        each["signal"][2:] = [None, None]


def biased(name: str) -> Case:
    def damage(_program: Any, tensors: Tensors) -> None:
        tensors[f"{name}/bias"] = np.ones_like(tensors[f"{name}/bias"])

    return Case(damage, name, "place_biases has not run")


CASES = {
    "more steps than anybody ran": program_field("timesteps", 2**20, "a sample", "has 1048576 timesteps, the limit is"),
    "steps that take too long": program_field("timesteps", 60_000, "a sample takes", "the limit is"),
    "metadata of 10 ** 30": program_field("metadata", {"dt": 10**30}, "metadata", "dt"),
    "no bounds at all": Case(nothing_declared, "input", "states no bounds"),
    "a bias that neurons should have": biased(CONV),
    "weight of a wrong shape": resized(CONV, "weight", (8, 3, 7, 7), "weights for 3 x 1 channels, but 2 come in"),
    "weight that makes another shape": resized(
        CONV, "weight", (9, 2, 7, 7), "bias of shape (8,) does not fit 9 channels"
    ),
    "bias of a convolution too long": resized(CONV, "bias", (9,), "bias"),
    "exponents of too few channels": resized(CONV, "weight_exp", (7,), "weight_exp"),
    "bias of neurons too short": resized(NEURONS, "bias_mant", (7,), "bias_mant"),
    "threshold of 2 ** 39": value(NEURONS, "vth", 2**39, "vth spans [549755813888, 549755813888]"),
    "negative threshold": value(NEURONS, "vth", -1, "vth spans [-1, -1]"),
    "decay of -7": value(NEURONS, "dv", -7, "dv spans [-7, -7]"),
    "bounds of a convolution too narrow": bounds(CONV, -3, 3, "what its weights allow"),
    "bounds of a product too narrow": bounds(PRODUCT, -10, 10, "what its weights allow"),
    "bias of a product too long": resized(PRODUCT, "bias", (9,), "bias"),
    "bias of a product too short": resized(PRODUCT, "bias", (1,), "bias"),
    "current that gathers until it wraps": value(NEURONS, "du", 2, "its current may reach"),
    "no heads": value(PRODUCT, "num_heads", 0, "heads"),
    "no groups": value(GROUPED, "groups", 0, "groups"),
    "negative groups": value(GROUPED, "groups", -4, "groups"),
    "stride of zero": value(CONV, "stride", [0, 2], "stride"),
    "negative padding": value(CONV, "padding", [-1, 3], "padding -1 is negative"),
    "giant padding": value(CONV, "padding", [2**30, 2**30], "makes shape"),
    "giant dilation": value(CONV, "dilation", [2**30, 1], "window"),
}


def unequal_heads(channels: tuple[int, int]) -> tuple[Program, npt.NDArray[np.int32]]:
    """DSSA whose y1 and y2 have heads of different widths; no network has them, but all rules of shapes allow them."""
    net = ProgramBuilder((3, 8, 8))
    spikes = net.lif("spikes", net.conv("conv", "input", channels[0], (3, 3), padding=(1, 1), largest=30))
    y1, y2 = (
        net.conv(name, spikes, each, (2, 2), stride=(2, 2)) for name, each in zip(("y1", "y2"), channels, strict=True)
    )
    scores = net.matmul("matmul1", y1, spikes, heads=2, transpose=True, limit=60000)
    gates = net.lif("gates", scores, vth=800, bias=0)
    mixed = net.matmul("matmul2", y2, gates, heads=2, transpose=False, limit=3000)
    projected = net.conv("project", net.lif("mixed", mixed, vth=800, bias=0), 4)
    summed = net.sum_pool("pool", net.relay("relay", projected, limit=300), (8, 8), (8, 8))
    net.dense("classifier", net.flatten("flatten", net.relay("pool.relay", summed, limit=3000)), 5)
    return net.finish(), net.samples(2)


@pytest.mark.parametrize("channels", [(8, 8), (64, 8), (8, 16), (256, 4)])
def test_heads_of_two_widths_stay_in_their_arrays(channels: tuple[int, int]) -> None:
    """The compiled loop once used y1's width for y2 too: it wrote beyond the spikes, and the process died."""
    pytest.importorskip("torch")
    from resformer.compiler.backends.sim import SimBackend

    program, samples = unequal_heads(channels)
    np.testing.assert_array_equal(SimBackend().run(program, samples).logits, reference.run(program, samples).logits)


def test_loops_refuse_arrays_that_are_too_small() -> None:
    """They do so whatever a plan says, because they check the arrays themselves."""
    pytest.importorskip("numba")
    from resformer.compiler.backends.sim import guarded_loops

    y, bias, spikes = np.zeros((2, 6, 8), np.float32), np.zeros(4, np.float32), np.zeros((2, 6, 8), np.uint8)
    one, fire = np.float32(1), (bias, *np.zeros(3, np.float32))
    guarded_loops.neurons(y, 4, None, 0, None, one, None, 0, fire, None, spikes, 4, 4, 2, 0, len(y[0]))
    for a0, p0, width, steps in ((5, 4, 4, 2), (4, 5, 4, 2), (4, 4, 3, 2), (4, 4, 4, 3), (-1, 4, 4, 2)):
        with pytest.raises(InvariantError):
            guarded_loops.neurons(
                y, a0, None, 0, None, one, None, 0, fire, None, spikes, p0, width, steps, 0, len(y[0])
            )
    sums, limit = np.zeros((2, 3, 8), np.int32), np.int32(9)
    guarded_loops.product_neurons(sums, 2, limit, one, one, one, one, None, spikes, 3, 4)
    for digits, row0, first in ((2, 4, 4), (2, 3, 5), (3, 3, 4), (0, 0, 0), (1, 3, 4)):
        with pytest.raises(InvariantError):
            guarded_loops.product_neurons(sums, digits, limit, one, one, one, one, None, spikes, row0, first)
    with pytest.raises(InvariantError):
        guarded_loops.largest(y, 5, bias)
    for row0, first, rows in ((4, 4, 3), (3, 5, 3), (3, 4, 4)):
        with pytest.raises(InvariantError):
            guarded_loops.split_digits(y, row0, first, bias, 2, True, np.zeros((2, 2 * rows, 4), np.int8))


def test_work_is_told_in_seconds_too(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    work = products(read_program(tiny.build / PROGRAM))
    monkeypatch.setattr("resformer.compiler.files.program.MOST_WORK", work - 1)
    read_program(tiny.build / PROGRAM)
    monkeypatch.setattr("resformer.compiler.files.program.WORK_SHARE", 0)
    monkeypatch.setattr("resformer.compiler.files.program.PRODUCTS_PER_SECOND", work // 7)
    with pytest.raises(
        FileFormatError, match=rf"takes {work} products .*in all about 7 s in the reference interpreter"
    ):
        read_program(tiny.build / PROGRAM)


@pytest.fixture(scope="module")
def builds(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one build for each case."""
    folder = tmp_path_factory.mktemp("builds")
    metadata, _, _ = take_apart(tiny.build / PROGRAM)
    for name, case in CASES.items():
        (folder / name).mkdir()
        for file in tiny.build.iterdir():
            if file.name != PROGRAM:
                (folder / name / file.name).symlink_to(file)
        _, program, tensors = take_apart(tiny.build / PROGRAM)
        case.damage(program, tensors)
        put_together(folder / name / PROGRAM, metadata, program, tensors)
    return folder


@pytest.mark.parametrize("flags", [(), ("-O",)], ids=["asserts", "no asserts"])
def test_a_damaged_program_is_refused_in_one_line(builds: Path, tiny: Tiny, flags: tuple[str, ...]) -> None:
    backends = ["reference", "sim"] if importlib.util.find_spec("torch") else ["reference"]
    command = [sys.executable, *flags, "-c", RUN, str(tiny.images), str(builds), *backends]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = {(name, backend): rest for name, backend, *rest in map(json.loads, done.stdout.splitlines())}
    assert found.keys() == {(name, backend) for name in CASES for backend in backends}
    for (name, backend), (status, out, err) in found.items():
        where = f"{name} in {backend}: {status}, {err}"
        assert (status, out) == (1, ""), where
        assert err.count("\n") == 1, where
        assert err.startswith(f"resformer-run: error: {builds / name / PROGRAM}: "), where
        assert f" {CASES[name].node}" in err, where
        assert CASES[name].says in err, where
