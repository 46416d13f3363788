"""Layouts for time and energy against the one with the fewest cores, with bounds, and a comparison with SANA-FE.

    pip install sanafe            # GPL-3.0; without it that comparison is left out
    python benchmarks/layout.py [--variant ti] [--cores 110]

First, the variant is compiled, run on images, and laid out on Loihi 2 for each goal: once with the activity of that
run, and once with the activity that the compiler assumes if it has no data. The figures of both are those at the run's
activity. Then a small network of convolutions and a dense layer is laid out on one chip of Loihi 1. SANA-FE, which
simulates each spike and message, plays the same spikes into both layouts, with our constants and with its own.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from networks import ROOT, network, print_machine, print_table
from sanafe_cost import SIZE, make_network, one_sample

from resformer.compiler.backends import open_backend
from resformer.compiler.chips.chip import load_chip
from resformer.compiler.files.placement import ASSUMED_RATE, Goal, Layout, Predicted
from resformer.compiler.placement.activity import Activity, assumed, measure
from resformer.compiler.placement.optimize import compare, optimize
from resformer.compiler.placement.place import Placement, place
from resformer.errors import BackendMissingError
from resformer.runtime.cost.sanafe import simulate

HEADINGS = (
    *("layout", "cores", "chips", "step, us", "from .. to", "a sample, mJ", "from .. to"),
    *("bound", "gap", "seconds"),
)
SMALL_PERCENT = 150
"""The most cores that a layout of the small network may use, in percent of the fewest cores."""
SAMPLES = 3


def row(title: str, found: Predicted, more: tuple[str, str, str] = ("-", "-", "-")) -> list[str]:
    """The table's row for a layout."""
    (step_low, step_high), (low, high) = found["step_ns_between"], found["energy_mj_between"]
    return [
        title,
        f"{found['cores']:,}",
        f"{found['chips']}",
        f"{found['step_ns'] * 1e-3:,.1f}",
        f"{step_low * 1e-3:,.1f} .. {step_high * 1e-3:,.1f}",
        f"{found['energy_mj']:.2f}",
        f"{low:.2f} .. {high:.2f}",
        *more,
    ]


def bound(layout: Layout, seconds: float) -> tuple[str, str, str]:
    """The lower bound over all layouts, how far above it this layout is, and the seconds that the search took."""
    is_time = layout["goal"] == "time"
    least = f"{layout['least'] * 1e-3:,.1f} us" if is_time else f"{layout['least']:.2f} mJ"
    gap = layout["chosen"]["step_ns" if is_time else "energy_mj"] / layout["least"] - 1
    return least, f"{gap:.1%}", f"{seconds:.1f}"


def judged(default: Placement, by: Activity, told: str, measured: Activity, percent: int, seed: int) -> None:
    """Optimise layouts for the activity ``by``, and print their figures at the measured activity."""
    rows = []
    goals: tuple[Goal, ...] = ("time", "energy")
    for goal in goals:
        start = time.perf_counter()
        chosen = optimize(default, by, told, goal, cores_percent=percent, seed=seed)
        seconds = time.perf_counter() - start
        layout = compare(chosen, default, measured, "measured")
        assert layout is not None
        if not rows:
            rows.append(row("fewest cores", layout["default"]))
        rows.append(row(f"for {goal}", layout["chosen"], bound(layout, seconds)))
    print(f"chosen by the activity {told}; figures at the measured activity\n")
    print_table(HEADINGS, rows)


def against_sanafe(seed: int) -> None:
    """Print the step times of a small network's two layouts, in our model and in SANA-FE."""
    with tempfile.TemporaryDirectory() as folder:
        program = make_network(Path(folder), seed=1)
    default = place(program, load_chip("loihi1"))
    images = np.random.default_rng(2).random((SAMPLES, 1, SIZE, SIZE))
    rows = []
    for sample, image in enumerate(images):
        spikes = one_sample(program, image)
        activity = measure(program, spikes)
        chosen = optimize(default, activity, "measured", "time", cores_percent=SMALL_PERCENT, seed=seed)
        layout = chosen.layout
        assert layout is not None
        ours = [layout[name]["step_ns"] for name in ("default", "chosen")]
        rows.append(
            [
                f"sample {sample}, our model",
                f"{default.cores}",
                f"{chosen.cores}",
                *(f"{each * 1e-3:.2f}" for each in ours),
                f"{ours[1] / ours[0]:.3f}",
            ]
        )
        for own_constants in (False, True):
            runs = [
                simulate(program, spikes, 0, placement, own_constants=own_constants) for placement in (default, chosen)
            ]
            theirs = [run.seconds / run.steps * 1e6 for run in runs]
            whose = "its own" if own_constants else "our"
            rows.append(
                [
                    f"sample {sample}, SANA-FE with {whose} constants",
                    f"{default.cores}",
                    f"{chosen.cores}",
                    *(f"{each:.2f}" for each in theirs),
                    f"{theirs[1] / theirs[0]:.3f}",
                ]
            )
    print("a small network on Loihi 1: a step, us (SANA-FE runs further steps, in which the last layers finish)\n")
    print_table(("", "fewest", "cores for time", "step with fewest", "step for time", "ratio"), rows)


def main() -> None:
    """Lay out, simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="ti", help="(default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "benchmarks", help="where checkpoints are")
    parser.add_argument("--images", type=int, default=2, metavar="N", help="that run (default: %(default)s)")
    parser.add_argument("--cores", type=int, default=110, metavar="PERCENT", help="of the fewest (default: 110)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="(default: %(default)s)")
    arguments = parser.parse_args()
    print_machine()
    net = network(arguments.variant, arguments.folder)
    trace = open_backend("sim")(net.program, net.samples(arguments.images), record=True)
    measured = measure(net.program, trace.spikes)
    fired = sum(int(spikes.sum()) for spikes in measured.spikes.values()) / measured.samples / measured.timesteps
    neurons = sum(int(np.prod(net.program[name].shape)) for name in measured.spikes)
    print(
        f"{arguments.variant}: {fired / neurons:.1%} of the neurons fire at each step, on {arguments.images} images\n"
    )
    default = place(net.program, load_chip("loihi2"))
    for by, told in (
        (measured, "measured"),
        (assumed(net.program), f"assumed ({ASSUMED_RATE:.0%} fire)"),
    ):
        judged(default, by, told, measured, arguments.cores, arguments.seed)
    try:
        against_sanafe(arguments.seed)
    except BackendMissingError as error:
        print(f"no comparison with SANA-FE: {error}")


if __name__ == "__main__":
    main()
