"""Hold a family of our zoo against its authors' code, and record what theirs computes: nothing of theirs is kept here.

    git clone https://github.com/ZK-Zhou/spikformer
    python tests/data/compare_zoo.py spikformer spikformer

For each of the family's cases of ``zoo_recipe.py`` theirs and ours must have tensors of the same names and shapes, and,
with the same weights and the same input in float64, at batch 1, emit the same values in every population and the same
logits. Only then are the family's entries of ``zoo_vectors.json`` written, against which
``tests/unit/models/test_zoo.py`` holds ours ever after. What theirs imports and does not need here (timm, einops,
torchinfo, SpikingJelly's old C extension) is replaced by the few lines that stand below. Needs SpikingJelly 0.0.0.0.14,
which still has the ``clock_driven`` that theirs uses.
"""

import argparse
import importlib.util
import json
import sys
import time
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import zoo_recipe as recipe
from spikingjelly.activation_based import functional
from spikingjelly.clock_driven import functional as old_functional
from spikingjelly.clock_driven import layer as old_layer
from spikingjelly.clock_driven import neuron as old_neuron
from torch import nn

from resformer.models.zoo.recognise import build

OUTPUT = Path(__file__).with_name("zoo_vectors.json")

LOGITS = 1e-12
"""By how much logits may differ: the same sums, added up in another order. Those recorded are equal."""


@dataclass(frozen=True)
class Theirs:
    """How a family's authors make a network.

    Attributes:
        file: their module in the checkout, given the case's folder; its own folder is where it imports from.
        make: their network of a case, from that module.
    """

    file: Callable[[str], str]
    make: Callable[[Any, recipe.Case], nn.Module]


COMMON = {"sr_ratios": 1, "mlp_ratios": 4, "qkv_bias": False}


def options(case: recipe.Case, **more: Any) -> dict[str, Any]:
    """The keyword arguments by which the authors of most families make a network."""
    net = case.architecture
    names = {"embed_dims": "embed_dims", "num_heads": "num_heads", "mlp_ratio": "mlp_ratios", "depth": "depths"}
    given = {theirs: getattr(net, ours) for ours, theirs in names.items() if hasattr(net, ours)}
    sizes = {"img_size_h": case.size, "img_size_w": case.size, "patch_size": 16 if case.size > 32 else 4}
    return COMMON | sizes | {"in_channels": net.in_channels, "num_classes": net.num_classes} | given | more


def spikformer(module: Any, case: recipe.Case) -> nn.Module:
    """Of their three folders; that of CIFAR takes T."""
    return module.Spikformer(**options(case, **({"T": case.timesteps} if case.size <= 32 else {})))


def qkformer(module: Any, case: recipe.Case) -> nn.Module:
    """Of their five folders, which give the depths as a sum."""
    names = ("spiking_transformer", "hierarchical_spiking_transformer", "vit_snn")
    factory = next(getattr(module, name) for name in names if hasattr(module, name))
    return factory(**options(case, depths=sum(case.architecture.depths), T=case.timesteps))


def sdt(module: Any, case: recipe.Case) -> nn.Module:
    """Their network, by the options of their configurations."""
    net = case.architecture
    return module.SpikeDrivenTransformer(
        **options(case, pooling_stat=net.pooling, spike_mode=net.neuron.lower(), dvs_mode=net.pools_attention)
    )


def sew_resnet(module: Any, case: recipe.Case) -> nn.Module:
    """Their network, of blocks that their five factories use."""
    net = case.architecture
    block = module.BasicBlock if net.block == "basic" else module.Bottleneck
    return module.SEWResNet(block, list(net.depths), num_classes=net.num_classes, connect_f=net.connect)


def maxformer(module: Any, case: recipe.Case) -> nn.Module:
    """Of their three folders, whose code fixes depths and heads."""
    net = case.architecture
    return module.Max_Former(
        in_channels=net.in_channels,
        num_classes=net.num_classes,
        embed_dims=net.embed_dims,
        mlp_ratios=net.mlp_ratio,
        depths=sum(net.depths),
        T=case.timesteps,
    )


def meta(name: str) -> Callable[[Any, recipe.Case], nn.Module]:
    """Their second or third network, by its class; the code fixes depths."""

    def make(module: Any, case: recipe.Case) -> nn.Module:
        net = case.architecture
        distilled = {"kd": net.distilled} if hasattr(net, "distilled") else {}
        made = getattr(module, name)(
            **COMMON,
            **distilled,
            embed_dim=list(net.embed_dims),
            num_heads=net.num_heads,
            depths=sum(net.depths),
            in_channels=net.in_channels,
            num_classes=net.num_classes,
        )
        made.T = case.timesteps
        return made

    return make


FAMILIES: Mapping[str, Theirs] = {
    "spikformer": Theirs(lambda folder: f"{folder}/model.py", spikformer),
    "spikingformer": Theirs(
        lambda folder: f"{folder}/model.py", lambda module, case: module.vit_snn(**options(case, T=case.timesteps))
    ),
    "qkformer": Theirs(lambda folder: f"{folder}/{'qkformer' if folder == 'imagenet' else 'model'}.py", qkformer),
    "sdt": Theirs(lambda _: "model/spikeformer.py", sdt),
    "sew_resnet": Theirs(lambda _: "imagenet/sew_resnet.py", sew_resnet),
    "meta_spikeformer": Theirs(lambda _: "classification/models.py", meta("Spiking_vit_MetaFormer")),
    "maxformer": Theirs(lambda folder: f"{folder}/max_former.py", maxformer),
    "sdt_v3": Theirs(
        lambda _: "SDT_V3/Classification/Model_Base/models.py", meta("Spiking_vit_MetaFormer_Spike_SepConv")
    ),
}


class ContainerOfOld(nn.Module):
    """SpikingJelly's ``SeqToANNContainer`` as it was when the authors of SEW-ResNet saved their checkpoints."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.module = modules[0] if len(modules) == 1 else nn.Sequential(*modules)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.module(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def stand_in(name: str, **content: Any) -> None:
    """Put a module of a name, with some content, where theirs imports it."""
    module = types.ModuleType(name)
    for key, value in content.items():
        setattr(module, key, value)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent in sys.modules:
        setattr(sys.modules[parent], child, module)


def unchanged(function: Any = None, **_: Any) -> Any:
    """Stands for decorators and factories that nothing here calls."""
    return function


def prepare() -> None:
    """Stand in for what theirs imports, and let its neurons, which ask for CuPy, be made without."""
    for name in ("timm", "einops", "einops.layers", "torchinfo"):
        stand_in(name)
    stand_in("timm.models", create_model=unchanged)
    stand_in("timm.models.registry", register_model=unchanged)
    stand_in("timm.models.vision_transformer", _cfg=dict)
    stand_in(
        "timm.models.layers",
        to_2tuple=lambda value: (value, value),
        trunc_normal_=nn.init.trunc_normal_,
        DropPath=nn.Identity,
    )
    stand_in("einops.layers.torch", Rearrange=nn.Identity)
    stand_in("spikingjelly.cext", neuron=old_neuron)
    old_neuron.check_backend = lambda backend: None
    old_layer.SeqToANNContainer = ContainerOfOld
    # of an earlier PyTorch, around the function of SDT v3's neuron
    torch.cuda.amp.custom_fwd = torch.cuda.amp.custom_bwd = unchanged


def import_theirs(path: Path) -> Any:
    """Import one of the authors' files, under a name of its own, with its folder and the one above in the path."""
    before = list(sys.path)
    sys.path[:0] = [str(path.parent), str(path.parent.parent)]
    try:
        spec = importlib.util.spec_from_file_location(f"theirs_{abs(hash(path))}", path)
        if spec is None or spec.loader is None:
            raise SystemExit(f"{path}: cannot be imported")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path[:] = before
        for name in ("mixer_hub", "embedding_hub", "module"):
            sys.modules.pop(name, None)


def aligned(theirs: torch.Tensor, ours: torch.Tensor, *, tokens_first: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Both as (T, all the rest): theirs may hold tokens before channels, or merge T and the batch of one."""
    steps = ours.shape[0]
    if tokens_first and theirs.dim() == 4:
        theirs = theirs.transpose(2, 3)
    return theirs.reshape(steps, -1), ours.reshape(steps, -1)


def network_of(case: recipe.Case, checkout: Path) -> tuple[Any, nn.Module]:
    """The authors' module of a case, and their network in float64 and eval mode, with new weights."""
    family = FAMILIES[case.family]
    module = import_theirs(checkout / family.file(case.name.partition(" ")[0]))
    theirs = family.make(module, case).double().eval()
    for each in theirs.modules():
        if hasattr(each, "backend"):
            each.backend = "torch"
    return module, theirs


def compare(case: recipe.Case, checkout: Path) -> dict[str, Any]:
    """Compare one case, print what was compared, and return what to record; stop where anything differs."""
    started = time.monotonic()
    module, theirs = network_of(case, checkout)
    ours = build(case.architecture, timesteps=case.timesteps).double().eval()
    shapes = [{name: tuple(each.shape) for name, each in model.state_dict().items()} for model in (theirs, ours)]
    if shapes[0] != shapes[1]:
        differing = sorted(shapes[0].items() ^ shapes[1].items())
        raise SystemExit(f"{case.name}: {len(differing)} names and shapes differ, such as {differing[:6]}")
    state = recipe.weights(theirs.state_dict())
    theirs.load_state_dict(state, strict=True)
    ours.load_state_dict(state, strict=True)
    kinds = (old_neuron.BaseNode, *((module.MultiSpike,) if hasattr(module, "MultiSpike") else ()))
    recorded = recipe.record(theirs, kinds), recipe.record(ours)
    x = recipe.network_input(case)
    with torch.no_grad():
        # theirs takes frames as (N, T, ...), and two of them change what they are given
        logits = theirs(x.transpose(0, 1) if case.frames else x.clone()), ours(x)
    old_functional.reset_net(theirs)
    functional.reset_net(ours)
    found = logits[0][0] if isinstance(logits[0], tuple) else logits[0]
    if recorded[0].keys() != recorded[1].keys():
        raise SystemExit(f"{case.name}: populations differ: {sorted(recorded[0].keys() ^ recorded[1].keys())}")
    wrong = compared = silent = 0
    tokens_first = case.family == "spikformer" and case.architecture.layout == "cifar"
    for name, each in recorded[0].items():
        pair = aligned(each, recorded[1][name], tokens_first=tokens_first)
        wrong += int((pair[0] != pair[1]).sum())
        compared += pair[0].numel()
        silent += not bool(pair[0].any())
    difference = (found - logits[1]).abs().max().item()
    mean = torch.cat([each.flatten() for each in recorded[0].values()]).mean().item()
    print(  # noqa: T201
        f"{case.name}: {len(shapes[0])} tensors equal in name and shape; {len(recorded[0])} populations ({silent} "
        f"silent, mean {mean:.3f}), {wrong:,} of {compared:,} values differ; logits up to {found.abs().max():.2f} "
        f"{'are equal' if difference == 0 else f'differ by {difference:.1e}'}; {time.monotonic() - started:.1f} s",
        flush=True,
    )
    if wrong or difference > LOGITS:
        raise SystemExit(f"{case.name}: theirs and ours differ")
    return recipe.vectors(theirs.state_dict(), recorded[1], found)


def main() -> None:
    """Compare every case of a family and write what theirs computes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("checkout", type=Path, help="a checkout of the authors' repository")
    arguments = parser.parse_args()
    prepare()
    vectors = json.loads(OUTPUT.read_text()) if OUTPUT.exists() else {}
    for case in recipe.CASES:
        if case.family == arguments.family:
            vectors[f"{case.family}: {case.name}"] = compare(case, arguments.checkout)
    OUTPUT.write_text(json.dumps(vectors, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
