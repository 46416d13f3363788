"""SpikingJelly's own model zoo (``spikingjelly.activation_based.model``) at 64x64: E1 to E3 of every network.

    python benchmarks/spikingjelly_zoo.py                  # one network of each family
    python benchmarks/spikingjelly_zoo.py sew_resnet vgg   # those of this name, or all whose names hold it, in turn
    python benchmarks/spikingjelly_zoo.py --all

A row is printed as soon as its network is done, and all rows as a table at the end. Weights are random, and batch
normalisations have the statistics of the example, so that every population fires. The networks for event cameras and
for digits have layers for one input size, and get inputs of that size. The exit status is 1 if anything differs that
must not.
"""

import argparse
import sys
import time
import types
import warnings
from collections.abc import Callable, Container

import torch
from networks import ROOT, print_machine, print_table
from torch import nn

sys.path.append(str(ROOT / "tests"))
import resformer
from resformer.runtime.verify.result import BACKEND, FLOAT_GRAPH, QUANTIZED
from support.modules import calibrated

HEADER = ["network", "parameters", "populations that fire", "E1", "E2", "E3", "seconds"]
CHECKS = (FLOAT_GRAPH, BACKEND, QUANTIZED)
RESNETS = (
    *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
    *("resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2", "wide_resnet101_2"),
)
VGGS = tuple(f"spiking_vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("_bn", ""))
PLIF = {"MNISTNet": (1, 28), "FashionMNISTNet": (1, 28), "NMNISTNet": (2, 34)}
PLIF |= {"CIFAR10Net": (3, 32), "CIFAR10DVSNet": (2, 128), "DVSGestureNet": (2, 128)}
ONE_EACH = (
    "sew_resnet18 ADD",
    "sew_resnet18 AND",
    "sew_resnet18 IAND",
    "spiking_resnet18",
    "spiking_vgg11_bn",
    "MNISTNet",
)


def networks() -> dict[str, tuple[Callable[[], nn.Module], tuple[int, int]]]:
    """By name, a function that makes the network, and the number of channels and the edge of its images."""
    # SpikingJelly imports torchvision only to download weights; the installed one may not fit this build of torch
    for name in ("torchvision", "torchvision.models", "torchvision.models.utils"):
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules["torchvision.models.utils"].load_state_dict_from_url = None  # type: ignore[attr-defined]
    from spikingjelly.activation_based import neuron
    from spikingjelly.activation_based.model import parametric_lif_net, sew_resnet, spiking_resnet, spiking_vgg

    made: dict[str, tuple[Callable[[], nn.Module], tuple[int, int]]] = {}
    for name in RESNETS:
        for join in ("ADD", "AND", "IAND"):
            build = getattr(sew_resnet, f"sew_{name}")
            made[f"sew_{name} {join}"] = (
                (lambda build=build, join=join: build(cnf=join, spiking_neuron=neuron.LIFNode)),
                (3, 64),
            )
    for room, names in ((spiking_resnet, [f"spiking_{name}" for name in RESNETS]), (spiking_vgg, VGGS)):
        for name in names:
            build = getattr(room, name)
            made[name] = (lambda build=build: build(spiking_neuron=neuron.LIFNode)), (3, 64)
    for name, size in PLIF.items():
        build = getattr(parametric_lif_net, name)
        made[name] = (lambda build=build: build(channels=32, spiking_neuron=neuron.ParametricLIFNode)), size
    return made


def main() -> int:
    """Compile, verify and print; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="names, or parts of names (default: one of each family)")
    parser.add_argument("--all", action="store_true", help="every network")
    parser.add_argument("--timesteps", type=int, default=4, metavar="T", help="(default: %(default)s)")
    parser.add_argument("--images", type=int, default=1, metavar="N", help="(default: %(default)s)")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    known, rows, failed = networks(), [], 0
    if nothing := [word for word in arguments.words if not any(named(name, word, known) for name in known)]:
        parser.error(f"no network is called {', '.join(nothing)}")
    print_machine()
    chosen = {name: None for word in arguments.words or ONE_EACH for name in known if named(name, word, known)}
    print(f"T = {arguments.timesteps}, {arguments.images} image(s)")
    for name in known if arguments.all else chosen:
        build, (channels, edge) = known[name]
        started = time.perf_counter()
        torch.manual_seed(0)
        example = torch.rand(arguments.timesteps, arguments.images, channels, edge, edge)
        try:
            row, wrong = verified(build(), example)
        except resformer.ResformerError as error:
            row, wrong = [f"{type(error).__name__}: {error}"], 1
        failed += wrong
        rows.append([name, *row, f"{time.perf_counter() - started:.0f}"])
        print(*rows[-1], sep="  ", flush=True)
    print_table(HEADER, [row for row in rows if len(row) == len(HEADER)])
    return 1 if failed else 0


def named(name: str, word: str, known: Container[str]) -> bool:
    """Whether a word selects a network: by its whole name, or, if no network has that name, by a part of its name."""
    return word == name if word in known else word in name


def verified(module: nn.Module, example: torch.Tensor) -> tuple[list[str], int]:
    """The row's cells: parameters, populations and mismatches of each check; and 1 if something is wrong, else 0."""
    from spikingjelly.activation_based import functional

    functional.set_step_mode(module, "m")
    module = calibrated(module, example)
    result = resformer.compile(module, example, "sim").verify(example.transpose(0, 1), backend="sim")
    checks = [result.checks[name] for name in CHECKS]
    cells = [
        f"{each.mismatched:,} / {each.compared:,}" + (f" ({each.note})" if "demanded" in each.note else "")
        for each in checks
    ]
    parameters = sum(each.numel() for each in module.parameters())
    wrong = any(each.mismatched for each in checks) or not result.equivalent
    fired = f"{sum(map(bool, result.fired.values()))} of {len(result.fired)}"
    return [f"{parameters / 1e6:.2f} M", fired, *cells], int(wrong)


if __name__ == "__main__":
    sys.exit(main())
