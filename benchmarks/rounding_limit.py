"""How much any rounding of the weights could gain over rounding to the nearest, layer by layer, with the same steps.

    python benchmarks/rounding_limit.py                  # Ti at 224x224
    python benchmarks/rounding_limit.py --variant s

Let a layer's inputs have second moments M and covariance C, and let the bias be exact. An error d of the weights then
gives the layer's current a mean square error of d^T C d. Rounding each weight to its nearest costs trace(M) / 12
squared steps. Rounding all weights of a channel together is a search for a near point of a lattice of volume
sqrt(det C). No lattice's cells have a smaller second moment than balls of the same volume, and balls have at least
det(C)^(1/n) n / (2 pi e). The root of the ratio of the two costs is a factor that no choice of mantissas can exceed, on
average over weights; only finer steps, that is more bits, can.
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
"""The number of crops over which moments are taken: the crops that calibrate in ``benchmarks/local_error.py``."""
SMALLEST = 1e-9
"""The least variance of the inputs in any direction; smaller values are rounding errors of the moments themselves."""


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
        if positions > taps:  # with fewer positions than taps, some direction has no variance
            limits[node.name] = (taps, limit(seen))
    rows = [[name, str(taps), f"{factor:.2f}"] for name, (taps, factor) in limits.items()]
    factors = [factor for _, factor in limits.values()]
    rows.append(["median layer", "", f"{statistics.median(factors):.2f}"])
    rows.append(["layers that could gain 2x", "", f"{sum(each >= 2 for each in factors)} of {len(factors)}"])
    print_table(["", "taps", "at most"], rows)


if __name__ == "__main__":
    main()
