"""A SpikingResformer's architecture, inferred from the names and shapes of its tensors."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import torch

from resformer.errors import FileFormatError, UnsupportedError
from resformer.models.layers import NeuronKind
from resformer.models.limits import quote
from resformer.models.spikingresformer import (
    Architecture,
    BlockKind,
    SpikingResformer,
    StemKind,
    smallest_image_size,
)
from resformer.models.weights import StateDict
from resformer.models.zoo.recognise import FAMILIES, family_of

ModuleKind = Literal["DSSA", "GWFFN", "Downsample"]

MARKERS: Mapping[ModuleKind, str] = MappingProxyType(
    {"DSSA": "W.weight", "GWFFN": "up.1.weight", "Downsample": "conv.weight"}
)
"""The tensor by which each kind of module in a stage is recognised."""


def infer_architecture(state: StateDict) -> Architecture:
    """Return the architecture that the shapes of a SpikingResformer's tensors imply.

    Raises:
        FileFormatError: where a tensor that tells the architecture is missing or has an impossible shape.
        UnsupportedError: where the network is of another family, the blocks of one stage differ, or modules stand in
            another order than a SpikingResformer's.
    """
    if (family := family_of(state)) is not None:
        raise UnsupportedError(
            f"this is no SpikingResformer but a {FAMILIES[family].title}; read it with load_zoo_checkpoint of "
            "resformer.models.zoo.checkpoint, or compile it, for which it needs no more than its path"
        )
    if "prologue.0.weight" not in state:
        foreign = [name for name in state if not name.startswith(("prologue.", "layers.", "classifier."))]
        raise FileFormatError(
            f"no tensor prologue.0.weight, so this is not a SpikingResformer: expected names like prologue.0.weight, "
            f"layers.0.0.W.weight and classifier.weight, but {len(foreign)} of {len(state)} names are foreign"
            + (f", such as {_some(foreign)}" if foreign else "")
            + f"; nor does it bear the marks of another family ({', '.join(each.title for each in FAMILIES.values())})"
        )
    first_planes, in_channels, stem_edge, _ = _shape(state, "prologue.0.weight", axes=4)
    stems: dict[int, StemKind] = {7: "imagenet", 3: "conv3x3"}
    if stem_edge not in stems:
        raise UnsupportedError(
            f"prologue.0.weight is a {stem_edge}x{stem_edge} convolution: a SpikingResformer's stem is 7x7 or 3x3"
        )
    num_classes, _ = _shape(state, "classifier.weight", axes=2)

    planes: list[int] = []
    blocks: list[tuple[BlockKind, ...]] = []
    fields: dict[str, list[int]] = {
        name: [] for name in ("num_heads", "patch_sizes", "ffn_ratios", "ffn_convs", "group_sizes")
    }
    for stage, modules in enumerate(_stages(state)):
        if stage > 0:
            planes.append(_shape(state, f"layers.{stage}.0.conv.weight", axes=4)[0])
        else:
            planes.append(first_planes)
        blocks.append(tuple(kind for kind in modules.values() if kind != "Downsample"))
        found: dict[str, int] = {}
        for name, kind in modules.items():
            for field, value in _measure(state, name, kind).items():
                if found.setdefault(field, value) != value:
                    raise UnsupportedError(
                        f"{name}: {field} is {value}, but {found[field]} in an earlier block of stage {stage}; "
                        "all blocks of a stage must be alike"
                    )
        for field, values in fields.items():
            values.append(found.get(field, 1))
    neuron: NeuronKind = "PLIF" if any(name.endswith(".w") for name in state) else "LIF"
    return Architecture(
        planes=tuple(planes),
        blocks=tuple(blocks),
        num_heads=tuple(fields["num_heads"]),
        patch_sizes=tuple(fields["patch_sizes"]),
        ffn_ratios=tuple(fields["ffn_ratios"]),
        ffn_convs=tuple(fields["ffn_convs"]),
        group_sizes=tuple(fields["group_sizes"]),
        in_channels=in_channels,
        num_classes=num_classes,
        stem=stems[stem_edge],
        neuron=neuron,
    )


def _stages(state: StateDict) -> list[dict[str, ModuleKind]]:
    """Return the modules of each stage in order, as a mapping from names, such as ``layers.1.0``, to kinds."""
    parts: dict[int, dict[int, set[str]]] = {}
    for name in state:
        if match := re.fullmatch(r"layers\.(\d{1,4})\.(\d{1,4})\.(.+)", name):
            parts.setdefault(int(match[1]), {}).setdefault(int(match[2]), set()).add(match[3])
    stages: list[dict[str, ModuleKind]] = []
    for stage in range(1 + max(parts, default=0)):
        modules: dict[str, ModuleKind] = {}
        for index in range(1 + max(parts.get(stage, {}), default=0)):
            name = f"layers.{stage}.{index}"
            tensors = parts.get(stage, {}).get(index, set())
            kinds = [kind for kind, marker in MARKERS.items() if marker in tensors]
            if not kinds:
                markers = " or ".join(f"{name}.{marker} ({kind})" for kind, marker in MARKERS.items())
                raise FileFormatError(f"missing tensor: expected {markers}; save the whole model.state_dict()")
            if (kinds[0] == "Downsample") != (stage > 0 and index == 0):
                raise UnsupportedError(
                    f"{name} is a {kinds[0]}: each stage but the first begins with a Downsample, and has no other"
                )
            modules[name] = kinds[0]
        stages.append(modules)
    return stages


def _measure(state: StateDict, name: str, kind: ModuleKind) -> dict[str, int]:
    """Return the fields of ``Architecture`` that one module's tensors tell."""
    if kind == "DSSA":
        return {
            "num_heads": _shape(state, f"{name}.firing_rate_x", axes=5)[2],
            "patch_sizes": _shape(state, f"{name}.W.weight", axes=4)[2],
        }
    if kind == "GWFFN":
        inner, outer, *_ = _shape(state, f"{name}.up.1.weight", axes=4)
        if inner % outer:
            raise UnsupportedError(f"{name}.up.1.weight: {inner} inner channels are no multiple of {outer}")
        convs = {int(m[1]) for m in (re.match(re.escape(name) + r"\.conv\.(\d{1,4})\.", key) for key in state) if m}
        if len(convs) <= max(convs, default=0):  # otherwise one name could call for thousands of modules
            lacking = next(index for index in range(len(convs) + 1) if index not in convs)
            raise FileFormatError(f"missing tensor {name}.conv.{lacking}.1.weight; save the whole model.state_dict()")
        return {
            "ffn_ratios": inner // outer,
            "ffn_convs": len(convs),
            "group_sizes": _shape(state, f"{name}.conv.0.1.weight", axes=4)[1],
        }
    return {}


def _shape(state: StateDict, name: str, *, axes: int) -> tuple[int, ...]:
    """Return the shape of a tensor, which must exist and have ``axes`` axes, none of length 0."""
    if name not in state:
        raise FileFormatError(f"missing tensor {name}; save the whole model.state_dict()")
    shape = tuple(state[name].shape)
    if len(shape) != axes or 0 in shape:
        raise FileFormatError(f"{name} has shape {quote(str(shape))}, where {axes} axes of at least 1 are expected")
    return shape


def check_shapes(state: StateDict, architecture: Architecture) -> None:
    """Compare names and shapes with those of the network that the architecture describes."""
    with torch.device("meta"):
        model = SpikingResformer(architecture, timesteps=1, image_size=smallest_image_size(architecture))
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    missing = [name for name in expected if name not in state]
    if missing:
        raise FileFormatError(
            f"{len(missing)} of {len(expected)} tensors are missing, such as {_some(missing)}; "
            "save the whole model.state_dict()"
        )
    foreign = [name for name in state if name not in expected]
    if foreign:
        raise FileFormatError(
            f"{len(foreign)} of {len(state)} tensors are no SpikingResformer's, such as {_some(foreign)}; "
            "remove them, or save the state dict of an unchanged SpikingResformer"
        )
    for name, shape in expected.items():
        if tuple(state[name].shape) != shape:
            raise FileFormatError(
                f"{name} has shape {quote(str(tuple(state[name].shape)))}, but the other tensors call for {shape}; "
                "save the whole state dict of one model"
            )


def _some(names: list[str]) -> str:
    """Return the first few names, and dots for the rest."""
    return ", ".join(map(quote, names[:3])) + (", …" if len(names) > 3 else "")
