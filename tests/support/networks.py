"""Programs of networks that the compiler made, and samples for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from resformer.compiler.ir.program import Program
from resformer.compiler.pipeline import compile_checkpoint
from resformer.models.checkpoint import save_checkpoint
from resformer.models.spikingresformer import SpikingResformer


def compiled(model: SpikingResformer, folder: Path) -> Program:
    """What the compiler makes of a network."""
    path = folder / "model.pt"
    save_checkpoint(model, path)
    return compile_checkpoint(path).program


def images(program: Program, count: int, steps: int | None = None) -> npt.NDArray[np.int32]:
    """Samples with values of their own at each step, if there are steps."""
    rng = np.random.default_rng(count)
    frames = () if steps is None else (steps,)
    high = program.input.op.signal.high
    assert high is not None
    largest = 4 if program.metadata.get("input") == "frames" else high
    return rng.integers(0, largest, (count, *frames, *program.input.shape)).astype(np.int32)


def with_input_range(program: Program, samples: npt.NDArray[np.int32]) -> Program:
    """A program that promises that its input lies where these samples do; without, backends must expect any int32."""
    node = program.input
    signal = replace(node.op.signal, low=int(samples.min(initial=0)), high=int(samples.max(initial=0)))
    return replace(program, nodes=(replace(node, op=replace(node.op, signal=signal)), *program.nodes[1:]))
