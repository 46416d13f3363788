"""How long a chip's steps last: named terms of each layer's busiest core, the mesh's busiest link, and the barrier.

A step lasts as long as its slowest part, as in the max-affine and floorline models of Loihi 2 (arXiv 2601.10035 and
2511.21549): the largest of all layers' terms and of what the busiest link carries, then the longest way of a message
and the barrier. Layers work at the same time, each on the step of the sample that has reached it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from resformer.compiler.chips.chip import Chip

FloatArray = npt.NDArray[np.float64]

TERMS = ("synapses", "neurons", "messages in", "messages out")
"""The kinds of work of a core in a step; it does all of them at the same time."""
LINKS = "links"
"""The name of the mesh's term."""


@dataclass(frozen=True, eq=False)
class Work:
    """The work of a layer's busiest core for one sample, step by step, for one or for several ways to cut the layer.

    Attributes:
        name: The population.
        depth: The steps by which the layer works later than the input: one for each message in a row between them.
        narrow: Synaptic operations of rows that are not wide, (T,).
        wide: Synaptic operations of convolutions with wide rows, (T,).
        active: Updates of neurons that fire or send, (T,).
        inactive: Updates of neurons that do not, (T,).
        arriving: Messages that the core receives, (T,).
        leaving: Messages that the core sends, (T,).

    For several ways, each array is (ways, T).
    """

    name: str
    depth: int
    narrow: FloatArray
    wide: FloatArray
    active: FloatArray
    inactive: FloatArray
    arriving: FloatArray
    leaving: FloatArray

    def of_way(self, chosen: int, leaving: FloatArray) -> Work:
        """The work in one of several ways, with the messages that it sends, (T,)."""
        return Work(
            self.name,
            self.depth,
            narrow=self.narrow[chosen],
            wide=self.wide[chosen],
            active=self.active[chosen],
            inactive=self.inactive[chosen],
            arriving=self.arriving[chosen],
            leaving=leaving,
        )

    def terms(self, chip: Chip) -> dict[str, FloatArray]:
        """The time of each of :data:`TERMS`, in ns, (T,) or (ways, T)."""
        times = (
            self.narrow * chip.synaptic_op_ns + self.wide * chip.synaptic_op_wide_ns,
            self.active * chip.neuron_update_active_ns + self.inactive * chip.neuron_update_inactive_ns,
            self.arriving * chip.message_in_ns,
            self.leaving * chip.message_out_ns,
        )
        return dict(zip(TERMS, times, strict=True))


@dataclass(frozen=True, eq=False)
class Steps:
    """The steps of a chip that works on one sample after another.

    Attributes:
        ns: How long each step lasts, (T,), in the order in which the first layer works on them.
        slowest: What each step waits for longest: a layer and its term, or an axis of the mesh and ``LINKS``.
        busy_ns: The time of that slowest part alone, (T,).
    """

    ns: FloatArray
    slowest: tuple[tuple[str, str], ...]
    busy_ns: FloatArray

    @property
    def mean_ns(self) -> float:
        """How long a step lasts, on average."""
        return float(self.ns.mean())


def lasting(works: Sequence[Work], links: Mapping[str, FloatArray], chip: Chip, longest_ns: float) -> Steps:
    """Compute how long the steps last.

    Args:
        works: The work of all layers.
        links: Messages of the busiest link, by its axis, (T,), already in the order of the first layer's steps.
        chip: The chip whose constants hold.
        longest_ns: The time of a message's longest way.
    """
    names: list[tuple[str, str]] = []
    rows: list[FloatArray] = []
    for work in works:
        for term, times in work.terms(chip).items():
            names.append((work.name, term))
            # the layer's step t is the chip's step t + depth
            rows.append(np.roll(times, work.depth))
    for axis, messages in links.items():
        names.append((axis, LINKS))
        rows.append(messages * chip.link_ns)
    table = np.array(rows)
    busiest = table.argmax(axis=0)
    busy = table.max(axis=0)
    return Steps(busy + longest_ns + chip.step_ns, tuple(names[each] for each in busiest), busy)
