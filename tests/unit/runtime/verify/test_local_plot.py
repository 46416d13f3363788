"""The plot of layers' own errors, whose names come from files."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from resformer.runtime.verify.local_plot import plot_local


def test_names_are_no_formulas(tmp_path: Path) -> None:
    """Matplotlib reads text between dollar signs as a formula; half a fraction made it raise an error of its own."""
    pytest.importorskip("matplotlib")
    layer = SimpleNamespace(name=r"$\frac$", population="s")
    error: Any = SimpleNamespace(rank=1, relative=0.1, mismatch=0.1, drift=0.2, layer=layer)
    plot_local([error], tmp_path / "local.svg")
    assert r"$\frac$" in (tmp_path / "local.svg").read_text()
