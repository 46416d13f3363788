"""The benchmarks for GPUs, as far as a CPU can test them: contestants that hang or end, and digests that differ."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from resformer.compiler.backends.sim import SimBackend
from resformer.compiler.ir.trace import SpikeTrain
from support.program_builder import tiny_resformer

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
WORKER = """
import json, sys, time
task = json.loads(sys.argv[1])
name = task["contestant"]
for line in sys.stdin:
    if name == "frozen":
        time.sleep(60)
    if name == "compiled":
        raise SystemExit(3)
    if name == "graphs":
        print(json.dumps({"error": "RuntimeError: no graphs here"}), flush=True)
    elif json.loads(line)["do"] == "prepare":
        print(json.dumps({"classes": [1, 2]}), flush=True)
    else:
        wall = {"sim": 0.01}.get(name, 0.025)
        print(json.dumps({"wall": wall, "cpu": 2 * wall, "joules": 0.5, "peak_bytes": 3 << 20}), flush=True)
"""


@pytest.fixture(scope="module")
def benchmarks() -> Iterator[None]:
    """The benchmarks' folder, where its modules find each other."""
    before, known = list(sys.path), set(sys.modules)
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path[:] = before
    for name in {"contestants", "gpu_exact", "networks", "sim_vs_spikingjelly"} - known:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def against(benchmarks: None) -> ModuleType:
    return importlib.import_module("sim_vs_spikingjelly")


@pytest.fixture(scope="module")
def exact(benchmarks: None) -> ModuleType:
    return importlib.import_module("gpu_exact")


@pytest.fixture
def raced(against: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The table of five contestants: one hangs, one ends and one reports that it cannot run."""
    path = tmp_path / "worker.py"
    path.write_text(WORKER, encoding="utf-8")
    monkeypatch.setattr(against, "WORKER", path)
    names = ("sim", "eager", "frozen", "compiled", "graphs")
    entries = [against.Entry(against.Contestant(name), 2) for name in names]

    def launch(entry: object) -> object:
        task = against.Task(entry.contestant.name, "", "", "", 2, 1, "cuda", 1, False)
        return against.Worker(task, against.environment_of(entry.contestant, None), None)

    against.prepare_all(entries, launch, 2, 2.0, against.Clock(30))
    against.take_turns(entries, 3, 0.1, against.Clock(30))
    assert [len(each.rounds) for each in entries] == [3, 3, 0, 0, 0]
    return against.table("ti", entries, on_gpu=True)


def test_a_contestant_that_hangs_or_ends_leaves_the_others_their_rows(raced: list[list[str]]) -> None:
    assert raced[0] == ["ti, batch 2: sim", "0.0100", "200.00", "1.0x", "+0% +0%", "3", "0.250", "-"]
    assert raced[1][:4] == ["ti, batch 2: SpikingJelly eager", "0.0250", "80.00", "2.5x"]
    assert raced[1][-1] == "2/2"
    assert raced[2][0] == "ti, batch 2: SpikingJelly frozen: no answer after 2 s"
    assert raced[3][0] == "ti, batch 2: SpikingJelly compiled: ended with code 3"
    assert raced[4][0] == "ti, batch 2: SpikingJelly graphs: RuntimeError: no graphs here"
    assert len({len(row) for row in raced}) == 1


def test_nothing_begins_when_no_time_is_left(against: ModuleType) -> None:
    entries = [against.Entry(against.Contestant("eager"), 1)]
    against.prepare_all(entries, pytest.fail, 1, None, against.Clock(0))
    against.take_turns(entries, 1, 0.1, against.Clock(0))
    (row,) = against.table("ti", entries, on_gpu=True)
    assert row[0].endswith("no time was left to begin")


def test_who_is_ready_too_late_is_told(against: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "worker.py").write_text(WORKER, encoding="utf-8")
    monkeypatch.setattr(against, "WORKER", tmp_path / "worker.py")
    entry = against.Entry(against.Contestant("eager"), 2)
    task = against.Task("eager", "", "", "", 2, 1, "cuda", 1, False)
    against.prepare_all([entry], lambda _: against.Worker(task, {}, None), 1, None, against.Clock(30))
    assert entry.ready
    against.take_turns([entry], 3, 0.1, against.Clock(0))
    (row,) = against.table("ti", [entry], on_gpu=True)
    assert row[0].endswith("no time was left to run")


def test_preparing_leaves_time_to_measure(against: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["", "--seconds", "100", "--variants", "ti", "s"])
    assert against.arguments().prepare_seconds == 30
    monkeypatch.setattr(sys, "argv", ["", "--seconds", "100", "--prepare-seconds", "9"])
    assert against.arguments().prepare_seconds == 9


def test_names_say_which_spikingjelly(against: ModuleType, tmp_path: Path) -> None:
    first, second = against.Contestant("cupy-autocast"), against.Contestant("2-compiled-autocast")
    assert first.title == "SpikingJelly cupy-autocast"
    assert second.title == "SpikingJelly 2 compiled-autocast"
    folder = str(tmp_path)
    assert against.environment_of(second, tmp_path)["PYTHONPATH"].startswith(folder)
    assert folder not in against.environment_of(first, tmp_path).get("PYTHONPATH", "")
    with pytest.raises(ValueError, match="fast is none of"):
        against.Contestant("2-fast")


def test_what_differs_from_the_reference_is_named(exact: ModuleType) -> None:
    program, net = tiny_resformer(timesteps=3)
    samples = net.samples(2, timesteps=None)
    known = exact.answers(program, samples)
    order = [1, 0, 1]
    trace = SimBackend().run(program, samples[order], record=True)
    verdict = exact.check(trace, order, known, record=True)
    assert verdict.compared > 3 * 3 * len(trace.spikes)
    assert not verdict.wrong
    assert exact.check(trace, [0, 0, 1], known, record=True).wrong

    name, train = next(iter(trace.spikes.items()))
    dense = train.dense()
    dense[2, 1].reshape(-1)[0] ^= True
    spikes = {**trace.spikes, name: SpikeTrain.pack(dense)}
    assert exact.check(replace(trace, spikes=spikes), order, known, record=True).wrong == [name]
    relay, values = next(iter(trace.graded.items()))
    changed = values.copy()
    changed[0, 2].reshape(-1)[-1] += 1
    graded = {**trace.graded, relay: changed}
    assert exact.check(replace(trace, graded=graded), order, known, record=True).wrong == [relay]
    logits = trace.logits.copy()
    logits[2, 0, 0] += 1
    assert exact.check(replace(trace, logits=logits), order, known, record=True).wrong == [exact.LOGITS]
    clipped = next(iter(trace.saturated))
    saturated = {**trace.saturated, clipped: trace.saturated[clipped] + 1}
    found = exact.check(replace(trace, saturated=saturated), order, known, record=True)
    assert found.wrong == [f"saturated of {clipped}"]
    lost = {each: train for each, train in trace.spikes.items() if each != name}
    assert set(exact.check(replace(trace, spikes=lost), order, known, record=True).wrong) == {name}

    unrecorded = SimBackend().run(program, samples[order])
    # a run that did not record, but should have, lacks every name
    lacking = exact.check(unrecorded, order, known, record=True)
    assert set(lacking.wrong) == known[0].values.keys() - {exact.LOGITS}
    verdict = exact.check(unrecorded, order, known, record=False)
    assert not verdict.wrong
    assert verdict.compared == 3 * 3 + len(trace.saturated) + len(trace.ties)
