"""The samples whose class changed by quantization, as a verification tells, and their images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from resformer.runtime.given import GivenBuild
from resformer.runtime.page.observe import images
from resformer.runtime.run.encode import checksums, encode

Kind: TypeAlias = Literal["lost", "won", "moved"]
"""``lost``: only the original is right; ``won``: only the quantized network is; ``moved``: neither, or no label."""
KINDS: tuple[Kind, ...] = ("lost", "won", "moved")

PICTURED = 48
"""The most samples that are listed one by one, in the order of ``KINDS``."""

NOT_GIVEN = "The samples that were verified were not given to this page; --input with the same file draws them."
OTHERS = "The samples given to this page are not those that were verified, so their images are not shown."
NO_AREA = "These samples have no area, so there is nothing to draw."


def changed_samples(verification: Mapping[str, Any], given: GivenBuild | None) -> dict[str, Any] | None:
    """The samples for which the quantized network predicts another class than the original.

    Args:
        verification: The JSON that ``resformer-verify --json`` writes.
        given: The samples that were verified, in their order; None: no images are drawn.

    Returns:
        ``counts``: how many samples there are of each kind. ``samples``: for each of the first ``PICTURED``, its index
        ``sample``, its ``kind``, and its file's ``name`` and its ``image``, which are None if unknown.
        ``no_images``: why images are missing; None if none is. The result is None if the original was not compared, or
        if the version that compared it did not write its predictions.
    """
    if verification.get("predictions_original") is None:
        return None
    found = sorted(_changed(verification), key=lambda each: KINDS.index(each[1]))
    shown = [_shown(sample, kind, verification, given) for sample, kind in found[:PICTURED]]
    return {
        "counts": {kind: sum(each == kind for _, each in found) for kind in KINDS},
        "samples": shown,
        "no_images": _why_no_images([each["sample"] for each in shown if each["image"] is None], verification, given),
    }


def _why_no_images(absent: Sequence[int], verification: Mapping[str, Any], given: GivenBuild | None) -> str | None:
    if not absent:
        return None
    if given is None:
        return NOT_GIVEN
    return NO_AREA if all(_is_verified(sample, verification, given) for sample in absent) else OTHERS


def _changed(verification: Mapping[str, Any]) -> Iterator[tuple[int, Kind]]:
    original, quantized = verification["predictions_original"], verification["predictions"]
    labels = verification["labels"] or [None] * len(quantized)
    for sample, (before, after, label) in enumerate(zip(original, quantized, labels, strict=True)):
        if before != after:
            yield sample, "lost" if before == label else "won" if after == label else "moved"


def _shown(sample: int, kind: Kind, verification: Mapping[str, Any], given: GivenBuild | None) -> dict[str, Any]:
    name = image = None
    if given is not None and _is_verified(sample, verification, given):
        name = None if given.names is None else given.names[sample]
        pictures = images(given.samples, 1, first=sample)
        image = None if pictures is None else pictures[0]
    return {"sample": sample, "kind": kind, "name": name, "image": image}


def _is_verified(sample: int, verification: Mapping[str, Any], given: GivenBuild) -> bool:
    """Whether sample number ``sample`` was given, and is the one that was verified under that number."""
    if sample >= len(given.samples):
        return False
    encoded = encode(given.samples.real(sample, sample + 1), given.program)
    return checksums(encoded.values) == [verification["input_crc32"][sample]]
