"""Programs of strangers: one line, exit status 1, with and without ``python -O``, which removes every assert."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from support.builds import Tiny
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
    """One damage: what it does to the program and its tensors, the node at fault, and what the error says of it."""

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


CASES = {
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
