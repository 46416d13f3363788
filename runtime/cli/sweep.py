"""Sweeps: a network is compiled, placed and run with every combination of some options' values."""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from resformer._version import __version__
from resformer.compiler.ir.program import layer_names
from resformer.compiler.progress import Progress
from resformer.compiler.save.report import sqnr_db
from resformer.errors import ResformerError, SampleWarning, UnsupportedError
from resformer.runtime.cli.compile_options import compile_options
from resformer.runtime.cli.event_options import event_binning
from resformer.runtime.cli.sweep_points import (
    Classes,
    Original,
    cut_every,
    joined,
    original_share,
    write_point_page,
)
from resformer.runtime.compiled import Compiled, compile  # noqa: A004
from resformer.runtime.cost.cost import Cost
from resformer.runtime.given import Given
from resformer.runtime.pareto import front
from resformer.runtime.run.processes import Processes
from resformer.runtime.units import COMPARED, common_power, prefixed, scaled
from resformer.runtime.verify.intervals import share_interval

Int64Array = npt.NDArray[np.int64]

FORMAT = "resformer-sweep"
FORMAT_VERSION = 3
"""Version 1 had no intervals and no power; version 2 had no agreement, no intervals of accuracies and no fronts."""
BACKEND = "sim"
LONGEST_NAME = 80
"""The most characters of a combination in the name of its page's file."""

Axes: TypeAlias = Mapping[str, Sequence[tuple[str, str, object]]]
"""The values of each option that varies, each as (the text that the user wrote, the argument's name, the value)."""


@dataclass(frozen=True)
class Point:
    """One combination of options, and its results. What was not asked for, or failed, is None.

    Attributes:
        choices: The value of each option that varies, as text.
        error: Why it failed.
        fits: Whether it fits the chip.
        cores: How many neurocores it takes.
        chips: How many chips it takes.
        sqnr_db: The ratio of weights to their rounding errors, in dB, of the layer where it is worst.
        samples: How many samples ran.
        accuracy: The share of samples whose class is right.
        accuracy_low: The lower end of the 95 % confidence interval of ``accuracy``.
        accuracy_high: The upper end of that interval.
        accuracy_original: The original's accuracy on the same samples: of the float network, without the options of the
            sweep.
        agreement: The share of samples whose class is the original's.
        agreement_low: The lower end of the 95 % confidence interval of ``agreement``.
        agreement_high: The upper end of that interval.
        sops: Synaptic operations of a sample.
        paper_mj: Energy of a sample by the paper's count, without the stem.
        energy_mj: Energy of a sample on the chip.
        energy_mj_low: The least that it may be: every figure of a chip has a lower and an upper bound.
        energy_mj_high: The most that it may be.
        power_mw: Power of the chips while samples stream.
        power_mw_low: See ``energy_mj_low``.
        power_mw_high: See ``energy_mj_high``.
        latency_us: Time from a sample's first frame to its last logits.
        latency_us_low: See ``energy_mj_low``.
        latency_us_high: See ``energy_mj_high``.
        interval_us: Time between consecutive samples.
        interval_us_low: See ``energy_mj_low``.
        interval_us_high: See ``energy_mj_high``.
        saturated: How many values were clipped, in all samples.
        warnings: What is doubtful about the network, the samples or the run, a sentence each.
        notes: What else was chosen or found, a sentence each, such as kernels that were replaced.
        page: The file name of its own page, if one was written.
    """

    choices: Mapping[str, str]
    error: str | None = None
    fits: bool | None = None
    cores: int | None = None
    chips: int | None = None
    sqnr_db: float | None = None
    samples: int | None = None
    accuracy: float | None = None
    accuracy_low: float | None = None
    accuracy_high: float | None = None
    accuracy_original: float | None = None
    agreement: float | None = None
    agreement_low: float | None = None
    agreement_high: float | None = None
    sops: float | None = None
    paper_mj: float | None = None
    energy_mj: float | None = None
    energy_mj_low: float | None = None
    energy_mj_high: float | None = None
    power_mw: float | None = None
    power_mw_low: float | None = None
    power_mw_high: float | None = None
    latency_us: float | None = None
    latency_us_low: float | None = None
    latency_us_high: float | None = None
    interval_us: float | None = None
    interval_us_low: float | None = None
    interval_us_high: float | None = None
    saturated: int | None = None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    page: str | None = None

    @property
    def title(self) -> str:
        """The point's choices, in words."""
        return ", ".join(f"{key} {value}" for key, value in self.choices.items())


TOLD = ("warnings", "notes")
MEASURED = tuple(each.name for each in fields(Point) if each.name not in ("choices", "error", "page", *TOLD))
ENDS = ("low", "high")
WITH_INTERVALS = ("energy_mj", "power_mw", "latency_us", "interval_us")
"""Figures of a chip, which are given with the least and the most that they may be."""
GAINS = ("accuracy", "agreement", "sqnr_db")
"""Figures that should be large."""
COSTS = ("energy_mj", "latency_us", "interval_us", "power_mw", "cores", "chips", "sops", "paper_mj")
"""Figures that should be small."""
_TEXTS: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "fits": ("fits", lambda value: "yes" if value else "NO"),
    "cores": (" cores", "{:,}".format),
    "chips": (" chips", "{:,}".format),
    "sqnr_db": (" worst SQNR, dB", "{:.1f}".format),
    "accuracy": (" accuracy", "{:.2%}".format),
    "agreement": (" agreement", "{:.2%}".format),
    "saturated": (" saturated", "{:,}".format),
}
_QUANTITIES: Mapping[str, tuple[str, str, float]] = {
    "sops": ("", "SOPs", 1.0),
    "paper_mj": ("paper, ", "J", 1e-3),
    "energy_mj": ("chip, ", "J", 1e-3),
    "power_mw": ("power, ", "W", 1e-3),
    "latency_us": ("latency, ", "s", 1e-6),
    "interval_us": ("every, ", "s", 1e-6),
}
"""Figures with a unit: how the heading begins, the unit, and the factor from the figure to that unit."""


def run(
    arguments: argparse.Namespace,
    axes: Axes,
    update: Progress,
    processes: Processes | None = None,
    pages: Path | None = None,
) -> tuple[Point, ...]:
    """Compile, place and run every combination; the point of one that fails says why.

    Args:
        arguments: The arguments of ``resformer-compile``.
        axes: The options that vary; the last one varies fastest.
        update: Called with the progress.
        processes: The processes that take turns at the combinations; each gets all points. None: this process alone.
        pages: Folder to write each combination's own page to, under ``page_name``; None: no pages.

    Warns:
        SampleWarning: Samples are doubtful; as if this process had compiled all combinations.
    """
    processes = processes or Processes()
    combinations = list(itertools.product(*axes.values()))
    points: list[Point] = []
    said: list[list[str]] = []
    seen: list[Classes | None] = []
    share = None if arguments.input is None else original_share(arguments, update, processes)
    for index, values in list(enumerate(combinations))[processes.rank :: processes.count]:
        choices = {key: text for key, (text, _, _) in zip(axes, values, strict=True)}
        update(Point(choices).title, index, len(combinations))
        chosen = _chosen(arguments, {name: value for _, name, value in values})
        with warnings.catch_warnings(record=processes.count > 1) as caught:
            try:
                point, classes = _point(chosen, choices, pages and pages / page_name(index, choices))
            except (ResformerError, MemoryError) as error:
                reason = "; ".join(error.findings) if isinstance(error, ResformerError) else "out of memory"
                point, classes = Point(choices, error=" ".join(reason.split())), None
        points.append(point)
        seen.append(classes)
        said.append([str(each.message) for each in caught or () if issubclass(each.category, SampleWarning)])
    update("gathering", 0, 0)
    parts = processes.gather_for_all((list(zip(points, said, seen, strict=True)), share))
    in_order = [parts[index % processes.count][0][index // processes.count] for index in range(len(combinations))]
    for message in itertools.chain.from_iterable(messages for _, messages, _ in in_order):
        warnings.warn(message, SampleWarning, stacklevel=2)
    original = joined([each for _, each in parts if each is not None])
    return tuple(_compared(point, classes, original) for point, _, classes in in_order)


def _chosen(arguments: argparse.Namespace, values: Mapping[str, object]) -> argparse.Namespace:
    """The arguments of a combination: a repeatable option has its values without the sweep, and then the swept one."""
    chosen = vars(arguments) | {
        name: [*getattr(arguments, name), *value] if isinstance(value, list) else value
        for name, value in values.items()
    }
    return argparse.Namespace(**chosen)


def require_any(points: Sequence[Point]) -> None:
    """Raise the error that all combinations share, if there is one.

    Raises:
        ResformerError: All failed for the same reason, which then lies in the network or the samples.
    """
    reasons = {point.error for point in points}
    if len(reasons) == 1 and None not in reasons:
        raise ResformerError(str(reasons.pop()))


def page_name(index: int, choices: Mapping[str, str]) -> str:
    """The file name of a combination's own page."""
    title = "-".join(f"{key}-{value}" for key, value in choices.items())
    return f"{index + 1:02}-{re.sub('[^A-Za-z0-9._]+', '-', title)[:LONGEST_NAME].strip('-')}.html"


def _point(
    arguments: argparse.Namespace, choices: Mapping[str, str], page: Path | None
) -> tuple[Point, Classes | None]:
    compiled = compile(arguments.model, options=compile_options(arguments))
    compilation = compiled.compilation
    facts: dict[str, Any] = {
        "sqnr_db": _worst_sqnr(compiled),
        "warnings": compilation.warnings,
        "notes": (*compilation.source.notes, *compilation.sample_notes),
    }
    if compiled.options.chip is not None:
        placement = compiled.place()
        facts |= {"fits": not placement.violations, "cores": placement.cores, "chips": placement.chips}
    given = cost = classes = None
    if arguments.input is not None:
        binning = event_binning(arguments)
        given = compiled.read(arguments.input, samples=arguments.samples, labels=arguments.labels, binning=binning)
        measured, cost, predictions = _measured(compiled, given)
        classes = Classes(predictions, given.labels, cut_every(binning, compiled.program.timesteps))
        facts |= measured | {name: (*facts[name], *measured[name]) for name in TOLD}
    point = Point(choices, **facts)
    if page is not None:
        try:
            write_point_page(compiled, given, cost, point.title, page)
            point = replace(point, page=page.name)
        except UnsupportedError as error:
            point = replace(point, notes=(*point.notes, f"no page of its own: {error}"))
    return point, classes


def _worst_sqnr(compiled: Compiled) -> float | None:
    found = [sqnr_db(compiled.graph, compiled.program, name) for name in layer_names(compiled.program)]
    return min((each for each in found if each is not None), default=None)


def _measured(compiled: Compiled, given: Given) -> tuple[dict[str, Any], Cost, Int64Array]:
    """What a run of the samples found, its cost, and the class of each sample."""
    result = compiled.run(given, backend=BACKEND, count=True)
    facts: dict[str, Any] = {
        "samples": len(given.samples),
        "saturated": sum(result.saturated.values()),
        "warnings": (*given.warnings, *result.to_know),
        "notes": (*given.notes, *result.notes),
    }
    if given.labels is not None:
        facts |= _share("accuracy", result.predictions, given.labels)
    cost = compiled.cost(result)
    facts |= {"sops": cost.paper.sops, "paper_mj": cost.paper.energy_mj}
    if compiled.options.chip is not None:
        facts |= {
            **{name: getattr(cost, name) for name in WITH_INTERVALS},
            **{f"{name}_{end}": cost.between(name)[index] for name in WITH_INTERVALS for index, end in enumerate(ENDS)},
        }
    return facts, cost, result.predictions


def _compared(point: Point, classes: Classes | None, original: Original) -> Point:
    """A point with its agreement with the original, and the original's accuracy."""
    if classes is None:
        return point
    if original.predictions is None:
        return replace(point, notes=(*point.notes, *filter(None, (original.absent,))))
    absent = _other_samples(classes, original, len(original.predictions))
    if absent is not None:
        return replace(point, notes=(*point.notes, absent))
    agreement = _share("agreement", classes.predictions, original.predictions)
    accuracy = None if classes.labels is None else float(np.mean(original.predictions == classes.labels))
    return replace(point, **agreement, accuracy_original=accuracy)


def _other_samples(classes: Classes, original: Original, samples: int) -> str | None:
    """Why a point has no agreement with an original that ran ``samples`` samples; None if both ran the same."""
    if classes.cut != original.cut:
        return (
            f"no agreement: the recording is cut every {classes.cut} frames here, and every {original.cut} for the "
            f"network without the options of the sweep, so the samples differ; --timesteps {classes.cut} makes that "
            "network take these"
        )
    if len(classes.predictions) != samples:
        found = len(classes.predictions)
        return f"no agreement: {found} samples here, and {samples} for the network without the options of the sweep"
    return None


def _share(name: str, predictions: Int64Array, wanted: Int64Array) -> dict[str, Any]:
    """The share of samples whose class is the wanted one, and the ends of its 95 % confidence interval."""
    right = int(np.count_nonzero(predictions == wanted))
    low, high = share_interval(right, len(wanted))
    return {name: right / len(wanted), f"{name}_low": low, f"{name}_high": high}


def rows(points: Sequence[Point]) -> tuple[Sequence[str], list[Sequence[str]]]:
    """Headings and rows of all figures that at least one point has."""
    order = (name for name in MEASURED if name in _TEXTS or name in _QUANTITIES)
    shown = {name: _column(points, name) for name in order if any(getattr(point, name) is not None for point in points)}
    headings = (*points[0].choices, *(heading for heading, _ in shown.values()))
    table: list[Sequence[str]] = []
    for point in points:
        cells = [_cell(point, name, text) for name, (_, text) in shown.items()]
        if point.error is not None and cells:
            cells[0] = "failed"
        table.append((*point.choices.values(), *cells))
    return headings, table


def _column(points: Sequence[Point], name: str) -> tuple[str, Callable[[Any], str]]:
    """The heading of a figure, and how its values are written: a quantity with one prefix for all points."""
    if name in _TEXTS:
        return _TEXTS[name]
    begins, unit, factor = _QUANTITIES[name]
    values = [factor * getattr(point, name) for point in points if getattr(point, name) is not None]
    power = common_power(values, unit)
    return f" {begins}{prefixed(unit, power)}", lambda value: scaled(factor * value, power, COMPARED)


def _cell(point: Point, name: str, text: Callable[[Any], str]) -> str:
    """A figure as text; figures of a chip have their interval."""
    value = getattr(point, name)
    if value is None:
        return "-"
    if name not in WITH_INTERVALS:
        return text(value)
    low, high = (getattr(point, f"{name}_{end}", value) for end in ENDS)
    return text(value) if low == high else f"{text(value)} ({text(low)} to {text(high)})"


def told(points: Sequence[Point], kind: str) -> list[str]:
    """The sentences of one of ``TOLD``, each once; one that some points lack begins with the titles of the others."""
    done = [point for point in points if point.error is None]
    said: dict[str, list[str]] = {}
    for point in done:
        for sentence in dict.fromkeys(getattr(point, kind)):
            said.setdefault(sentence, []).append(point.title)
    return [
        sentence if len(titles) == len(done) else f"{'; '.join(titles)}: {sentence}"
        for sentence, titles in said.items()
    ]


def to_json(points: Sequence[Point], arguments: argparse.Namespace) -> dict[str, Any]:
    """All points as JSON."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "version": __version__,
        "model": arguments.model.name,
        "input": None if arguments.input is None else arguments.input.name,
        "fronts": {
            gain: {
                cost: front(*([_choice(point, name) for point in points] for name in (gain, cost))) for cost in COSTS
            }
            for gain in GAINS
        },
        "points": [
            {"choices": dict(point.choices), "error": point.error}
            | {name: getattr(point, name) for name in MEASURED}
            | {name: list(getattr(point, name)) for name in TOLD}
            for point in points
        ],
    }


def _choice(point: Point, name: str) -> float | None:
    """A figure of a point, for a front; None if the point failed or does not fit its chip."""
    value: float | None = getattr(point, name)
    return None if point.error is not None or point.fits is False else value


def links(points: Sequence[Point], pages: Path) -> list[str | None]:
    """Links to the points' pages, relative to the parent of the folder ``pages``; None for a point without a page."""
    return [None if point.page is None else f"{quote(pages.name)}/{quote(point.page)}" for point in points]


def to_csv(points: Sequence[Point]) -> str:
    """All points as CSV, a line each, under headings."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*points[0].choices, "error", *MEASURED])
    for point in points:
        values = (getattr(point, name) for name in ("error", *MEASURED))
        writer.writerow([*point.choices.values(), *("" if value is None else value for value in values)])
    return text.getvalue()
