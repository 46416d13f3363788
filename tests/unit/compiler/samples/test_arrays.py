"""Samples as users give them (tests/cli/test_bad_input.py shows what is refused)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.samples.arrays import as_array, check_samples, read_array
from resformer.errors import FileFormatError, InputError, SampleWarning


def network(*shape: int, kind: str = "static") -> Graph[Any]:
    return Graph((Node("input", None, (), shape),), timesteps=3, metadata={"input": kind})


def test_pixels_are_divided_by_255() -> None:
    images = np.array([0, 51, 255, 1], dtype=np.uint8).reshape(1, 1, 2, 2)
    np.testing.assert_array_equal(
        check_samples(images, network(1, 2, 2), "x").real().ravel(), np.array([0, 51, 255, 1]) / 255
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_are_taken_as_they_are(dtype: Any) -> None:
    images = np.array([0, -2.5, 300, 0.125], dtype=dtype).reshape(1, 1, 2, 2)
    found = check_samples(images, network(1, 2, 2), "x").real()
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, images.astype(np.float64))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_counts_of_events_are_taken_as_they_are(dtype: Any) -> None:
    frames = np.arange(12, dtype=dtype).reshape(1, 3, 1, 2, 2)
    np.testing.assert_array_equal(
        check_samples(frames, network(1, 2, 2, kind="frames"), "x").real(), frames.astype(np.float64)
    )


@pytest.mark.parametrize("kind", ["static", "frames"])
@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.int64, np.uint16, np.float16])
def test_spikes_are_ones_in_every_type(dtype: Any, kind: str) -> None:
    spikes = np.random.default_rng(0).random((4, 3, 1, 2, 2)) < 0.4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = check_samples(spikes.astype(dtype), network(1, 2, 2, kind=kind), "x").real()
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, spikes.astype(np.float64))


@pytest.mark.parametrize(("kind", "warns"), [("static", True), ("frames", False)])
def test_bytes_of_zero_and_one_may_be_spikes(kind: str, warns: bool) -> None:
    spikes = np.zeros((300, 1, 2, 2), np.uint8)
    spikes[299, 0, 0, 0] = 1
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        check_samples(spikes, network(1, 2, 2, kind=kind), "x")
        check_samples(2 * spikes, network(1, 2, 2, kind=kind), "x")
        check_samples(0 * spikes, network(1, 2, 2, kind=kind), "x")
    assert [each.category for each in told] == [SampleWarning] * warns
    assert all("--input-kind frames" in str(each.message) and "x: " in str(each.message) for each in told)


@pytest.mark.parametrize(
    ("shape", "kind", "warns"),
    [
        ((3, 1, 2, 2), "frames", True),
        ((4, 1, 2, 2), "frames", False),
        ((3, 1, 2, 2), "static", False),
        ((3, 3, 1, 2, 2), "frames", False),
    ],
)
def test_as_many_samples_as_steps_may_be_the_steps(shape: tuple[int, ...], kind: str, warns: bool) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        check_samples(np.zeros(shape), network(1, 2, 2, kind=kind), "x")
    assert ["x[None]" in str(each.message) for each in told] == [True] * warns


def test_signed_counts_are_taken_as_they_are() -> None:
    """They are polarities, or differences of frames."""
    frames = np.array([-3, 0, 2, -1], np.int8).reshape(1, 1, 2, 2)
    found = check_samples(frames, network(1, 2, 2, kind="frames"), "x").real()
    assert found.ravel().tolist() == [-3, 0, 2, -1]
    with pytest.raises(InputError, match=r"int8.*--input-kind frames"):
        check_samples(frames, network(1, 2, 2), "x")


@pytest.mark.parametrize("dtype", [torch.bool, torch.bfloat16, torch.float16, torch.int64])
def test_tensors_of_every_type(dtype: torch.dtype) -> None:
    tensor = torch.tensor([0, 1, 1, 0]).to(dtype).reshape(1, 1, 2, 2)
    assert check_samples(as_array(tensor, "x"), network(1, 2, 2), "x").real().ravel().tolist() == [0, 1, 1, 0]
    with pytest.raises(InputError, match="x: a tensor that is no array"):
        as_array(tensor.float().to_sparse(), "x")


def test_shapes() -> None:
    for shape in ((5, 1, 4, 4), (5, 3, 1, 4, 4)):
        assert check_samples(np.zeros(shape), network(1, 4, 4), "x").real().shape == shape
    assert check_samples(np.zeros((5, 4, 4)), network(1, 4, 4), "x").real().shape == (5, 1, 4, 4)
    with pytest.raises(InputError):
        check_samples(np.zeros((5, 4, 4)), network(2, 4, 4), "x")


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ((5, 4), (5, 4, 1, 1)),
        ((5, 3, 4), (5, 3, 4, 1, 1)),
        ((5, 4, 1, 1), (5, 4, 1, 1)),
        ((5, 2, 7), (5, 2, 1, 7)),
        ((5, 3, 2, 7), (5, 3, 2, 1, 7)),
        ((5, 2, 1, 7), (5, 2, 1, 7)),
    ],
)
def test_axes_of_length_one_may_be_left_out(given: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    shape = (4, 1, 1) if 4 in given else (2, 1, 7)
    assert check_samples(np.zeros(given), network(*shape), "x").real().shape == wanted


def test_a_channel_axis_that_is_missing_is_told() -> None:
    with pytest.raises(InputError, match=r"if those are 3 steps, the channel axis is missing: x\[:, :, None\]"):
        check_samples(np.zeros((5, 3, 4, 6)), network(1, 4, 6), "x")


def test_parts_are_parts_of_the_whole() -> None:
    images = np.random.default_rng(0).random((7, 1, 2, 2))
    samples = check_samples(images, network(1, 2, 2), "x")
    assert len(samples) == 7
    np.testing.assert_array_equal(samples.real(2, 5), images[2:5])


def test_values_that_are_not_finite_are_found_far_behind() -> None:
    images = np.zeros((1000, 1, 1, 1))
    images[777] = np.nan
    with pytest.raises(InputError, match="sample 777"):
        check_samples(images, network(1, 1, 1), "x")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
        np.asfortranarray(np.random.default_rng(0).random((5, 4, 3))),
        np.arange(5, dtype=">i4"),
        np.zeros((0, 3), np.float32),
        np.array(7),
    ],
)
def test_archives_are_mapped(tmp_path: Path, save: Callable[..., None], array: Any) -> None:
    save(tmp_path / "x.npz", other=np.ones(100), images=array, more=np.zeros(3))
    found = read_array(tmp_path / "x.npz")
    np.testing.assert_array_equal(found, array)
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    if array.size:
        assert isinstance(found, np.memmap), "the whole array is in memory"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_array_in_an_archive_is_noticed(tmp_path: Path, save: Callable[..., None]) -> None:
    path = tmp_path / "x.npz"
    save(path, images=np.random.default_rng(0).random(10_000))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match="truncated or damaged"):
        read_array(path)
