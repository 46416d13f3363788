"""Tells which modules are populations of SpikingJelly's neurons, and of which kind, for both of its packages.

``activation_based`` has one class per kind for both step modes. ``clock_driven``, which code of 2021 and 2022 imports,
has two classes per kind. A module with such neurons has imported ``clock_driven`` already, so this code looks the
package up and does not import it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from spikingjelly.activation_based import neuron
from torch import nn

from resformer.errors import UnsupportedError

IF, LIF, PLIF = "IFNode", "LIFNode", "ParametricLIFNode"
KINDS = (IF, LIF, PLIF)
"""The neurons that have a lowering, by their names in both packages; subclasses that compute the same have one, too."""

CLOCKED = "spikingjelly.clock_driven"

SAYS_NOTHING = frozenset(
    {
        *("__init__", "__module__", "__doc__", "__annotations__", "__qualname__", "__parameters__", "__orig_bases__"),
        *("__firstlineno__", "__static_attributes__", "__annotate__", "__annotate_func__", "__abstractmethods__"),
        *("__repr__", "__str__", "extra_repr", "supported_backends", "_abc_impl", "__dict__", "__weakref__"),
    }
)
"""The names that a subclass may define without computing something else."""


def clocked(room: str) -> Any:
    """A module of ``clock_driven``, such as "neuron", or None where nobody has imported it."""
    return sys.modules.get(f"{CLOCKED}.{room}")


def _bases() -> tuple[type[nn.Module], ...]:
    old = clocked("neuron")
    return (neuron.BaseNode,) if old is None else (neuron.BaseNode, old.BaseNode)


def is_population(module: nn.Module) -> bool:
    """Whether a module is a population of SpikingJelly's neurons."""
    return isinstance(module, _bases())


def step_mode(population: nn.Module) -> str:
    """Whether neurons take all steps, "m", or one at a time, "s"."""
    old = clocked("neuron")
    if old is None or not isinstance(population, old.BaseNode):
        return str(getattr(population, "step_mode", "s"))
    several = tuple(each for name, each in vars(old).items() if name.startswith("MultiStep") and isinstance(each, type))
    return "m" if isinstance(population, several) else "s"


def multi_step(name: str, population: nn.Module) -> str:
    """Words that tell the user how to let neurons take all steps at once."""
    if isinstance(population, neuron.BaseNode):
        return "use step mode 'm' (functional.set_step_mode(net, 'm'))"
    return f"use MultiStep{kind_of(name, population)[0]}, or a loop over the steps"


def step(population: Any, current: Any) -> Any:
    """What neurons fire in one step if they are given ``current``, whatever their step mode is."""
    if isinstance(population, neuron.BaseNode):
        population.step_mode = "s"
    elif step_mode(population) == "m":
        return population(current[None])[0]
    return population(current)


def reset(module: nn.Module) -> None:
    """Reset every module that keeps a state, as ``reset_net`` of both packages does, but without its warnings."""
    each: Any
    for each in module.modules():
        if hasattr(each, "reset"):
            each.reset()


def _known() -> Iterator[tuple[type, str]]:
    """The classes that have a lowering, each with its kind."""
    for kind in KINDS:
        yield getattr(neuron, kind), kind
    old = clocked("neuron")
    if old is not None:
        for kind in KINDS:
            yield getattr(old, kind), kind
            yield getattr(old, f"MultiStep{kind}"), kind


def kind_of(name: str, node: nn.Module) -> tuple[str, type]:
    """Which of SpikingJelly's neurons a population is; a subclass counts as its base if only its constructor differs.

    Returns:
        One of ``KINDS``, and SpikingJelly's class.

    Raises:
        UnsupportedError: The population is of another type, or overrides what its base class computes.
    """
    known, own = dict(_known()), list[type]()
    for each in type(node).__mro__:
        if each in known:
            base = each
            break
        own.append(each)
    else:
        words = "IFNode, LIFNode and ParametricLIFNode"
        raise UnsupportedError(
            f"{name}: no lowering for a {type(node).__name__}; there is one for {words}, and for subclasses that only "
            "set their arguments"
        )
    for each in own:
        changed = [method for method in vars(each) if method not in SAYS_NOTHING and hasattr(base, method)]
        if changed:
            raise UnsupportedError(
                f"{name}: no lowering for a {each.__name__}, which overrides {changed[0]} of {base.__name__}; set "
                f"arguments in its constructor alone, or use {base.__name__}"
            )
    replaced = [method for method, value in vars(node).items() if callable(value) and hasattr(base, method)]
    if replaced:
        raise UnsupportedError(
            f"{name}: no lowering for neurons whose {replaced[0]} was replaced after they were made; leave it as "
            f"{base.__name__} has it"
        )
    return known[base], base
