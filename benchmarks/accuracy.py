"""What quantization costs on natural images: a network trained on CIFAR-10, measured on all its test images.

    python benchmarks/accuracy.py FOLDER --checkpoint examples/cifar10/spikingresformer_cifar10_tiny.pt
    python benchmarks/accuracy.py FOLDER --checkpoint C --bits 4 --images 1000 --epochs 0
    python benchmarks/accuracy.py FOLDER --checkpoint C --timesteps 1 2 3 4 5 6 --bits 8    # other T, not trained for
    python benchmarks/accuracy.py FOLDER --checkpoint C --input-scales 4 6 8 10 --bits 8    # steps of the input
    python benchmarks/accuracy.py FOLDER --checkpoint C --bits 4 --prices 0 0.1 0.3 1       # fewer operations
    python benchmarks/accuracy.py FOLDER --checkpoint C --bits 4 --tuned-timesteps 2 3      # learned for fewer steps
    python benchmarks/accuracy.py FOLDER --checkpoint C --bits --noise 1e-5 1e-4 1e-3       # how thin margins are
    python benchmarks/accuracy.py FOLDER --checkpoint C --bits --tuned C_4bit.pt            # what was tuned before

FOLDER is the same folder as examples/cifar10 takes. Everything is compiled and run in sim; the float network runs in
SpikingJelly in float64. Calibration and fine-tuning see training images only. Each figure is followed by half its 95 %
interval. The interval of a drop is the paired one, from how often only one of the two networks is right; a star marks
a drop whose interval does not hold 0. The exit status is 1 if E2 or E3 finds a spike that differs.
"""

import argparse
import hashlib
import itertools
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from networks import ROOT, print_machine, print_table

import resformer
from resformer.compiler.chips.chip import Chip, load_chip
from resformer.compiler.files.digest import sha256
from resformer.compiler.pipeline import CompileOptions
from resformer.compiler.quantize.choose import QuantizationConfig
from resformer.compiler.quantize.precision import NARROWEST
from resformer.models.checkpoint import build_model, load_checkpoint

CIFAR10 = ROOT / "examples" / "cifar10"
sys.path.insert(0, str(CIFAR10))

from finetune import FineTuning, fine_tune, float_network, tuned_name  # noqa: E402  # it lies in an example's folder
from images import Images, as_input, read  # noqa: E402
from learning import predictions  # noqa: E402

Classes = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.uint8]

CERTAINTY = 1.96
"""Standard errors on either side of a mean that make up an interval of 95 %."""
CALIBRATION = (256, 1024)
"""Numbers of training images to calibrate on."""
BYTE_BITS = 8
"""The width of weights, in bits, to whose memory a synapse budget of 1 corresponds."""


@dataclass(frozen=True)
class Interval:
    """A mean and half its 95 % interval."""

    mean: float
    half: float

    def text(self, *, signed: bool = False, starred: bool = False) -> str:
        """The interval as a table shows it, with a star if it does not hold 0."""
        star = "*" if starred and abs(self.mean) > self.half else ""
        return f"{self.mean:{'+' if signed else ''}.2f} ± {self.half:.2f}{star}"


def interval(values: npt.NDArray[np.float64]) -> Interval:
    """The mean of values, one for each image, and half its 95 % interval, in percent."""
    spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return Interval(100 * float(values.mean()), 100 * CERTAINTY * spread / math.sqrt(len(values)))


@dataclass(frozen=True)
class Row:
    """The measurements of one network, compared with the float network.

    Attributes:
        name: What was done to the network.
        bits: Bits of a weight; None for the float network and for checkpoints that were given.
        accuracy: Share of images that are classified correctly, in percent.
        drop: Accuracy lost against the float network, in points, paired image by image.
        agreement: Share of images that get the float network's class, in percent.
        sops: Synaptic operations of an image, in millions.
        energy_mj: Dynamic energy of an image on the chip, in mJ: that of operations, updates and messages.
        seconds: Time that it took to make the network and to run it.
    """

    name: str
    bits: int | None
    accuracy: Interval
    drop: Interval
    agreement: Interval
    sops: float
    energy_mj: float
    seconds: float

    def cells(self) -> list[str]:
        """The row's cells, as the table shows them."""
        return [
            self.name,
            self.accuracy.text(),
            self.drop.text(signed=True, starred=True),
            self.agreement.text(),
            f"{self.sops:.2f}",
            f"{self.energy_mj:.4f}",
            f"{self.seconds:.0f}",
        ]


HEADER = ["", "accuracy %", "drop, points", "same top-1 %", "M SOPs", "mJ, dynamic", "s"]


class Measurement:
    """The test images, the float network's classes for them, and all measurements.

    Attributes:
        rows: The measured rows.
        differing: The number of differing spikes that E2 and E3 found.
    """

    def __init__(self, data: Images, test: Images, checkpoint: Path, chip: Chip, args: argparse.Namespace) -> None:
        self.data = data
        self.pixels: Pixels = test.pixels.numpy()
        self.labels: Classes = test.labels.numpy()
        self.checkpoint = checkpoint
        self.chip = chip
        self.args = args
        self.rows: list[Row] = []
        self.exact: list[list[str]] = []
        self.differing = 0
        started = time.perf_counter()
        self.model = build_model(load_checkpoint(checkpoint))
        self.expected = self.float_classes(test.pixels)
        # the float network's cost is that of its program with weights of 15 bits
        compiled = self.compiled(CompileOptions(quantization=QuantizationConfig(15)))
        cost = compiled.cost(self.pixels[: args.cost_images], chip)
        seconds = time.perf_counter() - started
        self.add(self.row("float", None, self.expected, cost.paper.sops / 1e6, cost.dynamic_mj, seconds))

    def float_classes(self, pixels: torch.Tensor) -> Classes:
        """The float network's classes; computing them takes longest of all, so they may be kept in a file."""
        kept, of = self.args.float_classes, f"{sha256(self.checkpoint)} {hashlib.sha256(pixels.numpy()).hexdigest()}"
        if kept is not None and kept.exists():
            with np.load(kept) as file:
                if str(file["of"]) == of:
                    return np.asarray(file["classes"])
        classes: Classes = predictions(self.model, pixels).numpy()
        if kept is not None:
            np.savez(kept, classes=classes, of=of)
        return classes

    def noisy(self, noise: float) -> None:
        """Measure the float network with noise on its input, to see how many classes thin margins alone change."""
        started = time.perf_counter()
        found: Classes = predictions(self.model, torch.from_numpy(self.pixels), noise=noise).numpy()
        quiet = self.rows[0]
        seconds = time.perf_counter() - started
        self.add(self.row(f"float, input noise {noise:g}", None, found, quiet.sops, quiet.energy_mj, seconds))

    def compiled(self, options: CompileOptions, source: Path | None = None) -> resformer.Compiled:
        """The compiled program of a checkpoint; of the float network's unless ``source`` is given."""
        return resformer.compile(source or self.checkpoint, target="sim", options=options)

    def calibration(self, count: int) -> Pixels:
        """The first ``count`` training images of a random order, so that a larger draw contains a smaller one."""
        order = torch.randperm(len(self.data.labels), generator=torch.Generator().manual_seed(self.args.seed))
        drawn: Pixels = self.data.pixels[order[:count]].numpy()
        return drawn

    def measure(self, name: str, bits: int | None, compiled: resformer.Compiled, started: float) -> None:
        """Run a program on all test images, estimate its cost on a few, and add the row."""
        found = compiled.run(self.pixels).predictions
        cost = compiled.cost(self.pixels[: self.args.cost_images], self.chip)
        self.add(self.row(name, bits, found, cost.paper.sops / 1e6, cost.dynamic_mj, time.perf_counter() - started))

    def row(self, name: str, bits: int | None, found: Classes, sops: float, energy_mj: float, seconds: float) -> Row:
        """A row of the table, from the classes that a network found."""
        right, wanted = found == self.labels, self.expected == self.labels
        return Row(
            name,
            bits,
            interval(right.astype(np.float64)),
            interval(wanted.astype(np.float64) - right),
            interval((found == self.expected).astype(np.float64)),
            sops,
            energy_mj,
            seconds,
        )

    def add(self, row: Row) -> None:
        """Keep a row, and print it at once."""
        self.rows.append(row)
        print(*row.cells(), sep="  ", file=sys.stderr, flush=True)

    def rounded(self, bits: int) -> None:
        """Measure a width with each method that rounds weights without training."""
        width = QuantizationConfig(bits)
        started = time.perf_counter()
        self.measure(f"{bits} bits: nearest", bits, self.compiled(CompileOptions(quantization=width)), started)
        for count in CALIBRATION:
            started = time.perf_counter()
            options = CompileOptions(quantization=width, calibration=self.calibration(count))
            compiled = self.compiled(options)
            self.measure(f"{bits} bits: calibrated on {count:,}", bits, compiled, started)
            if count == CALIBRATION[0]:
                self.verify(f"{bits} bits: calibrated on {count:,}", compiled, self.checkpoint)
        if NARROWEST < bits < BYTE_BITS:
            started = time.perf_counter()
            options = CompileOptions(
                calibration=self.calibration(CALIBRATION[0]),
                synapse_budget=bits / BYTE_BITS,
            )
            self.measure(f"{bits} bits' memory: by layer", bits, self.compiled(options), started)

    def fine_tuned(self, bits: int, folder: Path, epochs: float, price: float, timesteps: int | None) -> None:
        """Measure a width after training with rounded weights, for the float network's T unless another is given."""
        started = time.perf_counter()
        how = FineTuning(
            epochs=epochs,
            peak_lr=self.args.learning_rate,
            price=price,
            distilled=self.args.distilled,
            early_share=self.args.early_share,
            seed=self.args.seed,
            merged=self.args.compile,
        )
        shown = as_input(torch.from_numpy(self.calibration(CALIBRATION[0]))).numpy()
        student = resformer.quantize.prepare(
            float_network(self.checkpoint, timesteps), bits=bits, calibration=shown, calibrated=True
        )
        fine_tune(student, float_network(self.checkpoint), self.data, how)
        path = folder / tuned_name(self.checkpoint, bits, price=price, timesteps=timesteps)
        student.save(path)
        compiled = self.compiled(CompileOptions(), path)
        steps = "" if timesteps is None else f", T = {timesteps}"
        name = f"{bits} bits: fine-tuned{steps}{f', price {price:g}' if price else ''}"
        self.measure(name, bits, compiled, started)
        self.verify(name, compiled, path)

    def given(self, path: Path) -> None:
        """Measure a checkpoint that was fine-tuned before."""
        started = time.perf_counter()
        compiled = self.compiled(CompileOptions(), path)
        self.measure(path.stem, None, compiled, started)
        self.verify(path.stem, compiled, path)

    def other_steps(self, bits: int, timesteps: int) -> None:
        """Measure a width with another T than the network was trained for."""
        started = time.perf_counter()
        options = CompileOptions(
            timesteps=timesteps, quantization=QuantizationConfig(bits), calibration=self.calibration(CALIBRATION[0])
        )
        self.measure(f"{bits} bits, T = {timesteps}: calibrated", bits, self.compiled(options), started)

    def other_input(self, bits: int, exp: int) -> None:
        """Measure a width with another quantization step of the input, 2^-``exp``."""
        started = time.perf_counter()
        quantization = replace(QuantizationConfig(bits), input_scale_exp=exp)
        options = CompileOptions(quantization=quantization, calibration=self.calibration(CALIBRATION[0]))
        self.measure(f"{bits} bits, input in 1/{2**exp}: calibrated", bits, self.compiled(options), started)

    def verify(self, name: str, compiled: resformer.Compiled, model: Path) -> None:
        """Run E2 and E3, spike by spike, on some images, and keep their counts."""
        if not self.args.exact:
            return
        found = compiled.verify(self.pixels[: self.args.exact], backend="sim", model=model)
        checks = [found.checks[key] for key in ("backend_vs_program", "backend_vs_quantized_torch")]
        self.differing += sum(check.mismatched for check in checks)
        counts = [f"{check.mismatched:,} of {check.compared:,}" for check in checks]
        self.exact.append([name, f"{found.samples:,}", *counts])


def groups(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    """The name of each method, with its rows at all widths."""
    names = dict.fromkeys(row.name.partition(": ")[2] for row in rows if row.bits is not None)
    for name in names:
        yield name, [row for row in rows if row.name.partition(": ")[2] == name]


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draw accuracy against bits, and against energy."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (by_bits, by_energy) = plt.subplots(1, 2, figsize=(11, 4.5), sharey=True, layout="constrained")
    for name, some in groups(rows):
        accuracies, halves = [row.accuracy.mean for row in some], [row.accuracy.half for row in some]
        by_bits.errorbar([row.bits for row in some], accuracies, halves, marker="o", capsize=3, label=name)
        by_energy.errorbar(
            [row.energy_mj for row in some], accuracies, halves, marker="o", ls="", capsize=3, label=name
        )
    for axes, label in ((by_bits, "bits of a weight"), (by_energy, "mJ an image, dynamic")):
        axes.axhline(rows[0].accuracy.mean, color="black", lw=0.8, ls="--", label="float")
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
    by_bits.set_ylabel("accuracy, %")
    by_bits.legend(fontsize="small")
    figure.savefig(path, dpi=150)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds train and test, each a folder of classes or its .tar.xz")
    parser.add_argument("--checkpoint", type=Path, default=CIFAR10 / "spikingresformer_cifar10_tiny.pt")
    parser.add_argument("--bits", type=int, nargs="*", default=[8, 6, 5, 4, 3, 2])
    parser.add_argument("--images", type=int, default=10_000, help="test images (default: %(default)s)")
    parser.add_argument("--cost-images", type=int, default=256, help="of which costs are counted on")
    parser.add_argument("--exact", type=int, default=16, help="images of E2 and E3 (default: %(default)s)")
    parser.add_argument(
        "--epochs",
        type=float,
        nargs="+",
        default=[FineTuning.epochs],
        help="of fine-tuning, of each width its own or one for all; 0 for none (default: %(default)s)",
    )
    parser.add_argument(
        "--learning-rate", type=float, default=FineTuning.peak_lr, help="of fine-tuning (default: %(default)s)"
    )
    parser.add_argument("--prices", type=float, nargs="+", default=[0.0], help="of operations, to fine-tune at")
    parser.add_argument(
        "--distilled",
        type=float,
        default=FineTuning.distilled,
        help="share of fine-tuning's loss that asks for the float network's answers (default: %(default)s)",
    )
    parser.add_argument(
        "--tuned-timesteps",
        type=int,
        nargs="*",
        default=[],
        metavar="T",
        help="steps to fine-tune for (default: its own)",
    )
    parser.add_argument(
        "--early-share",
        type=float,
        default=FineTuning.early_share,
        help=f"of fine-tuning, the first part, faster with T = {FineTuning.early_steps} (default: %(default)s)",
    )
    parser.add_argument("--tuned-only", action="store_true", help="leave out what only rounds")
    parser.add_argument(
        "--tuned", type=Path, nargs="*", default=[], metavar="C", help="checkpoints that are fine-tuned already"
    )
    parser.add_argument(
        "--noise", type=float, nargs="*", default=[], help="deviations of noise in the float network's input"
    )
    parser.add_argument(
        "--float-classes", type=Path, metavar="NPZ", help="a file to keep the float network's classes in between runs"
    )
    parser.add_argument("--timesteps", type=int, nargs="*", default=[], help="other T to present images for")
    parser.add_argument("--input-scales", type=int, nargs="*", default=[], metavar="K", help="input in steps of 2^-K")
    parser.add_argument("--chip", default="loihi2", help="whose energy is told (default: %(default)s)")
    parser.add_argument("--folder-out", type=Path, help="where fine-tuned checkpoints are kept (default: nowhere)")
    parser.add_argument("--plot", type=Path, help="a picture of accuracy against bits and energy")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="CPU threads of PyTorch")
    parser.add_argument("--compile", action="store_true", help="let torch.compile speed fine-tuning up")
    args = parser.parse_args(argv)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    if len(args.epochs) not in (1, len(args.bits)):
        parser.error(f"--epochs: {len(args.epochs)} for {len(args.bits)} widths; give one for all, or one for each")
    of_widths = dict(zip(args.bits, args.epochs * (len(args.bits) if len(args.epochs) == 1 else 1), strict=True))
    data, test = read(args.folder, "train"), read(args.folder, "test")
    some = torch.linspace(0, len(test.labels) - 1, min(args.images, len(test.labels))).long()
    test = Images(test.pixels[some], test.labels[some], test.classes)
    measurement = Measurement(data, test, args.checkpoint, load_chip(args.chip), args)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder_out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for noise in args.noise:
            measurement.noisy(noise)
        for path in args.tuned:
            measurement.given(path)
        for bits, epochs in of_widths.items():
            if not args.tuned_only:
                measurement.rounded(bits)
            if epochs > 0:
                for timesteps, price in itertools.product(args.tuned_timesteps or [None], args.prices):
                    measurement.fine_tuned(bits, folder, epochs, price, timesteps)
            for timesteps in args.timesteps:
                measurement.other_steps(bits, timesteps)
            for exp in args.input_scales:
                measurement.other_input(bits, exp)
    print_machine()
    print(
        f"{args.checkpoint.name} on {len(test.labels):,} test images; SOPs and energy of {args.chip} on "
        f"{min(args.cost_images, len(test.labels)):,} of them; fine-tuned for "
        f"{', '.join(f'{epochs:g} epochs at {bits} bits' for bits, epochs in of_widths.items()) or 'no epoch'}.\n"
        "± is half a 95 % interval, of drops a paired one; * where it does not hold 0.\n"
    )
    print_table(HEADER, [row.cells() for row in measurement.rows])
    if measurement.exact:
        print_table(["", "images", "E2: differ", "E3: differ"], measurement.exact)
    if args.plot is not None:
        plot(measurement.rows, args.plot)
    return int(measurement.differing > 0)


if __name__ == "__main__":
    raise SystemExit(main())
