"""The data of the page: a build's own files, and the results of a run, a verification and a cost estimate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resformer._version import __version__
from resformer.compiler.chips.chip import Chip
from resformer.compiler.files import cost as cost_file
from resformer.compiler.files import verification as verification_file
from resformer.compiler.files.build import Build
from resformer.compiler.files.json_schema import check, read_json, shown
from resformer.compiler.placement.activity import activity, events
from resformer.compiler.placement.place import tile_positions
from resformer.compiler.progress import Progress
from resformer.errors import FileFormatError, InputError, UnsupportedError
from resformer.runtime.cost import cost as costs
from resformer.runtime.cost.placed import placed
from resformer.runtime.given import GivenBuild
from resformer.runtime.membrane import NeuronIndex
from resformer.runtime.page.changed import changed_samples
from resformer.runtime.page.membranes import traced_of
from resformer.runtime.page.observe import observe_run
from resformer.runtime.run.infer import Inference, infer, require_room_for_spikes
from resformer.runtime.verify.sides import open_original

Json = Mapping[str, Any]

FORMAT = "resformer-page"
FORMAT_VERSION = 2
"""Version 1 had no samples that changed their class, and the classes of fewer samples of the run."""

SAMPLES = 16
"""How many samples run for the page, unless the user says."""
BACKEND = "sim"
"""The backend that runs the samples for the page."""


@dataclass(frozen=True)
class Shown:
    """One build as the page shows it. For what is None, the page says that it is missing and how to get it.

    Attributes:
        name: The name of the build's folder.
        report: ``report.json``, as it is.
        placement: The part of ``placement.json`` that the page draws; None if the build was not placed.
        verification: What ``resformer-verify --json`` wrote.
        cost: What ``resformer-run --cost --json`` writes.
        run: What ``observe_run`` returned.
        changed: What ``changed_samples`` found in the verification.
    """

    name: str
    report: Json
    placement: Json | None
    verification: Json | None = None
    cost: Json | None = None
    run: Json | None = None
    changed: Json | None = None


def as_shown(
    build: Build,
    *,
    verification: Json | None = None,
    cost: Json | None = None,
    run: Json | None = None,
    verified: GivenBuild | None = None,
) -> Shown:
    """A build as the page shows it, with the results that are known of it.

    Args:
        build: The build.
        verification: What ``resformer-verify --json`` writes for it.
        cost: What ``resformer-run --cost --json`` writes for it.
        run: The first value that ``run_and_show`` returns for it.
        verified: The samples of the verification, to draw the images of those that changed their class.

    Raises:
        FileFormatError: A file of the build, the verification or the cost is damaged.
        InputError: The verification or the cost is of another network.
    """
    try:
        if verification is not None:
            _require_known("the verification", [layer["name"] for layer in verification["layers"]], build)
            _require_classes(verification, build)
        if cost is not None:
            _require_known("the cost", cost["spikes"], build)
    except (KeyError, TypeError) as error:
        raise FileFormatError(
            f"{build.directory}: the verification or the cost is damaged ({error}); write it again"
        ) from error
    changed = None if verification is None else changed_samples(verification, verified)
    return Shown(build.directory.resolve().name, build.report, _placement(build), verification, cost, run, changed)


def run_shown(
    given: GivenBuild,
    result: Inference,
    backend: str,
    chip: Chip | None = None,
    model: Path | None = None,
    traced: Sequence[tuple[str, NeuronIndex]] = (),
) -> tuple[Json, Json]:
    """What the page shows of a recorded run, and what the run costs.

    Args:
        given: The build that ran, and the samples.
        result: The run's results with every spike, or with events and the spikes of the samples that are shown.
        backend: The name of the backend that ran it.
        chip: The chip whose cost is estimated; None: the one that the build was placed on, with its layout.
        model: The file that was compiled, to show where spikes differ from its own; None: not shown.
        traced: Neurons whose membrane traces are shown besides the chosen ones: population and neuron of each.

    Returns:
        What ``observe_run`` returns, and the cost as JSON.

    Raises:
        UnsupportedError: A population may fire several spikes a step.
        ResformerError: The model cannot be read, or is another network.
    """
    program = given.program
    counting = sorted(set(program.spiking_names) - set(program.lif_names))
    if counting:
        raise UnsupportedError(
            f"{counting[0]}: may fire several spikes a step, of which no page is drawn yet; leave out --report, or use "
            "--cost"
        )
    done = activity(program, events(program, result.spikes) if result.events is None else result.events)
    placement = placed(given.build, program, chip)
    cost = costs.to_json(costs.estimate(program, done, placement))
    original = None if model is None else open_original(given.build, program, model)
    traces = traced_of(given.build, program, traced)
    return observe_run(program, given, result, done, backend, original, traces), cost


def run_and_show(
    given: GivenBuild,
    *,
    chip: Chip | None = None,
    model: Path | None = None,
    traced: Sequence[tuple[str, NeuronIndex]] = (),
    update: Progress,
) -> tuple[Json, Json]:
    """Run samples, and return what :func:`run_shown` returns for that run.

    Raises:
        ResformerError: The backend cannot run them, or as :func:`run_shown`.
    """
    program, samples = given.program, given.samples
    require_room_for_spikes(program, len(samples))
    result = infer(
        program,
        samples,
        BACKEND,
        record=True,
        progress=lambda done, total: update(f"running in {BACKEND}", done, total),
    )
    update("counting potentials", 0, 0)
    return run_shown(given, result, BACKEND, chip, model, traced)


def read_result(path: Path, kind: str) -> Json:
    """The content of a file that ``--json`` wrote.

    Args:
        path: The file.
        kind: The format that it must have: ``FORMAT`` of a verification or of a cost.

    Raises:
        FileFormatError: The file has another format or version, or is damaged.
        OSError: The file cannot be read.
    """
    versions = {
        verification_file.FORMAT: tuple(verification_file.SCHEMAS),
        cost_file.FORMAT: (cost_file.FORMAT_VERSION,),
    }
    writers = {verification_file.FORMAT: "resformer-verify --json", cost_file.FORMAT: "resformer-run --cost --json"}
    try:
        content = read_json(path)
    except ValueError as error:
        raise FileFormatError(f"{path}: no JSON ({error}); name a file that {writers[kind]} wrote") from error
    if not isinstance(content, dict) or content.get("format") != kind:
        raise FileFormatError(f"{path}: not what {writers[kind]} writes; name such a file")
    if content.get("format_version") not in versions[kind]:
        raise FileFormatError(
            f"{path}: format version {shown(content.get('format_version'))}, this resformer reads "
            f"{' and '.join(map(str, versions[kind]))}; write it again with {writers[kind]}"
        )
    try:
        if kind == cost_file.FORMAT:
            check(content, cost_file.CostFile)
            Chip.from_json(content["chip"])
        else:
            verification_file.check_verification(content)
    except FileFormatError as error:
        raise FileFormatError(f"{path}: damaged ({error}); write it again with {writers[kind]}") from error
    return content


def page_data(shown: tuple[Shown, ...]) -> dict[str, Any]:
    """The JSON that the page embeds, and from which it draws everything."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "version": __version__,
        "builds": [vars(each) for each in shown],
    }


def _require_known(what: str, names: Iterable[str], build: Build) -> None:
    nodes = {node["name"] for node in build.report["nodes"]}
    unknown = [name for name in names if name not in nodes]
    if unknown:
        raise InputError(
            f"{build.directory}: {what} is of another network: this build has no layer {unknown[0]}; "
            "name the file that was written for this build"
        )


def _require_classes(verification: Json, build: Build) -> None:
    """Require that every class of a verification is one of the build's classes."""
    (output,) = (node for node in build.report["nodes"] if node["op"] == "Output")
    classes = math.prod(output["shape"])
    for name in ("predictions", "predictions_original", "labels"):
        largest = max(verification.get(name) or [0])
        if largest >= classes:
            raise InputError(
                f"{build.directory}: the verification is of another network: its {name} have class {largest}, this "
                f"build tells {classes} apart; name the file that was written for this build"
            )


def _placement(build: Build) -> Json | None:
    """The placement with the neuron count and the site of each core, and the position of each core of a chip."""
    content, chip = build.placement(), build.chip()
    if content is None or chip is None:
        return None
    layers = [
        {name: value for name, value in layer.items() if name != "placed"}
        | {
            "filled": [math.prod(last - first for first, last in core["neurons"]) for core in layer["placed"]],
            "sites": [core["chip"] * chip.cores_per_chip + core["core"] for core in layer["placed"]],
        }
        for layer in content["layers"]
    ]
    within = np.arange(chip.cores_per_chip)
    positions = tile_positions(chip, within)
    return {
        **content,
        "layers": layers,
        "chip_cores": np.column_stack([positions, within % chip.cores_per_tile]).tolist(),
    }
