"""The result of a verification: the four equivalences (E1 to E4), by name, and what was found of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias

from resformer.compiler.ir.summary import Summarized, Summary, counted
from resformer.compiler.samples.preprocessing import NO_PREPROCESSING, Preprocessing
from resformer.runtime.verify.diverge import Divergence
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
        ties: How often a potential met its threshold exactly and did not fire, by population; those that fire at ties,
            as SpikingJelly's do, are not there.
        clipped: How many values of the input its range could not hold.
        model_is_source: Whether the given checkpoint is, bit for bit, the one that was compiled; None if not given.
        accuracy: Of "original" and "quantized", as far as labels and checkpoint were given.
        local: Each layer's own error, in topological order; empty if it was not asked for.
        source: What was compiled, in words: a checkpoint, a NIR file or a module.
        notes: What the backend found of this machine, a sentence each: kernels that it computes wrongly; and what was
            chosen in reading the samples.
        warnings: What is doubtful in how the samples were read, a sentence each.
        predictions: The quantized network's class of each sample.
        classes: The names of the classes, class 0 first, if they are known.
        preprocessing: What was done to the samples.
        accuracy_absent: Why there is no accuracy; None if there is.
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
    warnings: tuple[str, ...] = ()
    predictions: tuple[int, ...] = ()
    classes: tuple[str, ...] | None = None
    preprocessing: Preprocessing = NO_PREPROCESSING
    accuracy_absent: str | None = None
    ties: Mapping[str, int] = field(default_factory=dict)

    def summary(self) -> Summary:
        """The verdict and each check; ``resformer.runtime.verify.tables`` has every layer."""
        verdict = "EQUIVALENT" if self.equivalent else "NOT EQUIVALENT"
        ran = {
            name: f"{check.mismatched:,} of {check.compared:,} spikes differ ({check.note})"
            for name, check in self.checks.items()
        }
        not_run = {name: f"not run: {why}" for name, why in self.not_run.items()}
        return f"{verdict}: {counted(self.samples, 'sample')} in {self.backend}", [
            *((name, (ran | not_run)[name]) for name in CHECKS if name in ran or name in not_run),
            *((f"accuracy, {name}", f"{value:.2%}") for name, value in self.accuracy.items()),
            *([] if self.accuracy_absent is None else [("accuracy", f"absent: {self.accuracy_absent}")]),
            *(("warning", warning) for warning in self.warnings),
            *([("input values clipped", f"{self.clipped:,}")] if self.clipped else []),
            *(("note", note) for note in self.notes),
        ]

    @property
    def equivalent(self) -> bool:
        """Whether every demanded check passed, and there was one."""
        demanded = [check for check in self.checks.values() if check.demanded]
        return bool(demanded) and all(check.passed for check in demanded)
