"""The commands on netx networks, as a user runs them."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from resformer.runtime.cli.compile_options import main
from resformer.runtime.cli.run import main as run_main
from resformer.runtime.cli.verify import main as verify_main
from resformer.runtime.compiled import compile as compile_network
from support.builds import read_json
from support.net_files import conv, dense, even, flatten, neurons, pixels, write_net


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    layers = pixels(1, 4, 4, weight=10, bias=2), conv(even(rng, (2, 1, 3, 3)), (2, 2, 2)), flatten(8)
    last = dense(even(rng, (3, 8)), neuron=neurons(vDecay=300))
    return write_net(tmp_path_factory.mktemp("net") / "x.net", *layers, last, steps=6)


@pytest.fixture(scope="module")
def build(network: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("build") / "b"
    assert main([str(network), "--target", "lava,nir", "-o", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "x.npy"
    np.save(path, np.random.default_rng(1).random((3, 1, 4, 4)))
    return path


def test_compiling_says_what_it_took(network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(network), "--target", "sim", "-o", str(tmp_path / "b")]) == 0
    out = capsys.readouterr().out
    assert "from netx" in out
    assert "as the file has them, " in out
    assert "no weight, bias, decay or threshold was rounded" in out
    assert "rint(10 * x + 2) of a sample x" in out
    assert "6 steps a sample" in out


def test_run_and_verify_take_pixels(build: Path, network: Path, images: Path, tmp_path: Path) -> None:
    common = [str(build), "--input", str(images), "--backend", "sim"]
    assert run_main([*common, "-o", str(tmp_path / "out.npz")]) == 0
    with np.load(tmp_path / "out.npz") as result:
        assert result["logits"].shape == (3, 6, 3)
        assert result["logits"].any()
    assert verify_main([*common, "--model", str(network), "--json", str(tmp_path / "r.json")]) == 0
    report = read_json(tmp_path / "r.json")
    assert report["equivalent"]
    assert report["checks"]["backend_vs_program"]["compared"] > 0
    assert report["checks"]["backend_vs_program"]["mismatched"] == 0


def test_verify_refuses_another_network(
    build: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_net(tmp_path / "y.net", dense(np.ones((2, 16))), steps=6)
    arguments = [str(build), "--input", str(images), "--backend", "sim", "--model", str(other)]
    assert verify_main(arguments) == 1
    assert "another network than the one that was compiled" in capsys.readouterr().err


def test_samples_need_not_be_whole(network: Path) -> None:
    # pixels are fractions, and 10 x + 2 is rounded as the chip's bias is: no option could change that
    compiled = compile_network(network)
    given = np.random.default_rng(1).random((3, 1, 4, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = compiled.run(given, backend="sim")
    whole = compiled.run(np.rint(10 * given + 2) / 10 - 0.2, backend="sim")
    np.testing.assert_array_equal(run.logits_int, whole.logits_int)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"PK\x03\x04", "damaged, or no netx network"),
    ],
)
def test_what_is_no_network_is_refused(
    tmp_path: Path, content: bytes, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.net").write_bytes(content)
    assert main([str(tmp_path / "x.net"), "--target", "sim", "-o", str(tmp_path / "b")]) == 1
    err = capsys.readouterr().err
    assert says in err
    assert "downloaded completely" not in err
    assert err.count("\n") == 1


def test_a_network_under_another_name_is_told(
    network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.pt").write_bytes(network.read_bytes())
    assert main([str(tmp_path / "x.pt"), "--target", "sim", "-o", str(tmp_path / "b")]) == 1
    assert "not a checkpoint but an HDF5 file; name it so that it ends in .nir" in capsys.readouterr().err
