"""The result of a verification: the four equivalences (E1 to E4), by name, and what was found of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias

from resformer.compiler.ir.summary import Summarized, Summary, counted
from resformer.runtime.verify.diverge import Divergence
from resformer.runtime.verify.limits import NO_LIMITS, Limits
from resformer.runtime.verify.local import LocalError

FLOAT_GRAPH = "float_graph_vs_torch"
BACKEND = "backend_vs_program"
QUANTIZED = "backend_vs_quantized_torch"
ORIGINAL = "quantized_vs_original"
CHECKS = (FLOAT_GRAPH, BACKEND, QUANTIZED, ORIGINAL)

CHECKPOINT, NIR = "checkpoint", "nir"
SOURCES = MappingProxyType({CHECKPOINT: "checkpoint", NIR: "NIR file", "module": "module"})
"""What was compiled, in words, by what the program's metadata say of its source."""

Counts: TypeAlias = Mapping[str, tuple[int, int]]
"""By layer: how many elements were compared, and how many of them differ."""


@dataclass(frozen=True)
class Check:
    """The result of one equivalence.

    Attributes:
        layers: Spikes compared and mismatched, by population.
        demanded: Whether ``equivalent`` depends on it.
        passed: Whether nothing differs.
        note: What was compared beyond or short of all spikes, in words.
        divergence: Where the sides first differ, if that is known.
        extra: Further numbers, as JSON can hold them.
    """

    layers: Counts
    demanded: bool
    passed: bool
    note: str = ""
    divergence: Divergence | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def compared(self) -> int:
        """How many spikes were compared."""
        return sum(compared for compared, _ in self.layers.values())

    @property
    def mismatched(self) -> int:
        """How many of them differ."""
        return sum(mismatched for _, mismatched in self.layers.values())


@dataclass(frozen=True, repr=False)
class Verification(Summarized):
    """All results.

    Attributes:
        backend: Its name.
        samples: How many.
        timesteps: T.
        checks: By name; only those that ran.
        not_run: The others, and why.
        layers: The populations in topological order, with how many chances to fire each had.
        saturation: How often a value was clipped, by node.
        clipped: How many values of the input its range could not hold.
        model_is_source: Whether the given checkpoint is, bit for bit, the one that was compiled; None if not given.
        accuracy: Of "original" and "quantized", as far as labels and checkpoint were given.
        local: Each layer's own error, in topological order; empty if it was not asked for.
        source: What was compiled, in words: a checkpoint, a NIR file or a module.
        notes: What the backend found of this machine, a sentence each: kernels that it computes wrongly.
        fired: How often each population of the backend fired, in the order of ``layers``.
        largest_input: The largest magnitude of any value of the samples.
        input_range: The least and the largest number that the program takes without clipping it.
        input_kind: "static", or "frames" of counts of events.
        assumptions: What neither the checkpoint nor its user said of the network, a sentence each.
        limits: What was demanded of accuracy.
    """

    backend: str
    samples: int
    timesteps: int
    checks: Mapping[str, Check]
    not_run: Mapping[str, str]
    layers: Mapping[str, int]
    saturation: Mapping[str, int]
    clipped: int
    model_is_source: bool | None
    accuracy: Mapping[str, float]
    local: Sequence[LocalError] = ()
    source: str = SOURCES[CHECKPOINT]
    notes: tuple[str, ...] = ()
    fired: Mapping[str, int] = field(default_factory=dict)
    largest_input: float = 0.0
    input_range: tuple[float, float] = (0.0, 0.0)
    input_kind: str = "static"
    assumptions: tuple[str, ...] = ()
    limits: Limits = NO_LIMITS

    def summary(self) -> Summary:
        """The verdict in three lines and each check; ``resformer.runtime.verify.tables`` has every layer."""
        same_spikes, accuracy, known = self.verdict
        ran = {
            name: f"{check.mismatched:,} of {check.compared:,} spikes differ ({check.note})"
            for name, check in self.checks.items()
        }
        not_run = {name: f"not run: {why}" for name, why in self.not_run.items()}
        return f"Verification of {counted(self.samples, 'sample')} in {self.backend}", [
            ("same spikes", same_spikes),
            ("accuracy", accuracy.partition(": ")[2] if accuracy.startswith("accuracy: ") else accuracy),
            ("to know", known.partition(": ")[2]),
            *((name, (ran | not_run)[name]) for name in CHECKS if name in ran or name in not_run),
        ]

    @property
    def equivalent(self) -> bool:
        """Whether every demanded check passed, and there was one: the same spikes, and nothing beyond."""
        demanded = [check for check in self.checks.values() if check.demanded]
        return bool(demanded) and all(check.passed for check in demanded)

    @property
    def passed(self) -> bool:
        """Whether it is equivalent, and accuracy is what ``limits`` demand."""
        from resformer.runtime.verify.verdict import shortfalls

        return self.equivalent and not shortfalls(self)

    @property
    def verdict(self) -> tuple[str, str, str]:
        """Three lines: whether the spikes are the same, what became of accuracy, and what to know of both."""
        # worded there, of results that are defined here
        from resformer.runtime.verify.verdict import verdict

        return verdict(self)

    @property
    def to_know(self) -> tuple[str, ...]:
        """What to know, a sentence each: the third line of the verdict."""
        from resformer.runtime.verify.verdict import to_know

        return to_know(self)

    @property
    def agreement(self) -> float | None:
        """The share of samples for which the quantized network and the original predict one class; None if unknown."""
        return float(self.checks[ORIGINAL].extra["top1_agreement"]) if ORIGINAL in self.checks else None

    @property
    def accuracy_drop(self) -> float | None:
        """The original's accuracy less the quantized network's, a share of the samples; None if either is unknown."""
        if self.accuracy.keys() < {"original", "quantized"}:
            return None
        return self.accuracy["original"] - self.accuracy["quantized"]
