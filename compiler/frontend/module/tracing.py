"""Runs the code of the user's module, to record which operations the code consists of.

``torch.export`` runs ``forward`` on tensors that have shapes but no values, and records every ATen operation with the
lines of code that it came from. A branch on values therefore cannot be taken, and is refused. Loops, branches on shapes
and any other Python code simply run. The symbolic tracing of ``torch.fx`` does not know shapes either, so it would
refuse such code, too, and it has to be told which modules not to trace into. SpikingJelly's neurons are not traced
into: each population is recorded as one operation that holds the population's path.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import logging
import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import spikingjelly
import torch
from spikingjelly.activation_based import base, layer
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode

from resformer.compiler.frontend.module import remedies
from resformer.compiler.frontend.module.kinds import clocked, is_population
from resformer.errors import UnsupportedError

TRACED_BATCH = 11
"""The number of samples that the code is traced with; no other axis is likely to have this size."""
TORCH, SPIKINGJELLY, PYTHON = (str(Path(inspect.getfile(each)).parent) for each in (torch, spikingjelly, contextlib))
LIBRARIES = (TORCH, PYTHON, str(Path(__file__).parent))
"""Folders of code that is not the user's. SpikingJelly is not among them, because it contains whole networks, too."""


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


@torch.library.custom_op("resformer::delay", mutates_args=())
def _delay(values: torch.Tensor, name: str, steps: int) -> torch.Tensor:  # noqa: ARG001
    """Stands for a Delay while a module is traced."""
    raise AssertionError(f"{name}: is only traced")


@_delay.register_fake
def _(values: torch.Tensor, name: str, steps: int) -> torch.Tensor:  # noqa: ARG001
    return torch.empty_like(values)


@torch.library.custom_op("resformer::step_ago", mutates_args=())
def _step_ago(values: torch.Tensor, name: str, features: int) -> torch.Tensor:  # noqa: ARG001
    """Stands for what a container made one step ago: of ``features`` features, or as many as ``values`` if 0."""
    raise AssertionError(f"{name}: is only traced")


@_step_ago.register_fake
def _(values: torch.Tensor, name: str, features: int) -> torch.Tensor:  # noqa: ARG001
    return values.new_empty(*values.shape[:-1], features) if features else torch.empty_like(values)


@torch.library.custom_op("resformer::recurrent_linear", mutates_args=())
def _recurrent_linear(values: torch.Tensor, before: torch.Tensor, name: str, outputs: int) -> torch.Tensor:  # noqa: ARG001
    """Stands for the layer of a LinearRecurrentContainer."""
    raise AssertionError(f"{name}: is only traced")


@_recurrent_linear.register_fake
def _(values: torch.Tensor, before: torch.Tensor, name: str, outputs: int) -> torch.Tensor:  # noqa: ARG001
    return values.new_empty(*values.shape[:-1], outputs)


@torch.library.custom_op("resformer::returned", mutates_args=())
def _returned(values: torch.Tensor, name: str) -> torch.Tensor:  # noqa: ARG001
    """Stands for what a container makes, which the container also reads one step later."""
    raise AssertionError(f"{name}: is only traced")


@_returned.register_fake
def _(values: torch.Tensor, name: str) -> torch.Tensor:  # noqa: ARG001
    return torch.empty_like(values)


class InFloat64(TorchFunctionMode):
    """A context in which float32 is float64, and ``zeros``, ``ones`` and ``empty`` make float64 if no type is named.

    Networks are run in float64. Without this, ``torch.zeros(T, N, ...)``, which a forward fills step by step, and what
    ``spikes.float()`` makes had another type than the network's weights.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run a function, with float64 as the default type."""
        given = dict(kwargs or {})
        func = torch.Tensor.double if func is torch.Tensor.float else func
        if func in _TYPED:
            args, given = tuple(map(_wide, args)), {name: _wide(each) for name, each in given.items()}
        if func in (torch.zeros, torch.ones, torch.empty) and given.get("dtype") is None:
            given["dtype"] = torch.float64
        return func(*args, **given)


_TYPED = frozenset(
    {
        *(torch.Tensor.to, torch.Tensor.type, torch.Tensor.new_zeros, torch.Tensor.new_ones),
        *(torch.zeros, torch.ones, torch.empty, torch.full, torch.zeros_like, torch.ones_like, torch.empty_like),
    }
)
"""The functions whose results are float64 if the code asks for float32."""


def _wide(argument: Any) -> Any:
    """An argument of a function of PyTorch, float64 if it is float32, by whichever name."""
    if argument is torch.float32:
        return torch.float64
    return "torch.DoubleTensor" if isinstance(argument, str) and argument == "torch.FloatTensor" else argument


def _leads_back(node: nn.Module) -> bool:
    """Whether a module is a container that reads what it made one step ago."""
    rooms = [room for room in (layer, clocked("layer")) if room is not None]
    names = ("LinearRecurrentContainer", "ElementWiseRecurrentContainer")
    return isinstance(node, tuple(getattr(room, name) for room in rooms for name in names))


def _leading_back(name: str, node: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """A forward to trace, for a container that reads what it made one step ago."""

    def forward(x: torch.Tensor) -> torch.Tensor:
        several = getattr(node, "step_mode", "s") == "m"
        given = x.flatten(0, 1) if several else x
        layer_of_both = getattr(node, "rc", None)
        if layer_of_both is None:
            before = torch.ops.resformer.step_ago(given, name, 0)
            total = node.element_wise_function(before, given)
        else:
            before = torch.ops.resformer.step_ago(given, name, node.sub_module_out_features)
            outputs = layer_of_both.out_features
            total = torch.ops.resformer.recurrent_linear(given, before, name, outputs)
        made: torch.Tensor = torch.ops.resformer.returned(node.sub_module(total), name)
        return made.reshape(*x.shape[:2], *made.shape[1:]) if several else made

    return forward


def export(module: nn.Module, example: torch.Tensor) -> torch.export.ExportedProgram:
    """Run a module's code on a tensor without values.

    Raises:
        UnsupportedError: The code branches on values, or cannot be traced or lowered for another reason.
    """
    module = copy.deepcopy(module)
    for name, node in module.named_modules():
        if isinstance(node, torch.jit.ScriptModule):
            raise UnsupportedError(
                f"{name or type(module).__name__}: is a scripted module, whose code cannot be traced; give the module "
                "that torch.jit.script or torch.jit.trace was given"
            )
        if is_population(node):
            node.forward = lambda current, name=name: torch.ops.resformer.neurons(current, name)
        elif isinstance(node, layer.VotingLayer):
            size = node.voting_size
            node.forward = lambda spikes, name=name, size=size: torch.ops.resformer.vote(spikes, name, size)
        elif isinstance(node, layer.Delay):
            steps = node.delay_steps
            node.forward = lambda values, name=name, steps=steps: torch.ops.resformer.delay(values, name, steps)
        elif _leads_back(node):
            node.forward = _leading_back(name, node)
        elif (why := _no_lowering(node)) is not None:
            node.forward = _refusing(name, why)
    try:
        with _quiet(), torch.no_grad(), InFloat64():
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
        raise UnsupportedError(_untraceable(module, frames, error)) from error


KEEPS_STATE: Mapping[str, str] = MappingProxyType(
    {
        "SynapseFilter": "leave it out, or use neurons whose tau does what it does",
        "NeuNorm": "normalise by a batch normalisation",
        "TemporalWiseAttention": "leave it out: it weighs steps by what all of them hold",
        "MultiDimensionalAttention": "leave it out: it weighs values by what all steps hold",
    }
)
"""SpikingJelly's layers without a lowering that keep a state or read all steps at once, and what to do instead."""


def _no_lowering(node: nn.Module) -> str | None:
    """Why a layer of PyTorch's or SpikingJelly's has no lowering, and what to do instead; None for other modules."""
    kind = type(node).__name__
    if not type(node).__module__.startswith(("torch.", "spikingjelly.")):
        return None
    if kind in KEEPS_STATE:
        return f"a {kind} keeps a state from step to step, for which there is no lowering; {KEEPS_STATE[kind]}"
    return f"no lowering for a {kind}; {remedies.MODULES[kind]}" if kind in remedies.MODULES else None


def _refusing(name: str, why: str) -> Callable[..., torch.Tensor]:
    """A forward that raises an error, which says why the module has no lowering."""

    def forward(*_args: object, **_more: object) -> torch.Tensor:
        raise UnsupportedError(f"{name}: {why}")

    return forward


def _untraceable(module: nn.Module, frames: Sequence[tuple[str, int | None, str | None]], error: Exception) -> str:
    """A message that says why and where code could not be run on tensors without values, and what to do instead."""
    single = [
        f"{name} ({type(node).__name__})"
        for name, node in module.named_modules()
        if isinstance(node, base.StepModule) and not is_population(node)
        if getattr(node, "step_mode", "m") == "s"
    ]
    if single and _is_of_shapes(error):
        return (
            f"{single[0]}: is in step mode 's', in which it takes one step at a time, and it was given something else; "
            "call functional.set_step_mode(module, 'm') if forward takes all steps, (T, N, ...), or loop over the "
            "steps in forward"
        )
    kept = [
        f"{name or type(module).__name__} ({type(node).__name__}): keeps {key} from one call to the next"
        for name, node in module.named_modules()
        for key, held in {**vars(node), **getattr(node, "_memories", {})}.items()
        if isinstance(held, FakeTensor)
        or (isinstance(held, list | tuple) and any(isinstance(e, FakeTensor) for e in held))
    ]
    if kept:
        return f"{kept[0]}, a state that is no neuron's, for which there is no lowering; leave it out, or use neurons"
    where = _line(frames)
    populations = {name.rpartition(".")[2] for name, node in module.named_modules() if is_population(node)}
    if any(found[1] in populations for found in _MEMBRANE.finditer(where)):
        return f"{where}: reads a membrane, and membranes cannot be read out; use what the neurons fire"
    own = any(not frame[0].startswith((*LIBRARIES, SPIKINGJELLY)) and Path(frame[0]).exists() for frame in frames)
    said = first_line(error)
    if ".numpy()" in said or "numpy" in type(error).__module__:
        return f"{where}: computes with NumPy, which cannot be traced; use operations of PyTorch on tensors"
    if _OF_TRACING.search(said):
        return f"{where}: cannot be traced; use operations of PyTorch whose shapes do not depend on values"
    if own or _is_of_shapes(error):
        return (
            f"{where}: cannot be traced ({type(error).__name__}: {said}); use operations of PyTorch on "
            "tensors of any batch size"
        )
    return (
        f"{type(module).__name__}: its code cannot be run on tensors that have shapes but no values; use operations of "
        "PyTorch alone, on what forward is given and on parameters and buffers"
    )


_MEMBRANE = re.compile(r"(\w+)\.v(?:_seq)?\b(?![.(])")
"""An attribute, and behind it the potentials that SpikingJelly's neurons keep, in a line of code."""

_OF_TRACING = re.compile(r"[Ff]ake|\bu\d+\b|\bs\d+\b|subclass|torch\.export|torch\._|[Dd]ynamo|proxy|SymInt|symbolic")
"""Words in error messages that are about tracing rather than about the user's code."""


def _is_of_shapes(error: Exception) -> bool:
    """Whether an error is one that PyTorch raises for a tensor of a shape that an operation does not take."""
    return isinstance(error, RuntimeError | ValueError | IndexError | AssertionError) and "fake tensor" not in str(
        error
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress what torch.export logs and prints about code that it cannot trace: our own error says it."""
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
    """The innermost of some stack frames that is not in a library, as "file:line: code"."""
    frames = [frame for frame in frames if not frame[0].startswith(LIBRARIES[-1])]
    known = [frame for frame in frames if not frame[0].startswith(LIBRARIES)] or list(frames)
    own = [frame for frame in known if not frame[0].startswith(SPIKINGJELLY)] or known
    if not own:
        return "the module"
    file, line, code = own[-1]
    return f"{file}:{line}: {(code or '').strip()}"


def first_line(error: Exception) -> str:
    """The first line of an error's message, without the stack that PyTorch appends."""
    return str(error).partition("\n")[0]
