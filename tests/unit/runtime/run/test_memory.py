"""How much memory there is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from resformer.runtime.run import memory
from resformer.runtime.run.memory import machine_memory


def test_a_containers_limit_counts_if_it_is_lower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit, other = tmp_path / "memory.max", tmp_path / "memory.limit_in_bytes"
    monkeypatch.setattr(memory, "CGROUP_LIMITS", (limit, other))
    whole = machine_memory()
    assert whole is not None
    assert whole == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit.write_text("max\n")
    other.write_text(f"{2**62}\n")
    assert machine_memory() == whole
    limit.write_text("1000\n")
    assert machine_memory() == 1000


def test_nobody_may_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CGROUP_LIMITS", ())
    monkeypatch.delattr(os, "sysconf")
    assert machine_memory() is None
