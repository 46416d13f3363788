"""The verdict in three lines: whether the spikes are the same, whether accuracy was kept, and what to know of both.

Equal spikes say nothing of a network that never fires, of an input that was clipped, or of an accuracy that fell; so
each line says one thing, and EQUIVALENT is said of the first alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from resformer.compiler.ir.summary import listed
from resformer.runtime.run.to_know import clipping, silence
from resformer.runtime.verify.result import CHECKS, NIR, ORIGINAL, SOURCES, Check, Verification

SHORT = {name: f"E{number}" for number, name in enumerate(CHECKS, 1)}
"""The checks as people call them."""
NOTHING = "nothing to report"
ROUNDING = 1e-9
"""By how much a difference of two shares of samples may be off in float64: far less than one sample of any number."""


def verdict(result: Verification) -> tuple[str, str, str]:
    """The three lines."""
    return same_spikes(result), accuracy(result), f"to know: {'; '.join(to_know(result)) or NOTHING}"


def same_spikes(result: Verification) -> str:
    """The first line: what E1 to E3 prove (and E4, of a checkpoint that was fine-tuned for these integers)."""
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
    return "the spikes are the same, but other values differ"


def accuracy(result: Verification) -> str:
    """The second line: what is known of accuracy, and whether it is what was demanded."""
    lacking = shortfalls(result)
    demands = any(limit is not None for limit in (result.limits.min_agreement, result.limits.max_accuracy_drop))
    word = "ACCURACY NOT KEPT" if lacking else "ACCURACY KEPT" if demands else "accuracy"
    return f"{word}: {'; '.join((_accuracies(result), _agreement(result), *lacking))}"


def _accuracies(result: Verification) -> str:
    if not result.accuracy:
        return f"unknown: {getattr(result, 'accuracy_absent', None) or 'there are no labels (--labels)'}"
    of = {"original": result.source, "quantized": "quantized"}
    shares = ", ".join(f"{of[name]} {share:.2%}" for name, share in result.accuracy.items())
    return f"{shares}, of {result.samples:,} labelled samples"


def _agreement(result: Verification) -> str:
    agreement = result.agreement
    if agreement is None:
        return f"top-1 agreement unknown: {result.not_run[ORIGINAL]}"
    return f"top-1 agreement {agreement:.2%}"


def shortfalls(result: Verification) -> tuple[str, ...]:
    """In what accuracy falls short of what was demanded, a sentence each."""
    lines = []
    least, most = result.limits.min_agreement, result.limits.max_accuracy_drop
    if least is not None and (result.agreement is None or result.agreement < least):
        lines.append(f"the agreement is below the {least:.2%} that --min-agreement demands")
    drop = result.accuracy_drop
    if most is not None and (drop is None or drop > most + ROUNDING):
        lost = "an unknown drop" if drop is None else f"a drop of {100 * drop:.2f} points"
        lines.append(f"{lost} is more than the {100 * most:.2f} that --max-accuracy-drop allows")
    return tuple(lines)


def doubts(result: Verification) -> tuple[str, ...]:
    """What puts the samples in doubt, or what the network makes of them: silent populations, clipped input."""
    from_nir = result.source == SOURCES[NIR]
    return silence(result.fired, result.layers, from_nir=from_nir) + clipping(
        result.clipped, result.largest_input, result.input_range, frames=result.input_kind == "frames"
    )


def to_know(result: Verification) -> tuple[str, ...]:
    """The third line, a sentence each: all that a reader of the first two should know."""
    lines = [*doubts(result)]
    if result.saturation:
        lines.append(f"saturation: {_counts(result.saturation)}")
    # counted by the reference and the backend where potentials land exactly on a threshold
    ties = {name: count for name, count in getattr(result, "ties", {}).items() if count}
    if ties:
        lines.append(f"ties, potentials that land exactly on a threshold: {_counts(ties)}")
    if result.model_is_source is False:
        lines.append(f"the {result.source} is not, bit for bit, the file that was compiled")
    lines += getattr(result, "warnings", ())
    if result.notes:
        lines.append(listed(result.notes, shown=1))
    if result.assumptions:
        # each ends in why it is one, in brackets
        sentences = [each.partition(" (")[0] for each in result.assumptions]
        lines.append(f"assumed (no tensor says so): {', '.join(sentences)}")
    return tuple(lines)


def _counts(counts: Mapping[str, int]) -> str:
    worst: Sequence[str] = sorted(counts, key=lambda name: -counts[name])
    return listed([f"{name} {counts[name]:,}" for name in worst])
