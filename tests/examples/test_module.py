"""The example of a module in memory, small."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import scripts

SCRIPT = Path(__file__).parents[2] / "examples" / "module" / "compile_module.py"


def test_it_compiles_verifies_and_keeps_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = scripts.load(SCRIPT, "compile_module")
    monkeypatch.setattr(script, "SIZE", 8)
    monkeypatch.setattr(script, "SAMPLES", 2)
    assert script.main(str(tmp_path / "build")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[1] for line in lines] == ["equal", "equal", "equal", "measured"]
    assert (tmp_path / "build" / "quantized.pt").is_file()
