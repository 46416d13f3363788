"""Checkpoint files of the zoo's families: read one safely, recognise it, build its network."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from resformer.errors import UnsupportedError
from resformer.models.reading import checkpoint_boundary, read
from resformer.models.weights import StateDict, check_values, find_weights, note_half_precision
from resformer.models.zoo.parts import Classifier
from resformer.models.zoo.recognise import FAMILIES, STEMS, Recognition, build, canonical, recognise


@dataclass(frozen=True, eq=False)
class ZooCheckpoint:
    """A family's tensors, complete and finite, and what they say about the network.

    Attributes:
        path: the file that they came from.
        state: every parameter and buffer by the authors' name, in the file's own types, on the CPU.
        recognition: the family and its architecture.
        weights_key: under which key of the file the weights were, such as ``model``.
        notes: what was chosen, ignored or is to be known of the file, a sentence each.
    """

    path: Path
    state: StateDict
    recognition: Recognition
    weights_key: str
    notes: tuple[str, ...] = ()


def load_zoo_checkpoint(path: str | Path, *, weights_key: str | None = None) -> ZooCheckpoint:
    """Read a checkpoint of any of the zoo's families without running any code from it.

    The file may be laid out as ``resformer.models.checkpoint.load_checkpoint`` says.

    Args:
        path: the file.
        weights_key: the key of the weights to read, such as ``model_ema``, instead of the first.

    Raises:
        FileFormatError: where the file cannot be read, is of no family, lacks a tensor, or holds one of the wrong
            shape, type or values.
        UnsupportedError: where its shapes are those of no network that its family's architecture describes.
    """
    path = Path(path)
    with checkpoint_boundary(path):
        weights = find_weights(read(path)[0], weights_key, stems=STEMS, whose="known network")
        state = canonical(weights.state)
        recognition = recognise(state)
        check_values(state)
    return ZooCheckpoint(
        path, MappingProxyType(dict(state)), recognition, weights.key, weights.notes + note_half_precision(state)
    )


def build_zoo_model(
    checkpoint: ZooCheckpoint,
    *,
    timesteps: int | None = None,
    untold: Mapping[str, Any] = MappingProxyType({}),
    dtype: torch.dtype = torch.float64,
) -> Classifier:
    """Return the checkpoint's network in eval mode, on the CPU.

    ``resformer.compile`` takes it, with images (N, C, H, W) or frames (T, N, C, H, W) as its example.

    Args:
        checkpoint: what ``load_zoo_checkpoint`` returned.
        timesteps: T; the authors' if not given.
        untold: fields of the architecture that no tensor tells, such as ``num_heads``, where they are otherwise than
            the authors have them.
        dtype: the type of every floating-point tensor. Spikes are compared in float64.

    Raises:
        UnsupportedError: where a field is told by tensors, or its value does not go with them.
    """
    found = checkpoint.recognition
    family = FAMILIES[found.family]
    for name in untold:
        if name not in family.untold:
            raise UnsupportedError(
                f"{name}: what no tensor of a {family.title} tells is {', '.join(family.untold)}; leave out the rest"
            )
    architecture = dataclasses.replace(found.architecture, **untold)
    model = build(architecture, timesteps=found.timesteps if timesteps is None else timesteps).to(dtype)
    model.load_state_dict(dict(checkpoint.state), strict=True)
    return model.eval()
