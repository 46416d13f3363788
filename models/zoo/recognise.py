"""Recognise the family and the architecture of a network from the names and shapes of its tensors.

Settings that no tensor tells, such as the number of heads, are taken from the authors' code; a sentence names each.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from resformer.errors import FileFormatError, UnsupportedError
from resformer.models.limits import quote
from resformer.models.weights import StateDict
from resformer.models.zoo import (
    maxformer,
    meta_spikeformer,
    qkformer,
    sdt,
    sdt_v3,
    sew_resnet,
    spikformer,
    spikingformer,
)
from resformer.models.zoo.names import FamilyName
from resformer.models.zoo.parts import Classifier, NeuronKind

ZooArchitecture = (
    spikformer.SpikformerArchitecture
    | spikingformer.SpikingformerArchitecture
    | qkformer.QKFormerArchitecture
    | sdt.SDTArchitecture
    | sew_resnet.SEWResNetArchitecture
    | meta_spikeformer.MetaSpikeFormerArchitecture
    | maxformer.MaxFormerArchitecture
    | sdt_v3.SDTV3Architecture
)

EVENT_CHANNELS = 2
"""Channels of event data: one for each polarity. Images have 1, 3 or 4."""

SMALLEST_BLOCK = 12
"""Tensors that a block of any family has at least: those of two convolutions without biases and two batch
normalisations."""

MOST_CIFAR_CLASSES = 100
"""Networks of more classes are taken for ImageNet's if nothing but the number of classes tells."""

LARGEST_SETTING = 2**16
"""The largest value of a numeric setting that a user or a file states, such as T."""

LONGEST_WORD = 16
"""The most characters of a setting in words that a user or a file states, such as where a stem pools."""

KINDS: Mapping[type, str] = MappingProxyType(
    {int: "a whole number", float: "a number", str: "a word", bool: "true or false"}
)
"""The types of settings, as messages call them."""


@dataclass(frozen=True)
class Recognition:
    """What is known of a network: what its tensors tell, and the settings that no tensor tells.

    Attributes:
        family: the network's family.
        architecture: what the tensors tell; fields that no tensor tells are as stated, else as the authors have them.
        untold: the architecture's fields that no tensor tells.
        timesteps: T, as stated, else as the authors train such a network.
        image_size: edge of the square input, in pixels, as stated, else as the authors train such a network.
        stated: those of ``untold``, ``timesteps`` and ``image_size`` that a user or a file stated.
    """

    family: FamilyName
    architecture: ZooArchitecture
    untold: tuple[str, ...]
    timesteps: int
    image_size: int
    stated: frozenset[str] = frozenset()

    @property
    def settings(self) -> dict[str, Any]:
        """The value of each setting that no tensor tells, by its name."""
        values = {name: getattr(self.architecture, name) for name in self.untold}
        return values | {"timesteps": self.timesteps, "image_size": self.image_size}

    @property
    def assumptions(self) -> tuple[str, ...]:
        """A sentence for each setting that nobody stated."""
        return tuple(
            f"{name.replace('_', ' ')}: {value}, as the authors have it (no tensor says so)"
            for name, value in self.settings.items()
            if name not in self.stated
        )

    def told(self, said: Mapping[str, object]) -> "Recognition":
        """Return the same recognition with settings that a user or a file states.

        Args:
            said: values by the names of ``settings``.

        Raises:
            UnsupportedError: a name is none of these, or its value is of another type, out of bounds, or does not fit
                the tensors.
        """
        title = FAMILIES[self.family].title
        known = self.settings
        for name in said:
            if name not in known:
                raise UnsupportedError(
                    f"{quote(name)}: what no tensor of a {title} tells is {', '.join(known)}; leave out the rest"
                )
        values = {name: _typed(name, value, type(known[name])) for name, value in said.items()}
        fields = {name: value for name, value in values.items() if name in self.untold}
        return replace(
            self,
            architecture=replace(self.architecture, **fields),
            timesteps=values.get("timesteps", self.timesteps),
            image_size=values.get("image_size", self.image_size),
            stated=self.stated | values.keys(),
        )


def _typed(name: str, value: object, kind: type) -> Any:
    """A setting's value, as ``kind``, if it is within the bounds for settings.

    Raises:
        UnsupportedError: the value is of another type, or out of bounds.
    """
    if kind is float and type(value) is int and abs(value) <= LARGEST_SETTING:
        value = float(value)
    if type(value) is not kind:
        raise UnsupportedError(f"{name} is {quote(value)}: must be {KINDS[kind]}")
    if isinstance(value, int | float) and not isinstance(value, bool):
        least = 1 if kind is int else 0
        if not least <= value <= LARGEST_SETTING:
            raise UnsupportedError(f"{name} is {quote(value)}: must be from {least} to {LARGEST_SETTING}")
    if isinstance(value, str) and len(value) > LONGEST_WORD:
        raise UnsupportedError(f"{name} is {quote(value)}: must have at most {LONGEST_WORD} characters")
    return value


def setting(text: str, kind: type) -> object:
    """Return the value of type ``kind`` that a text states, or the text itself if it states no such value."""
    words: Mapping[str, object] = {"true": True, "yes": True, "false": False, "no": False}
    try:
        return words[text] if kind is bool else kind(text)
    except (KeyError, ValueError):
        return text


class Tensors:
    """A state dict's names and shapes, read with errors that name what is missing."""

    def __init__(self, state: StateDict) -> None:
        self.state = state

    def __contains__(self, name: str) -> bool:
        return name in self.state

    def shape(self, name: str, axes: int) -> tuple[int, ...]:
        """Return the shape of a tensor, which must exist and have ``axes`` axes, none of length 0.

        Raises:
            FileFormatError: the tensor is missing, or has another shape.
        """
        if name not in self.state:
            raise FileFormatError(f"missing tensor {name}; save the whole model.state_dict()")
        shape = tuple(self.state[name].shape)
        if len(shape) != axes or 0 in shape:
            raise FileFormatError(f"{name} has shape {quote(str(shape))}, where {axes} axes of at least 1 are expected")
        return shape

    def depth(self, prefix: str) -> int:
        """Return how many modules a list holds, from the indices after its name, which count from 0 without a gap.

        Raises:
            FileFormatError: the list holds none, or one is missing or has too few tensors.
        """
        pattern = re.compile(re.escape(prefix) + r"\.(\d{1,4})\.")
        found = Counter(int(match[1]) for match in map(pattern.match, self.state) if match)
        # otherwise a few names could call for thousands of modules
        lacking = next(index for index in range(len(found) + 1) if found[index] < SMALLEST_BLOCK)
        if lacking < max(found, default=0) + 1:
            raise FileFormatError(
                f"{prefix}.{lacking} has {found[lacking]} tensors, where at least {SMALLEST_BLOCK} are expected; save "
                "the whole model.state_dict()"
            )
        return len(found)

    def ratio(self, name: str, axes: int) -> int:
        """Return the output channels of a widening layer divided by its input channels.

        Raises:
            UnsupportedError: the output channels are no multiple of the input channels.
        """
        wide, narrow, *_ = self.shape(name, axes)
        if wide % narrow:
            raise UnsupportedError(f"{name}: {wide} hidden channels are no multiple of {narrow}")
        return wide // narrow

    def outside(self, stem: str, head: str) -> tuple[int, int]:
        """Return the number of input channels and the number of classes, from the weights ``stem`` and ``head``."""
        return self.shape(stem, 4)[1], self.shape(head, 2)[0]


def heads(published: int, *widths: int) -> int:
    """Return the authors' number of heads, or the next lower one that divides all of ``widths``, stages' channels."""
    return next(count for count in range(published, 0, -1) if not any(width % count for width in widths))


def _spikformer(tensors: Tensors) -> spikformer.SpikformerArchitecture:
    in_channels, num_classes = tensors.outside("patch_embed.proj_conv.weight", "head.weight")
    embed_dims = tensors.shape("patch_embed.rpe_conv.weight", 4)[0]
    layout: spikformer.Layout = "imagenet"
    positions = 64
    widening = ("block.0.mlp.fc1_conv.weight", 4)
    if "block.0.mlp.fc1_linear.weight" in tensors:
        layout, widening = "cifar", ("block.0.mlp.fc1_linear.weight", 2)
    elif "pos_embed" in tensors:
        layout, widening, positions = "dvs", ("block.0.mlp.fc1_conv.weight", 3), tensors.shape("pos_embed", 3)[1]
    return spikformer.SpikformerArchitecture(
        embed_dims=embed_dims,
        depth=tensors.depth("block"),
        num_heads=heads(spikformer.LAYOUTS[layout].num_heads, embed_dims),
        mlp_ratio=tensors.ratio(*widening),
        in_channels=in_channels,
        num_classes=num_classes,
        layout=layout,
        positions=positions,
    )


def _spikingformer(tensors: Tensors) -> spikingformer.SpikingformerArchitecture:
    layout: spikingformer.Layout = "cifar" if "patch_embed.block0_conv.weight" in tensors else "imagenet"
    kinds = spikingformer.LAYOUTS[layout]
    first, last = (f"patch_embed.{unit.format('conv')}.weight" for unit in (kinds.units[0], kinds.units[-1]))
    in_channels, num_classes = tensors.outside(first, "head.weight")
    embed_dims = tensors.shape(last, 4)[0]
    event = in_channels == EVENT_CHANNELS
    return spikingformer.SpikingformerArchitecture(
        embed_dims=embed_dims,
        depth=tensors.depth("block"),
        num_heads=heads(16 if event else kinds.num_heads, embed_dims),
        mlp_ratio=tensors.ratio("block.0.mlp.mlp1_conv.weight", 4),
        in_channels=in_channels,
        num_classes=num_classes,
        layout=layout,
        tau=spikingformer.EVENT_TAU if event else 2.0,
    )


def _qkformer(tensors: Tensors) -> qkformer.QKFormerArchitecture:
    layout: qkformer.Layout = "cifar"
    if "patch_embed3.proj_res_conv.weight" not in tensors:
        layout = "dvs"
    elif "patch_embed1.proj2_conv.weight" in tensors:
        layout = "imagenet"
    kinds = qkformer.LAYOUTS[layout]
    in_channels, num_classes = tensors.outside("patch_embed1.proj_conv.weight", "head.weight")
    stages = kinds.token_stages + 1
    embed_dims = tensors.shape(f"patch_embed{stages}.proj_res_conv.weight", 4)[0]
    published = {"cifar": 8, "imagenet": embed_dims // 64, "dvs": 16}[layout]
    return qkformer.QKFormerArchitecture(
        embed_dims=embed_dims,
        depths=tuple(tensors.depth(f"stage{stage}") for stage in range(1, stages + 1)),
        num_heads=heads(max(1, published), tensors.shape("patch_embed1.proj_res_conv.weight", 4)[0]),
        mlp_ratio=tensors.ratio(f"stage1.0.mlp.{kinds.mlp}1_conv.weight", 4),
        in_channels=in_channels,
        num_classes=num_classes,
        layout=layout,
    )


def _sdt(tensors: Tensors) -> sdt.SDTArchitecture:
    in_channels, num_classes = tensors.outside("patch_embed.proj_conv.weight", "head.weight")
    pooling, pools_attention = ("1111" if num_classes > MOST_CIFAR_CLASSES else "0011"), False
    if in_channels == EVENT_CHANNELS:  # CIFAR10-DVS has 10 classes, DVS-Gesture 11
        pooling, pools_attention = ("0011", True) if num_classes == 10 else ("0111", False)
    neuron: NeuronKind = "PLIF" if "head_lif.w" in tensors else "LIF"
    return sdt.SDTArchitecture(
        embed_dims=tensors.shape("patch_embed.rpe_conv.weight", 4)[0],
        depth=tensors.depth("block"),
        num_heads=tensors.shape("block.0.attn.talking_heads.weight", 3)[0],
        mlp_ratio=tensors.ratio("block.0.mlp.fc1_conv.weight", 4),
        in_channels=in_channels,
        num_classes=num_classes,
        pooling=pooling,
        pools_attention=pools_attention,
        neuron=neuron,
    )


def _sew_resnet(tensors: Tensors) -> sew_resnet.SEWResNetArchitecture:
    in_channels, num_classes = tensors.outside("conv1.weight", "fc.weight")
    first, second, third, fourth = (tensors.depth(f"layer{stage}") for stage in range(1, 5))
    return sew_resnet.SEWResNetArchitecture(
        block="bottleneck" if "layer1.0.conv3.module.0.weight" in tensors else "basic",
        depths=(first, second, third, fourth),
        width=tensors.shape("conv1.weight", 4)[0],
        in_channels=in_channels,
        num_classes=num_classes,
    )


class _Frame(NamedTuple):
    """The fields of ``MetaArchitecture`` that tensors tell."""

    embed_dims: tuple[int, int, int, int]
    depths: tuple[int, int]
    in_channels: int
    num_classes: int


def _frame(tensors: Tensors) -> _Frame:
    in_channels, num_classes = tensors.outside("downsample1_1.encode_conv.weight", "head.weight")
    first, second, third, fourth = (
        tensors.shape(f"downsample{stage}.encode_conv.weight", 4)[0] for stage in ("1_2", "2", "3", "4")
    )
    return _Frame(
        (first, second, third, fourth), (tensors.depth("block3"), tensors.depth("block4")), in_channels, num_classes
    )


def _meta_spikeformer(tensors: Tensors) -> meta_spikeformer.MetaSpikeFormerArchitecture:
    frame = _frame(tensors)
    return meta_spikeformer.MetaSpikeFormerArchitecture(
        **frame._asdict(), num_heads=heads(8, *frame.embed_dims[2:]), distilled="head_kd.weight" in tensors
    )


def _sdt_v3(tensors: Tensors) -> sdt_v3.SDTV3Architecture:
    frame = _frame(tensors)
    return sdt_v3.SDTV3Architecture(**frame._asdict(), num_heads=heads(8, *frame.embed_dims[2:]))


def _maxformer(tensors: Tensors) -> maxformer.MaxFormerArchitecture:
    layout: maxformer.Layout = "imagenet"
    if "patch_embed1.proj_conv.weight" in tensors:
        layout = "cifar" if "patch_embed3.embed1.embed_conv.weight" in tensors else "event"
    stem = "patch_embed1.embed1.embed_conv.weight" if layout == "imagenet" else "patch_embed1.proj_conv.weight"
    in_channels, num_classes = tensors.outside(stem, "head.weight")
    stages = len(maxformer.LAYOUTS[layout].mixers)
    embed_dims = tensors.shape(f"patch_embed{stages}.embed1.embed_conv.weight", 4)[0]
    published = {"cifar": 8, "imagenet": embed_dims // 64, "event": 16}[layout]
    return maxformer.MaxFormerArchitecture(
        embed_dims=embed_dims,
        depths=tuple(tensors.depth(f"stage{stage}") for stage in range(1, stages + 1)),
        num_heads=heads(max(1, published), embed_dims),
        mlp_ratio=tensors.ratio("stage1.0.mlp.fc1_conv.weight", 4),
        in_channels=in_channels,
        num_classes=num_classes,
        layout=layout,
    )


class Family(NamedTuple):
    """One family of networks.

    Attributes:
        title: its authors' name for it.
        marks: names of tensors; a network of the family has at least one of each inner tuple.
        lacks: names of tensors that tell similar families from this one, which has none of them.
        kind: the class of its architectures.
        read: makes the architecture from tensors.
        network: makes the network from an architecture.
        untold: fields of the architecture that no tensor tells.
    """

    title: str
    marks: tuple[tuple[str, ...], ...]
    lacks: tuple[str, ...]
    kind: type[ZooArchitecture]
    read: Callable[[Tensors], ZooArchitecture]
    network: Callable[..., Classifier]
    untold: tuple[str, ...]


FAMILIES: Mapping[FamilyName, Family] = MappingProxyType(
    {
        "spikformer": Family(
            "Spikformer",
            (("patch_embed.rpe_conv.weight",), ("block.0.mlp.fc1_linear.weight", "block.0.mlp.fc1_conv.weight")),
            ("block.0.attn.talking_heads.weight",),
            spikformer.SpikformerArchitecture,
            _spikformer,
            spikformer.Spikformer,
            ("num_heads", "pooling"),
        ),
        "spikingformer": Family(
            "Spikingformer",
            (("patch_embed.block0_conv.weight", "patch_embed.proj4_conv.weight"), ("block.0.mlp.mlp1_conv.weight",)),
            (),
            spikingformer.SpikingformerArchitecture,
            _spikingformer,
            spikingformer.Spikingformer,
            ("num_heads", "pooling", "tau"),
        ),
        "qkformer": Family(
            "QKFormer",
            (("patch_embed1.proj_res_conv.weight",), ("stage1.0.tssa.q_conv.weight",)),
            (),
            qkformer.QKFormerArchitecture,
            _qkformer,
            qkformer.QKFormer,
            ("num_heads",),
        ),
        "sdt": Family(
            "Spike-driven Transformer",
            (("patch_embed.rpe_conv.weight",), ("block.0.attn.talking_heads.weight",)),
            (),
            sdt.SDTArchitecture,
            _sdt,
            sdt.SpikeDrivenTransformer,
            ("pooling", "pools_attention"),
        ),
        "sew_resnet": Family(
            "SEW-ResNet",
            (("conv1.weight",), ("layer1.0.conv1.module.0.weight", "layer1.0.conv1.0.weight")),
            (),
            sew_resnet.SEWResNetArchitecture,
            _sew_resnet,
            sew_resnet.SEWResNet,
            ("connect",),
        ),
        "meta_spikeformer": Family(
            "Meta-SpikeFormer",
            (("downsample1_1.encode_conv.weight",), ("block3.0.attn.q_conv.0.body.0.weight",)),
            (),
            meta_spikeformer.MetaSpikeFormerArchitecture,
            _meta_spikeformer,
            meta_spikeformer.MetaSpikeFormer,
            ("num_heads",),
        ),
        "maxformer": Family(
            "Max-Former",
            (("patch_embed2.max_embed1.embed_conv.weight",), ("stage1.0.mlp.fc1_conv.weight",)),
            (),
            maxformer.MaxFormerArchitecture,
            _maxformer,
            maxformer.MaxFormer,
            ("num_heads",),
        ),
        "sdt_v3": Family(
            "Spike-driven Transformer v3",
            (("downsample1_1.encode_conv.weight",), ("block3.0.conv.pwconv1.0.weight",)),
            (),
            sdt_v3.SDTV3Architecture,
            _sdt_v3,
            sdt_v3.SpikeDrivenTransformerV3,
            ("num_heads", "levels"),
        ),
    }
)
"""All families, each with the tensors by which it is recognised."""


STEMS = tuple(dict.fromkeys(mark for family in FAMILIES.values() for mark in family.marks[0]))
"""Names of tensors by which a network's weights are found in a file; each family has at least one of them."""

CONTAINER = re.compile(r"(layer[1-4]\.\d{1,4}\.(?:conv[1-3]|downsample\.0))\.(?=[01]\.)")
"""The part of a SEW-ResNet's names before the index of a layer in a container, where ``module`` is missing."""


def canonical(state: StateDict) -> StateDict:
    """Return a state dict under its family's own names.

    The names of a SEW-ResNet's containers contain ``module``. Removing the names of wrappers removes it too, and
    SpikingJelly has left it out since 0.0.0.0.14.
    """
    if "layer1.0.conv1.0.weight" not in state:
        return state
    return {CONTAINER.sub(r"\1.module.", name): tensor for name, tensor in state.items()}


def family_of(state: StateDict) -> FamilyName | None:
    """Return the family whose marks a state dict has; None if it has those of no family."""
    for name, family in FAMILIES.items():
        if all(any(mark in state for mark in marks) for marks in family.marks) and not any(
            mark in state for mark in family.lacks
        ):
            return name
    return None


def recognise(state: StateDict) -> Recognition:
    """Return the family and architecture of a state dict, after a check that every name and shape is that network's.

    Raises:
        FileFormatError: where the state dict is of no family, or a tensor is missing, foreign, or of another shape than
            the other tensors call for.
        UnsupportedError: where no network that the family's architecture describes has such shapes.
    """
    state = canonical(state)
    name = family_of(state)
    if name is None:
        titles = ", ".join(family.title for family in FAMILIES.values())
        some = ", ".join(quote(each) for each in list(state)[:3])
        raise FileFormatError(
            f"none of {len(state)} tensors' names, such as {some or 'none'}, tells a family: known are {titles}, under "
            "the names of their authors' code; compile the module in memory instead"
        )
    family = FAMILIES[name]
    architecture = family.read(Tensors(state))
    _check_shapes(state, architecture, family)
    timesteps, image_size = _presented(name, architecture)
    return Recognition(name, architecture, family.untold, timesteps, image_size)


def build(architecture: ZooArchitecture, *, timesteps: int) -> Classifier:
    """Return the network that an architecture describes, with new weights.

    Args:
        architecture: the architecture of a network of any family.
        timesteps: T, how often an image is presented.

    Raises:
        UnsupportedError: where T is less than 1, or no family has such an architecture.
    """
    for family in FAMILIES.values():
        if type(architecture) is family.kind:
            return family.network(architecture, timesteps=timesteps)
    raise UnsupportedError(f"a {type(architecture).__name__} is no architecture of the zoo's families")


def _presented(name: FamilyName, architecture: ZooArchitecture) -> tuple[int, int]:
    """T and the edge of an image, in pixels, with which the authors train such a network."""
    if architecture.in_channels == EVENT_CHANNELS:
        if isinstance(architecture, sdt.SDTArchitecture):
            return (10, 64) if architecture.pools_attention else (16, 128)
        return 16, 128
    layout = getattr(architecture, "layout", None)
    small = layout == "cifar" if layout else architecture.num_classes <= MOST_CIFAR_CLASSES and name == "sdt"
    return (1 if name == "sdt_v3" else 4), 32 if small else 224


def _check_shapes(state: StateDict, architecture: ZooArchitecture, family: Family) -> None:
    """Compare names and shapes with those of the network that the architecture describes."""
    with torch.device("meta"):
        model = build(architecture, timesteps=1)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for what, names in (
        (f"are missing from a {family.title}'s", [name for name in expected if name not in state]),
        (f"are no {family.title}'s", [name for name in state if name not in expected]),
    ):
        if names:
            raise FileFormatError(
                f"{len(names)} tensors {what}, such as {', '.join(map(quote, names[:3]))}; save the whole state dict "
                f"of an unchanged {family.title}"
            )
    for name, shape in expected.items():
        if tuple(state[name].shape) != shape:
            raise FileFormatError(
                f"{name} has shape {quote(str(tuple(state[name].shape)))}, but the other tensors call for {shape}; "
                "save the whole state dict of one model"
            )
