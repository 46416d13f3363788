"""Constants that traced code computes from weights and buffers alone, such as DSSA's scales; evaluated, not lowered."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import fx

UNIT_TOLERANCE = 4 * 2.0**-52
"""How far from one a scale may be if no value of its buffer makes it exactly one; the shift of ties covers this."""


FILLS: Mapping[str, float | None] = MappingProxyType(
    {
        "aten.zeros_like.default": 0.0,
        "aten.ones_like.default": 1.0,
        "aten.new_zeros.default": 0.0,
        "aten.new_ones.default": 1.0,
        "aten.full_like.default": None,
        "aten.new_full.default": None,
    }
)
"""The operations that make a tensor of a single number, and this number; None: it is the last argument."""


@dataclass(frozen=True, eq=False)
class Constants:
    """The constants of one traced module.

    Attributes:
        tensors: Parameters, buffers and tensors that the code states, by the operation that stands for each.
        paths: The paths of parameters and buffers, by the same operations.
        computed: The operations that compute further constants from these.
    """

    tensors: dict[fx.Node, torch.Tensor] = field(default_factory=dict)
    paths: dict[fx.Node, str] = field(default_factory=dict)
    computed: set[fx.Node] = field(default_factory=set)

    def __contains__(self, argument: object) -> bool:
        return isinstance(argument, fx.Node) and (argument in self.tensors or argument in self.computed)

    def takes(self, node: fx.Node) -> bool:
        """Whether an operation computes a constant; if so, it is recorded as a constant."""
        target = node.target
        if not isinstance(target, torch._ops.OpOverload) and not callable(target):
            return False
        # torch.tensor(0.5) in a forward is recorded as a constant that is copied and then detached in place
        if isinstance(target, torch._ops.OpOverload) and (
            (target._schema.is_mutable and str(target) != "aten.detach_.default")
            or torch.Tag.nondeterministic_seeded in target.tags
        ):
            return False
        if str(target) in FILLS:
            self.tensors[node] = torch.full(tuple(node.meta["val"].shape), self._fill(node), dtype=torch.float64)
            return True
        if not all(each in self for each in node.all_input_nodes):
            return False
        self.computed.add(node)
        return True

    def _fill(self, node: fx.Node) -> float:
        """The number that an operation of ``FILLS`` fills a tensor with."""
        known = FILLS[str(node.target)]
        return float(node.args[-1] if known is None else known)  # type: ignore[arg-type]

    def value(self, argument: object) -> torch.Tensor:
        """The value of a constant as a tensor; numbers are constants, too."""
        if isinstance(argument, fx.Node):
            held: torch.Tensor = self._evaluated(argument, {})
            return held
        return torch.tensor(argument, dtype=torch.float64)

    def sources(self, argument: object) -> frozenset[fx.Node]:
        """The parameters and buffers that a constant is computed from."""
        found, ahead = {}, [argument] if isinstance(argument, fx.Node) else []
        while ahead:
            node = ahead.pop()
            if node not in found:
                found[node] = node in self.paths
                ahead += [] if node in self.tensors else node.all_input_nodes
        return frozenset(node for node, is_source in found.items() if is_source)

    def unit(self, argument: object) -> tuple[str, float] | None:
        """The path of the only buffer that a scale is computed from, and the buffer's value that makes the scale one.

        None if there is no such buffer, or the scale is not a power of it. A quantized checkpoint then cannot set the
        scale to one.
        """
        sources = self.sources(argument)
        if len(sources) != 1 or not isinstance(argument, fx.Node):
            return None
        (source,) = sources
        held = self.tensors[source]
        if not held.is_floating_point():
            return None

        def scale(value: float) -> torch.Tensor:
            scaled: torch.Tensor = self._evaluated(argument, {source: torch.full_like(held, value)})
            return scaled

        found = unit_of(scale)
        return None if found is None else (self.paths[source], found)

    def _evaluated(self, node: fx.Node, known: dict[fx.Node, Any]) -> Any:
        if node in known:
            return known[node]
        if node in self.tensors:
            return self.tensors[node]
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda each: self._evaluated(each, known))
        function: Callable[..., Any] = node.target  # type: ignore[assignment]
        with torch.no_grad():
            known[node] = function(*args, **kwargs)
        return known[node]


def unit_of(scale: Callable[[float], torch.Tensor]) -> float | None:
    """The number at which a power of it, such as 1 / sqrt(rate * count), is one within the tolerance; else None."""
    one, four = scale(1.0), scale(4.0)
    if not (one.is_floating_point() and (one > 0).all() and one.isfinite().all() and four.isfinite().all()):
        return None
    first, ratio = float(one.flatten()[0]), float((four / one).flatten()[0])
    if ratio <= 0 or ratio == 1:
        return None
    guess = first ** (-math.log(4) / math.log(ratio))
    if not (math.isfinite(guess) and guess > 0):
        return None
    errors: Mapping[float, float] = {each: float((scale(each) - 1).abs().max()) for each in _near(guess)}
    best = min(errors, key=lambda each: errors[each])
    return best if errors[best] <= UNIT_TOLERANCE else None


def _near(value: float) -> list[float]:
    """A float64 and its eight neighbours, itself first."""
    below, above, found = value, value, [value]
    for _ in range(4):
        below, above = math.nextafter(below, -math.inf), math.nextafter(above, math.inf)
        found += [below, above]
    return found
