"""The table of backends."""

from __future__ import annotations

import numpy as np
import pytest

from resformer.compiler.backends import open_backend
from resformer.compiler.backends.sim import SimBackend
from resformer.compiler.ir import reference
from resformer.errors import UnsupportedError
from support.builds import Tiny, program_of


def test_unknown_backends_models_and_devices_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="lava"):
        open_backend("loihi")
    with pytest.raises(UnsupportedError, match="no stock models"):
        open_backend("reference", stock_models=True)
    with pytest.raises(UnsupportedError, match="CPU alone"):
        open_backend("lava", device="cuda")
    with pytest.raises(UnsupportedError, match="'reference' cannot check itself"):
        open_backend("reference", self_check=True)


def test_stock_models_reach_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = pytest.importorskip("resformer.compiler.backends.lava.backend")
    seen: list[dict[str, object]] = []
    monkeypatch.setattr(backend.LavaBackend, "run", lambda _self, _program, _samples, **options: seen.append(options))
    for stock_models in (False, True):
        open_backend("lava", stock_models=stock_models)(None, np.zeros(0, np.int32), record=True)  # type: ignore[arg-type]
    assert seen == [{"record": True}, {"record": True, "stock_models": True}]


def test_devices_and_batches_reach_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(SimBackend, "__init__", lambda _self, device: seen.append(device))
    monkeypatch.setattr(SimBackend, "run", lambda _self, _program, _samples, **options: seen.append(options))
    open_backend("sim", device="cuda:1", batch_size=7)(None, np.zeros(0, np.int32), record=True)  # type: ignore[arg-type]
    assert seen == ["cuda:1", {"record": True, "batch_size": 7}]
    open_backend("sim", self_check=True)(None, np.zeros(0, np.int32), record=True)  # type: ignore[arg-type]
    assert seen[2:] == ["cpu", {"record": True, "batch_size": None, "self_check": True}]


def test_notes_reach_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SimBackend, "notes", ("conv: sums wrongly",))
    assert open_backend("sim").notes == ("conv: sums wrongly",)
    assert open_backend("reference").notes == ()


def test_the_reference_runs_and_reports_progress(tiny: Tiny) -> None:
    program = program_of(tiny.build)
    samples = np.random.default_rng(0).integers(-64, 65, (3, *program.input.shape)).astype(np.int32)
    seen: list[tuple[int, int]] = []
    trace = open_backend("reference")(program, samples, progress=lambda done, total: seen.append((done, total)))
    np.testing.assert_array_equal(trace.logits, reference.run(program, samples).logits)
    assert seen == [(3, 3)]
    assert not trace.spikes
