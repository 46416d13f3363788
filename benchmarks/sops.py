"""Our SOPs against the authors' ``SOPMonitor`` definition, counted with hooks on SpikingJelly in float64.

    python benchmarks/sops.py                            # MNIST, and Ti at 224x224, two images each
    python benchmarks/sops.py ti --images 1
    python benchmarks/sops.py --model M.pt --input X.npy # a checkpoint and images of one's own

The exit status is 1 if a single layer differs at a single step. A test runs the same code at small sizes
(``tests/equivalence/test_sops.py``).
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from networks import ROOT, checkpoint_files, print_machine, print_table

sys.path.append(str(ROOT / "tests"))
from support.sop_monitor import count_sops

MNIST = ROOT / "examples" / "mnist"


def main() -> int:
    """Count, compare and print; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=["mnist", "ti"], help="mnist, ti, s, m, l (default: mnist ti)")
    parser.add_argument("--images", type=int, default=2, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where checkpoints are kept (default: a temporary folder)")
    parser.add_argument("--model", type=Path, help="a checkpoint, instead of the networks")
    parser.add_argument("--input", type=Path, help="its images, .npy")
    parser.add_argument("--layers", action="store_true", help="print every layer")
    arguments = parser.parse_args()
    if (arguments.model is None) != (arguments.input is None):
        parser.error("--model and --input go together")
    print_machine()
    rows, differing = [], 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in [str(arguments.model)] if arguments.model else arguments.networks:
            if arguments.model:
                checkpoint, images = arguments.model, arguments.input
            elif name == "mnist":
                checkpoint, images = MNIST / "spikingresformer_mnist.pt", MNIST / "test_images.npy"
            else:
                checkpoint, images = checkpoint_files(name, folder)
            pixels = np.load(images)[: arguments.images]
            started = time.perf_counter()
            counted = count_sops(checkpoint, pixels / 255 if pixels.dtype == np.uint8 else pixels)
            wrong = [layer for layer in counted.monitor if counted.ours.get(layer) != counted.monitor[layer]]
            wrong += counted.ours.keys() - counted.monitor.keys()
            differing += len(wrong)
            ours, monitor = (sum(map(sum, each.values())) for each in (counted.ours, counted.monitor))
            if arguments.layers:
                layers = [
                    [layer, f"{sum(counted.ours.get(layer, [])):,}", f"{sum(steps):,}"]
                    for layer, steps in counted.monitor.items()
                ]
                print_table(["layer", "ours", "SOPMonitor"], layers)
            rows.append(
                [
                    Path(name).stem,
                    f"{len(pixels)}",
                    f"{ours:,}",
                    f"{monitor:,}",
                    f"{len(wrong)} of {len(counted.monitor)}",
                    f"{counted.same_spikes:,}",
                    f"{time.perf_counter() - started:.0f} s",
                ]
            )
    print_table(
        ["network", "images", "SOPs, ours", "SOPMonitor", "layers that differ", "spikes compared", "time"], rows
    )
    return int(differing > 0)


if __name__ == "__main__":
    raise SystemExit(main())
