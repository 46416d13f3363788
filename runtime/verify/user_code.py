"""A user's own class, imported from their code. The code must be trusted: importing and calling it runs it."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from resformer.compiler.files.build import Build
from resformer.compiler.ir.summary import listed
from resformer.errors import FileFormatError, InputError, ResformerError
from resformer.models.checkpoint import load_checkpoint
from resformer.models.reading import read
from resformer.models.weights import HOLDERS, IGNORED, WRAPPERS, find_weights
from resformer.models.zoo.checkpoint import load_zoo_checkpoint

LIBRARIES = (
    "site-packages",
    "dist-packages",
    "importlib",
    str(Path(torch.__file__).parent),
    str(Path(__file__).parent),
)
"""Parts of the paths of files that are not the user's code."""

NAMED = 3
"""How many tensors a message names."""


def load_user_module(reference: str, weights: Path, build: Build) -> nn.Module:
    """The module that a user's function returns, with a file's weights.

    Args:
        reference: ``package.module:function``; the current folder is searched first, and the function is called without
            arguments.
        weights: A checkpoint; for a build that was not compiled from one, any file with a state dict.
        build: The build to verify.

    Raises:
        InputError: The function cannot be imported or called, returns no module, or one whose tensors are not the
            file's.
        ResformerError: The file cannot be read.
    """
    module = call(reference)
    if build.from_nir or build.from_module:
        try:
            state: Mapping[str, torch.Tensor] = find_weights(read(weights)[0]).state
        except FileFormatError as error:
            raise FileFormatError(f"{weights}: {error}") from error
    elif build.family is not None:
        state = load_zoo_checkpoint(weights, weights_key=build.report["options"]["weights_key"]).state
    else:
        state = load_checkpoint(weights, weights_key=build.report["options"]["weights_key"]).state
    with reported(reference):
        module = module.double()
        own = module.state_dict()
    load_weights(own, state, f"{weights}: does not fit {reference}")
    return module


def call(reference: str) -> nn.Module:
    """The module that a user's function returns.

    Raises:
        InputError: The function cannot be imported or called, or returns no module.
    """
    module_name, _, path = reference.partition(":")
    # the folder stays on the path, since the code may import more when it runs
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    with reported(reference):
        function: Any = importlib.import_module(module_name)
        for name in path.split("."):
            if not hasattr(function, name):
                raise InputError(f"{reference}: {_named(function)} has no {name}; name a function of it")
            function = getattr(function, name)
        if not callable(function):
            raise InputError(
                f"{reference}: is a {type(function).__name__}; name a function, or a class, that is called without "
                "arguments"
            )
        made = function()
    if not isinstance(made, nn.Module):
        raise InputError(f"{reference}: returns a {type(made).__name__}; it must return a torch.nn.Module")
    return made


@contextmanager
def reported(what: str) -> Iterator[None]:
    """Turn whatever the user's code raises into an error of one line that says what was raised, and where.

    Raises:
        InputError: The user's code raised something.
    """
    try:
        yield
    except (ResformerError, KeyboardInterrupt):
        raise
    except BaseException as error:  # the user's code may raise anything, or end the process
        raise InputError(f"{what}: {described(error)}") from error


def described(error: BaseException) -> str:
    """An error by its type, message, file and line."""
    said = " ".join(str(error).split()) or "no message"
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} ({error.filename}:{error.lineno})"
    frames = [(each.filename, each.lineno) for each in traceback.extract_tb(error.__traceback__)]
    own = [frame for frame in frames if not any(part in frame[0] for part in LIBRARIES)]
    where = f" ({own[-1][0]}:{own[-1][1]})" if own else ""
    hint = "; is its folder the current one?" if isinstance(error, ModuleNotFoundError) and not own else ""
    return f"{type(error).__name__}: {said}{where}{hint}"


def load_weights(own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], what: str) -> None:
    """Load tensors into a module: exactly those that it has, compared by names without what wrappers add to them.

    Args:
        own: The module's state dict, whose tensors are overwritten.
        state: The tensors to load, by name.
        what: How the error message begins.

    Raises:
        InputError: Names or shapes differ.
    """
    names = {name: bare for name, bare in bare_names(own).items() if name.rpartition(".")[2] not in IGNORED}
    given = {bare: state[name] for name, bare in bare_names(state).items()}
    known = set(names.values())
    optional = {bare for bare in (*known, *given) if bare.endswith(".num_batches_tracked")}
    missing = [bare for bare in names.values() if bare not in given and bare not in optional]
    unexpected = [bare for bare in given if bare not in known and bare not in optional]
    wrong = [
        f"{bare} {tuple(given[bare].shape)} instead of {tuple(own[name].shape)}"
        for name, bare in names.items()
        if bare in given and given[bare].shape != own[name].shape
    ]
    lists = {"missing in the file": missing, "not in the module": unexpected, "of another shape": wrong}
    if any(lists.values()):
        differ = "; ".join(f"{listed(each, NAMED)} {kind}" for kind, each in lists.items() if each)
        raise InputError(f"{what}: {differ}; give the function that makes the network of these weights")
    with torch.no_grad():
        for name, bare in names.items():
            if bare in given:
                own[name].copy_(given[bare])


def bare_names(names: Iterable[str]) -> dict[str, str]:
    """For each name of a tensor, the name without the parts that wrappers of a network add."""
    found = {name: ".".join(part for part in name.split(".") if part not in WRAPPERS) for name in names}
    while found and (holder := next(iter(found.values())).partition(".")[0]) in HOLDERS:
        if not all(bare.startswith(f"{holder}.") for bare in found.values()):
            break
        found = {name: bare.removeprefix(f"{holder}.") for name, bare in found.items()}
    return found


def _named(found: Callable[..., Any]) -> str:
    return str(getattr(found, "__name__", type(found).__name__))
