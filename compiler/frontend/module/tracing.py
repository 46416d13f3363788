"""Running the code of the user's module, to see which operations it is.

``torch.export`` runs ``forward`` on tensors that have shapes but no values, and records every ATen operation with the
lines of code that it came from. So a branch on values cannot be taken, and is refused, while loops, branches on shapes
and Python of any kind are simply run; ``torch.fx``'s symbolic tracing, which knows no shapes either, would refuse these
too, and has to be told which modules not to look into. SpikingJelly's neurons are not looked into: each is recorded as
one operation that bears its path.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import logging
import re
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

import spikingjelly
import torch
from spikingjelly.activation_based import layer, neuron
from torch import fx, nn

from resformer.errors import UnsupportedError

TRACED_BATCH = 11
"""Samples that the code is traced with: a number that no other axis is likely to have."""
TORCH, SPIKINGJELLY, PYTHON = (str(Path(inspect.getfile(each)).parent) for each in (torch, spikingjelly, contextlib))
LIBRARIES = (TORCH, PYTHON, str(Path(__file__).parent))
"""Where code is not the user's; nor is SpikingJelly's, but for the networks that come with it."""


@torch.library.custom_op("resformer::neurons", mutates_args=())
def _population(current: torch.Tensor, name: str) -> torch.Tensor:  # noqa: ARG001
    """Stands for a population while a module is traced."""
    raise AssertionError(f"{name}: is only traced")


@_population.register_fake
def _(current: torch.Tensor, name: str) -> torch.Tensor:  # noqa: ARG001
    return torch.empty_like(current)


@torch.library.custom_op("resformer::vote", mutates_args=())
def _vote(spikes: torch.Tensor, name: str, size: int) -> torch.Tensor:  # noqa: ARG001
    """Stands for a VotingLayer while a module is traced."""
    raise AssertionError(f"{name}: is only traced")


@_vote.register_fake
def _(spikes: torch.Tensor, name: str, size: int) -> torch.Tensor:  # noqa: ARG001
    return spikes.new_empty(*spikes.shape[:-1], spikes.shape[-1] // size)


def export(module: nn.Module, example: torch.Tensor) -> torch.export.ExportedProgram:
    """Run a module's code on a tensor without values.

    Raises:
        UnsupportedError: The code looks at values.
    """
    module = copy.deepcopy(module)
    for name, node in module.named_modules():
        if isinstance(node, neuron.BaseNode):
            node.forward = lambda current, name=name: torch.ops.resformer.neurons(current, name)
        if isinstance(node, layer.VotingLayer):
            size = node.voting_size
            node.forward = lambda spikes, name=name, size=size: torch.ops.resformer.vote(spikes, name, size)
    try:
        with _quiet(), torch.no_grad():
            return torch.export.export(module, (example,), strict=False)
    except UnsupportedError:
        raise
    except Exception as error:  # torch.export raises whatever the user's code does, and errors of many kinds of its own
        frames = [(each.filename, each.lineno, each.line) for each in traceback.extract_tb(error.__traceback__)]
        where, kind = _line(frames), type(error).__name__
        if "DataDependent" in kind or "data-dependent" in str(error):
            raise UnsupportedError(
                f"{where}: the code branches on, or takes a number from, values that only a sample decides; compute "
                "it from shapes or from constants"
            ) from error
        raise UnsupportedError(
            f"{where}: cannot be traced ({kind}: {first_line(error)}); use operations of PyTorch on tensors of any "
            "batch size"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch.export logs and prints about code that it cannot trace: our error says it."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)


_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in .*\n\s*(?P<code>.*)')


def user_line(node: fx.Node) -> str:
    """The user's line of code that an operation came from."""
    frames = [(each["file"], int(each["line"]), each["code"]) for each in _FRAME.finditer(node.stack_trace or "")]
    return _line(frames)


def _line(frames: Sequence[tuple[str, int | None, str | None]]) -> str:
    """The innermost of some places in the code that is not in a library."""
    known = [frame for frame in frames if not frame[0].startswith(LIBRARIES)] or list(frames)
    own = [frame for frame in known if not frame[0].startswith(SPIKINGJELLY)] or known
    if not own:
        return "the module"
    file, line, code = own[-1]
    return f"{file}:{line}: {(code or '').strip()}"


def first_line(error: Exception) -> str:
    """What an error says, without the stack that PyTorch writes below."""
    return str(error).partition("\n")[0]
