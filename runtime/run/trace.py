"""Traces: joined, split, and compared spike for spike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from resformer.compiler.ir.arrays import require
from resformer.compiler.ir.trace import CountTrain, SpikeTrain, Trace

BoolArray = npt.NDArray[np.bool_]


def join(traces: Sequence[Trace]) -> Trace:
    """The trace of samples that were run in several batches, in their order."""
    if len(traces) == 1:
        return traces[0]
    saturated: Counter[str] = Counter()
    ties: Counter[str] = Counter()
    for trace in traces:
        saturated.update(trace.saturated)
        ties.update(trace.ties)
    return Trace(
        logits=np.concatenate([trace.logits for trace in traces], axis=1),
        spikes={name: _joined([trace.spikes[name] for trace in traces]) for name in traces[0].spikes},
        graded={name: np.concatenate([trace.graded[name] for trace in traces], axis=1) for name in traces[0].graded},
        saturated=dict(saturated),
        ties=dict(ties),
    )


def _joined(trains: Sequence[SpikeTrain]) -> SpikeTrain:
    """The trains of one population, joined along the samples."""
    return type(trains[0]).pack(np.concatenate([_values(each) for each in trains], axis=1))


def _values(train: SpikeTrain) -> npt.NDArray[np.generic]:
    """What a population sent, (T, N, ...): spikes, or counts of them."""
    return train.values() if isinstance(train, CountTrain) else train.dense()


def split(trace: Trace, ranges: Sequence[tuple[int, int]]) -> list[Trace]:
    """A trace for each range of samples, without ``saturated`` and ``ties``, which count all samples together."""
    spikes: list[dict[str, SpikeTrain]] = [{} for _ in ranges]
    for name, train in trace.spikes.items():
        sent = _values(train)
        for part, (start, stop) in zip(spikes, ranges, strict=True):
            part[name] = type(train).pack(sent[:, start:stop])
    return [
        Trace(
            logits=trace.logits[:, start:stop],
            spikes=part,
            graded={name: values[:, start:stop] for name, values in trace.graded.items()},
        )
        for part, (start, stop) in zip(spikes, ranges, strict=True)
    ]


@dataclass(frozen=True, order=True)
class ElementPosition:
    """A place where two runs differ. Places sort by layer, step, sample and neuron; the first is where they part.

    Attributes:
        layer: The population's position in topological order.
        step: The step of the sample, from 0.
        sample: The sample's index among all samples.
        neuron: The neuron's index in the population, (C, H, W).
    """

    layer: int
    step: int
    sample: int
    neuron: tuple[int, ...]


class Comparison:
    """How many elements of each layer were compared and how many differ, and the first place where one does.

    Args:
        layers: The populations, in topological order.
    """

    def __init__(self, layers: Sequence[str]) -> None:
        self.layers = tuple(layers)
        self.compared = dict.fromkeys(self.layers, 0)
        self.mismatched = dict.fromkeys(self.layers, 0)
        self.first: ElementPosition | None = None

    def add(self, layer: str, differ: BoolArray, samples: Sequence[int]) -> None:
        """Count one layer's differences in one batch.

        Args:
            layer: The population.
            differ: (T, N, ...), true where the two sides differ.
            samples: The index of each of the N samples among all samples.
        """
        require(differ.shape[1] == len(samples), f"{layer}: {differ.shape} for {len(samples)} samples")
        count = int(np.count_nonzero(differ))
        self.compared[layer] += differ.size
        self.mismatched[layer] += count
        if count:
            step, sample, *neuron = (int(index) for index in np.unravel_index(int(differ.argmax()), differ.shape))
            self._note(ElementPosition(self.layers.index(layer), step, samples[sample], tuple(neuron)))

    def merge(self, other: Comparison) -> None:
        """Add what another batch counted."""
        require(self.layers == other.layers, f"merged over {other.layers}, not {self.layers}")
        for layer in self.layers:
            self.compared[layer] += other.compared[layer]
            self.mismatched[layer] += other.mismatched[layer]
        if other.first is not None:
            self._note(other.first)

    @property
    def total(self) -> int:
        """How many elements were compared."""
        return sum(self.compared.values())

    @property
    def wrong(self) -> int:
        """How many of the compared elements differ."""
        return sum(self.mismatched.values())

    def _note(self, place: ElementPosition) -> None:
        self.first = place if self.first is None else min(self.first, place)


def require_complete(name: str, compared: Mapping[str, int], expected: Mapping[str, int]) -> None:
    """Require that a check compared every element of every layer.

    Raises:
        InvariantError: It skipped some, or had nothing to compare: such a check proves nothing.
    """
    require(bool(expected), f"{name}: there is nothing to compare")
    require(dict(compared) == dict(expected), f"{name}: compared {dict(compared)} elements of {dict(expected)}")
    require(all(compared.values()), f"{name}: a layer has no elements")
