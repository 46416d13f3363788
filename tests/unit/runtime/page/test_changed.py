"""The samples that changed their class: which, in which order, and no image of another sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from resformer.runtime.given import GivenBuild, read_given
from resformer.runtime.page import changed
from resformer.runtime.page.changed import changed_samples
from resformer.runtime.run.encode import checksums, encode
from support.builds import Tiny, opened


@pytest.fixture
def given(tiny: Tiny) -> GivenBuild:
    build = opened(tiny.build)
    program = build.program()
    return GivenBuild(**vars(read_given(tiny.images, program)), build=build, program=program)


@pytest.fixture
def verification(given: GivenBuild) -> dict[str, Any]:
    """The verification of six samples: 1 and 4 lost, 3 won, 5 moved."""
    return {
        "labels": [0, 1, 2, 0, 1, 2],
        "predictions_original": [0, 1, 2, 1, 1, 0],
        "predictions": [0, 2, 2, 0, 0, 1],
        "input_crc32": checksums(encode(given.samples.real(), given.program).values),
    }


def test_the_lost_come_first(given: GivenBuild, verification: dict[str, Any]) -> None:
    found = changed_samples(verification, given)
    assert found is not None
    assert found["counts"] == {"lost": 2, "won": 1, "moved": 1}
    assert [(each["sample"], each["kind"]) for each in found["samples"]] == [
        (1, "lost"),
        (4, "lost"),
        (3, "won"),
        (5, "moved"),
    ]
    assert all(each["image"]["rows"] == 16 for each in found["samples"])
    assert len({each["image"]["rgb"] for each in found["samples"]}) == 4
    assert found["no_images"] is None


def test_without_labels_nobody_knows_what_is_right(given: GivenBuild, verification: dict[str, Any]) -> None:
    found = changed_samples(verification | {"labels": None}, given)
    assert found is not None
    assert found["counts"] == {"lost": 0, "won": 0, "moved": 4}


def test_other_samples_are_not_shown(given: GivenBuild, verification: dict[str, Any]) -> None:
    """Neither those of another file, nor the same in another order."""
    found = changed_samples(verification, given.first(4))
    assert found is not None
    assert [each["image"] is not None for each in found["samples"]] == [True, False, True, False]
    assert found["no_images"] == changed.OTHERS
    shifted = verification | {"input_crc32": np.roll(verification["input_crc32"], 1).tolist()}
    found = changed_samples(shifted, given)
    assert found is not None
    assert all(each["image"] is None for each in found["samples"])
    found = changed_samples(verification, None)
    assert found is not None
    assert found["no_images"] == changed.NOT_GIVEN


def test_samples_without_an_area_are_not_called_others(
    given: GivenBuild, verification: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changed, "images", lambda *_, **__: None)
    found = changed_samples(verification, given)
    assert found is not None
    assert found["no_images"] == changed.NO_AREA
    found = changed_samples(verification, given.first(4))
    assert found is not None
    assert found["no_images"] == changed.OTHERS


def test_only_some_are_listed(given: GivenBuild, verification: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changed, "PICTURED", 2)
    found = changed_samples(verification, given)
    assert found is not None
    assert [each["sample"] for each in found["samples"]] == [1, 4]
    assert found["counts"]["won"] == 1


def test_earlier_verifications_tell_nothing(verification: dict[str, Any]) -> None:
    del verification["predictions_original"]
    assert changed_samples(verification, None) is None
    assert changed_samples({"predictions_original": None}, None) is None
