"""What the page shows of a run: rates, spikes, potentials near the threshold, attention over the image."""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from resformer.compiler.ir import reference
from resformer.compiler.ir.arrays import require
from resformer.compiler.ir.ops import Delay, Flatten, Relay, SpikeMatMul, Spiking
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.trace import SpikeTrain
from resformer.compiler.placement.activity import Activity
from resformer.compiler.samples.arrays import Samples
from resformer.compiler.target import LOIHI
from resformer.runtime.given import Given
from resformer.runtime.page.membranes import Membranes, Traced
from resformer.runtime.run.encode import decode, encode
from resformer.runtime.run.infer import Inference

IMAGES = 4
"""The most samples that are shown as images, under their attention maps."""
IMAGE_EDGE_MAX = 112
"""The most pixels along an image's longer side; larger images are subsampled."""
RASTER_ROWS = 48
"""The most neurons of a population that a raster shows, spread evenly over the population."""
RASTER_STEPS = 48
"""About how many steps a raster shows."""
SPIKES_SHOWN = max(IMAGES, RASTER_STEPS)
"""The most samples whose single spikes are shown: even with one step a sample, a raster shows no more."""
MARGIN_SAMPLES = 8
"""The most samples whose potentials are counted: the reference interpreter is slow."""
MARGIN_NEURONS = 4_000_000
"""The most neurons whose potentials are counted, summed over samples; large networks get fewer samples."""
MARGIN_BINS = 40
MARGIN_RANGE = (0.0, 2.0)
"""The range of the histograms of potentials, in thresholds."""


class Original(Protocol):
    """A network of real numbers that tells what its populations fire (``TorchNetwork``, ``NirNetwork``)."""

    def run(self, samples: npt.NDArray[np.float64], observe: Callable[[str, Any, Any], None]) -> Any:
        """Run samples."""
        ...


def observe_run(
    program: Program,
    given: Given,
    result: Inference,
    activity: Activity,
    backend: str,
    original: Original | None = None,
    traced: Traced | None = None,
) -> dict[str, Any]:
    """All that the page shows of a run, as JSON.

    Args:
        program: The program that ran.
        given: The samples that it ran on.
        result: The run's results, with every spike of at least the first ``SPIKES_SHOWN`` samples.
        activity: What was counted from all samples' spikes.
        backend: The name of the backend that ran it.
        original: The network that the program was compiled from, to show where spikes differ; None: not shown.
        traced: The neurons whose membrane traces are shown; None: no traces.
    """
    traces = None
    if traced is not None:
        traces = Membranes(program, given.samples, traced, most=_interpreted(program, given.samples))
    labels = None if given.labels is None else given.labels.tolist()
    shown = min(IMAGES, len(given.samples))
    return {
        "backend": backend,
        "samples": activity.samples,
        "timesteps": activity.timesteps,
        "shown": shown,
        "predictions": result.predictions[:SPIKES_SHOWN].tolist(),
        "labels": None if labels is None else labels[:SPIKES_SHOWN],
        "accuracy": None if given.labels is None else float(np.mean(result.predictions == given.labels)),
        "accuracy_absent": given.accuracy_absent,
        "warnings": [*given.warnings, *result.to_know],
        "notes": [*given.notes, *result.notes],
        "logits": [[round(float(each), 4) for each in row] for row in result.logits[:shown].mean(axis=1)],
        "clipped": result.clipped,
        "saturated": dict(result.saturated),
        "rates": rates(program, activity),
        "rasters": {name: raster(train) for name, train in result.spikes.items()},
        "images": images(given.samples, shown),
        "attention": attention(program, result.spikes, shown),
        "margins": margins(program, given.samples, traces),
        "membranes": None if traces is None else traces.to_json(),
        "differences": None if original is None else differences(program, original, given.samples, result.spikes),
    }


def rates(program: Program, activity: Activity) -> dict[str, list[float]]:
    """For each population, the share of its neurons that fire at each step, averaged over samples."""
    return {
        name: [int(step.sum()) / (activity.samples * math.prod(program[name].shape)) for step in spikes]
        for name, spikes in activity.spikes.items()
    }


def raster(train: SpikeTrain) -> dict[str, Any]:
    """The spikes of some neurons of a population over consecutive samples, (rows, samples * T), packed by rows."""
    steps, samples = train.shape[:2]
    shown = min(samples, max(RASTER_STEPS // steps, 1))
    dense = train.dense()[:, :shown].reshape(steps, shown, -1)
    count = dense.shape[2]
    rows = np.unique(np.linspace(0, count - 1, min(count, RASTER_ROWS)).round().astype(np.int64))
    # (T, N, rows) to (rows, N * T): one sample after another
    bits = dense[:, :, rows].transpose(2, 1, 0).reshape(len(rows), shown * steps)
    return {
        "rows": len(rows),
        "of": count,
        "samples": shown,
        "bits": _base64(np.packbits(bits, axis=1)),
    }


def images(samples: Samples, count: int, first: int = 0) -> list[dict[str, Any]] | None:
    """Samples as pixels, each sample's values stretched to the full range; None if the input has no area."""
    values = samples.real(first, first + count)
    if values.ndim == 5:
        values = values.sum(axis=1)
    rows, columns = values.shape[2:]
    if min(rows, columns) < 2:
        return None
    step = -(-max(rows, columns) // IMAGE_EDGE_MAX)
    return [_image(each[:, ::step, ::step]) for each in values]


def _image(values: npt.NDArray[np.float64]) -> dict[str, Any]:
    channels, rows, columns = values.shape
    low, high = float(values.min()), float(values.max())
    grey = (values - low) / (high - low or 1.0)
    if channels == 2:
        # events: channel 0 red, channel 1 blue
        grey = np.stack([grey[0], np.zeros_like(grey[0]), grey[1]])
    elif channels != 3:
        grey = np.repeat(grey.mean(axis=0, keepdims=True), 3, axis=0)
    pixels = np.rint(255 * grey.transpose(1, 2, 0)).astype(np.uint8)
    return {"rows": rows, "columns": columns, "rgb": _base64(pixels)}


def attention(program: Program, spikes: Mapping[str, SpikeTrain], count: int) -> list[dict[str, Any]]:
    """Where in the image each attention map fires: for each sample and head, the mean over steps and patches.

    A map (heads, patches, H * W) fires at a place of the image once for each patch that attends to that place.
    """
    found = []
    for layer in _attention_layers(program):
        fired = spikes[layer["name"]].dense()[:, :count]
        part = fired.mean(axis=(0, 3)).reshape(-1, layer["heads"], layer["rows"], layer["columns"])
        top = float(part.max())
        found.append(layer | {"highest": top, "maps": _base64(np.rint(255 * part / (top or 1.0)).astype(np.uint8))})
    return found


def _attention_layers(program: Program) -> Iterator[dict[str, Any]]:
    """The populations that are attention maps, and the places of the image that they attend to."""
    for node in program:
        if not isinstance(node.op, SpikeMatMul) or not node.op.transpose:
            continue
        _, rows, columns = _source(program, node.inputs[-1]).shape
        for name in _fires_after(program, node.name):
            heads, patches, places = program[name].shape
            if places == rows * columns:
                yield {"name": name, "heads": heads, "patches": patches, "rows": rows, "columns": columns}


def differences(
    program: Program, original: Original, samples: Samples, spikes: Mapping[str, SpikeTrain]
) -> dict[str, Any]:
    """Where the program's spikes differ from the original's, from end to end, as E4 compares them.

    Args:
        program: The program that ran.
        original: The network that it was compiled from.
        samples: The samples that both are given.
        spikes: The program's spikes, by population.

    Returns:
        ``samples``: how many were compared. ``layers``: for each population, how many elements were ``compared`` and
        ``mismatched``, the mismatched share at each of the ``steps``, and a ``map`` of that share over ``rows`` and
        ``columns``, scaled so that its brightest value is the share ``highest``.
    """
    count = min(IMAGES, len(samples))
    real = samples.real(0, count)
    given = decode(encode(real, program).values, program) if getattr(original, "fine_tuned", False) else real
    places = {layer["name"]: (layer["rows"], layer["columns"]) for layer in _attention_layers(program)}
    layers: dict[str, Any] = {}

    def compare(name: str, _currents: Any, fired: Any) -> None:
        expected = fired.bool().numpy()
        train = spikes[name].dense()[:, :count]
        differ = expected.reshape(train.shape) != train
        if name in places:
            differ_at = differ.mean(axis=(0, 1, 2, 3)).reshape(places[name])
        else:
            differ_at = differ.reshape(*train.shape[:3], *(*train.shape[3:], 1, 1)[:2]).mean(axis=(0, 1, 2))
        top = float(differ_at.max())
        layers[name] = {
            "compared": int(differ.size),
            "mismatched": int(np.count_nonzero(differ)),
            "steps": [float(each.mean()) for each in differ],
            "rows": differ_at.shape[0],
            "columns": differ_at.shape[1],
            "highest": top,
            "map": _base64(np.rint(255 * differ_at / (top or 1.0)).astype(np.uint8)),
        }

    original.run(given, compare)
    return {"samples": count, "layers": {name: layers[name] for name in program.lif_names}}


def _source(program: Program, name: str) -> Any:
    node = program[name]
    while isinstance(node.op, Delay | Flatten):
        node = program[node.inputs[0]]
    return node


def _fires_after(program: Program, name: str) -> Sequence[str]:
    """The populations that read a node, directly or behind relays and delays."""
    found: list[str] = []
    for reader in program.consumers[name]:
        if reader.name in program.lif_names:
            found.append(reader.name)
        elif isinstance(reader.op, Relay | Delay):
            found += _fires_after(program, reader.name)
    return found


def _interpreted(program: Program, samples: Samples) -> int:
    """How many samples the reference interpreter runs for the page."""
    neurons = sum(math.prod(program[name].shape) for name in program.lif_names)
    return max(1, min(len(samples), MARGIN_SAMPLES, MARGIN_NEURONS // max(neurons, 1)))


def margins(program: Program, samples: Samples, beside: reference.Observer | None = None) -> dict[str, Any]:
    """Histograms of membrane potentials before the reset, in thresholds, from the reference interpreter.

    Args:
        program: The program that runs.
        samples: The samples, of which the first are run.
        beside: Another observer of the same run.

    Returns:
        ``samples``: how many were run. ``bins``, ``low``, ``high``: how many bins each histogram has, and its range in
        thresholds. ``layers``: for each population, the histogram's ``counts``, how many potentials were ``below`` and
        ``above`` the range, the ``total``, and how many are within one unit of input of the threshold (``near``).
    """
    count, watcher = _interpreted(program, samples), _Margins(program)

    def observe(name: str, value: npt.NDArray[np.int64]) -> None:
        watcher(name, value)
        if beside is not None:
            beside(name, value)

    reference.run(program, encode(samples.real(0, count), program).values, observe=observe)
    return {
        "samples": count,
        "bins": MARGIN_BINS,
        "low": MARGIN_RANGE[0],
        "high": MARGIN_RANGE[1],
        "layers": watcher.layers,
    }


class _Margins:
    """An observer of a run that lets each population fire once more from its inputs and counts its potentials."""

    def __init__(self, program: Program) -> None:
        self.layers: dict[str, dict[str, Any]] = {}
        self._program = program
        self._read_by = Counter(program[name].inputs[0] for name in program.lif_names)
        self._currents: dict[str, npt.NDArray[np.int64]] = {}

    def __call__(self, name: str, value: npt.NDArray[np.int64]) -> None:
        op = self._program[name].op
        if isinstance(op, Spiking):
            source = self._program[name].inputs[0]
            self.layers[name] = _histogram(op, self._currents[source], value)
            self._read_by[source] -= 1
            if not self._read_by[source]:
                del self._currents[source]
        if self._read_by.get(name):
            self._currents[name] = value


def _histogram(op: Spiking, currents: npt.NDArray[np.int64], spikes: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Count one population's potentials, over all steps, samples and neurons."""
    # a threshold of 0 cannot be a unit: potentials are then counted in units of 1
    threshold = np.maximum(op.thresholds << LOIHI.a_shift, 1)
    counts = np.zeros(MARGIN_BINS, dtype=np.int64)
    below = above = near = 0
    for step, state in enumerate(op.steps(currents)):
        require((state.spikes == spikes[step].astype(bool)).all(), "the potentials are not those that fired")
        scaled = state.charged / threshold
        counts += np.histogram(scaled, bins=MARGIN_BINS, range=MARGIN_RANGE)[0]
        below += int(np.count_nonzero(scaled < MARGIN_RANGE[0]))
        above += int(np.count_nonzero(scaled > MARGIN_RANGE[1]))
        near += int(np.count_nonzero(np.abs(state.charged - threshold) <= 1 << LOIHI.a_shift))
    return {"counts": counts.tolist(), "below": below, "above": above, "near": near, "total": int(currents.size)}


def _base64(array: npt.NDArray[np.uint8]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")
