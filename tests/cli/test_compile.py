"""``resformer-compile`` as a user runs it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import nir
import numpy as np
import pytest
import torch

import resformer
from resformer.compiler.ir.ops import Conv2d
from resformer.compiler.ir.program import layer_weight
from resformer.compiler.pipeline import CHECKPOINT
from resformer.models.checkpoint import load_checkpoint
from resformer.runtime.cli.compile_options import main
from resformer.runtime.cli.verify import main as verify_main
from support.builds import Tiny, program_of, read_json

LAVA_FILES = {"network.nir", "program.safetensors", "placement.json", "quantized.pt", "report.json"}
ONNX_FILES = {"network.onnx", "program.onnx"}


def compile_tiny(tiny: Tiny, output: Path, *arguments: str, target: str = "lava") -> int:
    return main([str(tiny.model), "--target", target, "-o", str(output), *tiny.arguments, *arguments])


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("targets", "files"),
    [
        (["lava"], LAVA_FILES),
        (["sim"], LAVA_FILES),
        (["nir"], {"network.nir", "quantized.nir", "report.json"}),
        (["onnx"], LAVA_FILES | ONNX_FILES),
        (["nir,onnx"], LAVA_FILES | ONNX_FILES | {"quantized.nir"}),
        (["lava", "onnx"], LAVA_FILES | ONNX_FILES),
    ],
)
def test_targets_say_which_files_are_written(tiny: Tiny, tmp_path: Path, targets: list[str], files: set[str]) -> None:
    arguments = [argument for target in targets for argument in ("--target", target)]
    assert main([str(tiny.model), *arguments, "-o", str(tmp_path / "b"), *tiny.arguments]) == 0
    assert names(tmp_path / "b") == files
    assert names(tmp_path) == {"b"}, "temporary folders are left"


def test_every_file_names_its_format_version(tiny: Tiny, tmp_path: Path) -> None:
    import onnx
    from safetensors import safe_open

    assert compile_tiny(tiny, tmp_path / "b", target="onnx") == 0
    assert read_json(tmp_path / "b" / "report.json")["format_version"] == 1
    assert torch.load(tmp_path / "b" / "quantized.pt", weights_only=True)["format_version"] == 1
    with safe_open(tmp_path / "b" / "program.safetensors", framework="numpy") as file:
        assert file.metadata()["version"] == "2"
    assert nir.read(tmp_path / "b" / "network.nir").metadata["resformer"]["format_version"] == 1
    for name in ONNX_FILES:
        properties = {each.key: each.value for each in onnx.load(tmp_path / "b" / name).metadata_props}
        assert properties["format_version"] == "1"


def test_the_report_describes_every_node(tiny: Tiny) -> None:
    report, program = read_json(tiny.build / "report.json"), program_of(tiny.build)
    assert report["versions"]["resformer"] == resformer.__version__
    assert report["timesteps"] == program.timesteps == 4
    assert report["latency_steps"] == program.latency
    assert report["input"]["shape"] == [2, 16, 16]
    assert [node["name"] for node in report["nodes"]] == [node.name for node in program]
    for node in report["nodes"]:
        op = program[node["name"]].op
        assert node["signal"]["scale_exp"] == op.signal.scale_exp
        if node["op"] in ("Conv2d", "Dense"):
            assert node["sqnr_db"] > 30
            assert 2 <= node["weight_bits"] <= 8
            assert node["synapses"] > 0
        if node["op"] == "LIF":
            assert node["vth"] == op.vth


def test_summary_is_plain_when_piped(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compile_tiny(tiny, tmp_path / "b") == 0
    out, err = capsys.readouterr()
    assert "tiny.pt compiled" in out
    assert "program.safetensors" in out
    assert "\x1b" not in out
    assert err == ""


def test_quiet_prints_nothing(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compile_tiny(tiny, tmp_path / "b", "--quiet") == 0
    assert capsys.readouterr() == ("", "")


def test_an_older_build_is_replaced(tiny: Tiny, tmp_path: Path) -> None:
    assert compile_tiny(tiny, tmp_path / "b", target="onnx") == 0
    assert compile_tiny(tiny, tmp_path / "b", "--weight-bits", "4") == 0
    assert names(tmp_path / "b") == LAVA_FILES
    assert read_json(tmp_path / "b" / "report.json")["options"]["weight_bits"] == 4
    assert names(tmp_path) == {"b"}


def test_an_empty_folder_is_filled_and_missing_parents_are_made(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert compile_tiny(tiny, tmp_path / "empty") == 0
    assert compile_tiny(tiny, tmp_path / "x" / "y" / "b") == 0
    assert names(tmp_path / "x" / "y" / "b") == LAVA_FILES


def test_dumps(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compile_tiny(tiny, tmp_path / "b", "--quiet", "--dump-after", "quantize") == 0
    out = capsys.readouterr().out
    assert out.startswith("# after quantize\nprogram timesteps=4")
    assert out.count("# after") == 1
    assert compile_tiny(tiny, tmp_path / "b", "--quiet", "--dump-after", "all") == 0
    out = capsys.readouterr().out
    assert [line.removeprefix("# after ") for line in out.splitlines() if line.startswith("#")] == list(
        CHECKPOINT.pass_names
    )


def test_options_reach_the_program(tiny: Tiny, tmp_path: Path) -> None:
    arguments = ["--weight-bits", "3", "--per-layer-exponents", "--input-scale-exp", "5", "--timesteps", "2"]
    assert compile_tiny(tiny, tmp_path / "b", *arguments) == 0
    program = program_of(tmp_path / "b")
    assert program.timesteps == 2
    assert program.input.op.signal.scale_exp == 5
    convs = [node.op for node in program if isinstance(node.op, Conv2d)]
    assert max(np.abs(conv.weight).max() for conv in convs) == 3
    assert all(len(np.unique(conv.weight_exp)) == 1 for conv in convs)
    assert compile_tiny(tiny, tmp_path / "c", *arguments, "--calibration", str(tiny.images)) == 0
    calibrated = [node.op for node in program_of(tmp_path / "c") if isinstance(node.op, Conv2d)]
    assert all(len(np.unique(conv.weight_exp)) == 1 for conv in calibrated)
    default = [node.op for node in program_of(tiny.build) if isinstance(node.op, Conv2d)]
    assert any(len(np.unique(conv.weight_exp)) > 1 for conv in default), "this test cannot fail"


def test_automatic_precision_keeps_to_its_budget_and_stays_exact(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build = tmp_path / "b"
    arguments = ("--calibration", str(tiny.images), "--precision", "auto", "--synapse-budget", "0.7")
    assert compile_tiny(tiny, build, *arguments) == 0
    shown = capsys.readouterr().out
    assert "Widths by layer" in shown
    assert re.search(r"weights +\d to 8 bits, rounded for what 6 calibration samples make each layer read", shown)
    report, program = read_json(build / "report.json"), program_of(build)
    sizes = {node.name: node.op.weight.size for node in program if isinstance(node.op, Conv2d)}
    widths = {node["name"]: node["weight_bits"] for node in report["nodes"] if node["name"] in sizes}
    assert sum(sizes[name] * bits for name, bits in widths.items()) <= 0.7 * 8 * sum(sizes.values())
    verify = [str(build), "--model", str(tiny.model), "--input", str(tiny.images), "--backend", "sim"]
    assert verify_main([*verify, "--json", str(tmp_path / "v.json")]) == 0
    checks = read_json(tmp_path / "v.json")["checks"]
    for name in ("backend_vs_program", "backend_vs_quantized_torch"):
        assert checks[name]["compared"] > 0
        assert checks[name]["mismatched"] == 0


def test_a_budget_above_one_buys_second_synapses(tiny: Tiny, tmp_path: Path) -> None:
    calibration = ("--calibration", str(tiny.images))
    assert compile_tiny(tiny, tmp_path / "8", *calibration) == 0
    assert compile_tiny(tiny, tmp_path / "9", *calibration, "--precision", "auto", "--synapse-budget", "1.3") == 0
    eight, nine = (read_json(tmp_path / name / "report.json") for name in ("8", "9"))
    assert (eight["options"]["weight_bits"], nine["options"]["weight_bits"]) == (8, 9)
    assert max(node.get("weight_bits", 0) for node in nine["nodes"]) == 9
    for total in ("synapses", "weight_memory_bits"):
        assert 1 < nine["totals"][total] / eight["totals"][total] < 1.3, "few weights need a second synapse"


def test_stacked_layers_have_the_width_of_their_mantissas(tiny: Tiny, tmp_path: Path) -> None:
    """More bits were asked for than these weights have at the scale of their currents."""
    assert compile_tiny(tiny, tmp_path / "b", "--weight-bits", "15", "--input-scale-exp", "2") == 0
    report, program = read_json(tmp_path / "b" / "report.json"), program_of(tmp_path / "b")
    widths = {
        node["name"]: node["weight_bits"] for node in report["nodes"] if node["op"] == "Add" and "synapses" in node
    }
    for name, bits in widths.items():
        weight = layer_weight(program, name) >> program[f"{name}.lo"].op.weight_exp.reshape(-1, 1, 1, 1)
        assert 2 ** (bits - 2) <= np.abs(weight).max() < 2 ** (bits - 1)
    assert 9 <= min(widths.values()) < 15


def test_automatic_precision_has_four_bits_at_least(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    auto = ("--calibration", str(tiny.images), "--precision", "auto", "--weight-bits")
    assert compile_tiny(tiny, tmp_path / "3", *auto, "3") == 1
    assert "set --weight-bits to 4 or more, or leave out --precision auto" in capsys.readouterr().err
    assert compile_tiny(tiny, tmp_path / "4", *auto, "4") == 0


def test_rounding_without_data_says_what_it_lacks(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compile_tiny(tiny, tmp_path / "b") == 0
    assert "rounded without data: ranges estimated, biases uncorrected; --calibration X.npy" in capsys.readouterr().out


def test_calibration_sets_the_scales(tiny: Tiny, tmp_path: Path) -> None:
    faint = tmp_path / "faint.npy"
    np.save(faint, np.load(tiny.images) / 1000)
    assert compile_tiny(tiny, tmp_path / "b", "--calibration", str(faint)) == 0
    report = read_json(tmp_path / "b" / "report.json")
    assert report["options"]["calibration_samples"] == 6
    assert program_of(tmp_path / "b").input.op.signal.high < program_of(tiny.build).input.op.signal.high


def test_the_quantized_checkpoint_loads_and_says_t_and_size(tiny: Tiny) -> None:
    content = torch.load(tiny.build / "quantized.pt", weights_only=True)
    assert (content["timesteps"], content["image_size"]) == (4, 16)
    loaded = load_checkpoint(tiny.build / "quantized.pt")
    assert loaded.architecture == load_checkpoint(tiny.model).architecture
    assert all(tensor.dtype in (torch.float64, torch.int64) for tensor in loaded.state.values())


COMMANDS = (
    "compile_options:main",
    "compile:main",
    "run:main",
    "verify:main",
    "report:main",
)


@pytest.mark.parametrize("module", [f"resformer.runtime.cli.{each}" for each in COMMANDS])
def test_help_imports_nothing_heavy(module: str) -> None:
    name, function = module.split(":")
    code = (
        f"import sys; from {name} import {function}; status = {function}(['--help'])\n"
        "heavy = {'torch', 'lava', 'onnx', 'onnxruntime', 'spikingjelly', 'rich.table', 'scipy'} & set(sys.modules)\n"
        "sys.exit(status or (f'imports {heavy}' if heavy else 0))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--" in done.stdout


def test_the_build_says_where_every_neuron_is(tiny: Tiny) -> None:
    placement, report = read_json(tiny.build / "placement.json"), read_json(tiny.build / "report.json")
    assert report["placement"]["chip"] == placement["chip"]["name"] == "loihi2"
    assert report["placement"]["cores"] == placement["cores"] == sum(layer["cores"] for layer in placement["layers"])
    for layer in placement["layers"]:
        held = np.zeros(layer["shape"], dtype=int)
        for core in layer["placed"]:
            held[tuple(slice(*axis) for axis in core["neurons"])] += 1
        assert (held == 1).all(), layer["name"]
        assert layer["bound"] in layer["utilization"]
    cores = [(core["chip"], core["core"]) for layer in placement["layers"] for core in layer["placed"]]
    assert len(set(cores)) == len(cores) == placement["cores"]
    assert set(program_of(tiny.build).lif_names) <= {node for layer in placement["layers"] for node in layer["nodes"]}


def test_without_a_chip_nothing_is_placed(tiny: Tiny, tmp_path: Path) -> None:
    assert compile_tiny(tiny, tmp_path / "b", "--chip", "none") == 0
    assert names(tmp_path / "b") == LAVA_FILES - {"placement.json"}
    assert read_json(tmp_path / "b" / "report.json")["placement"] is None


def test_check_says_what_bounds_each_layer(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "placement.json"
    assert main([str(tiny.model), "--check", "--json", str(out), *tiny.arguments]) == 0
    assert read_json(out) == read_json(tiny.build / "placement.json")
    assert "layers.0.0.activation_in" in capsys.readouterr().out
    assert names(tmp_path) == {"placement.json"}


def small_chip(folder: Path, *lines: str) -> Path:
    path = folder / "small.yaml"
    path.write_text("name: small\nextends: loihi2\n" + "".join(f"{line}\n" for line in lines))
    return path


@pytest.mark.parametrize("check", [True, False])
def test_all_violations_are_listed_a_line_each(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], check: bool
) -> None:
    chip = small_chip(tmp_path, "synapse_words_per_core: 20", "payload_bits: 4")
    mode = ["--check"] if check else ["--target", "lava", "-o", str(tmp_path / "b")]
    assert main([str(tiny.model), *mode, "--chip", str(chip), *tiny.arguments]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(set(lines)) > 10
    assert all(line.startswith("resformer-compile: error: ") for line in lines)
    (words,) = [line for line in lines if "layers.0.1.down.0 (of layers.0.1.conv.0.1, layers.0.1.up.1): needs" in line]
    assert "synapse words in a core even in tiles of" in words
    assert "small has 20; each neuron reads " in words
    assert any("needs graded spikes" in line and "small's have 4; name a chip" in line for line in lines)
    assert not (tmp_path / "b").exists()


def test_loihi1_is_refused_for_its_binary_spikes(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tiny.model), "--check", "--chip", "loihi1", *tiny.arguments]) == 1
    assert all("graded spikes" in line for line in capsys.readouterr().err.splitlines())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: --target, -o/--output"),
        (["--target", "lava"], "the following arguments are required: -o/--output"),
        (["--check", "--target", "lava"], "leave out --target and -o"),
        (["--check", "--chip", "none"], "needs a chip"),
        (["--target", "lava", "-o", "b", "--json", "x.json"], "goes with --check"),
    ],
)
def test_wrong_usage(tiny: Tiny, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert main([str(tiny.model), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_more_than_eight_bits_are_two_synapses(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layer = "layers.0.1.up.1"
    assert compile_tiny(tiny, tmp_path / "b", "--layer-bits", f"{layer}=12,classifier=4") == 0
    nodes = {node["name"]: node for node in read_json(tmp_path / "b" / "report.json")["nodes"]}
    assert (nodes[layer]["op"], nodes[layer]["weight_bits"], nodes["classifier"]["weight_bits"]) == ("Add", 12, 4)
    assert nodes[layer]["sqnr_db"] > 50
    assert [nodes[f"{layer}.{part}"]["part_of"] for part in ("hi", "lo")] == [layer] * 2
    assert "4 to 12 bits" in capsys.readouterr().out

    report = tmp_path / "r.json"
    arguments = ["--model", str(tiny.model), "--input", str(tiny.images), "--backend", "sim", "--local"]
    assert verify_main([str(tmp_path / "b"), *arguments, "--json", str(report)]) == 0
    found = read_json(report)
    assert found["checks"]["backend_vs_quantized_torch"]["mismatched"] == 0
    assert layer in [each["name"] for each in found["local"]], "under one name, and not those of its parts"
