"""Every family of ``resformer.models.zoo`` through the compiler, in small configurations, as one table.

    python benchmarks/zoo.py                             # the table of docs/zoo.md
    python benchmarks/zoo.py spikformer sdt --samples 4
    python benchmarks/zoo.py --full spikformer           # Spikformer-8-384 at 224x224: E2 in sim, and what it takes

If ``examples/zoo`` has a trained checkpoint of a family, it is compiled and calibrated on digits of ``examples/mnist``,
and its accuracy is measured on the held-out digits. For the other families, the network has random weights with which
it fires as a trained network does. A check is shown as "differing / compared" spikes of some samples. If a family is
refused, the reason is printed. The exit status is 1 if anything differs that must not.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from networks import ROOT, print_machine, print_table
from spikingjelly.activation_based import functional

import resformer
from resformer.compiler.chips.chip import load_chip
from resformer.compiler.sources.options import CompileOptions
from resformer.errors import ResformerError
from resformer.models.zoo.checkpoint import build_zoo_model, load_zoo_checkpoint, save_zoo_checkpoint
from resformer.models.zoo.maxformer import MaxFormerArchitecture
from resformer.models.zoo.meta_spikeformer import MetaSpikeFormerArchitecture
from resformer.models.zoo.names import FamilyName
from resformer.models.zoo.qkformer import QKFormerArchitecture
from resformer.models.zoo.recognise import FAMILIES, ZooArchitecture, build
from resformer.models.zoo.sdt import SDTArchitecture
from resformer.models.zoo.sdt_v3 import SDTV3Architecture
from resformer.models.zoo.sew_resnet import SEWResNetArchitecture
from resformer.models.zoo.spikformer import SpikformerArchitecture
from resformer.models.zoo.spikingformer import SpikingformerArchitecture
from resformer.runtime.compiled import Compiled
from resformer.runtime.given import read_given
from resformer.runtime.verify.checks import Sides
from resformer.runtime.verify.result import BACKEND, FLOAT_GRAPH, ORIGINAL, QUANTIZED, Check, Verification
from resformer.runtime.verify.verify import Comparing, verify_sides

sys.path.append(str(ROOT / "tests"))
from support.modules import calibrated

TRAINED = ROOT / "examples" / "zoo"
MNIST = ROOT / "examples" / "mnist"
BACKENDS = ("sim", "lava", "onnx")
CHIP = "loihi2"
SMALLEST_VARIANCE = 0.05
"""The least variance of a channel in a network of random weights. A channel that no spike reaches has none, and a
normalisation would amplify it without bound."""
CALIBRATED_ON = 4
"""The least number of samples from which normalisations of random weights get their statistics."""
BATCH = 50
"""The number of samples that the float network takes at once."""


@dataclass(frozen=True)
class Network:
    """One network of the table.

    Attributes:
        family: The network's family; a trained checkpoint's file has the same name.
        architecture: The architecture of the network of random weights.
        size: Edge of its input, in pixels.
        timesteps: T.
        variant: A word that tells the network from others of its family.
    """

    family: FamilyName
    architecture: ZooArchitecture
    size: int = 32
    timesteps: int = 4
    variant: str = ""

    @property
    def title(self) -> str:
        """The network's name in the table."""
        return f"{FAMILIES[self.family].title} {self.variant}".strip()


def _sew_resnet(connect: Any) -> Network:
    net = SEWResNetArchitecture(block="basic", depths=(1, 1, 1, 1), connect=connect, width=8, num_classes=10)
    return Network("sew_resnet", net, variant=connect)


NETWORKS = (
    Network("spikformer", SpikformerArchitecture(embed_dims=32, depth=1, num_heads=4)),
    Network("spikingformer", SpikingformerArchitecture(embed_dims=32, depth=1, num_heads=4)),
    Network("qkformer", QKFormerArchitecture(embed_dims=64, depths=(1, 1, 1), num_heads=4)),
    Network("sdt", SDTArchitecture(embed_dims=32, depth=1, num_heads=4)),
    Network(
        "meta_spikeformer",
        MetaSpikeFormerArchitecture(embed_dims=(16, 32, 32, 32), depths=(1, 1), num_heads=8, num_classes=10),
        size=64,
        timesteps=2,
    ),
    Network(
        "sdt_v3", SDTV3Architecture(embed_dims=(8, 16, 32, 32), depths=(1, 1), num_heads=2, num_classes=10), timesteps=1
    ),
    Network("maxformer", MaxFormerArchitecture(embed_dims=64, depths=(1, 1, 1), num_heads=4)),
    *map(_sew_resnet, ("ADD", "AND", "IAND")),
)

FULL: Mapping[str, Network] = {
    "spikformer": Network(
        "spikformer",
        SpikformerArchitecture(embed_dims=384, depth=8, num_heads=8, num_classes=1000, layout="imagenet"),
        size=224,
        variant="8-384",
    ),
    "qkformer": Network(
        "qkformer",
        QKFormerArchitecture(embed_dims=384, depths=(1, 2, 7), num_heads=6, num_classes=1000, layout="imagenet"),
        size=224,
        variant="10-384",
    ),
}
"""Networks as published for ImageNet."""

ACCURACIES = ("accuracy, float", "accuracy, 8 bits")
CHECKS = ("E1", "E2 sim", "E2 Lava", "E2 ONNX", "E3", "E4")
HEADER = ("family", "parameters", "populations that fire", *ACCURACIES, *CHECKS, "SOPs", f"cores on {CHIP}")


@dataclass(frozen=True)
class Prepared:
    """A network as a file, and samples for it.

    Attributes:
        checkpoint: The file.
        calibration: The samples on which ranges are measured.
        samples: The samples of the checks; for a trained network, all held-out ones.
        labels: The labels of ``samples``; None if there are none.
    """

    checkpoint: Path
    calibration: npt.NDArray[Any]
    samples: npt.NDArray[Any]
    labels: npt.NDArray[np.int64] | None = None


def prepare(net: Network, folder: Path, count: int) -> Prepared:
    """The trained checkpoint with its digits, or a checkpoint of random weights with ``count`` samples."""
    trained = TRAINED / f"{net.family}.pt"
    if trained.exists() and net.variant in ("", "ADD"):
        images, labels = (np.load(MNIST / f"test_{name}.npy") for name in ("images", "labels"))
        return Prepared(trained, np.load(MNIST / "calibration_images.npy"), images, labels)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(count, net.architecture.in_channels, net.size, net.size, generator=generator)
    model: Any = calibrated(build(net.architecture, timesteps=net.timesteps), x)
    for norm in (each for each in model.modules() if isinstance(each, torch.nn.BatchNorm2d)):
        norm.running_var.clamp_(min=SMALLEST_VARIANCE)
    path = folder / f"{net.title.replace(' ', '_')}.pt"
    save_zoo_checkpoint(model, path, image_size=net.size)
    return Prepared(path, x.numpy(), x.numpy())


def float_accuracy(checkpoint: Path, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> float:
    """The share of images that the network classifies correctly in float64."""
    model, right = build_zoo_model(load_zoo_checkpoint(checkpoint)), 0
    for start in range(0, len(images), BATCH):
        functional.reset_net(model)
        with torch.no_grad():
            logits = model(torch.from_numpy(images[start : start + BATCH] / 255))
        right += int((logits.argmax(1).numpy() == labels[start : start + BATCH]).sum())
    return right / len(images)


def counts(check: Check | None) -> str:
    """A check, as the table shows it."""
    return "-" if check is None else f"{check.mismatched:,} / {check.compared:,}"


def compared(compiled: Compiled, samples: npt.NDArray[Any], backend: str) -> Verification:
    """Run E2 alone on a backend."""
    given = read_given(samples, compiled.program, held=compiled.held).samples
    absent = dict.fromkeys((FLOAT_GRAPH, QUANTIZED, ORIGINAL), "is compared once, in sim")
    return verify_sides(Sides(compiled.program, {}, None, None), given, Comparing(backend), not_run=absent)


def verified(compiled: Compiled, samples: npt.NDArray[Any], model: Path) -> dict[str, Verification]:
    """Run all checks in sim, and E2 in the other backends; return the results by backend."""
    found = {"sim": compiled.verify(samples, backend="sim", model=model)}
    return found | {name: compared(compiled, samples, name) for name in BACKENDS[1:]}


def row(net: Network, folder: Path, samples: int) -> tuple[list[str], str, bool]:
    """A network's row, a note if E3 is not demanded of all samples, and whether all is equal that must be."""
    ready = prepare(net, folder, max(CALIBRATED_ON, samples))
    parameters = sum(each.numel() for each in build_zoo_model(load_zoo_checkpoint(ready.checkpoint)).parameters())
    options = CompileOptions(calibration=ready.calibration, chip=load_chip(CHIP))
    compiled = resformer.compile(ready.checkpoint, target="sim", options=options)
    few = ready.samples[:samples]
    accuracies = ["-", "-"]
    if ready.labels is not None:
        run = compiled.run(ready.samples, backend="sim")
        right = (
            float(np.mean(run.predictions == ready.labels)),
            float_accuracy(ready.checkpoint, ready.samples, ready.labels),
        )
        accuracies = [f"{each:.1%}" for each in reversed(right)]
    found = verified(compiled, few, ready.checkpoint)
    checks = found["sim"].checks
    terms = checks[QUANTIZED].note if "demanded" in checks[QUANTIZED].note else ""
    cost = compiled.cost(few, CHIP)
    cells = [
        f"{parameters:,}",
        f"{sum(map(bool, found['sim'].fired.values()))} of {len(found['sim'].fired)}",
        *accuracies,
        counts(checks.get(FLOAT_GRAPH)),
        *(counts(found[name].checks.get(BACKEND)) for name in BACKENDS),
        counts(checks.get(QUANTIZED)) + ("" if checks[QUANTIZED].demanded else " (not demanded)"),
        counts(checks.get(ORIGINAL)),
        f"{cost.paper.sops:,.0f}",
        f"{compiled.place(CHIP).cores:,}",
    ]
    return cells, terms, all(each.equivalent for each in found.values())


def table(names: list[str], samples: int) -> bool:
    """Print the table; return whether all is equal that must be."""
    rows, below, right = [], list[str](), True
    with tempfile.TemporaryDirectory() as folder:
        for net in NETWORKS:
            if names and net.family not in names:
                continue
            started = time.monotonic()
            try:
                cells, terms, equal = row(net, Path(folder), samples)
                right = right and equal
                below += [f"- {net.title}, E3: {terms}"] if terms else []
            except ResformerError as error:
                cells = ["refused", *["-"] * (len(HEADER) - 2)]
                # messages name lines of code by their path on this machine, which is removed
                below.append(f"- {net.title} is refused: {str(error).replace(f'{ROOT}/src/', '')}")
            print(f"{net.title}: {time.monotonic() - started:.0f} s", file=sys.stderr)
            rows.append([net.title, *cells])
    print_table(HEADER, rows)
    print("\n".join(below))
    return right


def full(net: Network) -> bool:
    """Compile and place a network of full size; return whether sim equals the reference on one image."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        ready = prepare(net, Path(folder), 2)
        print(f"{net.title} at {net.size}x{net.size}, T = {net.timesteps}: made in {time.monotonic() - started:.0f} s")
        started = time.monotonic()
        compiled = resformer.compile(ready.checkpoint, target="sim", options=CompileOptions(calibration=None))
        program, placement = compiled.program, compiled.place(CHIP)
        neurons = sum(int(np.prod(program[name].shape)) for name in program.spiking_names)
        print(
            f"compiled in {time.monotonic() - started:.0f} s: {len(program)} nodes, {neurons:,} neurons, "
            f"{program.latency} steps of latency; {placement.cores:,} cores, {placement.chips:,} chips of {CHIP}",
            flush=True,
        )
        try:
            placement.require()
            print(f"check: fits {CHIP}", flush=True)
        except ResformerError as error:
            print(f"check: {error}", flush=True)
        started = time.monotonic()
        result = compared(compiled, ready.samples[:1], "sim")
        print(
            f"E2 in sim, one image: {counts(result.checks[BACKEND])} differ, {time.monotonic() - started:.0f} "
            f"s; {sum(map(bool, result.fired.values()))} of {len(result.fired)} populations fired"
        )
        return result.equivalent


def main() -> int:
    """Print the table, or the figures of one full-size network; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", help=f"of {', '.join(FAMILIES)} (default: all)")
    parser.add_argument("--samples", type=int, default=2, metavar="N", help="of each check (default: %(default)s)")
    parser.add_argument("--full", choices=FULL, help="a network of full size instead")
    arguments = parser.parse_args()
    unknown = set(arguments.families) - set(FAMILIES)
    if unknown:
        parser.error(f"no family {', '.join(sorted(unknown))}; there are {', '.join(FAMILIES)}")
    print_machine()
    return not (full(FULL[arguments.full]) if arguments.full else table(arguments.families, arguments.samples))


if __name__ == "__main__":
    sys.exit(main())
