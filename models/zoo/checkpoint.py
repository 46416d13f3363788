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
"""The key under which a file holds what no tensor tells, beside the weights."""

FAMILY = "family"
"""The record's entry that names the family."""


@dataclass(frozen=True, eq=False)
class ZooCheckpoint:
    """A family's tensors, complete and finite, and what they say about the network.

    Attributes:
        path: the file that they came from.
        state: every parameter and buffer by the authors' name, in the file's own types, on the CPU.
        recognition: the family, the architecture, and the settings that no tensor tells, as far as the file states
            them.
        weights_key: the key of the file under which the weights were, such as ``model``.
        notes: what was chosen or ignored, and what the user should know about the file, a sentence each.
    """

    path: Path
    state: StateDict
    recognition: Recognition
    weights_key: str
    notes: tuple[str, ...] = ()


def load_zoo_checkpoint(path: str | Path, *, weights_key: str | None = None) -> ZooCheckpoint:
    """Read a checkpoint of any of the zoo's families without running any code from it.

    The file may be laid out as ``resformer.models.checkpoint.load_checkpoint`` says. Settings that no tensor tells are
    read from the file if ``save_zoo_checkpoint`` wrote it.

    Args:
        path: the file.
        weights_key: the key of the weights to read, such as ``model_ema``; None: the first.

    Raises:
        FileFormatError: where the file cannot be read, is of no family, lacks a tensor, holds a tensor of the wrong
            shape, type or values, or states settings that do not fit this network.
        UnsupportedError: where no network that its family's architecture describes has such shapes.
    """
    path = Path(path)
    with checkpoint_boundary(path):
        content = read(path)[0]
        weights = find_weights(content, weights_key, stems=STEMS, whose="known network")
        state = canonical(weights.state)
        recognition = recognise(state)
        check_values(state)
        # the record lies beside the weights, never among them
        if isinstance(content, Mapping) and weights.key != TOP_LEVEL and RECORD in content:
            recognition = _recorded(recognition, content[RECORD])
    return ZooCheckpoint(
        path, MappingProxyType(dict(state)), recognition, weights.key, weights.notes + note_half_precision(state)
    )


def _recorded(recognition: Recognition, stated: object) -> Recognition:
    """What is known of a network, completed by the record in its file.

    Raises:
        FileFormatError: the record is not one that ``save_zoo_checkpoint`` writes for such a network.
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
    """What no tensor of a network tells, as plain data; ``load_zoo_checkpoint`` reads it under ``RECORD``."""
    return {FAMILY: recognition.family, **recognition.settings}


def family_in(path: str | Path) -> FamilyName | None:
    """Return the family of the network in a checkpoint; None if it is of none, as a SpikingResformer is.

    Raises:
        FileFormatError: where the file cannot be read.
    """
    path = Path(path)
    with checkpoint_boundary(path):
        content = read(path)[0]
        try:
            return family_of(canonical(find_weights(content, stems=STEMS).state))
        except FileFormatError:  # the reader of such a network says what is wrong with it
            return None


def save_zoo_checkpoint(model: Classifier, path: str | Path, *, image_size: int) -> None:
    """Write a network so that ``load_zoo_checkpoint`` and ``build_zoo_model`` need no further arguments.

    Args:
        model: a network of any family.
        path: the file.
        image_size: edge of the square input, in pixels.

    Raises:
        InputError: the image size is not a whole number from 1 to ``recognise.LARGEST_SETTING``.
        FileFormatError: the model is no network of the zoo.
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
        timesteps: T; if not given, the file's, else the authors'.
        untold: fields of the architecture that no tensor tells, such as ``num_heads``, if they differ from the file's
            or the authors'.
        dtype: the type of every floating-point tensor. Spikes are compared in float64.

    Raises:
        UnsupportedError: where tensors tell a field of ``untold``, or its value does not fit the tensors.
    """
    known = checkpoint.recognition.told(untold if timesteps is None else {**untold, "timesteps": timesteps})
    model = build(known.architecture, timesteps=known.timesteps).to(dtype)
    model.load_state_dict(dict(checkpoint.state), strict=True)
    return model.eval()
