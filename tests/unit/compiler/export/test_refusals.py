"""Exports of a quantized network name each operation that they can write, and refuse any other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from resformer.compiler.export import checkpoint
from resformer.compiler.export.nir import UNCHANGED, quantized_graph
from resformer.compiler.ir.ops import LIF, OPERATIONS, Conv2d, CubaLIF, Dense, IntegerLIF, MultiSpikeIF, Op
from resformer.compiler.ir.program import Program
from resformer.compiler.pipeline import Compilation, CompileOptions, compile_checkpoint
from resformer.errors import UnsupportedError
from support.builds import Tiny


class Strange(Op):
    """An operation that no export has heard of."""


def with_strange(program: Program, name: str) -> Program:
    nodes = (replace(node, op=Strange(node.op.signal)) if node.name == name else node for node in program)
    return Program(tuple(nodes), program.timesteps)


@pytest.mark.parametrize("kind", OPERATIONS.values())
def test_each_operation_is_named(kind: type[Op]) -> None:
    named = kind is not MultiSpikeIF  # neither format has neurons that fire several times a step
    assert issubclass(kind, (Conv2d, Dense, LIF, CubaLIF, IntegerLIF, *UNCHANGED)) is named
    assert issubclass(kind, (Conv2d, Dense, *checkpoint.WITHOUT_WEIGHTS)) is named


def compiled_with_strange(tiny: Tiny) -> tuple[Compilation, str, Program]:
    """A compiled checkpoint, the name of a population, and the quantized program with that population replaced."""
    compilation = compile_checkpoint(tiny.model, CompileOptions(image_size=16, timesteps=4))
    name = next(node.name for node in compilation.quantized if isinstance(node.op, LIF))
    return compilation, name, with_strange(compilation.quantized, name)


def test_a_checkpoint_of_an_unknown_operation_is_refused(tiny: Tiny) -> None:
    compilation, name, strange = compiled_with_strange(tiny)
    wanted = rf"^{name}: a Strange has no place in a quantized checkpoint"
    with pytest.raises(UnsupportedError, match=wanted):
        checkpoint.tensor_rows(strange)
    with pytest.raises(UnsupportedError, match=wanted):
        checkpoint.quantized_state(strange)
    with pytest.raises(UnsupportedError, match=wanted):
        checkpoint.quantized_module_state(strange, compilation.folded, compilation.folded, {})


def test_nir_of_an_unknown_operation_is_refused(tiny: Tiny) -> None:
    compilation, name, strange = compiled_with_strange(tiny)
    with pytest.raises(UnsupportedError, match=rf"^{name}: a quantized Strange has no form in NIR"):
        quantized_graph(compilation.network, compilation.folded, strange)
