"""Checkpoint files: read one safely, learn the architecture from its tensors, build the network, write one.

The parts are ``limits`` (what a file may cost), ``gate`` and ``reading`` (a file's content, without running code),
``weights`` (which tensors are the network's), ``infer`` (the architecture), and this module, which joins them. Every
error is one line that names the file, the tensor, what is wrong with it and what to do.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

import torch

from resformer.errors import FileFormatError, UnsupportedError
from resformer.models.boundary import checkpoint_boundary
from resformer.models.infer import check_shapes, infer_architecture
from resformer.models.layers import NeuronKind
from resformer.models.limits import quote
from resformer.models.reading import read
from resformer.models.spikingresformer import Architecture, Rounding, SpikingResformer
from resformer.models.weights import TOP_LEVEL, StateDict, check_values, find_weights, note_half_precision

__all__ = [
    "SETTINGS",
    "Checkpoint",
    "build_model",
    "check_rates",
    "default_image_size",
    "default_timesteps",
    "infer_architecture",
    "load_checkpoint",
    "save_checkpoint",
    "settings",
]

SourceFormat = Literal["authors", "state dict", "safetensors"]

SETTINGS = "resformer"
"""The key under which a file holds what ``settings`` returns, beside the weights."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A SpikingResformer's tensors, complete and finite, and what they say about the network.

    Attributes:
        path: the file that they came from.
        state: every parameter and buffer by name, in the file's own types, on the CPU.
        architecture: what the tensors' shapes tell; what they do not tell is as the file says, else as the authors have
            it.
        source_format: how the file was laid out.
        timesteps: T, which no tensor tells: what the file says, or ``default_timesteps``.
        image_size: edge of the square input, in pixels: what the file says, or ``default_image_size``.
        quantization: the plan by which the network was fine-tuned, as text that the compiler reads; None if the network
            was not fine-tuned.
        feature_rounding: how DSSA's patches are counted (``patch_counts``); None if the file does not say.
        weights_key: the key of the file under which the weights were, such as ``model``.
        notes: what was chosen or ignored, and what the user should know about the file, a sentence each.
        stated: the arguments of ``build_model`` that the file itself states.
    """

    path: Path
    state: StateDict
    architecture: Architecture
    source_format: SourceFormat
    timesteps: int
    image_size: int
    quantization: str | None = None
    feature_rounding: Rounding | None = None
    weights_key: str = "model"
    notes: tuple[str, ...] = ()
    stated: frozenset[str] = frozenset()

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What ``build_model`` assumes if it is called without further arguments, a sentence each."""
        return _assumptions(self.architecture, self.timesteps, self.image_size, self.stated)


def load_checkpoint(path: str | Path, *, weights_key: str | None = None) -> Checkpoint:
    """Read a checkpoint without running any code from it.

    The file may be the authors' (``{"model": state_dict, "optimizer": …}``), a state dict alone or under another of the
    usual keys (``resformer.models.weights.KEYS``), or safetensors. Names of tensors may contain the parts that
    ``DistributedDataParallel``, averaged models and ``torch.compile`` add. The format is recognised by the file's
    content, not by its name. If the file holds several networks, ``Checkpoint.notes`` says which one was read.

    Args:
        path: the file.
        weights_key: the key of the weights to read, such as ``model_ema`` or ``ema.module``; None: the first in the
            order of ``KEYS``.

    Raises:
        FileFormatError: where the file cannot be read, is no SpikingResformer's, lacks a tensor, or holds one of the
            wrong shape, type or values.
        UnsupportedError: where it is a SpikingResformer of a kind that ``Architecture`` does not describe.
    """
    path = Path(path)
    with checkpoint_boundary(path):
        return _load(path, weights_key)


def _load(path: Path, weights_key: str | None) -> Checkpoint:
    content, stored = read(path)
    weights = find_weights(content, weights_key)
    state = weights.state
    notes = _beside(content, weights.key)
    architecture = infer_architecture(state)
    check_shapes(state, architecture)
    check_values(state)
    untold = _untold(notes.get(SETTINGS), architecture)
    rounding = untold.pop("feature_rounding", None)
    stated = {name for name in ("timesteps", "image_size") if name in notes} | untold.keys()
    architecture = dataclasses.replace(architecture, **untold)
    quantization = notes.get("quantization")
    if quantization is not None and not isinstance(quantization, str):
        raise FileFormatError(
            f"'quantization' is a {type(quantization).__name__}: must be the text that fine-tuning wrote; "
            "save it again without that entry"
        )
    source_format: SourceFormat = "authors" if weights.key == "model" else "state dict"
    return Checkpoint(
        path=path,
        state=MappingProxyType(state),
        architecture=architecture,
        source_format="safetensors" if stored == "safetensors" else source_format,
        timesteps=_note(notes, "timesteps", default_timesteps(architecture)),
        image_size=_note(notes, "image_size", default_image_size(architecture)),
        quantization=quantization,
        feature_rounding=rounding,
        weights_key=weights.key,
        # a fine-tuned network's weights have few bits, which floats of 16 bits hold exactly
        notes=weights.notes + (note_half_precision(state) if quantization is None else ()),
        stated=frozenset(stated | ({"feature_rounding"} if rounding else set())),
    )


def _beside(content: object, key: str) -> Mapping[object, object]:
    """The entries beside the weights, where settings lie: of all mappings that lead to them, the innermost first."""
    found: dict[object, object] = {}
    for part in () if key == TOP_LEVEL else key.split("."):
        if not isinstance(content, Mapping) or part not in content:
            break
        found |= content
        content = content[part]
    return found


def settings(model: SpikingResformer) -> dict[str, object]:
    """Return what no tensor tells of a network, as plain data; ``load_checkpoint`` reads it under ``SETTINGS``."""
    stem = model.architecture.stem_layout
    known: dict[str, object] = {
        "neuron": model.architecture.neuron,
        "stem_stride": stem.stride,
        "stem_pool": stem.pool,
    }
    return known if model.feature_rounding is None else known | {"feature_rounding": model.feature_rounding}


def save_checkpoint(model: SpikingResformer, path: str | Path) -> None:
    """Write the model as the authors do, ``{"model": state_dict}``, with T, the image size and ``settings`` added."""
    content = {
        "model": model.state_dict(),
        "timesteps": model.timesteps,
        "image_size": model.image_size,
        SETTINGS: settings(model),
    }
    torch.save(content, path)


def build_model(
    checkpoint: Checkpoint,
    *,
    timesteps: int | None = None,
    image_size: int | None = None,
    neuron: NeuronKind | None = None,
    stem_stride: int | None = None,
    stem_pool: bool | None = None,
    feature_rounding: Rounding | None = None,
    dtype: torch.dtype = torch.float64,
) -> SpikingResformer:
    """Return the checkpoint's network in eval mode, on the CPU; its ``assumptions`` name choices that nobody stated.

    Args:
        checkpoint: what ``load_checkpoint`` returned.
        timesteps: T; the checkpoint's if not given.
        image_size: edge of the square input, in pixels; the checkpoint's if not given.
        neuron: the neuron of every population. If not given: what the file says, else PLIF if the tensors include a
            PLIF's parameter, and LIF with tau 2 if they do not.
        stem_stride: stride of the stem's convolution. If not given: what the file says, else 2 for a 7x7 convolution
            and 1 for 3x3.
        stem_pool: whether a max-pool follows the stem's convolution. If not given: what the file says, else only for a
            7x7 convolution.
        feature_rounding: how DSSA's patches are counted where sizes are odd (``patch_counts``). If not given: what the
            file says. If the file does not say it either, image sizes at which it matters are refused.
        dtype: the type of every floating-point tensor. Spikes are compared in float64.

    Raises:
        UnsupportedError: where the image size does not give every stage whole patches, or the neuron is not one that
            the tensors allow.
    """
    given: dict[str, Any] = {
        name: value
        for name, value in (("neuron", neuron), ("stem_stride", stem_stride), ("stem_pool", stem_pool))
        if value is not None
    }
    _check_neuron(neuron, checkpoint)
    architecture = dataclasses.replace(checkpoint.architecture, **given)
    sizes = {"timesteps": timesteps, "image_size": image_size}
    stated = checkpoint.stated | given.keys() | {name for name, value in sizes.items() if value is not None}
    timesteps = checkpoint.timesteps if timesteps is None else timesteps
    image_size = checkpoint.image_size if image_size is None else image_size
    model = SpikingResformer(
        architecture,
        timesteps=timesteps,
        image_size=image_size,
        feature_rounding=checkpoint.feature_rounding if feature_rounding is None else feature_rounding,
        assumptions=_assumptions(architecture, timesteps, image_size, stated),
    ).to(dtype)
    model.load_state_dict(dict(checkpoint.state), strict=True)
    return model.eval()


def _check_neuron(neuron: NeuronKind | None, checkpoint: Checkpoint) -> None:
    """Refuse a neuron that the tensors contradict."""
    name = next((name for name in checkpoint.state if name.endswith(".w")), None)
    if neuron in ("IF", "LIF") and name is not None:
        raise UnsupportedError(
            f"neuron {neuron}: the checkpoint holds {name}, the parameter of a PLIF; leave out the neuron"
        )
    if neuron == "PLIF" and name is None:
        raise UnsupportedError("neuron PLIF: the checkpoint holds no PLIF's parameter w; its neurons are LIF or IF")


def _assumptions(
    architecture: Architecture, timesteps: int, image_size: int, stated: frozenset[str] | set[str]
) -> tuple[str, ...]:
    """A sentence for each choice that nobody stated."""
    stem = architecture.stem_layout
    kernel = f"{stem.edge}x{stem.edge}"
    sentences = {
        "neuron": "neurons: LIF with tau 2" if architecture.neuron == "LIF" else None,
        "stem_stride": f"stem: {kernel} convolution of stride {stem.stride}",
        "stem_pool": f"stem: {'a 3x3 max-pool of stride 2' if stem.pool else 'no max-pool'} after the convolution",
        "timesteps": f"timesteps: {timesteps}, as the authors train such a network",
        "image_size": f"image size: {image_size}, as the authors train such a network",
    }
    return tuple(
        f"{sentence} (no tensor says so)" for name, sentence in sentences.items() if sentence and name not in stated
    )


def _untold(value: object, architecture: Architecture) -> dict[str, Any]:
    """The settings that ``settings`` wrote into a file, checked; empty if the file has none."""
    if value is None:
        return {}
    checks = {
        "neuron": lambda each: isinstance(each, str) and each in get_args(NeuronKind),
        "stem_stride": lambda each: type(each) is int and each >= 1,
        "stem_pool": lambda each: type(each) is bool,
        "feature_rounding": lambda each: isinstance(each, str) and each in get_args(Rounding),
    }
    if not isinstance(value, Mapping):
        raise FileFormatError(f"{SETTINGS!r} is {quote(value)}: must be a mapping; save it again without that entry")
    for name, each in value.items():
        if not isinstance(name, str) or name not in checks or not checks[name](each):
            raise FileFormatError(
                f"{SETTINGS!r} has the entry {quote(name)} of value {quote(each)}: no setting of a network; "
                "save it again without that entry"
            )
    if (value.get("neuron", architecture.neuron) == "PLIF") != (architecture.neuron == "PLIF"):
        raise FileFormatError(
            f"{SETTINGS!r} says {value['neuron']} neurons, but its tensors are those of {architecture.neuron} neurons; "
            "save it again without that entry"
        )
    return dict(value)


def default_timesteps(architecture: Architecture) -> int:
    """Return the T that the authors train such a network with: 16 for PLIF (DVS-Gesture), else 4 (``configs/``)."""
    return 16 if architecture.neuron == "PLIF" else 4


def default_image_size(architecture: Architecture) -> int:
    """Return the image edge, in pixels, that the authors train such a network with (``configs/``).

    It is 224 for the ImageNet stem, 64 for PLIF (DVS-Gesture), else 32 (CIFAR). Networks that they transfer from
    ImageNet to other data keep the ImageNet stem but take 128, which no tensor tells.
    """
    if architecture.stem == "imagenet":
        return 224
    return 64 if architecture.neuron == "PLIF" else 32


def check_rates(state: StateDict) -> None:
    """Refuse firing rates that are not positive: DSSA divides by their square roots.

    Loading does not check this, as a network that has never trained holds zeros.

    Raises:
        UnsupportedError: a rate is not positive; the message names the first such buffer and head.
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


def _note(notes: Mapping[object, object], name: str, default: int) -> int:
    """Return a positive integer that a file may hold beside its state dict."""
    value = notes.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        shown = repr(quote(value)) if isinstance(value, str) else quote(value)
        raise FileFormatError(f"{name!r} is {shown}: must be a positive integer; save it again without that entry")
    return value
