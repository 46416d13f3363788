"""The formats of operations' fields: the values that a file may hold and that the target's memory can hold.

A field's format stands in its annotation: ``bias: Annotated[Int32Array, Array(np.int32, per_channel)]``. The program's
file, its verifier and its text are loops over :func:`formats_of`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, TypeAlias, get_args, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt

from resformer.compiler.ir.arrays import Shape, require


class Shapes(NamedTuple):
    """The shapes around an operation: those of its inputs, and that of its output."""

    inputs: tuple[Shape, ...]
    output: Shape


Fit: TypeAlias = Callable[[str, Shape, Shapes], None]
"""A function that sees that a field, given its name and shape, fits the shapes around its operation.

Raises:
    InvariantError: It does not.
"""


def per_channel(name: str, held: Shape, shapes: Shapes) -> None:
    """(C,): a value for each channel of the output."""
    channels = shapes.output[:1]
    require(held == channels, f"{name} of shape {held} does not fit {_count(channels)} channels")


def per_channel_or_one(name: str, held: Shape, shapes: Shapes) -> None:
    """(C,), or (1,) for all channels."""
    if held != (1,):
        per_channel(name, held, shapes)


def per_channel_of_first(name: str, held: Shape, shapes: Shapes) -> None:
    """(C,): a value for each channel of the first input."""
    channels = shapes.inputs[0][:1]
    require(held == channels, f"{name} of shape {held} does not fit {_count(channels)} channels of its first input")


def per_neuron(name: str, held: Shape, shapes: Shapes) -> None:
    """The population's number of axes, each of the population's size, or of one for all."""
    wanted = shapes.output
    fits = len(held) == len(wanted) and all(given in (1, size) for given, size in zip(held, wanted, strict=True))
    require(fits, f"{name} of shape {held} does not fit a population of shape {wanted}")


def per_element(name: str, held: Shape, shapes: Shapes) -> None:
    """The output's own shape."""
    require(held == shapes.output, f"{name} of shape {held} does not fit an input of shape {shapes.output}")


def as_the_weights(_name: str, _held: Shape, _shapes: Shapes) -> None:
    """The shape of weights, which is not checked here but by the operation's own shape rule."""


def _count(channels: Shape) -> int:
    return channels[0] if channels else 0


@dataclass(frozen=True)
class Array:
    """An array.

    Attributes:
        dtypes: The types that it may have, the usual one first, each with its smallest and largest value; None: any
            finite value.
        fit: The rule for its shape.
    """

    dtypes: Mapping[type[np.generic], tuple[int, int] | None]
    fit: Fit = field(compare=False)

    def check(self, name: str, value: Any) -> None:
        """See that a value has one of the types, and is finite and in range.

        Raises:
            InvariantError: It has another type, is not finite or is out of range.
        """
        held = value.dtype.type if isinstance(value, np.ndarray) else type(value)
        usual = next(iter(self.dtypes))
        require(
            held in self.dtypes,
            f"{name} is {np.dtype(held) if isinstance(value, np.ndarray) else held.__name__}, not {np.dtype(usual)}",
        )
        limits = self.dtypes[held]
        if limits is not None:
            in_range(name, value, *limits)
        else:
            require(bool(np.isfinite(value).all()), f"{name} holds NaN or infinite values")


@dataclass(frozen=True)
class Whole:
    """A whole number within limits."""

    low: int
    high: int

    def check(self, name: str, value: Any) -> None:
        """See that a value is a whole number within the limits.

        Raises:
            InvariantError: It is not.
        """
        require(type(value) is int, f"{name} is {value!r}, not a whole number")
        in_range(name, value, self.low, self.high)


@dataclass(frozen=True)
class Flag:
    """A truth value."""

    def check(self, name: str, value: Any) -> None:
        """See that a value is a bool.

        Raises:
            InvariantError: It is not.
        """
        require(type(value) is bool, f"{name} is {value!r}, neither true nor false")


@dataclass(frozen=True)
class RowsAndColumns:
    """A pair of whole numbers, (rows, columns)."""

    def check(self, name: str, value: Any) -> None:
        """See that a value is a pair of whole numbers.

        Raises:
            InvariantError: It is not.
        """
        pair = isinstance(value, tuple) and len(value) == 2 and all(type(each) is int for each in value)
        require(pair, f"{name} is {value!r}, not (rows, columns)")


Format: TypeAlias = Array | Whole | Flag | RowsAndColumns


def integers(dtype: type[np.signedinteger[Any]], fit: Fit, low: int | None = None, high: int | None = None) -> Array:
    """The format of an array of one integer type, within limits; without them, all values of the type are allowed."""
    held = np.iinfo(dtype)
    return Array({dtype: (int(held.min) if low is None else low, int(held.max) if high is None else high)}, fit)


def formats_of(op: type[Any]) -> Mapping[str, Format]:
    """The format of each field of an operation except its signal, in the fields' order.

    Raises:
        TypeError: A field states no format: a mistake in the operation's class.
    """
    if op in _FORMATS:
        return _FORMATS[op]
    found: dict[str, Format] = {}
    for name, hint in get_type_hints(op, include_extras=True).items():
        if name == "signal" or get_origin(hint) is ClassVar:
            continue
        formats = [each for each in get_args(hint)[1:] if isinstance(each, Format)]
        if len(formats) != 1:
            raise TypeError(f"{op.__name__}.{name} states no format")
        found[name] = formats[0]
    _FORMATS[op] = found
    return found


_FORMATS: dict[type[Any], Mapping[str, Format]] = {}
"""The results of :func:`formats_of`, by class."""


def in_range(name: str, values: npt.ArrayLike, low: int, high: int) -> None:
    """See that numbers lie within limits.

    Raises:
        InvariantError: One does not.
    """
    array = np.asarray(values)
    if array.size:
        least, most = int(array.min()), int(array.max())
        require(low <= least <= most <= high, f"{name} spans [{least}, {most}], beyond [{low}, {high}]")
