"""Folders of images (tests/cli/test_image_folders.py shows what the commands refuse)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resformer.compiler.ir.graph import Node
from resformer.compiler.ir.ops import Input, Output
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.signal import Signal, SignalKind
from resformer.compiler.samples import images as image_folder
from resformer.compiler.samples.classes import first_of_each
from resformer.compiler.samples.images import ImageFolder, open_image_folder, resize_and_crop
from resformer.errors import BackendMissingError, FileFormatError, InputError


def network(channels: int = 3, size: int = 8, kind: str = "static", rows: int | None = None) -> Program:
    entry = Input(Signal(SignalKind.GRADED, 6, -256, 256))
    output = Output(Signal(SignalKind.CURRENT, 3), divisor=1, bias=np.zeros(2))
    nodes = (Node("input", entry, (), (channels, rows or size, size)), Node("output", output, ("input",), (2,)))
    return Program(nodes, timesteps=2, metadata={"input": kind})


def save(path: Path, *, size: tuple[int, int] = (8, 8), seed: int = 0, mode: str = "RGB") -> Any:
    """A PNG of noise; returns its pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
    pixels = np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def test_images_come_sorted_and_as_channels_in_front(tmp_path: Path) -> None:
    pixels = [save(tmp_path / name, seed=seed) for seed, name in enumerate(["b.png", "a/z.PNG", "a.png"])]
    (tmp_path / "notes.txt").write_text("no image")
    save(tmp_path / ".hidden.png")
    folder = open_image_folder(tmp_path, network(), resize=False)
    assert folder.names == ("a/z.PNG", "a.png", "b.png")
    expected = np.stack([pixels[index].transpose(2, 0, 1) / 255 for index in (1, 2, 0)])
    np.testing.assert_array_equal(folder.real(), expected)
    np.testing.assert_array_equal(folder.real(1, 3), expected[1:3])
    assert len(folder.chosen(first_of_each(folder.names, 2))) == 2


def test_grey_and_colour_are_converted_to_what_the_network_takes(tmp_path: Path) -> None:
    pixels = save(tmp_path / "grey.png", mode="L")
    np.testing.assert_array_equal(
        open_image_folder(tmp_path, network(3), resize=False).real()[0], np.broadcast_to(pixels, (3, 8, 8)) / 255
    )
    np.testing.assert_array_equal(open_image_folder(tmp_path, network(1), resize=False).real()[0, 0], pixels / 255)


@pytest.mark.parametrize(
    ("size", "wanted", "resized", "corner"),
    [  # what torchvision 0.28's Resize(int(wanted * 256 / 224)) and CenterCrop(wanted) do
        ((40, 30), 8, (12, 9), (2, 0)),
        ((30, 41), 8, (9, 12), (0, 2)),
        ((9, 100), 15, (17, 188), (1, 86)),
        ((35, 21), 32, (60, 36), (14, 2)),
        ((500, 375), 224, (341, 256), (58, 16)),
    ],
)
def test_resizing_is_torchvisions(
    size: tuple[int, int], wanted: int, resized: tuple[int, int], corner: tuple[int, int]
) -> None:
    pixels = np.random.default_rng(1).integers(256, size=(size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    left, top = corner
    expected = image.resize(resized, Image.Resampling.BILINEAR).crop((left, top, left + wanted, top + wanted))
    np.testing.assert_array_equal(np.asarray(resize_and_crop(image, wanted)), np.asarray(expected))


def test_sizes_that_do_not_match_are_refused_unless_resized(tmp_path: Path) -> None:
    save(tmp_path / "x.png", size=(9, 8))
    folder = open_image_folder(tmp_path, network(), resize=False)
    for read in (folder.check, folder.real):
        with pytest.raises(InputError, match=r"x\.png: 9 x 8 pixels, the network takes 8 x 8; give --resize"):
            read()
    resized = open_image_folder(tmp_path, network(), resize=True)
    resized.check()
    assert resized.real().shape == (1, 3, 8, 8)


def test_images_of_other_shapes_than_a_square_are_not_resized(tmp_path: Path) -> None:
    pixels = save(tmp_path / "x.png", size=(8, 6))
    with pytest.raises(InputError, match="--resize makes square images, the network takes 8 x 6"):
        open_image_folder(tmp_path, network(rows=6), resize=True)
    read = open_image_folder(tmp_path, network(rows=6), resize=False).real()
    np.testing.assert_array_equal(read[0], pixels.transpose(2, 0, 1) / 255)


def test_folders_are_classes_if_there_are_as_many(tmp_path: Path) -> None:
    for name in ("dog/1.png", "cat/2.png", "dog/deep/0.png"):
        save(tmp_path / name)
    folder = open_image_folder(tmp_path, network(), resize=False)
    assert folder.names == ("cat/2.png", "dog/1.png", "dog/deep/0.png")
    labels = folder.labels(2)
    assert labels is not None
    assert labels.tolist() == [0, 1, 1]
    assert folder.labels(3) is None
    (tmp_path / "ant").mkdir()  # a class of which there are no images here
    labels = folder.labels(3)
    assert labels is not None
    assert labels.tolist() == [1, 2, 2]
    save(tmp_path / "stray.png")
    assert open_image_folder(tmp_path, network(), resize=False).labels(3) is None


def test_folders_are_classes_by_name_where_names_are_known(tmp_path: Path) -> None:
    for name in ("dog/1.png", "cat/2.png", "dog/deep/0.png"):
        save(tmp_path / name)
    folder = open_image_folder(tmp_path, network(), resize=False)
    labels = folder.labels(4, ("dog", "ant", "bee", "cat"))
    assert labels is not None
    assert labels.tolist() == [3, 0, 0]
    assert folder.unlabelled(4, ("dog", "ant", "bee", "cat")) is None
    assert folder.labels(2, ("dog", "Cat")) is None  # as many, but not these
    assert "no class of the name cat, only dog, Cat" in str(folder.unlabelled(2, ("dog", "Cat")))
    assert "has 2 folders, the network tells 3 classes apart" in str(folder.unlabelled(3))


def test_some_images_are_of_each_class(tmp_path: Path) -> None:
    for name in ("a/0.png", "a/1.png", "a/2.png", "b/0.png", "b/1.png", "b/2.png"):
        save(tmp_path / name)
    folder = open_image_folder(tmp_path, network(), resize=False)
    assert folder.chosen(first_of_each(folder.names, 3)).names == ("a/0.png", "a/1.png", "b/0.png")
    assert folder.spread(4).names == ("a/0.png", "a/2.png", "b/0.png", "b/2.png")
    assert folder.chosen(first_of_each(folder.names, 6)).names == folder.spread(9).names == folder.names


def truncated(path: Path) -> None:
    save(path)
    path.write_bytes(path.read_bytes()[:-60])


def text(path: Path) -> None:
    path.write_text("no image")


def empty(path: Path) -> None:
    path.touch()


@pytest.mark.parametrize("make", [truncated, text, empty])
def test_broken_files_are_named(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "broken.png")
    with pytest.raises(FileFormatError, match=r"broken\.png: a broken image"):
        open_image_folder(tmp_path, network(), resize=False).real()


def test_a_header_is_enough_to_find_what_is_no_image(tmp_path: Path) -> None:
    text(tmp_path / "x.png")
    with pytest.raises(FileFormatError, match="no image that Pillow knows"):
        open_image_folder(tmp_path, network(), resize=False).check()


def test_more_than_8_bits_are_not_cut_off(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 300, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(InputError, match=r"deep\.png: I;16 pixels, more than 8 bits"):
        open_image_folder(tmp_path, network(1), resize=False).check()


def test_networks_that_take_no_images(tmp_path: Path) -> None:
    save(tmp_path / "x.png")
    with pytest.raises(InputError, match=r"the network takes 2 channels; give an \.npy"):
        open_image_folder(tmp_path, network(2), resize=False)
    with pytest.raises(InputError, match=r"3 channels of event frames; give an \.npy"):
        open_image_folder(tmp_path, network(3, kind="frames"), resize=False)


def test_a_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no images"):
        open_image_folder(tmp_path, network(), resize=False)


def test_pillow_may_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(BackendMissingError, match=r"pip install 'resformer\[images\]'"):
        open_image_folder(tmp_path, network(), resize=False)


def test_only_what_is_asked_for_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.png", "b.png", "c.png"):
        save(tmp_path / name)
    decoded: list[str] = []
    pixels = ImageFolder._pixels
    monkeypatch.setattr(
        image_folder.ImageFolder, "_pixels", lambda self, name: decoded.append(name) or pixels(self, name)
    )
    open_image_folder(tmp_path, network(), resize=False).real(1, 2)
    assert decoded == ["b.png"]
