"""The whole compiler: the order of its passes, what it verifies, and what it returns."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest

from resformer.compiler import pipeline
from resformer.compiler.files.nir import write_nir
from resformer.compiler.frontend.nir.importer import import_nir
from resformer.compiler.ir.graph import Graph
from resformer.compiler.ir.overflow import overflow_refused
from resformer.compiler.ir.program import Scheduled, Unscheduled
from resformer.compiler.ir.verify import verify_graph
from resformer.compiler.pipeline import CHECKPOINT, CompileOptions, compile_checkpoint, compile_nir
from resformer.compiler.quantize.choose import QuantizationConfig
from resformer.errors import FileFormatError, InputError, RangeError, UnsupportedError
from resformer.models.checkpoint import save_checkpoint
from resformer.models.spikingresformer import SpikingResformer
from support.nir_files import chain, lif, write

SMALL = CompileOptions(timesteps=2, image_size=8)


@pytest.fixture(scope="module")
def checkpoint(make_model: Callable[..., SpikingResformer], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.pt"
    save_checkpoint(make_model(stem="conv3x3"), path)
    return path


def test_passes_run_in_order_floats_first(checkpoint: Path) -> None:
    seen: list[tuple[str, type]] = []
    result = compile_checkpoint(checkpoint, SMALL, lambda name, graph: seen.append((name, type(graph))))
    assert tuple(name for name, _ in seen) == CHECKPOINT.pass_names
    level = CHECKPOINT.pass_names.index("quantize")
    assert {kind for _, kind in seen[:level]} == {Graph}
    assert {kind for _, kind in seen[level:-1]} == {Unscheduled}
    assert seen[-1][1] is Scheduled
    assert result.quantized.offsets is None
    assert result.program.offsets is not None
    assert result.program.timesteps == result.folded.timesteps == 2


def test_options_reach_their_pass(checkpoint: Path) -> None:
    config = QuantizationConfig(weight_bits=3, per_channel=False, input_scale_exp=5)
    result = compile_checkpoint(checkpoint, CompileOptions(timesteps=3, image_size=16, quantization=config))
    assert result.program.timesteps == 3
    assert result.program.input.shape == (2, 16, 16)
    assert result.program.input.op.signal.scale_exp == 5
    weights: Any = result.program["prologue.0"].op
    assert np.abs(weights.weight).max() == 3
    assert len(set(weights.weight_exp.tolist())) == 1


def test_calibration_is_measured_with_headroom(checkpoint: Path) -> None:
    samples = np.random.default_rng(0).random((3, 2, 8, 8))
    result = compile_checkpoint(checkpoint, CompileOptions(timesteps=2, image_size=8, calibration=samples))
    assert result.ranges["input"] == samples.max()
    # 1.5 times that, in 64ths, and then the next power of two
    assert result.program.input.op.signal.high == 128


def test_calibration_of_another_shape_is_refused(checkpoint: Path) -> None:
    with pytest.raises(InputError, match=r"calibration: the shape is \(3, 2, 9, 9\)"):
        compile_checkpoint(checkpoint, CompileOptions(timesteps=2, image_size=8, calibration=np.zeros((3, 2, 9, 9))))


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ({"optimize": "speed"}, "optimize: 'speed' is unknown; choose one of cores, time, energy"),
        ({"optimize": "time"}, r"optimize: 'time' lays a program out on a chip, .*give chip=load_chip\('loihi2'\)"),
        ({"optimize": "energy"}, "optimize: 'energy' lays a program out on a chip, and none was given"),
        ({"seed": -1}, "seed: -1 is negative"),
        ({"cores_percent": 99}, "cores_percent: 99 percent of the fewest cores are fewer"),
    ],
)
def test_a_layout_that_cannot_be_looked_for_is_refused_before_anything_is_compiled(
    checkpoint: Path, choice: dict[str, Any], says: str
) -> None:
    seen: list[str] = []
    with pytest.raises(InputError, match=says):
        compile_checkpoint(checkpoint, replace(SMALL, **choice), lambda name, _: seen.append(name))
    assert seen == []


def test_widths_by_layer_and_a_budget_that_chooses_them_exclude_each_other(checkpoint: Path) -> None:
    options = CompileOptions(
        timesteps=2,
        image_size=8,
        quantization=QuantizationConfig(layer_bits={"classifier": 4}),
        synapse_budget=0.7,
        calibration=np.zeros((3, 2, 8, 8)),
    )
    with pytest.raises(InputError, match="synapse budget: chooses every layer's width"):
        compile_checkpoint(checkpoint, options)


def test_what_a_pass_breaks_is_found_at_once(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_it(graph: Graph[nir.NIRNode]) -> Graph[nir.NIRNode]:
        edit = graph.edit()
        edit.set_op("classifier", nir.Linear(np.ones((5, 99))))
        return edit.finish()

    monkeypatch.setattr(pipeline, "CHECKPOINT", replace(CHECKPOINT, float_passes=(break_it, *CHECKPOINT.float_passes)))
    seen: list[str] = []
    with pytest.raises(AssertionError, match="classifier: weights for 99 features"):
        compile_checkpoint(checkpoint, SMALL, lambda name, _: seen.append(name))
    assert seen == ["import"]


@pytest.mark.skipif(not hasattr(BaseException, "add_note"), reason="notes came with Python 3.11")
def test_an_error_says_which_pass_it_came_from(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(graph: Graph[nir.NIRNode]) -> Graph[nir.NIRNode]:
        raise UnsupportedError("layers.0.0: no")

    monkeypatch.setattr(pipeline, "CHECKPOINT", replace(CHECKPOINT, float_passes=(refuse,)))
    with pytest.raises(UnsupportedError) as caught:
        compile_checkpoint(checkpoint, SMALL)
    assert str(caught.value) == "layers.0.0: no"
    assert caught.value.__notes__ == ["in the pass refuse"]


def test_rates_of_a_network_that_never_trained_are_refused(
    make_model: Callable[..., SpikingResformer], tmp_path: Path
) -> None:
    model = make_model(stem="conv3x3")
    model.get_buffer("layers.0.0.firing_rate_x").zero_()
    save_checkpoint(model, tmp_path / "model.pt")
    with pytest.raises(UnsupportedError, match=r"layers\.0\.0\.firing_rate_x: head 0 has the firing rate 0"):
        compile_checkpoint(tmp_path / "model.pt", SMALL)


def test_weights_too_large_for_any_scale_are_refused(
    make_model: Callable[..., SpikingResformer], tmp_path: Path
) -> None:
    model = make_model(stem="conv3x3")
    model.get_parameter("layers.0.1.up.2.bn.weight").data.mul_(1e6)
    save_checkpoint(model, tmp_path / "model.pt")
    with pytest.raises(RangeError, match=r"layers\.0\.1\.up\.1: no scale fits its currents"):
        compile_checkpoint(tmp_path / "model.pt", SMALL)


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ((lif((3,), r=1e-300, v_threshold=1e10),), r"from 1e-300 \(n0's r\) to 1e\+10 \(n0's v_threshold\): overflow"),
        ([nir.Linear(np.full((3, 3), 1e29))] * 6 + [lif((3,))], r" to 2\.43e\+176 \(n5's weight\): overflow"),
        ([nir.Linear(np.full((3, 3), 1e29))] * 12 + [lif((3,))], r" to 1e\+29 \(n\d+'s weight\): overflow"),
    ],
    ids=["threshold by r", "squares of weights", "weights"],
)
def test_values_of_which_numbers_overflow_are_refused_by_name(
    tmp_path: Path, nodes: Sequence[nir.NIRNode], words: str
) -> None:
    path = write(tmp_path / "n.nir", chain((3,), *nodes))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        with pytest.raises(UnsupportedError, match=words) as raised:
            compile_nir(path, CompileOptions(dt=1e-4, timesteps=3))
    assert "\n" not in str(raised.value)


def test_an_infinite_value_that_arose_unseen_is_refused_likewise(tmp_path: Path) -> None:
    graph = import_nir(
        write(tmp_path / "n.nir", chain((3,), nir.Linear(np.ones((3, 3))), lif((3,)))), dt=1e-4, timesteps=3
    )
    nodes = tuple(
        replace(node, op=nir.Linear(np.full((3, 3), np.inf))) if node.name == "n0" else node for node in graph
    )
    told = r"to 2 \(n1's r\): n0: weight holds NaN or infinite values"
    with pytest.raises(UnsupportedError, match=told), overflow_refused(graph):
        verify_graph(replace(graph, nodes=nodes))


def test_a_graph_of_ours_that_denies_what_it_was_made_of_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    """The graph is a checkpoint's as imported; only the file claims that its float passes have run."""
    imported: list[Graph[nir.NIRNode]] = []
    compile_checkpoint(checkpoint, SMALL, lambda name, graph: imported.append(graph) if name == "import" else None)
    path = tmp_path / "network.nir"
    write_nir(imported[0], path)
    with pytest.raises(
        FileFormatError, match=r"network\.nir: its nodes and its metadata do not fit each other .*again$"
    ):
        compile_nir(path)
