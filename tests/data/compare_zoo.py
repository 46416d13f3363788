"""Hold a family of our zoo against its authors' code: nothing of their code is kept here.

    git clone https://github.com/ZK-Zhou/spikformer
    python tests/data/compare_zoo.py spikformer spikformer

For each of the family's small cases theirs and ours must have tensors of the same names and shapes, and, with the same
weights and the same input in float64, at batch 1, emit the same spikes in every population and the same logits. What
theirs imports and does not need here (timm, einops, torchinfo, SpikingJelly's old C extension) is replaced by the few
lines that stand below. Needs SpikingJelly 0.0.0.0.14, which still has the ``clock_driven`` that theirs uses.
"""

import argparse
import hashlib
import importlib.util
import math
import sys
import time
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from spikingjelly.activation_based import base as new_base
from spikingjelly.activation_based import functional as new_functional
from spikingjelly.clock_driven import base as old_base
from spikingjelly.clock_driven import functional as old_functional
from spikingjelly.clock_driven import layer as old_layer
from spikingjelly.clock_driven import neuron as old_neuron
from torch import nn

from resformer.models.zoo.maxformer import MaxFormer, MaxFormerArchitecture
from resformer.models.zoo.meta_spikeformer import MetaSpikeFormer, MetaSpikeFormerArchitecture
from resformer.models.zoo.qkformer import QKFormer, QKFormerArchitecture
from resformer.models.zoo.sdt import SDTArchitecture, SpikeDrivenTransformer
from resformer.models.zoo.sdt_v3 import SDTV3Architecture, SpikeDrivenTransformerV3
from resformer.models.zoo.sew_resnet import SEWResNet, SEWResNetArchitecture
from resformer.models.zoo.spikformer import Spikformer, SpikformerArchitecture
from resformer.models.zoo.spikingformer import Spikingformer, SpikingformerArchitecture


@dataclass(frozen=True, kw_only=True)
class Case:
    """One network of a family.

    Attributes:
        name: of the case.
        file: the authors' module in the checkout; its folder is where theirs imports from.
        theirs: makes their network from that module.
        ours: makes ours.
        size: edge of the input, in pixels.
        channels: of the input.
        frames: whether the input has an image a step: theirs takes it as (N, T, C, H, W).
        timesteps: T.
        tokens_first: whether their blocks hold (T, N, L, C) rather than (T, N, C, L).
    """

    name: str
    file: str
    theirs: Callable[[Any], nn.Module]
    ours: Callable[[], nn.Module]
    size: int = 32
    channels: int = 3
    frames: bool = False
    timesteps: int = 4
    tokens_first: bool = False


COMMON = {"sr_ratios": 1, "mlp_ratios": 4, "qkv_bias": False}


def options(architecture: Any, size: int, **more: Any) -> dict[str, Any]:
    """The keyword arguments by which the authors of most families make a network."""
    names = {"embed_dims": "embed_dims", "num_heads": "num_heads", "mlp_ratio": "mlp_ratios", "depth": "depths"}
    given = {theirs: getattr(architecture, ours) for ours, theirs in names.items() if hasattr(architecture, ours)}
    return (
        COMMON
        | {"img_size_h": size, "img_size_w": size, "patch_size": 4}
        | {"in_channels": architecture.in_channels, "num_classes": architecture.num_classes}
        | given
        | more
    )


def spikformer_cases() -> list[Case]:
    """Of the authors' three folders."""
    cases = []
    small = SpikformerArchitecture(embed_dims=48, depth=2, num_heads=3)
    for name, architecture, size, frames, more in (
        ("cifar", small, 32, False, {"T": 4}),
        (
            "cifar_ratio_2",
            SpikformerArchitecture(embed_dims=32, depth=1, num_heads=4, mlp_ratio=2),
            24,
            False,
            {"T": 4},
        ),
        (
            "imagenet",
            SpikformerArchitecture(embed_dims=64, depth=2, num_heads=8, num_classes=20, layout="imagenet"),
            64,
            False,
            {"patch_size": 16},
        ),
        (
            "cifar10dvs",
            SpikformerArchitecture(embed_dims=32, depth=2, num_heads=4, in_channels=2, layout="dvs"),
            128,
            True,
            {"patch_size": 16},
        ),
    ):
        folder = name if name == "cifar10dvs" else {"cifar": "cifar10", "imagenet": "imagenet"}[architecture.layout]
        cases.append(
            Case(
                name=name,
                file=f"{folder}/model.py",
                theirs=lambda module, a=architecture, s=size, m=more: module.Spikformer(**options(a, s, **m)),
                ours=lambda a=architecture: Spikformer(a),
                size=size,
                channels=architecture.in_channels,
                frames=frames,
                tokens_first=architecture.layout == "cifar",
            )
        )
    return cases


def spikingformer_cases() -> list[Case]:
    """Of the authors' folders."""
    cases = []
    event = {"embed_dims": 32, "depth": 2, "num_heads": 4, "in_channels": 2, "layout": "imagenet", "tau": 1.5}
    for folder, architecture, size in (
        ("cifar10", SpikingformerArchitecture(embed_dims=48, depth=2, num_heads=3), 32),
        ("cifar100", SpikingformerArchitecture(embed_dims=32, depth=1, num_heads=4, mlp_ratio=2, num_classes=100), 24),
        ("imagenet", SpikingformerArchitecture(embed_dims=64, depth=2, num_heads=8, layout="imagenet"), 64),
        ("cifar10-dvs", SpikingformerArchitecture(**event), 128),
        ("dvs128-gesture", SpikingformerArchitecture(**event, num_classes=11), 128),
    ):
        frames = architecture.in_channels == 2
        cases.append(
            Case(
                name=folder,
                file=f"{folder}/model.py",
                theirs=lambda module, a=architecture, s=size: module.vit_snn(**options(a, s)),
                ours=lambda a=architecture: Spikingformer(a),
                size=size,
                channels=architecture.in_channels,
                frames=frames,
            )
        )
    return cases


def qkformer_cases() -> list[Case]:
    """Of the authors' folders."""
    cases = []
    for folder, file, factory, architecture, size in (
        (
            "cifar10",
            "model",
            "spiking_transformer",
            QKFormerArchitecture(embed_dims=64, depths=(1, 1, 2), num_heads=8),
            32,
        ),
        (
            "cifar100",
            "model",
            "spiking_transformer",
            QKFormerArchitecture(embed_dims=96, depths=(1, 1, 1), num_heads=8, mlp_ratio=2, num_classes=100),
            24,
        ),
        (
            "imagenet",
            "qkformer",
            "hierarchical_spiking_transformer",
            QKFormerArchitecture(embed_dims=64, depths=(1, 2, 2), num_heads=4, layout="imagenet"),
            64,
        ),
        (
            "cifar10-dvs",
            "model",
            "vit_snn",
            QKFormerArchitecture(embed_dims=64, depths=(1, 1), num_heads=16, in_channels=2, layout="dvs", mlp_ratio=1),
            64,
        ),
        (
            "dvs128-gesture",
            "model",
            "vit_snn",
            QKFormerArchitecture(embed_dims=32, depths=(1, 1), num_heads=16, in_channels=2, layout="dvs"),
            64,
        ),
    ):
        frames = architecture.in_channels == 2
        more = {"depths": sum(architecture.depths)} | ({} if frames else {"T": 4})
        cases.append(
            Case(
                name=folder,
                file=f"{folder}/{file}.py",
                theirs=lambda module, f=factory, a=architecture, s=size, m=more: getattr(module, f)(
                    **options(a, s, **m)
                ),
                ours=lambda a=architecture: QKFormer(a),
                size=size,
                channels=architecture.in_channels,
                frames=frames,
            )
        )
    return cases


def sdt_cases() -> list[Case]:
    """Of the authors' configurations, in small."""
    cases = []
    for name, architecture, size in (
        ("cifar", SDTArchitecture(embed_dims=48, depth=2, num_heads=4), 32),
        ("imagenet", SDTArchitecture(embed_dims=64, depth=2, num_heads=8, num_classes=20, pooling="1111"), 64),
        ("gesture", SDTArchitecture(embed_dims=32, depth=2, num_heads=8, in_channels=2, pooling="0111"), 64),
        (
            "cifar10-dvs",
            SDTArchitecture(embed_dims=32, depth=2, num_heads=8, in_channels=2, pools_attention=True),
            32,
        ),
        ("plif", SDTArchitecture(embed_dims=32, depth=1, num_heads=2, neuron="PLIF"), 32),
        ("equal_widths", SDTArchitecture(embed_dims=32, depth=2, num_heads=2, mlp_ratio=1), 32),
    ):
        more = {
            "pooling_stat": architecture.pooling,
            "spike_mode": architecture.neuron.lower(),
            "dvs_mode": architecture.pools_attention,
        }
        cases.append(
            Case(
                name=name,
                file="model/spikeformer.py",
                theirs=lambda module, a=architecture, s=size, m=more: module.SpikeDrivenTransformer(
                    **options(a, s, **m)
                ),
                ours=lambda a=architecture: SpikeDrivenTransformer(a),
                size=size,
                channels=architecture.in_channels,
                frames=architecture.in_channels == 2,
            )
        )
    return cases


def sew_cases() -> list[Case]:
    """Both blocks, every way to connect; the authors fix widths, so these are as wide as theirs."""
    cases = []
    for block, depths, connect in (
        ("basic", (2, 2, 2, 2), "ADD"),
        ("basic", (1, 2, 1, 1), "AND"),
        ("basic", (1, 1, 2, 1), "IAND"),
        ("bottleneck", (1, 2, 1, 1), "ADD"),
        ("bottleneck", (1, 1, 1, 1), "AND"),
        ("bottleneck", (1, 1, 1, 2), "IAND"),
    ):
        architecture = SEWResNetArchitecture(block=block, depths=depths, connect=connect, num_classes=20)
        cases.append(
            Case(
                name=f"{block}_{connect}",
                file="imagenet/sew_resnet.py",
                theirs=lambda module, a=architecture: module.SEWResNet(
                    module.BasicBlock if a.block == "basic" else module.Bottleneck,
                    list(a.depths),
                    num_classes=a.num_classes,
                    connect_f=a.connect,
                ),
                ours=lambda a=architecture: SEWResNet(a),
                size=64,
            )
        )
    return cases


def maxformer_cases() -> list[Case]:
    """Of the authors' folders, whose code fixes depths and heads."""
    cases = []
    for folder, architecture, size in (
        ("cifar10-100", MaxFormerArchitecture(embed_dims=64, depths=(1, 1, 2), num_heads=8), 32),
        ("imagenet", MaxFormerArchitecture(embed_dims=128, depths=(1, 2, 7), num_heads=2, layout="imagenet"), 64),
        (
            "event",
            MaxFormerArchitecture(embed_dims=64, depths=(1, 1), num_heads=16, in_channels=2, layout="event"),
            64,
        ),
    ):
        more = {"embed_dims": architecture.embed_dims, "depths": sum(architecture.depths), "T": 4, "mlp_ratios": 4}
        cases.append(
            Case(
                name=folder,
                file=f"{folder}/max_former.py",
                theirs=lambda module, a=architecture, m=more: module.Max_Former(
                    in_channels=a.in_channels, num_classes=a.num_classes, **m
                ),
                ours=lambda a=architecture: MaxFormer(a),
                size=size,
                channels=architecture.in_channels,
                frames=architecture.in_channels == 2,
            )
        )
    return cases


def meta_options(architecture: Any) -> dict[str, Any]:
    """The keyword arguments of the authors' second and third networks, whose code fixes depths."""
    return COMMON | {
        "embed_dim": list(architecture.embed_dims),
        "num_heads": architecture.num_heads,
        "depths": sum(architecture.depths),
        "in_channels": architecture.in_channels,
        "num_classes": architecture.num_classes,
    }


def meta_spikeformer_cases() -> list[Case]:
    """One and four steps, with and without the second classifier."""
    cases = []
    for name, steps, architecture in (
        ("four_steps", 4, MetaSpikeFormerArchitecture(embed_dims=(16, 32, 48, 64), num_classes=20)),
        (
            "distilled",
            2,
            MetaSpikeFormerArchitecture(
                embed_dims=(8, 16, 24, 40), num_heads=4, in_channels=2, num_classes=11, distilled=True
            ),
        ),
    ):

        def theirs(module: Any, a: MetaSpikeFormerArchitecture = architecture, steps: int = steps) -> nn.Module:
            made = module.Spiking_vit_MetaFormer(**meta_options(a), kd=a.distilled)
            made.T = steps
            return made

        cases.append(
            Case(
                name=name,
                file="classification/models.py",
                theirs=theirs,
                ours=lambda a=architecture, t=steps: MetaSpikeFormer(a, timesteps=t),
                size=64,
                channels=architecture.in_channels,
            )
        )
    return cases


def sdt_v3_cases() -> list[Case]:
    """Heads whose scale is a power of two, and heads whose scale is none."""
    cases = []
    for name, architecture in (
        ("scale_1", SDTV3Architecture(embed_dims=(16, 32, 32, 64), num_classes=20)),
        ("scale_of_12_channels", SDTV3Architecture(embed_dims=(8, 16, 24, 48), num_heads=2, num_classes=10)),
    ):
        cases.append(
            Case(
                name=name,
                file="SDT_V3/Classification/Model_Base/models.py",
                theirs=lambda module, a=architecture: module.Spiking_vit_MetaFormer_Spike_SepConv(**meta_options(a)),
                ours=lambda a=architecture: SpikeDrivenTransformerV3(a),
                size=64,
                channels=architecture.in_channels,
            )
        )
    return cases


FAMILIES: Mapping[str, Callable[[], list[Case]]] = {
    "spikformer": spikformer_cases,
    "spikingformer": spikingformer_cases,
    "qkformer": qkformer_cases,
    "sdt": sdt_cases,
    "sew_resnet": sew_cases,
    "meta_spikeformer": meta_spikeformer_cases,
    "maxformer": maxformer_cases,
    "sdt_v3": sdt_v3_cases,
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


def prepare() -> None:
    """Stand in for what theirs imports, and let its neurons, which ask for CuPy, be made without."""
    identity = lambda function=None, **_: function  # noqa: E731
    for name in ("timm", "einops", "einops.layers"):
        stand_in(name)
    stand_in("timm.models", create_model=identity)
    stand_in("timm.models.registry", register_model=identity)
    stand_in("timm.models.vision_transformer", _cfg=dict)
    stand_in(
        "timm.models.layers",
        to_2tuple=lambda value: (value, value),
        trunc_normal_=nn.init.trunc_normal_,
        DropPath=nn.Identity,
    )
    stand_in("einops.layers.torch", Rearrange=nn.Identity)
    stand_in("torchinfo")
    stand_in("spikingjelly.cext", neuron=old_neuron)
    old_neuron.check_backend = lambda backend: None
    old_layer.SeqToANNContainer = ContainerOfOld
    # of an earlier PyTorch, around the function of SDT v3's neuron
    torch.cuda.amp.custom_fwd = torch.cuda.amp.custom_bwd = lambda function: function


def import_theirs(path: Path) -> Any:
    """Import one of the authors' files, under a name of its own, with its folder and the checkout's in the path."""
    before = list(sys.path)
    sys.path[:0] = [str(path.parent), str(path.parent.parent)]
    try:
        spec = importlib.util.spec_from_file_location("theirs_" + str(abs(hash(path))), path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path[:] = before
        for name in ("mixer_hub", "embedding_hub", "module"):
            sys.modules.pop(name, None)


def uniform(name: str, shape: tuple[int, ...], low: float, high: float) -> torch.Tensor:
    """Return float64 numbers in [low, high) that depend on the name and the shape only."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return torch.tensor(low + (high - low) * np.random.default_rng(seed).random(shape), dtype=torch.float64)


def weights(template: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a value for each tensor, such that populations fire now and then, and no two values are alike."""

    def value(name: str, tensor: torch.Tensor) -> torch.Tensor:
        shape, stem = tuple(tensor.shape), name.rpartition(".")[0]
        if name.endswith("num_batches_tracked"):
            return tensor
        if name.endswith("running_mean"):
            return uniform(name, shape, -0.2, 0.2)
        if name.endswith("running_var"):
            return uniform(name, shape, 0.7, 1.3)
        if name.endswith(".w"):
            return uniform(name, shape, -0.5, 0.5)
        if f"{stem}.running_mean" in template:
            return uniform(name, shape, 0.8, 2.0) if name.endswith("weight") else uniform(name, shape, -0.2, 0.7)
        limit = math.sqrt(3 / (math.prod(shape[1:]) * 0.2)) if len(shape) > 1 else 0.2
        return uniform(name, shape, -limit, limit)

    return {name: value(name, tensor) for name, tensor in template.items()}


def record(model: nn.Module) -> dict[str, torch.Tensor]:
    """Keep what each population emits, by its name, as of the latest call."""
    emitted: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        if is_neuron(module):
            module.register_forward_hook(
                lambda _module, _inputs, output, name=name: emitted.__setitem__(name, output.detach().clone())
            )
    return emitted


def is_neuron(module: nn.Module) -> bool:
    """Whether a module is a population, of either generation of SpikingJelly, or of the authors' or our levels."""
    return isinstance(module, new_base.MemoryModule | old_base.MemoryModule) or type(module).__name__ in (
        "MultiSpike",
        "LevelNeuron",
    )


def aligned(theirs: torch.Tensor, ours: torch.Tensor, *, tokens_first: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Both as (T, all the rest): theirs may hold tokens before channels, or merge T and the batch of one."""
    steps = ours.shape[0]
    if tokens_first and theirs.dim() == 4:
        theirs = theirs.transpose(2, 3)
    return theirs.reshape(steps, -1), ours.reshape(steps, -1)


def compare(case: Case, checkout: Path) -> None:
    """Compare one case, and print what was compared; stop at the first difference of names or shapes."""
    started = time.monotonic()
    torch.manual_seed(0)
    theirs = case.theirs(import_theirs(checkout / case.file)).double().eval()
    for module in theirs.modules():
        if hasattr(module, "backend"):
            module.backend = "torch"
    ours = case.ours().double().eval()
    shapes = [{name: tuple(each.shape) for name, each in model.state_dict().items()} for model in (theirs, ours)]
    if shapes[0] != shapes[1]:
        differing = sorted(shapes[0].items() ^ shapes[1].items())
        raise SystemExit(f"{case.name}: {len(differing)} names and shapes differ, such as {differing[:6]}")
    state = weights(theirs.state_dict())
    theirs.load_state_dict(state, strict=True)
    ours.load_state_dict(state, strict=True)
    recorded = record(theirs), record(ours)
    shape = (1, case.channels, case.size, case.size)
    if case.frames:
        shape = (case.timesteps, *shape)
    x = uniform(f"input of {case.name}", shape, 0.0, 1.5)
    with torch.no_grad():
        logits = theirs(x.transpose(0, 1) if case.frames else x.clone()), ours(x)
    old_functional.reset_net(theirs)
    new_functional.reset_net(ours)
    found = logits[0][0] if isinstance(logits[0], tuple) else logits[0]
    if recorded[0].keys() != recorded[1].keys():
        raise SystemExit(f"{case.name}: populations differ: {sorted(recorded[0].keys() ^ recorded[1].keys())}")
    wrong = compared = silent = 0
    for name, each in recorded[0].items():
        pair = aligned(each, recorded[1][name], tokens_first=case.tokens_first)
        wrong += int((pair[0] != pair[1]).sum())
        compared += pair[0].numel()
        silent += not bool(pair[0].any())
    difference = (found - logits[1]).abs().max().item()
    mean = torch.cat([each.flatten() for each in recorded[0].values()]).mean().item()
    found_equal = "equal" if difference == 0 else f"differ by {difference:.1e}"
    print(  # noqa: T201
        f"{case.name}: {len(shapes[0])} tensors equal in name and shape; {len(recorded[0])} populations ({silent} "
        f"silent, mean {mean:.3f}), {wrong:,} of {compared:,} values differ; logits {found_equal} (up to "
        f"{found.abs().max():.2f}); {time.monotonic() - started:.1f} s",
        flush=True,
    )
    if wrong or difference > 1e-12:
        raise SystemExit(f"{case.name}: theirs and ours differ")


def main() -> None:
    """Compare every case of a family."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("checkout", type=Path, help="a checkout of the authors' repository")
    parser.add_argument("cases", nargs="*", help="their names; all if none is given")
    arguments = parser.parse_args()
    prepare()
    for case in FAMILIES[arguments.family]():
        if not arguments.cases or case.name in arguments.cases:
            compare(case, arguments.checkout)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
