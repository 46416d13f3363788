"""Commands in several processes."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resformer.runtime.cli.run import main as run_main
from support.builds import Tiny
from support.together import commands_together, launcher

__all__ = ["launcher"]

SCRIPT = Path(sys.executable).with_name("resformer-run")


def torchrun(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command in two processes, as docs/howto/several-processes.md says."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"} | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*launcher, SCRIPT, *arguments], capture_output=True, text=True, env=environment, timeout=300, check=False
    )


def results(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


@pytest.mark.slow
@pytest.mark.skipif(not SCRIPT.exists(), reason="resformer is not installed beside this Python")
def test_two_processes_give_what_one_gives_and_one_of_them_says_what_fails(
    tiny: Tiny, tmp_path: Path, launcher: subprocess.Popen[str]
) -> None:
    images = np.load(tiny.images)
    images[4, 0, 0, :3] = 1000  # clipped, in the second process's share
    np.save(tmp_path / "x.npy", images[:5])
    common = [str(tiny.build), "--input", str(tmp_path / "x.npy"), "--backend", "sim", "--record-spikes", "-o"]
    assert run_main([*common, str(tmp_path / "one.npz")]) == 0
    done = torchrun(*common, tmp_path / "two.npz")
    assert done.returncode == 0, done.stderr
    expected, found = results(tmp_path / "one.npz"), results(tmp_path / "two.npz")
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    assert done.stdout.count("predictions") == 1, "more than one process printed"
    assert "2 processes" in done.stdout
    assert [line.split()[-1] for line in done.stdout.splitlines() if "values clipped" in line] == ["3"]

    images[4, 0, 0, 0] = np.nan
    np.save(tmp_path / "x.npy", images)
    failed = commands_together(launcher, [("run", [*common, str(tmp_path / "none.npz")])])
    assert [each.status for each in failed] == [1, 1]
    said = [line for each in failed for line in each.err.splitlines() if line.startswith("resformer-run: ")]
    assert len(said) == 1
    assert "sample 4 holds a NaN" in said[0]
    assert not (tmp_path / "none.npz").exists()


def commands(tiny: Tiny, folder: Path) -> list[tuple[str, list[str]]]:
    """Every command that is shared, with all that it writes."""
    given = ["--input", str(tiny.images), "--labels", str(tiny.labels)]
    ran = [str(tiny.build), *given, "--backend", "sim", "--batch-size", "2"]
    table = folder / "t.json"
    return [
        ("verify", [*ran, "--model", str(tiny.model), "--local", "--json", str(folder / "v.json")]),
        ("run", [*ran, "--cost", "--json", str(folder / "c.json"), "--report", str(folder / "r.html")]),
        ("compile", [str(tiny.model), *tiny.arguments, *given, "--sweep", "weight-bits=4,8,6", "--table", str(table)]),
    ]


def test_two_processes_write_what_one_writes_byte_for_byte(
    launcher: subprocess.Popen[str], tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for command, arguments in commands(tiny, one):
        assert importlib.import_module(f"resformer.runtime.cli.{command}").main(arguments) == 0
    alone = capsys.readouterr()
    first, second = commands_together(launcher, commands(tiny, two))
    assert (first.status, second.status) == (0, 0), first.err + second.err
    assert {path.name for path in two.iterdir()} == {"v.json", "c.json", "r.html", "t.json"}
    for path in one.iterdir():
        assert path.read_bytes() == (two / path.name).read_bytes(), path.name
    assert second.out == ""
    assert first.err == alone.err == second.err == ""
    told = [[line for line in text.splitlines() if " images/s " not in line] for text in (first.out, alone.out)]
    assert [line.replace(str(two), str(one)) for line in told[0]] == told[1]


def test_a_process_that_dies_is_named_and_the_other_ends(launcher: subprocess.Popen[str], tiny: Tiny) -> None:
    arguments = [str(tiny.build), "--input", str(tiny.images), "--backend", "sim"]
    before = """
import os
from resformer.runtime.verify import verify
if os.environ["RANK"] == "1":
    verify.check_batch = lambda *_: os.kill(os.getpid(), 9)
"""
    other, killed = commands_together(launcher, [("verify", arguments)], before=before)
    assert (other.status, killed.status) == (1, -9)
    assert other.err.count("\n") == 1, other.err
    assert other.err.startswith("resformer-verify: error: rank 1 of 2 (pid ")
    assert "was killed by SIGKILL" in other.err
    assert other.out == ""
