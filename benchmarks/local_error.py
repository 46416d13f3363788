"""What each layer of a full-size network loses by itself when it is quantized, with and without calibration.

    python benchmarks/local_error.py                  # Ti at 224x224
    python benchmarks/local_error.py --variant s

Compiles and verifies with the commands that users have: ``resformer-compile`` and ``resformer-verify --local``, which
feeds each layer the original network's inputs. The checkpoint and the crops are made
(``examples/imagenet/make_checkpoint.py``): 16 crops calibrate, two others measure. Errors are root mean squares of a
current's error, in thresholds.
"""

import argparse
import contextlib
import io
import json
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from networks import ROOT, checkpoint_files, print_machine, print_table

from resformer.runtime.cli.compile_options import main as compile_main
from resformer.runtime.cli.verify import main as verify_main

CALIBRATION_CROPS, MEASURED_CROPS = 16, 2

CALIBRATION = "{calibration}"
BASELINE = "8 bits, each weight to its nearest"
VARIANTS: Mapping[str, Sequence[str]] = {
    BASELINE: (),
    "8 bits, calibrated": ("--calibration", CALIBRATION),
    "9 bits, each weight to its nearest": ("--weight-bits", "9"),
    "9 bits, calibrated": ("--weight-bits", "9", "--calibration", CALIBRATION),
    "up to 9 bits, calibrated, budget 1.05": (
        *("--precision", "auto", "--synapse-budget", "1.05"),
        *("--calibration", CALIBRATION),
    ),
}
"""Options of the compiler."""


@dataclass(frozen=True)
class Measured:
    """What one way to quantize comes to.

    Attributes:
        errors: Of each layer, the root mean square of its current's error, in thresholds.
        mismatched: Spikes that differ, each layer fed the original's inputs.
        synapses: Of the whole network.
        memory_bits: What its weights take, with the indices of those that are stored by themselves.
        cores: Of a Loihi 2.
    """

    errors: Mapping[str, float]
    mismatched: int
    synapses: int
    memory_bits: int
    cores: int


def measure(checkpoint: Path, samples: Path, options: Sequence[str], folder: Path) -> Measured:
    """Compile, verify and read what both wrote."""
    build, verdict = folder / "build", folder / "verify.json"
    _run(compile_main, [str(checkpoint), "--target", "sim", "-o", str(build), "--quiet", *options])
    given = ["--model", str(checkpoint), "--input", str(samples), "--backend", "sim"]
    _run(verify_main, [str(build), *given, "--local", "--json", str(verdict)])
    report = json.loads((build / "report.json").read_text())
    layers = json.loads(verdict.read_text())["local"]
    return Measured(
        errors={each["name"]: each["current"]["rms_error"] for each in layers},
        mismatched=sum(each["spikes"]["mismatched"] for each in layers if each["spikes"] is not None),
        synapses=report["totals"]["synapses"],
        memory_bits=report["totals"]["weight_memory_bits"],
        cores=report["placement"]["cores"],
    )


def _run(command: Callable[[Sequence[str]], int], arguments: list[str]) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        status = command(arguments)
    if status:
        raise SystemExit(f"{arguments}: exit status {status}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Local error of a full-size network, with and without calibration.")
    parser.add_argument("--variant", default="ti", metavar="NAME")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "benchmarks", help="where checkpoints are")
    args = parser.parse_args()

    checkpoint, images = checkpoint_files(args.variant, args.folder, CALIBRATION_CROPS + MEASURED_CROPS)
    crops = np.load(images)
    found: dict[str, Measured] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        calibration, samples = folder / "calibration.npy", folder / "samples.npy"
        np.save(calibration, crops[:CALIBRATION_CROPS])
        np.save(samples, crops[CALIBRATION_CROPS : CALIBRATION_CROPS + MEASURED_CROPS])
        for variant, options in VARIANTS.items():
            chosen = [str(calibration) if each == CALIBRATION else each for each in options]
            found[variant] = measure(checkpoint, samples, chosen, folder)
    print_machine()
    base = found[BASELINE]
    print(f"{args.variant}, {len(base.errors)} layers, {MEASURED_CROPS} crops")
    print_table(
        ["", "median", "better", "worst", "better", "by layer", "spikes differ", "synapses", "memory", "cores"],
        [row(variant, each, base) for variant, each in found.items()],
    )


def row(variant: str, each: Measured, base: Measured) -> list[str]:
    """One line of the table: errors, how many times better than the baseline, and what it costs over it."""
    summaries = []
    for summary in (statistics.median, max):
        value = summary(each.errors.values())
        summaries += [f"{value:.4f}", f"{summary(base.errors.values()) / value:.2f}x"]
    by_layer = statistics.median(base.errors[name] / error for name, error in each.errors.items())
    return [
        variant,
        *summaries,
        f"{by_layer:.2f}x",
        f"{each.mismatched:,}",
        f"{each.synapses / base.synapses - 1:+.1%}",
        f"{each.memory_bits / base.memory_bits - 1:+.1%}",
        f"{each.cores:,}",
    ]


if __name__ == "__main__":
    main()
