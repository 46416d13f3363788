"""A picture of each layer's own error, in the order of the network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from resformer.compiler.atomic import write_atomically
from resformer.errors import BackendMissingError
from resformer.runtime.verify.local import LocalError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ORDINARY, WORST = "#4c72b0", "#c44e52"


def require_matplotlib() -> None:
    """Find out before any work is done that a plot could not be drawn.

    Raises:
        BackendMissingError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise BackendMissingError(
            f"the plot of local errors needs matplotlib ({error}); install it: pip install 'resformer[plot]'"
        ) from error


def plot_local(errors: Sequence[LocalError], path: Path) -> None:
    """Write the plot.

    Args:
        errors: In topological order.
        path: The file. Its ending names the format, which matplotlib must know.

    Raises:
        BackendMissingError: matplotlib is not installed.
        OSError: The file cannot be written.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # made without pyplot, which keeps figures and may need a display
    figure = Figure(figsize=(10, 1.5 + 0.28 * len(errors)), layout="constrained")
    FigureCanvasAgg(figure)
    own, spikes = figure.subplots(1, 2, sharey=True)
    rows = range(len(errors))
    colours = [WORST if error.rank == 1 else ORDINARY for error in errors]
    own.barh(rows, [100 * error.relative for error in errors], color=colours)
    own.set_yticks(rows, [error.layer.name for error in errors], fontsize="small", parse_math=False)
    own.invert_yaxis()
    _describe(own, "error of its own current, % of it")
    neurons = [(row, error) for row, error in enumerate(errors) if error.layer.population is not None]
    places = [row for row, _ in neurons]
    spikes.barh(places, [100 * error.mismatch for _, error in neurons], color=[colours[row] for row in places])
    drift = [100 * error.drift for _, error in neurons]
    spikes.plot(drift, places, "o-", color="0.4", markersize=3, linewidth=1, label="in the whole quantized network")
    spikes.legend(fontsize="small")
    _describe(spikes, "spikes that differ, %")
    write_atomically(path, lambda file: figure.savefig(file, format=path.suffix[1:].lower(), dpi=120))


def _describe(axes: Axes, label: str) -> None:
    axes.set_xlabel(label)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
