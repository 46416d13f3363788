"""A tiny network, compiled once, with samples: what the tests of the commands share."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resformer.compiler.files.build import Build, read_build
from resformer.compiler.files.program import read_program, write_program
from resformer.compiler.ir.program import Program
from resformer.models.spikingresformer import SpikingResformer
from resformer.runtime.cli.compile_options import main

SAMPLES = 6


@dataclass(frozen=True)
class Tiny:
    """A tiny network as files.

    Attributes:
        model: Its checkpoint.
        build: The folder it was compiled to, for lava; not to be changed.
        images: (6, 2, 16, 16), float32.
        labels: (6,), int64.
        arguments: ``--input-size`` and its value, which the checkpoint does not state.
    """

    model: Path
    build: Path
    images: Path
    labels: Path
    arguments: tuple[str, ...]

    def copied_build(self, folder: Path) -> Path:
        """A copy that may be changed."""
        return Path(shutil.copytree(self.build, folder / "build"))


_made: list[Tiny] = []


@pytest.fixture(scope="session")
def tiny(make_model: Callable[..., SpikingResformer], tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The one tiny network of a test session."""
    if not _made:
        folder = tmp_path_factory.mktemp("tiny")
        _made.append(write_tiny(make_model(), folder))
    return _made[0]


def write_tiny(model: SpikingResformer, folder: Path, *arguments: str) -> Tiny:
    """Write a network's files, and compile it with further arguments."""
    net, size = model.architecture, model.image_size
    generator = np.random.default_rng(3)
    tiny = Tiny(
        model=folder / "tiny.pt",
        build=folder / "build",
        images=folder / "images.npy",
        labels=folder / "labels.npy",
        arguments=("--input-size", str(size)),
    )
    torch.save({"model": model.state_dict()}, tiny.model)
    steps = (model.timesteps,) if net.neuron == "PLIF" else ()
    images = generator.random((SAMPLES, *steps, net.in_channels, size, size), dtype=np.float32)
    np.save(tiny.images, images)
    np.save(tiny.labels, generator.integers(net.num_classes, size=SAMPLES))
    timesteps = ("--timesteps", str(model.timesteps))
    status = main(
        [str(tiny.model), "--target", "lava", "-o", str(tiny.build), "--quiet", *timesteps, *tiny.arguments, *arguments]
    )
    assert status == 0
    return tiny


def change_program(build: Path, name: str, **fields: Callable[[Any], Any]) -> None:
    """Replace fields of one operation in a build's program by functions of what they were."""
    path = build / "program.safetensors"
    program = read_program(path)
    edit = program.edit()
    op = program[name].op
    edit.set_op(name, dataclasses.replace(op, **{key: change(getattr(op, key)) for key, change in fields.items()}))
    write_program(edit.finish(), path)


def add_one(index: tuple[int, ...]) -> Callable[[Any], Any]:
    """A function that returns a copy of an array with one element larger (or, at the type's end, smaller) by one."""

    def change(array: Any) -> Any:
        changed = array.copy()
        changed[index] += -1 if changed[index] == np.iinfo(array.dtype).max else 1
        return changed

    return change


def program_of(build: Path) -> Program:
    """A build's program."""
    return opened(build).program()


def opened(build: Path) -> Build:
    """The build in a folder, opened."""
    return read_build(build)


def read_json(path: Path) -> Any:
    """A JSON file's content."""
    return json.loads(path.read_text(encoding="utf-8"))
