"""One object for every source: checkpoints, NIR files, modules, and builds of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch

import resformer
from resformer import Compiled, CompileOptions
from resformer.compiler.chips.chip import load_chip
from resformer.compiler.files.build import FILES
from resformer.compiler.samples.preprocessing import Preprocessing
from resformer.errors import CapacityError, FileFormatError, InputError, ResformerError, UnsupportedError
from resformer.runtime.origin import InMemory
from resformer.runtime.verify.result import BACKEND, FLOAT_GRAPH, ORIGINAL, QUANTIZED
from support import nir_files
from support.builds import Tiny, read_json
from support.modules import SpikingVGG, calibrated, lif
from support.pages import read_page

CHECKS = {
    "checkpoint": {FLOAT_GRAPH, BACKEND, QUANTIZED, ORIGINAL},
    "nir": {FLOAT_GRAPH, BACKEND, ORIGINAL},
    "module": {FLOAT_GRAPH, BACKEND, QUANTIZED, ORIGINAL},
}
"""The checks that a network can have, by its kind of source; a NIR file has no quantized checkpoint."""
WITHOUT_MODEL = {"checkpoint": {BACKEND, QUANTIZED}, "nir": {BACKEND}, "module": {BACKEND}}
"""The checks that the network's build can have without the model."""


@dataclass(frozen=True)
class Case:
    """A compiled network.

    Attributes:
        kind: The kind of its source.
        compiled: The network in memory.
        build: The saved build.
        model: The file that it was compiled from.
        images: (3, C, H, W).
    """

    kind: str
    compiled: Compiled
    build: Path
    model: Path | None
    images: np.ndarray


@pytest.fixture(scope="module", params=sorted(CHECKS))
def case(request: pytest.FixtureRequest, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("compiled")
    kind, model, images = request.param, None, np.load(tiny.images)[:3]
    options = CompileOptions(chip=load_chip("loihi2"))
    if kind == "checkpoint":
        model = tiny.model
        compiled = resformer.compile(model, target="sim", options=CompileOptions(image_size=16, chip=options.chip))
    elif kind == "nir":
        rng = np.random.default_rng(0)
        layers = (
            nir_files.conv2d(rng.normal(size=(4, 2, 3, 3)), padding=1),
            nir_files.lif((4, 16, 16)),
            nir_files.flatten((4, 16, 16)),
            nir.Linear(rng.normal(size=(5, 1024))),
        )
        model = nir_files.write(folder / "network.nir", nir_files.chain((2, 16, 16), *layers))
        nir_options = CompileOptions(dt=1e-4, timesteps=4, chip=options.chip)
        compiled = resformer.compile(str(model), target=["sim"], options=nir_options)
    else:
        images = np.random.default_rng(3).random((3, 3, 8, 8))
        example = torch.from_numpy(images).float()
        module = calibrated(SpikingVGG((4, "M", 6), lif), example)
        compiled = resformer.compile(module, example, "sim", options=options)
    compiled.save(folder / "build")
    return Case(kind, compiled, folder / "build", model, images)


def test_all_that_is_in_memory_is_verified(case: Case) -> None:
    result = case.compiled.verify(case.images)
    assert result.equivalent
    assert result.backend == "sim"
    assert set(result.checks) == CHECKS[case.kind]
    assert result.model_is_source


def test_a_build_is_the_same_network(case: Case, tmp_path: Path) -> None:
    loaded = resformer.load(case.build)
    assert type(loaded) is type(case.compiled) is Compiled
    assert loaded.targets == case.compiled.targets == ("sim",)
    images = tmp_path / "images.npy"
    np.save(images, case.images)
    expected, found = case.compiled.run(case.images, record=True), loaded.run(str(images), record=True)
    np.testing.assert_array_equal(found.logits, expected.logits)
    assert found.spikes.keys() == expected.spikes.keys()
    assert loaded.place() == case.compiled.place()
    assert loaded.cost(found).energy_mj == case.compiled.cost(torch.from_numpy(case.images)).energy_mj > 0
    assert len(loaded.graph) > 0

    result = loaded.verify(images, samples=2)
    assert result.equivalent
    assert result.samples == 2
    assert set(result.checks) == WITHOUT_MODEL[case.kind]
    if case.model is not None:
        assert set(resformer.load(case.build, case.model).verify(images).checks) == CHECKS[case.kind]
        assert set(loaded.verify(images, model=str(case.model)).checks) == CHECKS[case.kind]
    else:
        assert "Compiled.verify" in result.not_run[FLOAT_GRAPH]


def test_quantized_states(case: Case) -> None:
    loaded = resformer.load(case.build)
    if case.kind == "nir":
        for each in (case.compiled, loaded):
            with pytest.raises(UnsupportedError, match="has no quantized checkpoint"):
                each.quantized_state()
        return
    expected = case.compiled.quantized_state()
    assert expected.keys() == loaded.quantized_state().keys()
    assert all(torch.equal(expected[name], tensor) for name, tensor in loaded.quantized_state().items())


def test_pages(case: Case, tmp_path: Path) -> None:
    verification = case.compiled.verify(case.images)
    cost = case.compiled.cost(case.images, load_chip("loihi1"))
    for index, each in enumerate((case.compiled, resformer.load(case.build))):
        path = tmp_path / f"{index}.html"
        each.report(path)
        assert read_page(path)[0]["builds"][0]["run"] is None
        each.report(str(path), case.images, samples=2, labels=[0, 1, 0][:3], verification=verification, cost=cost)
        (shown,) = read_page(path)[0]["builds"]
        assert shown["run"]["samples"] == 2
        assert shown["run"]["labels"] == [0, 1]
        assert shown["verification"]["equivalent"]
        assert shown["cost"]["chip"]["name"] == "loihi1"
        assert (shown["run"]["differences"] is None) == (index == 1 or case.kind == "module")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["0.html", "1.html"]


def test_a_build_is_copied_whole_and_over_builds_alone(case: Case, tmp_path: Path) -> None:
    loaded = resformer.load(case.build)
    files = loaded.save(tmp_path / "copy")
    assert {path.name for path in files} == {path.name for path in case.build.iterdir()} <= set(FILES)
    assert all(path.read_bytes() == (case.build / path.name).read_bytes() for path in files)
    (tmp_path / "copy" / "program.safetensors").unlink()
    assert len(loaded.save(str(tmp_path / "copy"))) == len(files)
    assert (tmp_path / "copy" / "program.safetensors").is_file()
    assert loaded.save(case.build) == tuple(case.build / path.name for path in files), "onto itself"
    assert all(path.is_file() for path in loaded.save(case.build))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    with pytest.raises(FileFormatError, match="is no build of this resformer"):
        loaded.save(tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "other"]


def test_summaries_fit_on_a_screen(case: Case) -> None:
    result = case.compiled.run(case.images, record=True)
    loaded = resformer.load(case.build)
    things = (
        (case.compiled, "Compiled network"),
        (loaded, str(case.build)),
        (case.compiled.program, f"Program of {len(case.compiled.program)} nodes"),
        (case.compiled.graph, f"Graph of {len(case.compiled.graph)} nodes"),
        (case.compiled.place(), "loihi2"),
        (case.compiled.cost(result), " µJ ("),
        (result, "Inference of 3 samples"),
        (case.compiled.verify(case.images), "EQUIVALENT: 3 samples in sim"),
    )
    for thing, wanted in things:
        assert wanted in repr(thing)
        assert repr(thing).count("\n") < 20
        html: Any = thing._repr_html_()
        assert "<table style=" in html
        assert html.count("<tr>") > 2
        assert len(html) < 20_000


def test_notebooks_show_whether_it_is_well_and_every_layer(case: Case) -> None:
    placement, result = case.compiled.place(), case.compiled.verify(case.images)
    populations = case.compiled.program.spiking_names
    small = replace(placement, violations=("layer: too large",))
    assert (placement.sound(), small.sound(), result.sound(), case.compiled.sound()) == (True, False, True, None)
    for thing in (case.compiled, placement, result, case.compiled.cost(case.images)):
        html: Any = thing._repr_html_()
        assert html.count("<details>") == 1
        assert all(f'">{name}</th>' in html for name in populations)
    cores = {row[0]: row[3] for row in placement.details()[1][1]}
    assert sum(int(each.replace(",", "")) for each in cores.values()) == placement.cores


def test_what_a_build_lacks_is_said(case: Case, tmp_path: Path) -> None:
    loaded = resformer.load(case.build)
    with pytest.raises(UnsupportedError, match=r"compile its source again with resformer\.compile"):
        _ = loaded.compilation
    with pytest.raises(UnsupportedError, match="give model, the file that was compiled"):
        loaded.verify(case.images, local=True)
    with pytest.raises(FileFormatError, match="no such folder; name a build"):
        resformer.load(tmp_path / "absent")
    with pytest.raises(InputError, match=r"absent\.pt: no such file; name the checkpoint or NIR file"):
        resformer.load(case.build, tmp_path / "absent.pt")


def test_a_build_of_nir_alone_says_what_it_cannot(case: Case, tmp_path: Path) -> None:
    origin = case.compiled.origin
    assert isinstance(origin, InMemory)
    Compiled(replace(origin, targets=("nir",))).save(tmp_path / "b")
    loaded = resformer.load(tmp_path / "b")
    assert len(loaded.graph) > 0
    assert "holds no program.safetensors" in " ".join(repr(loaded).split())
    with pytest.raises(FileFormatError, match="compile with --target lava"):
        loaded.run(case.images)


def test_inferences_that_recorded_nothing_have_no_cost(case: Case) -> None:
    result = case.compiled.run(case.images)
    with pytest.raises(InputError, match=r"run\(images, record=True\)"):
        case.compiled.cost(result)
    with pytest.raises(InputError, match="leave out samples and backend"):
        case.compiled.cost(case.compiled.run(case.images, record=True), samples=1)


@pytest.mark.parametrize("samples", [0, -1, 4])
def test_samples_that_are_not_there(case: Case, samples: int) -> None:
    with pytest.raises(InputError, match="samples: "):
        case.compiled.run(case.images, samples=samples)
    with pytest.raises(InputError, match="samples: "):
        case.compiled.run(case.compiled.read(case.images), samples=samples)


def test_labels_are_of_all_samples(case: Case) -> None:
    predictions = case.compiled.run(case.images).predictions
    result = case.compiled.verify(case.images, labels=predictions, samples=2)
    assert result.accuracy["quantized"] == 1.0
    with pytest.raises(InputError, match="labels: the shape is"):
        case.compiled.verify(case.images, labels=predictions[:2])


def test_samples_that_were_read_for_another_network() -> None:
    torch.manual_seed(0)
    images = torch.rand(4, 3, 8, 8)
    module = calibrated(SpikingVGG((4, "M", 6), lif), images)
    plain = resformer.compile(module, images, "sim")
    norm = CompileOptions(mean=(0.5,), std=(0.25,), chip=None)
    other = resformer.compile(module, images, "sim", options=norm)
    read = plain.read(images, labels=[0, 1, 2, 3])
    assert plain.verify(read).warnings == plain.verify(images).warnings == ()
    (warning,) = other.verify(read).warnings
    assert "preprocessing: the build was compiled with preprocessing" in warning
    assert other.verify(other.read(images)).warnings == ()
    told = plain.read(images, preprocessing=Preprocessing(False, (0.5,), (0.25,)))
    assert plain.verify(told).warnings == told.warnings != ()
    assert other.verify(told).warnings == ()
    with pytest.raises(InputError, match="labels go from 0 to 12, the network's classes from 0 to"):
        plain.run(replace(read, labels=np.array([0, 1, 2, 12])))
    small = torch.rand(2, 3, 4, 4)
    smaller = resformer.compile(calibrated(SpikingVGG((4, 6), lif), small), small, "sim")
    with pytest.raises(InputError, match=r"each was read as \(3, 8, 8\), this network takes \(3, 4, 4\) or"):
        smaller.run(read)


def test_calls_that_make_no_sense(tiny: Tiny, tmp_path: Path) -> None:
    module = torch.nn.Linear(2, 2)
    for call, message in [
        (lambda: resformer.compile(module), "example_input: a module"),
        (lambda: resformer.compile(tiny.model, torch.zeros(1)), "a file says what it takes"),
        (lambda: resformer.compile(3), "source: a int is neither a path nor a torch module"),  # type: ignore[arg-type]
        (lambda: resformer.compile(tiny.model, target="loihi"), "target: 'loihi' is none of lava"),
        (lambda: resformer.compile(tmp_path / "absent.pt"), "absent.pt"),
    ]:
        with pytest.raises(ResformerError, match=message):
            call()


@pytest.mark.parametrize("size", [0, -1, 2.5, "2"])
def test_a_batch_size_is_a_whole_number(case: Case, size: Any) -> None:
    for call in (case.compiled.run, case.compiled.verify, case.compiled.stream):
        with pytest.raises(InputError, match=r"batch_size: .* is not a whole number of at least 1"):
            call(case.images, batch_size=size)
    assert len(case.compiled.run(case.images, batch_size=np.int64(2)).predictions) == len(case.images)


def test_a_network_that_exceeds_its_chip_is_not_written(tiny: Tiny, tmp_path: Path) -> None:
    options = CompileOptions(image_size=16, chip=load_chip("loihi1"))
    with pytest.raises(CapacityError, match="loihi1"):
        resformer.compile(tiny.model, output=tmp_path / "b", options=options)
    assert list(tmp_path.iterdir()) == []
    assert resformer.compile(tiny.model, options=options).place().violations


def test_a_taken_path_is_refused_before_any_work(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    seen: list[str] = []
    with pytest.raises(FileFormatError, match="left alone"):
        resformer.compile(tiny.model, output=tmp_path, observe=lambda name, _: seen.append(name))
    assert seen == []


def test_progress_is_told(tiny: Tiny, tmp_path: Path) -> None:
    stages: list[str] = []

    def note(stage: str, _done: float, _total: float) -> None:
        stages.append(stage)

    options = CompileOptions(image_size=16)
    compiled = resformer.compile(tiny.model, target="sim", output=tmp_path / "b", options=options, progress=note)
    assert stages == ["writing"]
    compiled.run(tiny.images, samples=2, progress=note)
    assert stages[1] == "running in sim"
    assert read_json(tmp_path / "b" / "report.json")["targets"] == ["sim"]


def test_each_layers_own_error(tiny: Tiny, make_model: Callable[..., Any]) -> None:
    compiled = resformer.compile(tiny.model, options=CompileOptions(image_size=16))
    assert compiled.verify(tiny.images, samples=2, backend="sim", local=True).local
