"""The result of a verification: the four equivalences (E1 to E4), by name, and what was found for each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias

from resformer.compiler.ir.graph import NETX
from resformer.compiler.ir.summary import Rows, Summarized, Summary, counted, listed
from resformer.compiler.samples.preprocessing import NO_PREPROCESSING, Preprocessing
from resformer.runtime.run.to_know import NONE_FIRED, clipping, silence
from resformer.runtime.verify.diverge import Divergence
from resformer.runtime.verify.intervals import drop_interval, share_interval
from resformer.runtime.verify.limits import NO_LIMITS, Limits
from resformer.runtime.verify.local import LocalError

FLOAT_GRAPH = "float_graph_vs_torch"
BACKEND = "backend_vs_program"
QUANTIZED = "backend_vs_quantized_torch"
ORIGINAL = "quantized_vs_original"
CHECKS = (FLOAT_GRAPH, BACKEND, QUANTIZED, ORIGINAL)

CHECKPOINT, NIR, NET = "checkpoint", "nir", NETX
SOURCES = MappingProxyType(
    {CHECKPOINT: "checkpoint", NIR: "NIR file", NET: "netx network", "module": "module", "zoo": "checkpoint"}
)
"""What was compiled, in words, by the ``source`` in the program's metadata."""

SHORT = MappingProxyType({name: f"E{number}" for number, name in enumerate(CHECKS, 1)})
"""The short names of the checks: E1 to E4."""
NOTHING = "nothing to report"
ROUNDING = 1e-9
"""By how much a difference of two shares may be off in float64: far less than one sample of any number of samples."""

FEW_SAMPLES = 10
"""With fewer samples, an accuracy is not compared with that of a guess: too few to tell one from the other."""

Counts: TypeAlias = Mapping[str, tuple[int, int]]
"""By layer: how many elements were compared, and how many of them differ."""


@dataclass(frozen=True)
class Check:
    """The result of one equivalence.

    Attributes:
        layers: Spikes compared and mismatched, by population.
        demanded: Whether ``equivalent`` depends on it.
        passed: Whether nothing differs.
        note: What was compared, or why the check is not demanded, in words.
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
        """The number of spikes that were compared."""
        return sum(compared for compared, _ in self.layers.values())

    @property
    def mismatched(self) -> int:
        """The number of compared spikes that differ."""
        return sum(mismatched for _, mismatched in self.layers.values())


@dataclass(frozen=True, repr=False)
class Verification(Summarized):
    """The result of a verification: all checks, and what else is known of the samples and the network.

    Attributes:
        backend: The name of the backend.
        samples: The number of samples.
        timesteps: T.
        checks: The checks that ran, by name.
        not_run: The checks that did not run, by name, and why.
        layers: The populations in topological order, and how many chances to fire each had: T times samples times
            neurons.
        saturation: How often a value was clipped, by node.
        ties: How often a potential met its threshold exactly and did not fire, by population. Populations that fire at
            ties, as SpikingJelly's do, are left out.
        clipped: The number of input values that were clipped to the input's range.
        model_is_source: Whether the given file is, bit for bit, the one that was compiled; None if none was given.
        accuracy: The accuracies of "original" and "quantized", as far as labels and the original were given.
        local: Each layer's own error, in topological order; empty if it was not asked for.
        source: What was compiled, in words: a checkpoint, a NIR file, a netx network or a module.
        notes: A sentence each: kernels that the backend found to be computed wrongly on this machine, what was chosen
            in reading the samples, and how the user's own network was run.
        warnings: What is doubtful in the samples, or in the code on the left of E1, a sentence each.
        predictions: The quantized network's class of each sample.
        predictions_original: The original's class of each sample, if the original was given.
        labels: The true class of each sample, if the classes are known.
        input_crc32: A checksum of each sample as the program is given it, by which a page recognises the sample.
        classes: The names of the classes, class 0 first, if they are known.
        preprocessing: What was done to the samples.
        prepared_otherwise: Whether the samples are preprocessed in another way than the build says.
        accuracy_absent: Why there is no accuracy; None if there is.
        fired: How often each population of the backend fired, in the order of ``layers``.
        largest_input: The largest magnitude of any value of the samples.
        input_range: The least and the largest number that the program takes without clipping.
        input_kind: "static" for an input that is the same in all steps, "frames" for counts of events.
        assumptions: What neither the checkpoint nor its user said of the network, a sentence each.
        limits: What was demanded of accuracy.
        guess: The share of the commonest label, which is the accuracy of always guessing it; None without labels.
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
    predictions_original: tuple[int, ...] = ()
    labels: tuple[int, ...] | None = None
    input_crc32: tuple[int, ...] = ()
    classes: tuple[str, ...] | None = None
    preprocessing: Preprocessing = NO_PREPROCESSING
    prepared_otherwise: bool = False
    accuracy_absent: str | None = None
    ties: Mapping[str, int] = field(default_factory=dict)
    fired: Mapping[str, int] = field(default_factory=dict)
    largest_input: float = 0.0
    input_range: tuple[float, float] = (0.0, 0.0)
    input_kind: str = "static"
    assumptions: tuple[str, ...] = ()
    limits: Limits = NO_LIMITS
    guess: float | None = None

    def summary(self) -> Summary:
        """The verdict in three lines and each check; ``resformer.runtime.verify.tables`` has every layer."""
        same_spikes, accuracy, known = self.verdict
        ran = {
            name: f"{check.mismatched:,} of {check.compared:,} spikes differ ({check.note})"
            for name, check in self.checks.items()
        }
        not_run = {name: f"not run: {why}" for name, why in self.not_run.items()}
        word = "EQUIVALENT" if self.equivalent else "NOT EQUIVALENT"
        return f"{word}: {counted(self.samples, 'sample')} in {self.backend}", [
            ("same spikes", same_spikes),
            ("accuracy", accuracy.partition(": ")[2] if accuracy.startswith("accuracy: ") else accuracy),
            ("to know", known.partition(": ")[2]),
            *((name, (ran | not_run)[name]) for name in CHECKS if name in ran or name in not_run),
        ]

    def sound(self) -> bool:
        """Whether the verification passed."""
        return self.passed

    def details(self) -> tuple[str, Rows]:
        """Every population: how many spikes were compared, and how many differ in each check."""
        return f"Every population ({len(self.layers)})", layer_rows(self)

    @property
    def equivalent(self) -> bool:
        """Whether at least one check was demanded and all demanded ones passed: a statement on spikes, not accuracy."""
        demanded = [check for check in self.checks.values() if check.demanded]
        return bool(demanded) and all(check.passed for check in demanded)

    @property
    def passed(self) -> bool:
        """Whether the network is equivalent, and its accuracy is what ``limits`` demand."""
        return self.equivalent and not self.shortfalls

    @property
    def verdict(self) -> tuple[str, str, str]:
        """Three lines: whether the spikes are the same, what became of accuracy, and what to know of both.

        Equal spikes do not reveal a network that never fires, an input that was clipped, or an accuracy that fell. So
        each line says one thing, and EQUIVALENT refers to the first line alone.
        """
        said = self.shortfalls
        known = [each for each in self.to_know if each not in said]
        return _same_spikes(self), _accuracy(self), f"to know: {'; '.join(known) or NOTHING}"

    @property
    def shortfalls(self) -> tuple[str, ...]:
        """How accuracy falls short of what ``limits`` demand, a sentence each."""
        return _shortfalls(self)

    @property
    def doubts(self) -> tuple[str, ...]:
        """Reasons to doubt the samples, or how the network responds to them: silent populations, clipped input."""
        return silence(self.fired, self.layers, from_nir=self.source == SOURCES[NIR]) + clipping(
            self.clipped, self.largest_input, self.input_range, frames=self.input_kind == "frames"
        )

    @property
    def to_know(self) -> tuple[str, ...]:
        """All that a reader of spikes and accuracy should know, a sentence each: the third line of the verdict."""
        return _to_know(self)

    @property
    def agreement(self) -> float | None:
        """The share of samples that the original and the quantized network put in the same class; None if unknown."""
        return float(self.checks[ORIGINAL].extra["top1_agreement"]) if ORIGINAL in self.checks else None

    @property
    def empty_agreement(self) -> str | None:
        """Why agreement with the original says nothing, in a sentence; None if it may say something."""
        return _empty_agreement(self)

    @property
    def accuracy_drop(self) -> float | None:
        """The original's accuracy minus the quantized network's, a share of the samples; None if either is unknown."""
        if self.accuracy.keys() < {"original", "quantized"}:
            return None
        return self.accuracy["original"] - self.accuracy["quantized"]

    @property
    def accuracy_intervals(self) -> Mapping[str, tuple[float, float]]:
        """The 95 % confidence interval of each of ``accuracy``: what these samples tell of all samples there are."""
        return {name: share_interval(round(each * self.samples), self.samples) for name, each in self.accuracy.items()}

    @property
    def accuracy_drop_interval(self) -> tuple[float, float] | None:
        """The 95 % confidence interval of ``accuracy_drop``, in shares of the samples; None if the drop is unknown."""
        if self.labels is None or not self.predictions_original:
            return None
        rows = tuple(zip(self.labels, self.predictions_original, self.predictions, strict=True))
        lost = sum(original == label != quantized for label, original, quantized in rows)
        gained = sum(original != label == quantized for label, original, quantized in rows)
        return drop_interval(lost, gained, self.samples)


def layer_rows(result: Verification) -> tuple[Sequence[str], list[list[str]]]:
    """Headings and rows of a table of all populations: mismatched spikes by check, those of E4 as shares.

    The column of ties counts potentials that met their threshold exactly and did not fire. A population that fires at
    ties has "fire" there instead of a count.
    """
    headings = ["population", " spikes", *(f" {SHORT[name]}" for name in result.checks)]
    if ORIGINAL in result.checks:
        headings.append(" E4 local")
    headings.append(" ties")
    rows = []
    for layer, chances in result.layers.items():
        row = [layer, f"{chances:,}"]
        row += [f"{check.layers[layer][1]:,}" for key, check in result.checks.items() if key != ORIGINAL]
        if ORIGINAL in result.checks:
            check = result.checks[ORIGINAL]
            local = check.extra["local_layers"][layer]
            row += [_share(*check.layers[layer]), _share(local["compared"], local["mismatched"])]
        row.append(f"{result.ties[layer]:,}" if layer in result.ties else "fire")
        rows.append(row)
    return headings, rows


def _share(compared: int, mismatched: int) -> str:
    return f"{mismatched / compared:.3%}"


def _same_spikes(result: Verification) -> str:
    """The first line: what E1 to E3 prove, and E4 if the checkpoint was fine-tuned for these integers."""
    demanded = {name: check for name, check in result.checks.items() if check.demanded}
    measured = [SHORT[name] for name, check in result.checks.items() if not check.demanded and name != ORIGINAL]
    absent = [SHORT[name] for name in result.not_run if name != ORIGINAL]
    beside = (f"; {', '.join(measured)} only measured" if measured else "") + (
        f"; {', '.join(absent)} not run" if absent else ""
    )
    if result.equivalent:
        spikes = sum(check.compared for check in demanded.values())
        return f"EQUIVALENT: 0 of {spikes:,} spikes differ in {', '.join(SHORT[name] for name in demanded)}{beside}"
    wrong = [f"{SHORT[name]}: {_difference(check)}" for name, check in demanded.items() if not check.passed]
    return f"NOT EQUIVALENT: {', '.join(wrong) or 'no check was left that could prove anything'}{beside}"


def _difference(check: Check) -> str:
    if check.mismatched:
        return f"{check.mismatched:,} of {check.compared:,} spikes differ"
    graphs = check.extra.get("graphs", {}).values()
    if graphs:
        worst = max(each["logits_max_difference"] for each in graphs)
        return f"the spikes are the same, but the logits differ by up to {worst:.3g}"
    return "the spikes are the same, but other values differ"


def _accuracy(result: Verification) -> str:
    """The second line: what is known of accuracy, and whether it meets the limits."""
    lacking = result.shortfalls
    demands = any(limit is not None for limit in (result.limits.min_agreement, result.limits.max_accuracy_drop))
    word = "ACCURACY NOT KEPT" if lacking else "ACCURACY KEPT" if demands else "accuracy"
    facts = [_accuracies(result), _agreement(result)]
    if demands and not result.accuracy:
        # agreement then decides whether accuracy is kept; "ACCURACY KEPT: unknown" would contradict itself
        facts = [facts[1], f"accuracy itself is {facts[0]}"]
    return f"{word}: {'; '.join((*lacking, *facts))}"


def _accuracies(result: Verification) -> str:
    if not result.accuracy:
        return f"unknown: {result.accuracy_absent or 'there are no labels (--labels)'}"
    of = {"original": result.source, "quantized": "quantized"}
    shares = ", ".join(f"{of[name]} {share:.2%}" for name, share in result.accuracy.items())
    return f"{shares}, of {result.samples:,} labelled samples"


def _agreement(result: Verification) -> str:
    agreement = result.agreement
    if agreement is None:
        return f"top-1 agreement unknown: {result.not_run[ORIGINAL]}"
    return f"top-1 agreement {agreement:.2%}"


def _shortfalls(result: Verification) -> tuple[str, ...]:
    """How accuracy falls short of what the limits demand, a sentence each."""
    lines = []
    least, most = result.limits.min_agreement, result.limits.max_accuracy_drop
    if least is not None and (result.agreement is None or result.agreement < least):
        lines.append(f"the agreement is below the {least:.2%} that --min-agreement demands")
    drop = result.accuracy_drop
    if most is not None and (drop is None or drop > most + ROUNDING):
        lost = "an unknown drop" if drop is None else f"a drop of {100 * drop:.2f} points"
        lines.append(f"{lost} is more than the {100 * most:.2f} that --max-accuracy-drop allows")
    empty = result.empty_agreement
    return tuple(lines) if empty is None or (least is None and most is None) else (*lines, empty)


def _empty_agreement(result: Verification) -> str | None:
    """Why agreement says nothing: nothing fired, or neither network can read the samples. None if it says something."""
    if result.agreement is None:
        return None
    if result.fired and not any(result.fired.values()):
        return NONE_FIRED
    nothing = "so agreement with it says nothing: are the samples prepared as for training?"
    accuracy, guess, enough = result.accuracy.get("original"), result.guess, result.samples >= FEW_SAMPLES
    if accuracy is not None and guess is not None and guess <= 1 / 2 and enough:
        # one standard deviation above the guess, which one guess in six exceeds by chance
        if accuracy <= guess + math.sqrt(guess * (1 - guess) / result.samples):
            return (
                f"the {result.source} itself is right in {accuracy:.2%} of the samples, no better than a guess "
                f"({guess:.2%} are of one class), {nothing}"
            )
    elif accuracy is None and result.prepared_otherwise:
        # both networks are given the same samples, and may agree on samples that neither can read
        return (
            f"the samples are prepared otherwise than the build says and have no labels, {nothing} Give --labels, or "
            "compile with these options"
        )
    return None


def _to_know(result: Verification) -> tuple[str, ...]:
    """The third line, a sentence each: all that a reader of the first two should know."""
    lines = [*result.doubts]
    if result.empty_agreement is not None and not any(line.startswith(NONE_FIRED) for line in lines):
        lines.append(result.empty_agreement)
    if result.saturation:
        lines.append(f"saturation: {_counts(result.saturation)}")
    # populations without a tie are left out
    ties = {name: count for name, count in result.ties.items() if count}
    if ties:
        lines.append(f"ties, potentials that land exactly on a threshold: {_counts(ties)}")
    if result.model_is_source is False:
        lines.append(f"the {result.source} is not, bit for bit, the file that was compiled")
    lines += result.warnings
    if result.notes:
        lines.append(listed(result.notes, shown=1))
    if result.assumptions:
        # each assumption ends with its reason in brackets, which is cut off here
        sentences = [each.partition(" (")[0] for each in result.assumptions]
        lines.append(f"assumed (no tensor says so): {', '.join(sentences)}")
    return tuple(lines)


def _counts(counts: Mapping[str, int]) -> str:
    worst: Sequence[str] = sorted(counts, key=lambda name: -counts[name])
    return listed([f"{name} {counts[name]:,}" for name in worst])
