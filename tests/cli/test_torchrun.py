"""``resformer-run`` in several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resformer.runtime.cli.run import main as run_main
from resformer.runtime.cli.verify import main as verify_main
from support.builds import Tiny

SCRIPT = Path(sys.executable).with_name("resformer-run")


def torchrun(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """As docs/quickstart.md says it."""
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
def test_two_processes_give_what_one_gives_and_one_of_them_says_what_fails(tiny: Tiny, tmp_path: Path) -> None:
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
    failed = torchrun(*common, tmp_path / "none.npz")
    assert failed.returncode == 1
    said = [line for line in failed.stderr.splitlines() if line.startswith("resformer-run: ")]
    assert len(said) == 1
    assert "sample 4 holds a NaN" in said[0]
    assert not (tmp_path / "none.npz").exists()


def test_verify_is_one_process(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    assert verify_main([str(tiny.build), "--input", str(tiny.images), "--backend", "reference"]) == 2
    assert "start one process" in capsys.readouterr().err
