"""How the axes of a traced tensor map to the dimensions of the value that it shows: a small algebra of views.

An axis is a product of atoms, the slowest first. An atom is a run of indices of one dimension of the value, with a size
and a stride. Reshaping splits atoms and joins axes, transposing reorders axes, and slicing shortens an atom and moves
the first index of its dimension. No data moves: heads, patches and tokens are views of maps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from resformer.compiler.ir.arrays import Shape

TIME, BATCH = -2, -1
"""The dimensions before a sample's own; the sample's own dimensions are counted from 0."""

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Atom:
    """A run of indices of one dimension.

    Attributes:
        dim: The dimension: ``TIME``, ``BATCH``, or an index into the node's shape.
        size: The number of indices.
        stride: The distance from one index to the next.
    """

    dim: int
    size: int
    stride: int = 1


Axis: TypeAlias = tuple[Atom, ...]
"""The atoms that an axis runs over, the slowest first; empty if the axis has size one."""


def atoms(dim: int, size: int, stride: int = 1) -> Axis:
    """An axis along one dimension of a sample."""
    return (Atom(dim, size, stride),) if size > 1 else ()


def whole(shape: Shape, dims: Iterable[int]) -> Axis:
    """An axis that runs over all of some dimensions of a shape, in their order."""
    return tuple(atom for dim in dims for atom in atoms(dim, shape[dim]))


@dataclass(frozen=True)
class Layout:
    """How a tensor shows a value.

    Attributes:
        axes: The tensor's axes.
        starts: For each dimension of the value that the tensor shows from a later index than 0 on: the dimension and
            this first index.
    """

    axes: tuple[Axis, ...]
    starts: tuple[tuple[int, int], ...] = ()

    @property
    def sizes(self) -> Shape:
        """The tensor's shape."""
        return tuple(math.prod(atom.size for atom in axis) for axis in self.axes)

    @property
    def atoms(self) -> Axis:
        """All atoms, in the order of the tensor's elements."""
        return tuple(atom for axis in self.axes for atom in axis)

    def has(self, dim: int) -> bool:
        """Whether any axis runs over a dimension."""
        return any(atom.dim == dim for atom in self.atoms)

    def start(self, dim: int) -> int:
        """The first index of a dimension that the tensor shows."""
        return dict(self.starts).get(dim, 0)

    def shows_all(self, shape: Shape) -> bool:
        """Whether the tensor shows every element of a value of this shape."""
        seen = [0] * len(shape)
        for atom in self.atoms:
            if atom.dim >= 0:
                seen[atom.dim] = max(seen[atom.dim], 1) * atom.size
        return not self.starts and all(max(have, 1) == want for have, want in zip(seen, shape, strict=True))

    def reshaped(self, sizes: Sequence[int]) -> Layout | None:
        """The same elements in the same order on other axes; None if this would split an atom that cannot be split."""
        left = list(self.atoms)
        axes: list[Axis] = []
        for size in sizes:
            axis: list[Atom] = []
            while size > 1 and left:
                first = left[0]
                if size % first.size == 0:
                    axis.append(left.pop(0))
                    size //= first.size
                elif first.size % size == 0 and first.dim >= 0:
                    inner = first.size // size
                    axis.append(Atom(first.dim, size, first.stride * inner))
                    left[0] = Atom(first.dim, inner, first.stride)
                    size = 1
                else:
                    return None
            if size > 1:
                return None
            if not axis and left and left[0].size == 1:
                axis.append(left.pop(0))
            elif axis and left and left[0].size == 1 and 1 not in sizes[len(axes) + 1 : len(axes) + 2]:
                # a single step or sample joins the axis before it, unless it has an axis of its own
                axis.append(left.pop(0))
            axes.append(_joined(axis))
        if any(atom.size > 1 for atom in left) or (left and not axes):
            return None
        if left:
            axes[-1] = (*axes[-1], *left)
        return replace(self, axes=tuple(axes))

    def permuted(self, order: Sequence[int]) -> Layout:
        """The axes in another order."""
        return replace(self, axes=tuple(self.axes[index] for index in order))

    def without(self, gone: Iterable[int], *, keepdim: bool = False) -> Layout:
        """The layout with some axes removed, or, if ``keepdim``, left with a size of one."""
        gone = set(gone)
        kept = [() if index in gone else axis for index, axis in enumerate(self.axes)]
        return replace(self, axes=tuple(axis for index, axis in enumerate(kept) if keepdim or index not in gone))

    def cut(self, index: int, start: int, stop: int) -> Layout | None:
        """The layout with one axis cut to a part; None if the part is not a run of one dimension of a sample."""
        axis = self.axes[index]
        if not axis:
            return self
        slowest, faster = axis[0], math.prod(atom.size for atom in axis[1:])
        if slowest.dim < 0 or start % faster or stop % faster:
            return None
        first, size = start // faster, (stop - start) // faster
        starts = dict(self.starts)
        starts[slowest.dim] = starts.get(slowest.dim, 0) + first * slowest.stride
        kept = (replace(slowest, size=size),) if size > 1 else ()
        axes = (*self.axes[:index], (*kept, *axis[1:]), *self.axes[index + 1 :])
        return Layout(axes, tuple(sorted((dim, begin) for dim, begin in starts.items() if begin)))

    @property
    def in_order(self) -> bool:
        """Whether the elements are in the order of the value's (T, N, ...), so that only the shape may differ."""
        found = self.atoms
        return list(found) == sorted(found, key=lambda atom: (atom.dim, -atom.stride))

    def arrange(self, tensor: torch.Tensor, shape: Shape) -> torch.Tensor:
        """A tensor of this layout, which must show a whole value, as (T, N, *shape), with the tensor's own T and N."""
        sizes, order = [], []
        for axis, size in zip(self.axes, tensor.shape, strict=True):
            inner = math.prod(atom.size for atom in axis if atom.dim >= 0)
            sizes += [size // inner if atom.dim < 0 else atom.size for atom in axis]
            order += list(axis)
        positions = sorted(range(len(order)), key=lambda each: (order[each].dim, -order[each].stride))
        parted = tensor.reshape(sizes).permute(positions)
        return parted.reshape(*parted.shape[:2], *shape)

    def spread(self, constant: torch.Tensor, shape: Shape) -> Float64Array | None:
        """A constant that is applied to a tensor of this layout, as one number per element of a sample, without a copy.

        None if the constant is not the same for all steps and samples, or has axes that the tensor lacks.
        """
        if constant.dim() > len(self.axes):
            return None
        constant = constant.reshape((1,) * (len(self.axes) - constant.dim()) + tuple(constant.shape))
        sizes, found = [], []
        for axis, size, have in zip(self.axes, self.sizes, constant.shape, strict=True):
            if have not in (1, size) or (have > 1 and any(atom.dim < 0 for atom in axis)):
                return None
            sizes += [1 if have == 1 else atom.size for atom in axis]
            found += list(axis)
        order = sorted(range(len(found)), key=lambda each: (found[each].dim, -found[each].stride))
        parted = constant.detach().double().reshape(sizes).permute(order)
        values = parted.numpy()
        per_dim: list[int] = []
        for dim, size in enumerate(shape):
            places = [place for place, index in enumerate(order) if found[index].dim == dim]
            varies = any(values.shape[place] > 1 for place in places)
            if varies:
                full = list(values.shape)
                for place in places:
                    full[place] = found[order[place]].size
                values = np.broadcast_to(values, full)
            per_dim.append(size if varies else 1)
        spread: Float64Array = np.broadcast_to(values.reshape(per_dim), shape)
        return spread

    def __str__(self) -> str:
        return f"({', '.join(_named(axis) for axis in self.axes)})"


def plain(lead: Sequence[Axis], shape: Shape) -> Layout:
    """The layout of a value with its own axes behind ``lead``, the axes of time and samples."""
    return Layout((*lead, *(atoms(dim, size) for dim, size in enumerate(shape))))


def _joined(axis: Sequence[Atom]) -> Axis:
    """The same axis with as few atoms as possible."""
    found: list[Atom] = []
    for atom in axis:
        last = found[-1] if found else None
        if last is not None and last.dim == atom.dim >= 0 and last.stride == atom.size * atom.stride:
            found[-1] = Atom(atom.dim, last.size * atom.size, atom.stride)
        else:
            found.append(atom)
    return tuple(found)


def _named(axis: Axis) -> str:
    names = {TIME: "T", BATCH: "N"}
    return " * ".join(names.get(atom.dim) or str(atom.size) for atom in axis) or "1"
