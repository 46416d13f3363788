"""The example of a Lava program around a network: its logits and spikes are those of ``resformer-run``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from resformer.runtime.cli.run import main as run_main
from support import scripts
from support.builds import Tiny

SCRIPT = Path(__file__).parents[2] / "examples" / "lava" / "own_program.py"


def test_its_logits_and_spikes_are_those_of_resformer_run(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lava")
    out = tmp_path / "out.npz"
    run = [str(tiny.build), "--input", str(tiny.images), "--backend", "sim", "-o", str(out), "--record-spikes"]
    assert run_main(run) == 0
    script = scripts.load(SCRIPT, "own_program")
    capsys.readouterr()
    assert script.main(str(tiny.build), str(tiny.images), str(out)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "equal to resformer-run's, logits and all spikes"
    expected = np.load(out)
    assert lines[0] == f"classes: {' '.join(map(str, expected['predictions'][: script.SAMPLES]))}"
    assert len(lines) == 2 + sum(name.startswith("spikes/") for name in expected.files)

    changed = dict(expected)
    name = next(each for each in changed if each.startswith("spikes/"))
    changed[name][0] ^= 1 << 7
    np.savez(out, **changed)
    assert script.main(str(tiny.build), str(tiny.images), str(out)) == 1
    assert f"differs: {name.removeprefix('spikes/')}" in capsys.readouterr().out
