"""``resformer.load_spikes``: names, shapes and dense spikes of what ``resformer-run`` wrote, samples first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import resformer
from resformer.compiler.ir.trace import CountTrain
from resformer.errors import FileFormatError
from resformer.runtime.cli.run import main as run_main
from support.builds import Tiny, program_of


@pytest.fixture(scope="module")
def out(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run of six samples wrote."""
    path = tmp_path_factory.mktemp("recorded") / "out.npz"
    arguments = ["--backend", "reference", "-o", str(path), "--record-spikes"]
    assert run_main([str(tiny.build), "--input", str(tiny.images), *arguments]) == 0
    return path


def test_spikes_are_those_of_the_api_in_the_order_of_logits_and_samples(tiny: Tiny, out: Path) -> None:
    result = resformer.load(tiny.build).run(tiny.images, backend="reference", record=True)
    recorded, program = resformer.load_spikes(out), program_of(tiny.build)
    assert recorded.names == tuple(recorded) == program.lif_names
    assert (len(recorded), "no such" in recorded) == (len(program.lif_names), False)
    for name, spikes in recorded.items():
        assert spikes.shape == recorded.shapes[name] == (6, 4, *program[name].shape)
        assert spikes.dtype == bool
        np.testing.assert_array_equal(spikes, result.spikes[name].by_sample(), err_msg=name)
        np.testing.assert_array_equal(spikes, result.spikes[name].dense().swapaxes(0, 1), err_msg=name)
    for found, expected in (
        (recorded.logits, result.logits),
        (recorded.logits_int, result.logits_int),
        (recorded.predictions, result.predictions),
    ):
        np.testing.assert_array_equal(found, expected)
    assert recorded.sample_names is None
    assert f"{program.lif_names[0]}, {program.lif_names[1]}" in repr(recorded)


def test_counts_keep_their_numbers() -> None:
    counts = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    np.testing.assert_array_equal(CountTrain.pack(counts).by_sample(), counts.swapaxes(0, 1))


def test_a_run_without_spikes_has_none(tiny: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "o.npz"
    arguments = ["--backend", "reference", "--samples", "1", "-o", str(path)]
    assert run_main([str(tiny.build), "--input", str(tiny.images), *arguments]) == 0
    recorded = resformer.load_spikes(path)
    assert (recorded.names, recorded.logits.shape[0]) == ((), 1)
    assert "--record-spikes" in repr(recorded)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("logits", np.zeros((6, 5)), "2 axes|shape"),
        ("logits", None, "holds no results"),
        ("predictions", np.zeros(5, np.int64), "predictions of"),
        ("format_version", np.array(2), "format version"),
        ("shape", np.array([4, 6, 2**40]), "for spikes of shape"),
        ("shape", np.array([6, 4, 1]), "for spikes of shape|beside logits"),
        ("shape", np.array([-4, -6, 8]), "for spikes of shape"),
        ("shape", np.array(["a"]), "not 1 axes of numbers"),
        ("shape", None, "has no"),
        ("classes", np.array([1, 2]), "not one name each"),
    ],
)
def test_what_does_not_fit_is_refused(out: Path, tmp_path: Path, name: str, value: Any, says: str) -> None:
    content = dict(np.load(out))
    if name == "shape":
        name = next(each for each in content if each.startswith("shape/"))
    content[name] = value
    np.savez(tmp_path / "x.npz", **{key: each for key, each in content.items() if each is not None})
    with pytest.raises(FileFormatError, match=says):
        resformer.load_spikes(tmp_path / "x.npz")


def test_other_files_are_refused(tiny: Tiny, out: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.npz").write_bytes(out.read_bytes()[:-100])
    for path in (tmp_path / "none.npz", tmp_path / "cut.npz", tiny.images, tmp_path):
        with pytest.raises(FileFormatError, match=path.name):
            resformer.load_spikes(path)
