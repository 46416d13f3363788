"""Checkpoint files of the zoo's families: read one safely, recognise it, build its network, write one."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from resformer.errors import FileFormatError, InputError, UnsupportedError
from resformer.models.boundary import checkpoint_boundary
from resformer.models.limits import quote
from resformer.models.reading import read
from resformer.models.weights import TOP_LEVEL, StateDict, check_values, find_weights, note_half_precision
from resformer.models.zoo.names import FamilyName
from resformer.models.zoo.parts import Classifier
from resformer.models.zoo.recognise import STEMS, Recognition, build, canonical, family_of, recognise

RECORD = "resformer"
"""The key of what no tensor tells, beside the weights."""

FAMILY = "family"
"""The record's entry that names the family."""


@dataclass(frozen=True, eq=False)
class ZooCheckpoint:
    """A family's tensors, complete and finite, and what they say about the network.

    Attributes:
        path: the file that they came from.
        state: every parameter and buffer by the authors' name, in the file's own types, on the CPU.
        recognition: the family, its architecture, and what the file says of what no tensor tells.
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

    The file may be laid out as ``resformer.models.checkpoint.load_checkpoint`` says. What no tensor tells is read where
    ``save_zoo_checkpoint`` wrote it.

    Args:
        path: the file.
        weights_key: the key of the weights to read, such as ``model_ema``, instead of the first.

    Raises:
        FileFormatError: where the file cannot be read, is of no family, lacks a tensor, or holds one of the wrong
            shape, type or values, or a record of what no tensor tells that is not this network's.
        UnsupportedError: where its shapes are those of no network that its family's architecture describes.
    """
    path = Path(path)
    with checkpoint_boundary(path):
        content = read(path)[0]
        weights = find_weights(content, weights_key, stems=STEMS, whose="known network")
        state = canonical(weights.state)
        recognition = recognise(state)
        check_values(state)
        # beside the weights, never among them
        if isinstance(content, Mapping) and weights.key != TOP_LEVEL and RECORD in content:
            recognition = _recorded(recognition, content[RECORD])
    return ZooCheckpoint(
        path, MappingProxyType(dict(state)), recognition, weights.key, weights.notes + note_half_precision(state)
    )


def _recorded(recognition: Recognition, stated: object) -> Recognition:
    """What is known of a network with what its file's record says.

    Raises:
        FileFormatError: the record is none that ``save_zoo_checkpoint`` writes of such a network.
    """
    remedy = "save it again without that entry"
    if not isinstance(stated, Mapping):
        raise FileFormatError(f"{RECORD!r} is {quote(stated)}: must be a mapping; {remedy}")
    for name, value in stated.items():
        if name == FAMILY:
            if value != recognition.family:
                raise FileFormatError(
                    f"{RECORD!r} says {FAMILY} {quote(value)}, but its tensors are those of {recognition.family}; "
                    f"{remedy}"
                )
            continue
        try:
            recognition = recognition.told({name: value})
        except UnsupportedError as error:
            raise FileFormatError(
                f"{RECORD!r} has the entry {quote(name)}, {quote(value)}: {error}; {remedy}"
            ) from error
    return recognition


def record(recognition: Recognition) -> dict[str, object]:
    """What no tensor tells of a network, as plain data; ``load_zoo_checkpoint`` reads it under ``RECORD``."""
    return {FAMILY: recognition.family, **recognition.settings}


def family_in(path: str | Path) -> FamilyName | None:
    """Return of which family the network in a checkpoint is; None where it is of none, a SpikingResformer among these.

    Raises:
        FileFormatError: where the file cannot be read.
    """
    path = Path(path)
    with checkpoint_boundary(path):
        content = read(path)[0]
        try:
            return family_of(canonical(find_weights(content, stems=STEMS).state))
        except FileFormatError:  # it is for the reader of such a network to say what is wrong with it
            return None


def save_zoo_checkpoint(model: Classifier, path: str | Path, *, image_size: int) -> None:
    """Write a network so that ``load_zoo_checkpoint`` and ``build_zoo_model`` need be told nothing.

    Args:
        model: of any family.
        path: the file.
        image_size: edge of the square input, in pixels.

    Raises:
        InputError: the image size is no whole number of at least 1.
        UnsupportedError: it is no network of the zoo.
    """
    known = recognise(model.state_dict())
    said = {name: getattr(model.architecture, name) for name in known.untold}
    try:
        known = known.told(said | {"timesteps": model.timesteps, "image_size": image_size})
    except UnsupportedError as error:
        raise InputError(str(error)) from error
    torch.save({"model": model.state_dict(), RECORD: record(known)}, path)


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
        timesteps: T; the file's if not given, else the authors'.
        untold: fields of the architecture that no tensor tells, such as ``num_heads``, where they are otherwise than
            the file or the authors have them.
        dtype: the type of every floating-point tensor. Spikes are compared in float64.

    Raises:
        UnsupportedError: where a field is told by tensors, or its value does not go with them.
    """
    known = checkpoint.recognition.told(untold if timesteps is None else {**untold, "timesteps": timesteps})
    model = build(known.architecture, timesteps=known.timesteps).to(dtype)
    model.load_state_dict(dict(checkpoint.state), strict=True)
    return model.eval()
