"""A verification as tables and sentences, for people."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence

from resformer.compiler.samples.classes import named
from resformer.compiler.samples.preprocessing import NO_PREPROCESSING
from resformer.runtime.verify.result import (
    BACKEND,
    CHECKS,
    FLOAT_GRAPH,
    ORIGINAL,
    QUANTIZED,
    SHORT,
    Check,
    Verification,
)

STANDS_OUT = 4.0
"""A layer stands out if its error is more than this many times the median layer's; that is no ordinary rounding."""
COARSE = 2.0
"""A layer lacks a bit if its error is more than this many times the median layer's."""
NO_ERROR = 1e-6
"""A relative error below this one comes from the tie shift alone, so the layer counts as exact."""
CLASSES_SHOWN = 10
"""How many of the predicted classes are listed, the most frequent first."""

TITLES = {
    FLOAT_GRAPH: "float graph = {source}",
    BACKEND: "backend = program",
    QUANTIZED: "backend = quantized.pt",
    ORIGINAL: "quantized ~ {source}",
}
"""The title of each check; ``source`` is what was compiled, in words."""


def local_rows(result: Verification) -> tuple[Sequence[str], list[list[str]]]:
    """Headings and rows of a table of each layer's own error, the worst first."""
    headings = (
        "layer",
        "population",
        " error",
        " RMS, thresholds",
        " worst",
        " spikes differ",
        " rate",
        " shift",
        " end to end",
        " F1",
    )
    rows = []
    for error in sorted(result.local, key=lambda each: each.rank):
        row = [error.layer.name, error.layer.population or error.layer.onto or "(logits)"]
        row += [f"{error.relative:.3%}", f"{error.rms:.4f}", f"{error.worst:.3f}"]
        if error.layer.population is None:
            rows.append([*row, *[""] * 5])
            continue
        row += [f"{error.mismatch:.3%}", f"{error.rate_original:.2%}", f"{error.rate_shift:+.3%}"]
        rows.append([*row, f"{error.drift:.3%}", f"{error.f1:.4f}"])
    return headings, rows


def blame(result: Verification) -> str:
    """Which layer to look at first, in a sentence."""
    worst = min(result.local, key=lambda each: each.rank)
    if worst.relative < NO_ERROR:
        return f"blame: no layer: fed the original's inputs, no current is off by more than {worst.relative:.1e} of it"
    median = statistics.median(each.relative for each in result.local)
    spikes = f", {worst.mismatch:.3%} of the spikes of {worst.layer.population} differ" if worst.tally.compared else ""
    apart = ""
    if worst.relative <= STANDS_OUT * median:
        apart = "; no layer stands out, so blame the width of all"
        if worst.relative > COARSE * median:
            apart += ", and this one's first (--layer-bits)"
    return (
        f"blame: {worst.layer.name}: fed the original's inputs, its own current is off by {worst.relative:.2%} "
        f"(median layer {median:.2%}){spikes}{apart}"
    )


def check_rows(result: Verification) -> tuple[Sequence[str], list[list[str]]]:
    """Headings and rows of a table of the four checks."""
    rows = []
    for name in CHECKS:
        title = f"{SHORT[name]} {TITLES[name].format(source=result.source)}"
        if name in result.checks:
            check = result.checks[name]
            rows.append([title, _verdict(check), f"{check.compared:,}", f"{check.mismatched:,}", check.note])
        else:
            rows.append([title, "not run", "", "", result.not_run[name]])
    return ("check", "result", " spikes compared", " mismatched", "of what"), rows


def facts(result: Verification) -> list[str]:
    """Details that the verdict only summarises, a line each."""
    lines = []
    if ORIGINAL in result.checks:
        extra = result.checks[ORIGINAL].extra
        lines.append(f"quantization: top-1 agreement {extra['top1_agreement']:.2%}, F1 of spikes {extra['f1']:.4f}")
    if result.preprocessing != NO_PREPROCESSING:
        lines.append(f"preprocessing of the samples: {result.preprocessing}")
    if result.classes is not None:
        counts = Counter(result.predictions).most_common(CLASSES_SHOWN)
        lines.append(f"predictions: {', '.join(f'{named(each, result.classes)}: {count}' for each, count in counts)}")
    if result.saturation:
        nodes = ", ".join(f"{name} {count:,}" for name, count in result.saturation.items())
        lines.append(f"saturation: {nodes}")
    lines += [f"warning: {warning}" for warning in result.warnings]
    lines += [f"note: {note}" for note in result.notes]
    lines += [
        f"{SHORT[name]} first differs at {check.divergence}"
        for name, check in result.checks.items()
        if check.divergence is not None and check.demanded and not check.passed
    ]
    return lines


def _verdict(check: Check) -> str:
    if not check.demanded:
        return "measured"
    return "equal" if check.passed else "NOT EQUAL"
