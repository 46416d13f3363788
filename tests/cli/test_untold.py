"""Facts that no tensor of a checkpoint tells: given on the command line, stored in the build, and read by verify."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch

import resformer
from resformer.compiler.backends import OpenBackend
from resformer.compiler.export.checkpoint import quantized_state
from resformer.compiler.pipeline import CompileOptions
from resformer.errors import InputError
from resformer.models.checkpoint import SETTINGS, build_model, load_checkpoint
from resformer.models.spikingresformer import SpikingResformer
from resformer.runtime.cli.compile import main
from resformer.runtime.cli.run import main as run_main
from resformer.runtime.cli.verify import main as verify_main
from resformer.runtime.verify import result
from support.builds import SAMPLES, Tiny, read_json

E1, E2, E3, _ = result.CHECKS
MakeModel = Callable[..., SpikingResformer]


def written(model: SpikingResformer, folder: Path) -> tuple[Path, Path]:
    """Write a model's tensors alone, as the authors write them, and images for it; returns both paths."""
    checkpoint, images = folder / "model.pt", folder / "images.npy"
    torch.save({"model": model.state_dict()}, checkpoint)
    shape = (SAMPLES, model.architecture.in_channels, model.image_size, model.image_size)
    np.save(images, np.random.default_rng(5).random(shape, dtype=np.float32))
    return checkpoint, images


def compiled(checkpoint: Path, folder: Path, model: SpikingResformer, *arguments: str) -> int:
    sizes = ["--input-size", str(model.image_size), "--timesteps", str(model.timesteps)]
    return main([str(checkpoint), "--target", "sim", "-o", str(folder / "build"), *sizes, *arguments])


def verified(checkpoint: Path, images: Path, folder: Path, *arguments: str) -> tuple[int, Any]:
    command = [str(folder / "build"), "--model", str(checkpoint), "--input", str(images), "--backend", "sim"]
    status = verify_main([*command, "--json", str(folder / "r.json"), *arguments])
    return status, read_json(folder / "r.json")


def test_an_if_network_is_verified_as_one(
    make_model: MakeModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model(neuron="IF")
    checkpoint, images = written(model, tmp_path)
    assert compiled(checkpoint, tmp_path, model, "--neuron", "IF") == 0
    assert "assumed: neurons" not in capsys.readouterr().out
    report = read_json(tmp_path / "build" / "report.json")
    assert report["options"]["neuron"] == report["architecture"]["neuron"] == "IF"

    quantized = load_checkpoint(tmp_path / "build" / "quantized.pt")
    assert quantized.architecture == model.architecture
    assert build_model(quantized).assumptions == ()
    program = resformer.compile(checkpoint, options=CompileOptions(image_size=16, neuron="IF")).compilation.quantized
    assert quantized_state(program).keys() == quantized.state.keys(), "without being told which neuron it is"

    status, found = verified(checkpoint, images, tmp_path)
    assert (status, found["equivalent"]) == (0, True)
    checks = found["checks"]
    assert [checks[each]["mismatched"] for each in (E1, E2, E3)] == [0, 0, 0]
    assert checks[E3]["demanded"]

    report["options"]["neuron"] = None
    (tmp_path / "build" / "report.json").write_text(json.dumps(report))
    status, found = verified(checkpoint, images, tmp_path)
    assert status == 1
    assert found["checks"][E1]["mismatched"] > 0, "read as an LIF network, it is another"


def test_what_nobody_said_is_printed_as_assumed(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = "neurons: LIF with tau 2 (no tensor says so)"
    for mode in (["--target", "sim", "-o", str(tmp_path / "b")], ["--check"]):
        assert main([str(tiny.model), *tiny.arguments, *mode]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert f"assumed: {wanted}" in lines
        assert not any("image size" in line for line in lines if line.startswith("assumed"))
    assert wanted in read_json(tmp_path / "b" / "report.json")["assumptions"]
    compilation = resformer.compile(tiny.model, options=CompileOptions(image_size=16)).compilation
    assert list(compilation.source.assumptions) == read_json(tmp_path / "b" / "report.json")["assumptions"]
    content = torch.load(tmp_path / "b" / "quantized.pt", weights_only=True)
    assert content[SETTINGS] == {"neuron": "LIF", "stem_stride": 2, "stem_pool": True}


def test_the_stem_and_its_rounding_can_be_said(make_model: MakeModel, tmp_path: Path) -> None:
    model = make_model(stem="conv3x3", stem_stride=2, stem_pool=True, image_size=32)
    checkpoint, images = written(model, tmp_path)
    choices = ("--stem-stride", "2", "--stem-pool", "--feature-rounding", "ceil")
    assert compiled(checkpoint, tmp_path, model, *choices) == 0
    report = read_json(tmp_path / "build" / "report.json")
    said = {name: report["options"][name] for name in ("stem_stride", "stem_pool", "feature_rounding")}
    assert said == {"stem_stride": 2, "stem_pool": True, "feature_rounding": "ceil"}
    assert verified(checkpoint, images, tmp_path)[0] == 0
    assert load_checkpoint(tmp_path / "build" / "quantized.pt").architecture == model.architecture


def test_attention_scaled_as_the_authors_round_is_quantized_so(make_model: MakeModel, tmp_path: Path) -> None:
    """For images of 15 pixels, stage 1 has 8 x 8 pixels, but the authors' rounding gives the L of 7 x 7."""
    ceil = make_model(stem="conv3x3", image_size=15, patch_sizes=(1, 1))
    checkpoint, images = written(ceil, tmp_path)
    assert compiled(checkpoint, tmp_path, ceil, "--quiet") == 1
    assert compiled(checkpoint, tmp_path, ceil, "--feature-rounding", "floor") == 0
    quantized = load_checkpoint(tmp_path / "build" / "quantized.pt")
    assert quantized.feature_rounding == "floor"
    rates = {name: tensor for name, tensor in quantized.state.items() if name.endswith("firing_rate_attn")}
    counts = {name: 49 if name.startswith("layers.1.") else 225 for name in rates}
    assert set(counts.values()) == {49, 225}
    assert all((rates[name] * count == 1).all() for name, count in counts.items())
    options = CompileOptions(timesteps=4, image_size=15, feature_rounding="floor")
    in_memory = resformer.compile(checkpoint, options=options).quantized_state()
    assert in_memory.keys() == quantized.state.keys()
    assert all(torch.equal(in_memory[name], tensor) for name, tensor in quantized.state.items())
    status, found = verified(checkpoint, images, tmp_path)
    assert (status, found["checks"][E1]["mismatched"], found["checks"][E3]["mismatched"]) == (0, 0, 0)


def test_a_plif_network_whose_decays_are_one_half_stays_one(make_model: MakeModel, tmp_path: Path) -> None:
    model = make_model(neuron="PLIF")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".w"):
                parameter.zero_()
    checkpoint, _ = written(model, tmp_path)
    assert compiled(checkpoint, tmp_path, model, "--quiet") == 0
    assert load_checkpoint(tmp_path / "build" / "quantized.pt").architecture.neuron == "PLIF"


def test_the_weights_are_those_under_the_key(
    make_model: MakeModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw, averaged = make_model(seed=1), make_model(seed=2)
    checkpoint, images = written(averaged, tmp_path)
    torch.save({"model": raw.state_dict(), "model_ema": averaged.state_dict()}, checkpoint)
    assert compiled(checkpoint, tmp_path, averaged) == 0
    note = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("note: "))
    assert "read from 'model'; the file also holds model_ema" in note
    report = read_json(tmp_path / "build" / "report.json")
    assert report["notes"] == [note.removeprefix("note: ")]
    first = resformer.load(tmp_path / "build").run(images).logits

    assert compiled(checkpoint, tmp_path, averaged, "--weights-key", "model_ema") == 0
    report = read_json(tmp_path / "build" / "report.json")
    assert (report["notes"], report["options"]["weights_key"]) == ([], "model_ema")
    status, found = verified(checkpoint, images, tmp_path)
    assert (status, found["checks"][E1]["mismatched"]) == (0, 0)
    assert (resformer.load(tmp_path / "build").run(images).logits != first).any()


CHOICES = (
    ("--weights-key", "model"),
    ("--neuron", "IF"),
    ("--stem-stride", "1"),
    ("--no-stem-pool",),
    ("--feature-rounding", "floor"),
)


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: choice[0])
def test_a_nir_file_says_all_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str], choice: tuple[str, ...]) -> None:
    ones = np.ones(2)
    nir.write(
        tmp_path / "a.nir", nir.NIRGraph.from_list(nir.Linear(np.eye(2)), nir.IF(ones, ones), nir.Linear(np.eye(2)))
    )
    assert main([str(tmp_path / "a.nir"), "--target", "sim", "-o", str(tmp_path / "b"), *choice]) == 1
    named = "--stem-pool" if choice[0] == "--no-stem-pool" else choice[0]
    assert f"{named} is for checkpoints; a NIR file states" in capsys.readouterr().err


def test_a_module_says_all_of_it() -> None:
    with pytest.raises(InputError, match="neuron, stem_pool: for checkpoints"):
        resformer.compile(torch.nn.Linear(2, 2), torch.zeros(1, 2), options=CompileOptions(neuron="IF", stem_pool=True))
    with pytest.raises(InputError, match="reset, min_v: for NIR files"):
        resformer.compile(torch.nn.Linear(2, 2), torch.zeros(1, 2), options=CompileOptions(reset="soft", min_v=-1.0))


def test_no_to_an_option_is_swept_as_its_value(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "t.json"
    sweep = [str(tiny.model), *tiny.arguments, "--sweep"]
    assert main([*sweep, "stem-pool=yes,no", "neuron=IF,LIF", "--table", str(table)]) == 0
    assert len(read_json(table)["points"]) == 4
    assert main([*sweep, "no-stem-pool=yes"]) == 2
    assert "there is no option 'no-stem-pool'" in capsys.readouterr().err


# --- a backend's notes on the machine, and its self-check


@pytest.mark.parametrize("command", [run_main, verify_main])
def test_self_check_is_for_sim(
    tiny: Tiny, command: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(tiny.build), "--input", str(tiny.images), "--self-check", "--samples", "1", "--backend"]
    assert command([*given, "reference"]) == 2
    assert "--self-check: reference cannot check itself; choose --backend sim" in capsys.readouterr().err
    assert command([*given, "sim"]) == 0


def test_self_check_reaches_the_backend_and_its_notes_the_reader(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from resformer.compiler.backends.sim.backend import SimBackend

    asked: list[bool] = []
    run = SimBackend.run

    def watched(self: SimBackend, *arguments: Any, self_check: bool = False, **options: Any) -> Any:
        asked.append(self_check)
        return run(self, *arguments, self_check=self_check, **options)

    note = "stem: this machine's int8 convolution sums wrongly"
    monkeypatch.setattr(SimBackend, "run", watched)
    monkeypatch.setattr(OpenBackend, "notes", property(lambda _: (note,)))
    given = [str(tiny.build), "--input", str(tiny.images), "--backend", "sim"]
    for check in ([], ["--self-check"]):
        assert run_main([*given, *check]) == 0
        assert f"note: {note}" in capsys.readouterr().out.splitlines()
        assert verify_main([*given, *check, "--json", str(tmp_path / "r.json")]) == 0
        assert f"note: {note}" in capsys.readouterr().out.splitlines()
        assert read_json(tmp_path / "r.json")["notes"] == [note]
    network = resformer.load(tiny.build, tiny.model)
    assert network.run(tiny.images, backend="sim", self_check=True).notes == (note,)
    assert network.verify(tiny.images, backend="sim", self_check=True).notes == (note,)
    assert asked == [False, False, True, True, True, True]
