"""The authors' own modules, compiled from memory: E1 and E2 of each, or why it is refused.

    mkdir checkouts && cd checkouts
    git clone https://github.com/ZK-Zhou/spikformer        # and so on: REPOSITORIES below
    python benchmarks/authors.py checkouts                 # all that are there
    python benchmarks/authors.py checkouts spikformer ms_resnet

Each network is a small one of ``tests/data/zoo_recipe.py``, with weights that are made there so that neurons fire. It
runs on one sample, since QKFormer's code takes T and the batch as one axis. A check is shown as "differing / compared".
The exit status is 1 if anything differs. None of the authors' code is kept here.
"""

import argparse
import logging
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from networks import ROOT, print_machine, print_table
from torch import nn

import resformer
from resformer.errors import ResformerError
from resformer.runtime.verify.result import BACKEND, FLOAT_GRAPH

sys.path.append(str(ROOT / "tests" / "data"))
import compare_zoo
import zoo_recipe as recipe

REPOSITORIES: Mapping[str, str] = {
    "spikformer": "ZK-Zhou/spikformer",
    "spikingformer": "zhouchenlin2096/Spikingformer",
    "qkformer": "zhouchenlin2096/QKFormer",
    "sdt": "BICLab/Spike-Driven-Transformer",
    "meta_spikeformer": "BICLab/Spike-Driven-Transformer-V2",
    "sdt_v3": "BICLab/Spike-Driven-Transformer-V3",
    "maxformer": "bic-L/MaxFormer",
    "sew_resnet": "fangwei123456/Spike-Element-Wise-ResNet",
    "ms_resnet": "Ariande1/MS-ResNet",
}
"""Each family's repository on GitHub; the folder of a checkout has the repository's name."""

CHOSEN = {
    "spikformer": ("cifar10 ratio 2", "imagenet"),
    "spikingformer": ("cifar100", "imagenet"),
    "qkformer": ("cifar100", "imagenet"),
    "sdt": ("equal widths", "plif"),
    "meta_spikeformer": ("distilled",),
    "sdt_v3": ("scale of 12 channels",),
    "maxformer": ("cifar10-100",),
    "sew_resnet": ("basic ADD", "basic AND", "basic IAND"),
}
"""The small cases of the recipe, for each family."""

TIMESTEPS = 2


@dataclass(frozen=True)
class Network:
    """One of the authors' networks.

    Attributes:
        family: A name of ``REPOSITORIES``.
        name: The name that tells the network from others of its family.
        make: Makes the network from a checkout, with new weights, in float64 and eval mode.
        example: Makes an input for its ``forward``.
    """

    family: str
    name: str
    make: Callable[[Path], nn.Module]
    example: Callable[[], torch.Tensor]


def of_recipe(case: recipe.Case) -> Network:
    """The network of a case of the recipe, with T of at most ``TIMESTEPS``."""
    case = replace(case, timesteps=min(case.timesteps, TIMESTEPS))
    return Network(
        case.family,
        case.name,
        lambda checkout: compare_zoo.network_of(case, checkout)[1],
        partial(recipe.network_input, case),
    )


def ms_resnet(checkout: Path) -> nn.Module:
    """The authors' MS-ResNet with one basic block in each stage; T is a constant of their module."""
    module: Any = compare_zoo.import_theirs(checkout / "models" / "MS_ResNet.py")
    module.time_window, module.device = TIMESTEPS, torch.device("cpu")
    made: nn.Module = module.ResNet_origin_18(module.BasicBlock_18, [1, 1, 1, 1], num_classes=10)
    return made.double().eval()


NETWORKS = (
    *(of_recipe(case) for case in recipe.CASES if case.name in CHOSEN.get(case.family, ())),
    Network("ms_resnet", "basic blocks", ms_resnet, lambda: recipe.uniform("MS-ResNet", (1, 3, 32, 32), 0.0, 1.5)),
)


def row(net: Network, checkout: Path) -> tuple[list[str], bool]:
    """A network's row of the table, and whether everything is equal."""
    started = time.monotonic()
    theirs = net.make(checkout)
    theirs.load_state_dict(recipe.weights(theirs.state_dict()), strict=True)
    example = net.example()
    compiled = resformer.compile(theirs, example, "sim")
    result = compiled.verify(example, backend="sim")
    checks = [result.checks[name] for name in (FLOAT_GRAPH, BACKEND)]
    cells = [
        f"{sum(each.numel() for each in theirs.parameters()):,}",
        f"{sum(map(bool, result.fired.values()))} of {len(result.fired)}",
        *(f"{each.mismatched:,} / {each.compared:,}" for each in checks),
        f"{time.monotonic() - started:.0f}",
    ]
    return cells, not any(each.mismatched for each in checks) and result.equivalent


def main() -> int:
    """Compile and verify the networks whose checkouts are there; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", type=Path, help="a folder of checkouts, each called as its repository")
    parser.add_argument("families", nargs="*", help=f"of {', '.join(REPOSITORIES)} (default: all that are there)")
    arguments = parser.parse_args()
    unknown = set(arguments.families) - set(REPOSITORIES)
    if unknown:
        parser.error(f"no family {', '.join(sorted(unknown))}; there are {', '.join(REPOSITORIES)}")
    compare_zoo.prepare()
    logging.getLogger().setLevel(logging.ERROR)  # SpikingJelly warns of each old neuron that it resets
    print_machine()
    rows, told, right = [], list[str](), True
    for net in NETWORKS:
        checkout = arguments.checkouts / REPOSITORIES[net.family].partition("/")[2]
        title = f"{net.family}: {net.name}"
        if arguments.families and net.family not in arguments.families:
            continue
        if not checkout.is_dir():
            told.append(f"- {title} is left out: there is no {checkout}; clone github.com/{REPOSITORIES[net.family]}")
            continue
        try:
            cells, equal = row(net, checkout)
            right = right and equal
        except ResformerError as error:
            cells = ["refused", "-", "-", "-", "-"]
            reason = str(error).replace(f"{checkout}/", "").replace(f"{checkout.resolve()}/", "")
            told.append(f"- {title} is refused: {reason}")
        print(f"{title}: {cells[0]} {cells[-1]}", file=sys.stderr, flush=True)
        rows.append([title, *cells])
    if rows:
        print_table(("network", "parameters", "populations that fire", "E1", "E2 sim", "seconds"), rows)
    print("\n".join(told))
    return not right


if __name__ == "__main__":
    sys.exit(main())
