"""How much any rounding could gain over the nearest, layer by layer, at the same steps.

    python benchmarks/rounding_limit.py                  # Ti at 224x224
    python benchmarks/rounding_limit.py --variant s

With inputs of second moments M and covariance C, and a bias as fine as need be, weights off by d make a layer's current
off by d^T C d in the mean square. Rounding each weight to its nearest costs trace(M) / 12 of a squared step. Rounding
all of a channel's weights together looks for a near point of a lattice of volume sqrt(det C): no lattice's cells have
a smaller second moment than balls of their volume, and those have at least det(C)^(1/n) n / (2 pi e). The root of the
ratio is what no choice of mantissas can exceed, on average over weights; only finer steps, more bits, can.
"""

import argparse
import math
import statistics
from pathlib import Path

import numpy as np
import torch
from networks import ROOT, checkpoint_files, print_machine, print_table

from resformer.compiler.pipeline import compile_checkpoint
from resformer.compiler.quantize.calibrate import Moments, moments

CROPS = 16
"""That moments are taken of: those that calibrate in ``benchmarks/local_error.py``."""
SMALLEST = 1e-9
"""Variance of a direction in which an input hardly moves; less is rounding of the moments themselves."""


def limit(seen: Moments) -> float:
    """The factor by which the root mean square of a layer's error could fall, at most."""
    gram, mean = seen.gram[:, :-1, :-1], seen.gram[:, :-1, -1]
    covariance = gram - mean[:, :, None] * mean[:, None, :]
    nearest = gram.diagonal(dim1=1, dim2=2).mean() / 12
    volume = torch.linalg.eigvalsh(covariance).clamp_min(SMALLEST).log().mean(1).exp().mean()
    return float((nearest / (volume / (2 * math.pi * math.e))).sqrt())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="How much any rounding could gain over the nearest.")
    parser.add_argument("--variant", default="ti", metavar="NAME")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "benchmarks", help="where checkpoints are")
    args = parser.parse_args()

    print_machine()
    checkpoint, images = checkpoint_files(args.variant, args.folder, CROPS)
    compilation = compile_checkpoint(checkpoint)
    samples = np.load(images)[:CROPS].astype(np.float64)
    limits: dict[str, tuple[int, float]] = {}
    for node, seen in moments(compilation.folded, samples, compilation.plan):
        taps = seen.gram.shape[1] - 1
        positions = len(samples) * compilation.folded.timesteps * math.prod(node.shape[1:])
        if positions > taps:  # of fewer, some direction has no variance
            limits[node.name] = (taps, limit(seen))
    rows = [[name, str(taps), f"{factor:.2f}"] for name, (taps, factor) in limits.items()]
    factors = [factor for _, factor in limits.values()]
    rows.append(["median layer", "", f"{statistics.median(factors):.2f}"])
    rows.append(["layers that could gain 2x", "", f"{sum(each >= 2 for each in factors)} of {len(factors)}"])
    print_table(["", "taps", "at most"], rows)


if __name__ == "__main__":
    main()
