"""Checkpoint files: read one safely, learn the architecture from its tensors, build the network, write one.

Every error here is one line that names the file, the tensor, what is wrong with it and what to do.
"""

import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from resformer.errors import FileFormatError, ResformerError, UnsupportedError
from resformer.models.layers import NeuronKind
from resformer.models.spikingresformer import (
    Architecture,
    BlockKind,
    SpikingResformer,
    StemKind,
    smallest_image_size,
)

SourceFormat = Literal["authors", "state dict", "safetensors"]

StateDict = Mapping[str, torch.Tensor]

RESAVE = "load it with the code that made it, and save torch.save(model.state_dict(), 'weights.pt')"

ModuleKind = Literal["DSSA", "GWFFN", "Downsample"]

MARKERS: Mapping[ModuleKind, str] = MappingProxyType(
    {"DSSA": "W.weight", "GWFFN": "up.1.weight", "Downsample": "conv.weight"}
)
"""The one tensor by which each module of a stage is told from the others."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A SpikingResformer's tensors, complete and finite, and what they say about the network.

    Attributes:
        path: the file that they came from.
        state: every parameter and buffer by name, in the file's own types, on the CPU.
        architecture: what the tensors' shapes tell.
        source_format: how the file was laid out.
        timesteps: T, which no tensor tells: what the file says, or ``default_timesteps``.
        image_size: edge of the square input, in pixels, likewise.
        quantization: the plan by which the network was fine-tuned, as text that the compiler reads; None of others.
    """

    path: Path
    state: StateDict
    architecture: Architecture
    source_format: SourceFormat
    timesteps: int
    image_size: int
    quantization: str | None = None


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint without running any code from it.

    The file may be the authors' (``{"model": state_dict, "optimizer": …}``), a state dict alone, either of them saved
    from ``DistributedDataParallel`` (names begin with ``module.``), or safetensors. What is stored decides, not the
    file's name.

    Raises:
        FileFormatError: where the file cannot be read, is no SpikingResformer's, lacks a tensor, or holds one of the
            wrong shape, type or values.
        UnsupportedError: where it is a SpikingResformer of a kind that ``Architecture`` does not describe.
    """
    path = Path(path)
    try:
        content, source_format = _read(path)
        notes: Mapping[object, object] = {}
        if source_format == "state dict" and isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
            notes, content, source_format = content, content["model"], "authors"
        state = _state_dict(content)
        architecture = infer_architecture(state)
        _check_shapes(state, architecture)
        _check_values(state)
        timesteps = _note(notes, "timesteps", default_timesteps(architecture))
        image_size = _note(notes, "image_size", default_image_size(architecture))
        quantization = notes.get("quantization")
        if quantization is not None and not isinstance(quantization, str):
            raise FileFormatError(
                f"'quantization' is a {type(quantization).__name__}: must be the text that fine-tuning wrote; "
                "save it again without that entry"
            )
    except ResformerError as error:
        raise type(error)(f"{path}: {error}") from error
    return Checkpoint(
        path=path,
        state=MappingProxyType(state),
        architecture=architecture,
        source_format=source_format,
        timesteps=timesteps,
        image_size=image_size,
        quantization=quantization,
    )


def save_checkpoint(model: SpikingResformer, path: str | Path) -> None:
    """Write the model as the authors do, ``{"model": state_dict}``, with T and the size beside."""
    content = {"model": model.state_dict(), "timesteps": model.timesteps, "image_size": model.image_size}
    torch.save(content, path)


def build_model(
    checkpoint: Checkpoint,
    *,
    timesteps: int | None = None,
    image_size: int | None = None,
    dtype: torch.dtype = torch.float64,
) -> SpikingResformer:
    """Return the checkpoint's network in eval mode, on the CPU.

    Args:
        checkpoint: what ``load_checkpoint`` returned.
        timesteps: T; the checkpoint's if not given.
        image_size: edge of the square input, in pixels; the checkpoint's if not given.
        dtype: the type of every floating-point tensor. Spikes are compared in float64.

    Raises:
        UnsupportedError: where the image size does not give every stage whole patches.
    """
    model = SpikingResformer(
        checkpoint.architecture,
        timesteps=checkpoint.timesteps if timesteps is None else timesteps,
        image_size=checkpoint.image_size if image_size is None else image_size,
    ).to(dtype)
    model.load_state_dict(dict(checkpoint.state), strict=True)
    return model.eval()


def default_timesteps(architecture: Architecture) -> int:
    """Return the T that the authors train such a network with: 16 for PLIF (DVS-Gesture), else 4 (``configs/``)."""
    return 16 if architecture.neuron == "PLIF" else 4


def default_image_size(architecture: Architecture) -> int:
    """Return the image edge, in pixels, that the authors train such a network with (``configs/``).

    It is 224 for the ImageNet stem, 64 for PLIF (DVS-Gesture), else 32 (CIFAR). Networks that they transfer from
    ImageNet to other data keep its stem and see 128: nothing in the tensors tells.
    """
    if architecture.stem == "imagenet":
        return 224
    return 64 if architecture.neuron == "PLIF" else 32


def check_rates(state: StateDict) -> None:
    """Refuse firing rates that are not positive: DSSA divides by their square roots.

    Loading does not check this, as a network that has never trained holds zeros.

    Raises:
        UnsupportedError: names the first buffer and head.
    """
    for name, tensor in state.items():
        if not name.endswith((".firing_rate_x", ".firing_rate_attn")):
            continue
        for head, rate in enumerate(tensor.flatten().tolist()):
            if not rate > 0:
                raise UnsupportedError(
                    f"{name}: head {head} has the firing rate {rate:g}, and DSSA divides by its square root; "
                    "train the network until every head fires"
                )


def infer_architecture(state: StateDict) -> Architecture:
    """Return the architecture that the shapes of a SpikingResformer's tensors imply.

    Raises:
        FileFormatError: where a tensor that tells it is missing or has an impossible shape.
        UnsupportedError: where the blocks of one stage differ, or stand in another order than a SpikingResformer's.
    """
    if "prologue.0.weight" not in state:
        foreign = [name for name in state if not name.startswith(("prologue.", "layers.", "classifier."))]
        raise FileFormatError(
            f"no tensor prologue.0.weight, so this is not a SpikingResformer: expected names like prologue.0.weight, "
            f"layers.0.0.W.weight and classifier.weight, but {len(foreign)} of {len(state)} names are foreign"
            + (f", such as {_some(foreign)}" if foreign else "")
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


def _read(path: Path) -> tuple[object, SourceFormat]:
    """Return a file's content, unpickled without running code, and its outer format."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
        size = path.stat().st_size
    except FileNotFoundError:
        raise FileFormatError("no such file") from None
    except IsADirectoryError:
        raise FileFormatError("is a directory; name the checkpoint file inside it") from None
    except OSError as error:
        raise FileFormatError(f"cannot be read: {error.strerror}") from error
    # safetensors begins with the length of a JSON object, in 8 bytes, and then that object.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < size:
        try:
            return load_file(path, device="cpu"), "safetensors"
        except (SafetensorError, OSError) as error:
            raise FileFormatError(f"damaged safetensors file ({_brief(error)}); copy or save it again") from error
    if not head.startswith((b"PK", b"\x80")):
        raise FileFormatError(
            f"not a checkpoint: it begins with {head!r}, where a PyTorch file begins with b'PK' or b'\\x80'; "
            "was it downloaded completely, and is it the right file?"
        )
    try:
        # An open file, as newer versions of torch.load look at the ending of a path.
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")  # what PyTorch warns of here, the errors below say
            return torch.load(file, weights_only=True, map_location="cpu"), "state dict"
    except pickle.UnpicklingError as error:
        called = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"loading it would execute code ({called[1]})" if called else "it is damaged, or would execute code"
        raise FileFormatError(f"refused: {what}, which tensors do not need; if you trust it, {RESAVE}") from error
    except Exception as error:  # a damaged pickle can raise anything: KeyError, EOFError, struct.error …
        raise FileFormatError(
            f"truncated or damaged, or no PyTorch checkpoint ({_brief(error)}); copy it again, or {RESAVE}"
        ) from error


def _note(notes: Mapping[object, object], name: str, default: int) -> int:
    """Return a positive integer that a file may hold beside its state dict."""
    value = notes.get(name, default)
    if not isinstance(value, int) or value < 1:
        raise FileFormatError(f"{name!r} is {value!r}: must be a positive integer; save it again without that entry")
    return value


def _state_dict(content: object) -> dict[str, torch.Tensor]:
    """Return the tensors of a state dict by the names that they have without ``DistributedDataParallel``."""
    if not isinstance(content, Mapping):
        raise FileFormatError(f"holds no state dict but a value of type {type(content).__name__}; {RESAVE}")
    state: dict[str, torch.Tensor] = {}
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise FileFormatError(
                f"expected a state dict, alone or as 'model', but {name!r} is no tensor ({type(value).__name__}); "
                f"{RESAVE}"
            )
        state[name] = value
    if not state:
        raise FileFormatError(f"the state dict is empty; {RESAVE}")
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    # PyTorch itself fills in this counter, which old files lack and inference does not read.
    for name in [name for name in state if name.endswith(".running_var")]:
        state.setdefault(name.replace("running_var", "num_batches_tracked"), torch.tensor(0))
    return state


def _stages(state: StateDict) -> list[dict[str, ModuleKind]]:
    """Return the modules of each stage in order: their names, such as ``layers.1.0``, to their kinds."""
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
        convs = [int(m[1]) for m in (re.match(re.escape(name) + r"\.conv\.(\d{1,4})\.", key) for key in state) if m]
        return {
            "ffn_ratios": inner // outer,
            "ffn_convs": 1 + max(convs, default=0),
            "group_sizes": _shape(state, f"{name}.conv.0.1.weight", axes=4)[1],
        }
    return {}


def _shape(state: StateDict, name: str, *, axes: int) -> tuple[int, ...]:
    """Return the shape of a tensor that must be there with so many axes, none of them empty."""
    if name not in state:
        raise FileFormatError(f"missing tensor {name}; save the whole model.state_dict()")
    shape = tuple(state[name].shape)
    if len(shape) != axes or 0 in shape:
        raise FileFormatError(f"{name} has shape {shape}, where {axes} axes of at least 1 are expected")
    return shape


def _check_shapes(state: StateDict, architecture: Architecture) -> None:
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
                f"{name} has shape {tuple(state[name].shape)}, but the other tensors call for {shape}; "
                "save the whole state dict of one model"
            )


def _check_values(state: StateDict) -> None:
    """Refuse tensors of integers, values that are not finite, and variances that are negative."""
    for name, tensor in state.items():
        if name.endswith(".num_batches_tracked"):
            continue
        if not tensor.is_floating_point():
            raise FileFormatError(f"{name} holds {tensor.dtype}: expected floating point; save the unquantized network")
        finite = tensor.abs() <= torch.finfo(torch.float32).max  # of 64 bits, too, in which larger ones would overflow
        if not finite.all():
            raise FileFormatError(
                f"{name} holds {int((~finite).sum())} NaN or infinite values of {tensor.numel()}: training diverged; "
                "use an earlier checkpoint"
            )
        if name.endswith(".running_var") and (tensor < 0).any():
            channel = int(tensor.argmin())
            raise FileFormatError(
                f"{name}: channel {channel} has the variance {tensor[channel].item():g}, which cannot be negative; "
                "use an undamaged checkpoint"
            )


def _some(names: list[str]) -> str:
    """Return the first few names, and dots for the rest."""
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _brief(error: Exception) -> str:
    """Return an error's kind and the beginning of its text: PyTorch's errors go on for many lines."""
    text = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {text[:80]}{'…' if len(text) > 80 else ''}".removesuffix(": ")
