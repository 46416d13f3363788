"""Checkpoints of other families than SpikingResformer, through every command."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import resformer
from resformer.compiler.pipeline import CompileOptions
from resformer.errors import InputError
from resformer.models.zoo.checkpoint import load_zoo_checkpoint, save_zoo_checkpoint
from resformer.models.zoo.recognise import ZooArchitecture, build
from resformer.models.zoo.sew_resnet import SEWResNetArchitecture
from resformer.models.zoo.spikformer import SpikformerArchitecture
from resformer.runtime.cli.compile import main
from resformer.runtime.cli.report import main as report_main
from resformer.runtime.cli.run import main as run_main
from resformer.runtime.cli.verify import main as verify_main
from resformer.runtime.verify.result import CHECKS
from support.builds import Tiny, read_json
from support.modules import calibrated

E1, E2, E3, E4 = CHECKS
STEPS, SIZE = 2, 16
SPIKFORMER = SpikformerArchitecture(embed_dims=16, depth=1, num_heads=2, num_classes=5, pooling="0110")
SEW = SEWResNetArchitecture(block="basic", depths=(1, 1, 1, 1), connect="IAND", width=4, in_channels=2, num_classes=5)


@dataclass(frozen=True)
class Made:
    """A network that fires: a file that states everything, a file of its tensors alone, and samples."""

    told: Path
    bare: Path
    samples: Path


def made(architecture: ZooArchitecture, folder: Path) -> Made:
    frames = architecture.in_channels == 2
    generator = torch.Generator().manual_seed(3)
    shape = (4, *((STEPS,) if frames else ()), architecture.in_channels, SIZE, SIZE)
    x = torch.randint(4, shape, generator=generator).float() if frames else torch.rand(shape, generator=generator)
    model: Any = build(architecture, timesteps=STEPS)
    calibrated(model, x.transpose(0, 1) if frames else x)
    found = Made(folder / "told.pt", folder / "bare.pth", folder / "x.npy")
    save_zoo_checkpoint(model, found.told, image_size=SIZE)
    torch.save({"state_dict": model.state_dict()}, found.bare)
    np.save(found.samples, x.numpy())
    return found


@pytest.fixture(scope="module")
def spikformer(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(SPIKFORMER, tmp_path_factory.mktemp("spikformer"))


@pytest.fixture(scope="module")
def built(spikformer: Made) -> Path:
    folder = spikformer.told.parent / "build"
    assert main([str(spikformer.told), "--target", "lava,onnx", "--quiet", "-o", str(folder)]) == 0
    return folder


def verified(build: Path, samples: Path, *options: object) -> tuple[int, Any]:
    found = build.parent / "r.json"
    command = [build, "--input", samples, "--samples", 2, "--json", found, *options]
    return verify_main([str(each) for each in command]), read_json(found)


def assert_equal(found: Any, *checks: str) -> None:
    assert found["equivalent"]
    for name in checks:
        assert found["checks"][name]["compared"] > 0
        assert found["checks"][name]["mismatched"] == 0
        assert found["checks"][name]["demanded"], found["checks"][name]["note"]


def test_a_file_that_says_everything_compiles_without_options(built: Path, spikformer: Made) -> None:
    report = read_json(built / "report.json")
    assert report["architecture"]["family"] == "spikformer"
    assert report["architecture"]["fields"]["pooling"] == "0110"
    assert report["source"]["file"] == "told.pt"
    assert [each.partition(":")[0] for each in report["assumptions"]] == ["input"]
    quantized = load_zoo_checkpoint(built / "quantized.pt").recognition
    assert quantized.architecture == SPIKFORMER
    assert quantized.assumptions == ()


def test_every_check_is_run_with_the_checkpoint(built: Path, spikformer: Made) -> None:
    page = built.parent / "page.html"
    options = "--model", spikformer.told, "--backend", "sim", "--local", "--report", page
    status, found = verified(built, spikformer.samples, *options)
    assert status == 0
    assert_equal(found, E1, E2, E3)
    assert found["checks"][E4]["mismatched"] > 0
    assert found["local"]
    assert "Network of the family" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("backend", ["lava", "onnx"])
def test_what_needs_no_checkpoint_is_run_without_it(built: Path, spikformer: Made, backend: str) -> None:
    status, found = verified(built, spikformer.samples, "--backend", backend)
    assert status == 0
    assert_equal(found, E2, E3)
    assert "give --model" in found["not_run"][E1]
    assert run_main([str(each) for each in (built, "--input", spikformer.samples, "--backend", backend)]) == 0


def test_another_weight_in_the_quantized_checkpoint_is_found(built: Path, spikformer: Made, tmp_path: Path) -> None:
    changed = resformer.load(built).save(tmp_path / "build")
    path = next(each for each in changed if each.name == "quantized.pt")
    content = torch.load(path, weights_only=True)
    content["model"]["block.0.mlp.fc1_linear.weight"][0, 0] += 1
    torch.save(content, path)
    status, found = verified(tmp_path / "build", spikformer.samples, "--backend", "sim")
    assert status == 1
    assert not found["equivalent"]


def test_what_no_tensor_tells_is_said_by_options_else_assumed(
    spikformer: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = "--input-size", str(SIZE), "--timesteps", str(STEPS)
    command = [str(spikformer.bare), "--target", "sim", "-o", str(tmp_path / "build"), *sizes]
    assert main([*command, "--architecture", "pooling=0110"]) == 0
    assert "assumed: num heads: 8, as the authors have it (no tensor says so)" in capsys.readouterr().out
    assert main([*command, "--architecture", "pooling=0110,num_heads=2", "--weight-bits", "12"]) == 0
    assert "num heads: " not in capsys.readouterr().out
    fields = read_json(tmp_path / "build" / "report.json")["architecture"]["fields"]
    assert (fields["num_heads"], fields["pooling"]) == (2, "0110")
    # verifying takes the stated fields from the build
    status, found = verified(tmp_path / "build", spikformer.samples, "--model", spikformer.bare, "--backend", "sim")
    assert status == 0
    assert_equal(found, E1, E2, E3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--architecture", "num_heads=3"], r"--architecture: 16 channels cannot be split evenly into 3 heads"),
        (["--architecture", "num_heads=x"], r"--architecture: num_heads is x: must be a whole number"),
        (["--architecture", "depth=2"], r"--architecture depth: what no tensor of a Spikformer tells is num_heads, "),
        (["--architecture", "depth"], "'depth' is not NAME=VALUE, such as num_heads=12"),
        (["--neuron", "IF"], "--neuron: for SpikingResformers, and this is a Spikformer"),
        (["--dt", "1"], "--dt and --reset are for NIR files"),
    ],
)
def test_options_that_do_not_go_with_it_are_refused(
    spikformer: Made, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(spikformer.told), "--check", *options]) in (1, 2)
    assert message in capsys.readouterr().err


def test_its_options_are_refused_for_a_spiking_resformer(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tiny.model), *tiny.arguments, "--check", "--architecture", "num_heads=2"]) == 1
    assert "--architecture: for other families" in capsys.readouterr().err


def test_networks_of_no_family_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "model.pth")
    assert main([str(tmp_path / "model.pth"), "--check"]) == 1
    said = capsys.readouterr().err
    assert "this is not a SpikingResformer" in said
    assert "another family (Spikformer, Spikingformer, QKFormer, Spike-driven Transformer, SEW-ResNet, " in said


def test_a_record_cannot_ask_for_more_than_a_program_may_take(
    spikformer: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(spikformer.told, weights_only=True)
    content["resformer"]["image_size"] = 2**16
    torch.save(content, tmp_path / "large.pt")
    assert main([str(tmp_path / "large.pt"), "--check"]) == 1
    assert "for its input's size and steps, has" in capsys.readouterr().err


def test_another_network_is_no_original(built: Path, spikformer: Made, tiny: Tiny, tmp_path: Path) -> None:
    other: Any = build(SpikformerArchitecture(embed_dims=16, depth=2, num_heads=2, num_classes=5), timesteps=1)
    save_zoo_checkpoint(other, tmp_path / "deeper.pt", image_size=SIZE)
    compiled = resformer.load(built, model=tmp_path / "deeper.pt")
    with pytest.raises(InputError, match=r"deeper\.pt: another network than the one that was compiled"):
        compiled.verify(spikformer.samples, backend="sim")
    sew: Any = build(SEW, timesteps=1)
    save_zoo_checkpoint(sew, tmp_path / "sew.pt", image_size=SIZE)
    with pytest.raises(InputError, match=r"sew\.pt: another network than the one that was compiled"):
        resformer.load(built, model=tmp_path / "sew.pt").verify(spikformer.samples, backend="sim")
    # its populations are the same, its layers are not
    folders: Any = build(replace(SPIKFORMER, layout="imagenet"), timesteps=1)
    save_zoo_checkpoint(folders, tmp_path / "imagenet.pt", image_size=SIZE)
    with pytest.raises(InputError, match=r"imagenet\.pt: another network than the one that was compiled"):
        resformer.load(built, model=tmp_path / "imagenet.pt").verify(spikformer.samples, backend="sim")
    with pytest.raises(InputError, match=r"another network than the one that was compiled"):
        resformer.load(built, model=tmp_path / "deeper.pt").report(tmp_path / "p.html", spikformer.samples, samples=1)


def test_event_networks_take_frames(tmp_path: Path) -> None:
    sew = made(SEW, tmp_path)
    options = CompileOptions(timesteps=STEPS, image_size=SIZE, architecture={"connect": "IAND"})
    compiled = resformer.compile(sew.bare, target="sim", options=options)
    assert compiled.program.metadata["input"] == "frames"
    assert compiled.origin.title == f"checkpoint {sew.bare}"
    result = compiled.verify(sew.samples)
    assert result.equivalent
    assert result.source == "checkpoint"
    assert all(result.checks[name].mismatched == 0 for name in (E1, E2, E3))
    compiled.save(tmp_path / "build")
    assert report_main([str(tmp_path / "build"), "-o", str(tmp_path / "page.html")]) == 0
