"""Inputs that pages expect their readers to have: small files under the names that pages use."""

from __future__ import annotations

import gzip
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from support.docs.blocks import ROOT

MNIST = ROOT / "examples" / "mnist"
FOLDERS = ("examples", "benchmarks", "tests")
"""Folders of the project that commands find in the folder where they run."""
IMAGES = 8
"""Digits of ``images.npy``."""
CALIBRATION = 8
"""Digits of ``calibration.npy``."""
A_CLASS = 2
"""Images of each class in a folder."""

Maker = Callable[[Path], None]


def _model(path: Path) -> None:
    shutil.copy(MNIST / "spikingresformer_mnist.pt", path)


def _fine_tuned(path: Path) -> None:
    shutil.copy(MNIST / "spikingresformer_mnist_4bit.pt", path)


def _family(path: Path) -> None:
    shutil.copy(ROOT / "examples" / "zoo" / "spikformer.pt", path)


def _images(path: Path) -> None:
    import numpy as np

    np.save(path, np.load(MNIST / "test_images.npy")[:IMAGES])


def _labels(path: Path) -> None:
    import numpy as np

    np.save(path, np.load(MNIST / "test_labels.npy")[:IMAGES])


def _calibration(path: Path) -> None:
    import numpy as np

    np.save(path, np.load(MNIST / "calibration_images.npy")[:CALIBRATION])


def _folder(path: Path) -> None:
    """PNG files, a folder for each class."""
    import numpy as np
    from PIL import Image

    images, labels = np.load(MNIST / "test_images.npy"), np.load(MNIST / "test_labels.npy")
    for digit in range(10):
        (path / str(digit)).mkdir(parents=True)
        for index in np.flatnonzero(labels == digit)[:A_CLASS]:
            Image.fromarray(images[index, 0]).save(path / str(digit) / f"{index:04}.png")


def _nir(path: Path) -> None:
    with gzip.open(ROOT / "tests" / "data" / "nir" / "snntorch" / "network.nir.gz") as file:
        path.write_bytes(file.read())


def _spikes(path: Path) -> None:
    import numpy as np

    np.save(path, np.load(ROOT / "tests" / "data" / "nir" / "snntorch" / "spikes.npz")["input"].astype(np.bool_))


def _netx(path: Path) -> None:
    import numpy as np

    from support import net_files as net

    rng = np.random.default_rng(0)
    net.write_net(
        path,
        net.pixels(1, 6, 6),
        net.conv(rng.integers(-60, 90, (3, 1, 3, 3)), (3, 4, 4)),
        net.flatten(48),
        net.dense(rng.integers(-60, 90, (4, 48))),
        steps=6,
    )


def _pixels(path: Path) -> None:
    import numpy as np

    np.save(path, np.random.default_rng(1).random((4, 1, 6, 6), dtype=np.float32))


def _event_network(path: Path) -> None:
    """An untrained network of event frames of 32 x 32 pixels."""
    import torch

    from support.networks import make_model

    torch.save({"model": make_model(neuron="PLIF", stem="conv3x3", image_size=32).state_dict()}, path)


def _recordings(path: Path) -> None:
    """Files in N-MNIST's format, a folder for each class."""
    from support import event_files

    for digit in range(5):
        (path / str(digit)).mkdir(parents=True)
        event_files.write_nmnist(path / str(digit) / "00001.bin", event_files.some_events(seed=digit))


def _recording(path: Path) -> None:
    from support import event_files

    write = event_files.write_aedat4 if path.suffix == ".aedat4" else event_files.write_evt3
    write(path, event_files.some_events())


INPUTS: Mapping[str, Maker] = MappingProxyType(
    {
        "model.pt": _model,
        "model_4bit.pt": _fine_tuned,
        "model.pth": _family,
        "images.npy": _images,
        "labels.npy": _labels,
        "calibration.npy": _calibration,
        "train": _folder,
        "photographs": _folder,
        "network.nir": _nir,
        "spikes.npy": _spikes,
        "network.net": _netx,
        "pixels.npy": _pixels,
        "events.pt": _event_network,
        "recording.aedat4": _recording,
        "Test": _recordings,
        "recording.raw": _recording,
    }
)
"""The maker of each input, by name; an input is made when a block first names it and it is not there."""

BUILD = "build"
"""The folder of a build of ``model.pt`` for sim; it is put there where a page uses a build before it makes one."""


def named(text: str, name: str) -> bool:
    """Whether a block names this file or folder, and not only one whose name contains this name."""
    return re.search(rf"(?<![\w./-]){re.escape(name)}(?![\w-]|\.\w)", text) is not None


def written(text: str, name: str) -> bool:
    """Whether a block makes a file or folder itself, as far as its text tells."""
    there = re.escape(name)
    return re.search(rf'(-o|--output|>)\s+{there}\b|output="{there}/?"|save\("{there}/?"', text) is not None


def uses_build(text: str) -> bool:
    """Whether a block takes for granted that there is a build."""
    return named(text, BUILD) and not written(text, BUILD)


def prepare(folder: Path, text: str, build: Path) -> None:
    """Put the inputs that a block names, and that are not there yet, into the folder that it runs in.

    Args:
        folder: The page's folder.
        text: The block's text.
        build: A build of ``model.pt``.
    """
    for name, make in INPUTS.items():
        path = folder / name
        if named(text, name) and not path.exists() and not written(text, name):
            make(path)
    if uses_build(text) and not (folder / BUILD).exists():
        shutil.copytree(build, folder / BUILD)
