"""The error of each layer of a full-size network when that layer is quantized, with and without calibration.

    python benchmarks/local_error.py                  # Ti at 224x224
    python benchmarks/local_error.py --variant s

The networks are compiled and verified with the commands that users have: ``resformer-compile`` and ``resformer-verify
--local``, which feeds each layer the original network's inputs. The checkpoint and the crops are synthetic
(``examples/imagenet/make_checkpoint.py``). The network is calibrated on 16 crops and measured on two others. Errors are
root mean squares of a current's error, in thresholds.
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
"""The compiler's options for each way to quantize."""


@dataclass(frozen=True)
class Measured:
    """The results of one way to quantize.

    Attributes:
        errors: The root mean square of each layer's current error, in thresholds, by the layer's name.
        mismatched: The number of spikes that differ when each layer is fed the original network's inputs.
        synapses: The number of synapses of the whole network.
        memory_bits: The memory of its weights, in bits, with the indices of weights that are stored one by one.
        cores: The number of cores of Loihi 2.
    """

    errors: Mapping[str, float]
    mismatched: int
    synapses: int
    memory_bits: int
    cores: int


def measure(checkpoint: Path, samples: Path, options: Sequence[str], folder: Path) -> Measured:
    """Compile, verify, and read the figures from the files that both commands write."""
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
    """A row of the table: errors, how many times smaller they are than the baseline's, and what that costs."""
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
