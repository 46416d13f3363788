"""The commands on NIR files, as a user runs them."""

from __future__ import annotations

from pathlib import Path

import nir
import numpy as np
import pytest

from resformer.runtime.cli.compile_options import main
from resformer.runtime.cli.run import main as run_main
from resformer.runtime.cli.verify import main as verify_main
from support.builds import read_json
from support.nir_files import Written, chain, graph, lif, write, written


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return written("snntorch", tmp_path_factory.mktemp("nir"))


@pytest.fixture(scope="module")
def build(network: Written, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("build") / "b"
    time = ["--dt", str(network.dt), "--timesteps", str(network.timesteps)]
    assert main([str(network.path), "--target", "lava", *time, "-o", str(folder)]) == 0
    return folder


def test_a_build_has_no_checkpoint(build: Path) -> None:
    files = {path.name for path in build.iterdir()}
    assert files == {"network.nir", "program.safetensors", "placement.json", "report.json"}


def test_run_writes_the_frameworks_spikes(build: Path, network: Written, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", network.samples)
    arguments = [str(build), "--input", str(tmp_path / "x.npy"), "--backend", "sim", "-o", str(tmp_path / "out.npz")]
    assert run_main(arguments) == 0
    with np.load(tmp_path / "out.npz") as result:
        # the weights are rounded, and in this network no spike depends on that
        np.testing.assert_array_equal(result["logits"].swapaxes(0, 1), network.spikes)


@pytest.mark.parametrize("backend", ["lava", "sim"])
def test_verify_says_equivalent(
    build: Path, network: Written, tmp_path: Path, backend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "x.npy", network.samples)
    result = tmp_path / "r.json"
    arguments = [str(build), "--model", str(network.path), "--input", str(tmp_path / "x.npy"), "--json", str(result)]
    assert verify_main([*arguments, "--backend", backend]) == 0
    report = read_json(result)
    assert report["equivalent"]
    assert report["checks"]["backend_vs_program"]["mismatched"] == 0
    assert report["checks"]["backend_vs_program"]["compared"] > 0
    shown = capsys.readouterr().out
    assert "E1 float graph = NIR file" in shown
    assert "checkpoint" not in shown.replace("no quantized checkpoint", "")


def test_a_reset_that_the_file_does_not_state(
    network: Written, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exporter writes the same file for each kind of reset, so there is a warning unless the user names one."""
    command = [str(network.path), "--target", "lava", "--dt", str(network.dt), "--timesteps", str(network.timesteps)]
    thresholds = {}
    for reset in (None, "hard", "late"):
        folder = tmp_path / str(reset)
        assert main([*command, "-o", str(folder), *(["--reset", reset] if reset else [])]) == 0
        warned = "warning: 1 and 1 more: the file does not say how these neurons reset" in capsys.readouterr().out
        report = read_json(folder / "report.json")
        assert warned == bool(report["warnings"]) == (reset is None)
        thresholds[reset] = [node["op"] for node in report["nodes"] if "LIF" in node["op"]]
        np.save(tmp_path / "x.npy", network.samples)
        assert verify_main([str(folder), "--model", str(network.path), "--input", str(tmp_path / "x.npy")]) == 0
    assert thresholds == {None: ["LIF", "LIF"], "hard": ["LIF", "LIF"], "late": ["CubaLIF", "CubaLIF"]}


def test_verify_names_where_another_network_of_the_same_shape_differs(
    build: Path, network: Written, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import h5py

    other = tmp_path / "other.nir"
    other.write_bytes(network.path.read_bytes())
    with h5py.File(other, "r+") as file:
        file["node/nodes/1/v_threshold"][:] = 2.5
    np.save(tmp_path / "x.npy", network.samples)
    arguments = [str(build), "--model", str(other), "--input", str(tmp_path / "x.npy"), "--backend", "sim"]
    assert verify_main(arguments) == 1
    shown = capsys.readouterr().out
    assert "NOT EQUIVALENT" in shown
    assert "1, step" in shown


def test_bad_files_give_one_line(network: Written, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torn = tmp_path / "torn.nir"
    torn.write_bytes(network.path.read_bytes()[:5000])
    wide = write(tmp_path / "wide.nir", chain((3,), lif((3,), tau=float("nan"))))
    late = write(tmp_path / "late.nir", chain((3,), nir.Delay(delay=np.full(3, -1.0)), lif((3,))))
    ring = {"a": nir.Linear(np.eye(3)), "b": nir.Linear(np.eye(3)), "s": lif((3,))}
    edges = [("input", "a"), ("a", "b"), ("b", "a"), ("b", "s"), ("s", "output")]
    cycle = write(tmp_path / "cycle.nir", graph((3,), ring, edges))
    for path, words in (
        (torn, "truncated"),
        (wide, "n0: tau holds NaN"),
        (tmp_path / "no.nir", "no such file"),
        (late, "n0: delay is -1 seconds"),
        (cycle, "a cycle without delay"),
    ):
        arguments = [str(path), "--target", "lava", "--dt", "1e-4", "--timesteps", "4", "-o", str(tmp_path / "b")]
        assert main(arguments) == 1
        message = capsys.readouterr().err
        assert words in message
        assert message.count("\n") == 1
        assert not (tmp_path / "b").exists()


def test_time_is_asked_for(network: Written, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(network.path), "--target", "lava", "-o", str(tmp_path / "b")]) == 1
    assert "give --dt" in capsys.readouterr().err


def test_options_of_the_other_kind_are_refused(
    network: Written, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    time = ["--dt", "1e-4", "--timesteps", "4"]
    assert main([str(network.path), "--target", "lava", "--input-size", "8", *time, "-o", str(tmp_path / "b")]) == 1
    assert "--input-size is for checkpoints" in capsys.readouterr().err
    assert main([str(tmp_path / "m.pt"), "--target", "lava", "--dt", "1", "-o", str(tmp_path / "b")]) == 1
    assert "for NIR files" in capsys.readouterr().err


def test_counts_are_not_divided(tmp_path: Path) -> None:
    path = write(tmp_path / "n.nir", chain((3,), lif((3,), v_threshold=1.5)))
    np.save(tmp_path / "x.npy", np.full((2, 4, 3), 2, dtype=np.uint8))
    arguments = ["--target", "lava", "--dt", "1e-4", "--timesteps", "4", "--input-kind", "frames"]
    assert main([str(path), *arguments, "-o", str(tmp_path / "b")]) == 0
    out = tmp_path / "out.npz"
    assert run_main([str(tmp_path / "b"), "--input", str(tmp_path / "x.npy"), "--backend", "sim", "-o", str(out)]) == 0
    with np.load(out) as result:
        assert result["logits"].all()


def test_neurons_without_leak_are_said_to_be_ifs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where only tau is infinite, NIR's equation is not what its writer can have meant."""
    for r, warned in ((1e4, True), (np.inf, False)):
        path = write(tmp_path / "network.nir", chain((3,), lif((3,), tau=np.inf, r=r)))
        command = [str(path), "--target", "sim", "--dt", "1e-4", "--timesteps", "4", "--reset", "hard"]
        assert main([*command, "-o", str(tmp_path / "b")]) == 0
        assert ("n0: tau is infinite and r is not" in capsys.readouterr().out) == warned


NO_SPIKES = {
    "layers alone": chain((4,), nir.Affine(np.ones((3, 4)), np.ones(3)), nir.Linear(np.ones((2, 3)))),
    "neurons that do not fire": chain((4,), nir.Linear(np.ones((3, 4))), nir.LI(*np.ones((3, 3)))),
}


@pytest.mark.parametrize("name", NO_SPIKES)
def test_a_network_in_which_nothing_fires_is_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "network.nir", NO_SPIKES[name])
    command = [str(path), "--target", "sim", "--dt", "1", "--timesteps", "3", "-o", str(tmp_path / "b"), "--quiet"]
    assert main(command) == 1
    message = capsys.readouterr().err
    assert "its output depends on no spiking neurons; put LIF, IF or CubaLIF neurons between its layers" in message
    assert message.count("\n") == 1
    assert not (tmp_path / "b").exists()
