"""Errors of input and machine: one clear line, exit status 1 or 2, no traceback, nothing left behind."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resformer.compiler.save import build
from resformer.runtime.cli import compile_options as cli
from resformer.runtime.cli import run as run_command
from resformer.runtime.cli import verify as verify_command
from resformer.runtime.cli.compile_options import main as compile_main
from resformer.runtime.cli.run import main as run_main
from resformer.runtime.cli.verify import main as verify_main
from resformer.runtime.run import infer as run
from support.builds import Tiny, program_of
from support.together import alone, launcher

__all__ = ["launcher"]

Capture = pytest.CaptureFixture[str]


def error_line(capsys: Capture) -> str:
    """The one line on stderr."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith(("resformer-compile: error: ", "resformer-run: error: ", "resformer-verify: error: "))
    return err


class RunsCode:
    """An object that would create a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def text_file(path: Path, _tiny: Tiny) -> None:
    path.write_text("these are not the weights you are looking for\n")


def truncated(path: Path, tiny: Tiny) -> None:
    content = tiny.model.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def torch_code(path: Path, _tiny: Tiny) -> None:
    torch.save({"model": RunsCode(path.with_name("ran"))}, path)


def pickle_code(path: Path, _tiny: Tiny) -> None:
    path.write_bytes(pickle.dumps({"model": RunsCode(path.with_name("ran"))}))


def resnet(path: Path, _tiny: Tiny) -> None:
    shapes = {"conv1.weight": (64, 3, 7, 7), "bn1.weight": (64,), "layer1.0.conv1.weight": (64, 64, 3, 3)}
    torch.save({name: torch.zeros(shape) for name, shape in {**shapes, "fc.weight": (1000, 512)}.items()}, path)


def not_a_number(path: Path, tiny: Tiny) -> None:
    content = torch.load(tiny.model, weights_only=True)
    content["model"]["layers.0.1.up.1.weight"][3, 2] = float("nan")
    torch.save(content, path)


def absent(_path: Path, _tiny: Tiny) -> None:
    pass


CHECKPOINTS: list[tuple[Callable[[Path, Tiny], None], str]] = [
    (absent, "no such file"),
    (text_file, "not a checkpoint"),
    (truncated, "truncated"),
    (torch_code, "would execute code"),
    (pickle_code, "would execute code"),
    (resnet, "not a SpikingResformer"),
    (not_a_number, "layers.0.1.up.1.weight"),
]


@pytest.mark.parametrize(("make", "says"), CHECKPOINTS)
@pytest.mark.parametrize("command", ["compile", "verify"])
def test_bad_checkpoints(
    tiny: Tiny, tmp_path: Path, capsys: Capture, make: Callable[[Path, Tiny], None], says: str, command: str
) -> None:
    path = tmp_path / "model.pt"
    make(path, tiny)
    if command == "compile":
        status = compile_main([str(path), "--target", "lava", "-o", str(tmp_path / "b")])
    else:
        arguments = ["--input", str(tiny.images), "--backend", "reference"]
        status = verify_main([str(tiny.build), "--model", str(path), *arguments])
    assert status == 1
    line = error_line(capsys)
    assert says in line
    assert str(path) in line
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--input-size", "18"], 1, "image size 18"),
        (["--input-size", "100000"], 1, "image size 100000: the limit is 4096"),
        (["--input-size", "99999999999999999999"], 1, "the limit is 4096"),
        (["--timesteps", "99999999999"], 1, "timesteps: 99999999999 a sample, the limit is 65536"),
        (["--timesteps", "0"], 2, "--timesteps"),
        (["--timesteps", "-3"], 2, "--timesteps"),
        (["--timesteps", "four"], 2, "--timesteps"),
        (["--weight-bits", "16"], 2, "2 to 15 bits"),
        (["--weight-bits", "1"], 2, "2 to 15 bits"),
        (["--layer-bits", "classifier"], 2, "'classifier' is not NAME=BITS"),
        (["--layer-bits", "=9"], 2, "'=9' is not NAME=BITS"),
        (["--layer-bits", "classifier=4,prologue.0=99"], 2, "'99' is not a width"),
        (["--layer-bits", "prologue=9"], 1, "prologue: no layer with weights has that name; there are prologue.0, "),
        (["--layer-bits", "classifier=9"], 1, "classifier: 9 bits, the limit is 8"),
        (
            ["--precision", "auto", "--calibration", "x.npy", "--layer-bits", "classifier=4"],
            2,
            "leave out --layer-bits",
        ),
        (["--target", "loihi3"], 2, "loihi3"),
        (["--input-scale-exp", "99"], 1, "99"),
        (["--dump-after", "nothing"], 2, "there is no pass 'nothing'"),
        (["--calibration", "none.npy"], 1, "none.npy: no such file"),
        (["--precision", "auto"], 2, "--calibration"),
        (["--synapse-budget", "0.5"], 2, "--precision auto"),
        (["--precision", "auto", "--synapse-budget", "0"], 2, "more than 0, at most 2"),
        (["--precision", "auto", "--synapse-budget", "2.1"], 2, "more than 0, at most 2"),
        (["--unknown"], 2, "--unknown"),
    ],
)
def test_bad_compile_options(
    tiny: Tiny, tmp_path: Path, capsys: Capture, arguments: list[str], status: int, says: str
) -> None:
    output = tmp_path / "b"
    command = [str(tiny.model), "--target", "lava", "-o", str(output), *tiny.arguments, *arguments]
    assert compile_main(command) == status
    assert says in error_line(capsys)
    assert list(tmp_path.iterdir()) == []


def test_calibration_images_that_do_not_fit(tiny: Tiny, tmp_path: Path, capsys: Capture) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 16, 16), np.float32))
    command = [str(tiny.model), "--target", "lava", "-o", str(tmp_path / "b"), *tiny.arguments]
    assert compile_main([*command, "--calibration", str(tmp_path / "x.npy")]) == 1
    assert "convert the images to 2 channels" in error_line(capsys)


def test_missing_arguments(capsys: Capture) -> None:
    for command in (compile_main, run_main, verify_main):
        assert command([]) == 2
        assert "required" in error_line(capsys)


GOOD = np.zeros((6, 2, 16, 16), np.float32)


def with_value(sample: int, value: float) -> Any:
    images = GOOD.copy()
    images[sample, 1, 2, 2] = value
    return images


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (GOOD[..., :15], "(6, 2, 16, 15)"),
        (np.zeros((1, 2, 32, 32), np.uint8), "--input-size 32"),
        (np.zeros((6, 3, 16, 16), np.float32), "convert the images to 2 channels"),
        (np.moveaxis(GOOD, 1, -1), "numpy.moveaxis(x, -1, -3)"),
        (GOOD[0], "x[None]"),
        (np.zeros((1, 3, 2, 16, 16), np.float32), "--timesteps 3"),
        (np.array(1.0), "shape is ()"),
        (GOOD[:0], "no samples"),
        (GOOD.astype(np.int64), "int64"),
        ((GOOD * 255).astype(np.int64), "--input-kind frames"),
        (np.zeros((6, 2), [("x", "u2"), ("t", "i8")]), "list of records (x, t)"),
        (GOOD.astype(complex), "complex128"),
        (np.full((1, 2, 16, 16), "a"), "<U1"),
        (with_value(3, np.nan), "sample 3 holds a NaN"),
        (with_value(3, np.nan), "index (3, "),
        (np.zeros((4, 3, 2, 16, 16), np.float32), "numpy.swapaxes(x, 0, 1)"),
        (with_value(0, -np.inf), "sample 0 holds a NaN or infinite"),
        (np.full(GOOD.shape, np.longdouble(2) ** 1025), "holds a NaN or infinite"),
        (with_value(2, 0.0).astype(np.float64) - 2e100 * (with_value(2, 3.0) == 3.0), "sample 2 holds -2e+100, at"),
        (np.array([{}, 1], dtype=object), "Python objects"),
    ],
)
@pytest.mark.parametrize("command", [run_main, verify_main])
def test_bad_images(
    tiny: Tiny, tmp_path: Path, capsys: Capture, array: Any, says: str, command: Callable[..., int]
) -> None:
    path = tmp_path / "x.npy"
    np.save(path, array, allow_pickle=True)
    assert command([str(tiny.build), "--input", str(path), "--backend", "reference"]) == 1
    line = error_line(capsys)
    assert says in line
    assert str(path) in line


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no such file"),
        (b"1 2 3\n", "not a NumPy file"),
        (b"", "not a NumPy file"),
        (b"\x93NUMPY\x01\x00", "truncated or damaged"),
        (b"PK\x03\x04 and so on", "truncated or damaged"),
    ],
)
def test_files_that_are_no_arrays(
    tiny: Tiny, tmp_path: Path, capsys: Capture, content: bytes | None, says: str
) -> None:
    path = tmp_path / "x.npy"
    if content is not None:
        path.write_bytes(content)
    assert run_main([str(tiny.build), "--input", str(path), "--backend", "reference"]) == 1
    assert says in error_line(capsys)


def test_truncated_images(tiny: Tiny, tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(tiny.images.read_bytes()[:-100])
    assert run_main([str(tiny.build), "--input", str(path), "--backend", "reference"]) == 1
    assert "truncated or damaged" in error_line(capsys)


@pytest.mark.parametrize("save", [np.save, np.savez])
def test_images_that_would_run_code(
    tiny: Tiny, tmp_path: Path, capsys: Capture, save: Callable[[Path, Any], None]
) -> None:
    path = tmp_path / ("x.npy" if save is np.save else "x.npz")
    save(path, np.array([RunsCode(tmp_path / "ran")], dtype=object))
    assert run_main([str(tiny.build), "--input", str(path), "--backend", "reference"]) == 1
    assert "Python objects" in error_line(capsys)
    assert not (tmp_path / "ran").exists()


def test_an_archive_without_images(tiny: Tiny, tmp_path: Path, capsys: Capture) -> None:
    np.savez(tmp_path / "x.npz", a=np.zeros(3), b=np.zeros(3))
    assert run_main([str(tiny.build), "--input", str(tmp_path / "x.npz"), "--backend", "reference"]) == 1
    assert "name one array 'images'" in error_line(capsys)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (np.zeros(5, np.int64), "expected (6,)"),
        (np.zeros((6, 1), np.int64), "expected (6,)"),
        (np.zeros(6), "whole numbers"),
        (np.full(6, 5), "from 0 to 4"),
        (np.full(6, -1), "from 0 to 4"),
    ],
)
def test_bad_labels(tiny: Tiny, tmp_path: Path, capsys: Capture, labels: Any, says: str) -> None:
    np.save(tmp_path / "labels.npy", labels)
    for command in (run_main, verify_main):
        arguments = ["--input", str(tiny.images), "--labels", str(tmp_path / "labels.npy"), "--backend", "reference"]
        assert command([str(tiny.build), *arguments]) == 1
        assert says in error_line(capsys)


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--samples", "7"], 1, "holds 6 samples"),
        (["--samples", "0"], 2, "--samples"),
        (["--backend", "loihi"], 2, "loihi"),
        (["--stock-models"], 2, "--stock-models"),
    ],
)
def test_bad_options(tiny: Tiny, capsys: Capture, arguments: list[str], status: int, says: str) -> None:
    for command in (run_main, verify_main):
        assert command([str(tiny.build), "--input", str(tiny.images), "--backend", "reference", *arguments]) == status
        assert says in error_line(capsys)


def test_recording_spikes_needs_an_output(tiny: Tiny, capsys: Capture) -> None:
    assert run_main([str(tiny.build), "--input", str(tiny.images), "--record-spikes"]) == 2
    assert "-o" in error_line(capsys)


@pytest.mark.parametrize("command", [run_main, verify_main])
def test_a_gpu_that_is_not_there(
    tiny: Tiny, capsys: Capture, command: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    arguments = ["--input", str(tiny.images), "--backend", "sim", "--device", "cuda:1"]
    assert command([str(tiny.build), *arguments]) == 1
    assert "device cuda:1: this machine's torch" in (line := error_line(capsys))
    assert "use --device cpu" in line


@pytest.mark.parametrize(
    ("backend", "where", "error"),
    [
        ("reference", "resformer.compiler.backends.reference.ReferenceBackend.run", MemoryError()),
        ("reference", "resformer.runtime.run.infer.encode", MemoryError()),
        ("sim", "resformer.compiler.backends.sim.engine.Engine.run", RuntimeError("can't allocate memory")),
        ("sim", "resformer.compiler.backends.sim.engine.Engine.run", torch.OutOfMemoryError("CUDA out of memory")),
    ],
)
def test_a_batch_that_does_not_fit_in_memory(
    tiny: Tiny, capsys: Capture, monkeypatch: pytest.MonkeyPatch, backend: str, where: str, error: Exception
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr(where, fail)
    command = [str(tiny.build), "--input", str(tiny.images), "--backend", backend]
    for size, says in (("4", "4 samples at once do not fit in"), ("1", "1 sample at once does not fit in")):
        assert run_main([*command, "--batch-size", size]) == 1
        assert says in (line := error_line(capsys))
        assert ("such as 2" in line) == (size == "4")


@pytest.mark.parametrize("command", [run_main, verify_main])
def test_a_batch_larger_than_the_machine(
    tiny: Tiny, capsys: Capture, monkeypatch: pytest.MonkeyPatch, command: Callable[..., int]
) -> None:
    of_each = run.ENCODING_BYTES * 2 * 16 * 16
    monkeypatch.setattr(run, "machine_memory", lambda: 4 * of_each)
    arguments = [str(tiny.build), "--input", str(tiny.images), "--backend", "sim"]
    assert command([*arguments, "--batch-size", "100", "--samples", "4"]) == 0
    capsys.readouterr()
    assert command([*arguments, "--batch-size", "5"]) == 1
    assert "--batch-size: 5 samples at once take" in (line := error_line(capsys))
    assert "such as 2" in line
    monkeypatch.setattr(run, "machine_memory", lambda: of_each - 1)
    assert command([*arguments, "--batch-size", "1"]) == 1
    assert "1 sample at once does not fit in this machine's" in error_line(capsys)
    monkeypatch.setattr(run, "machine_memory", lambda: None)
    assert command([*arguments, "--batch-size", "5"]) == 0


def test_spikes_that_would_fill_memory(
    tiny: Tiny, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = program_of(tiny.build)
    of_each = program.timesteps * sum(int(np.prod(program[name].shape)) for name in program.lif_names) // 8 + 1
    monkeypatch.setattr(run, "RECORD_BYTES", 3 * of_each)
    command = [str(tiny.build), "--input", str(tiny.images), "--backend", "sim", "-o", str(tmp_path / "o.npz")]
    assert run_main([*command, "--record-spikes"]) == 1
    assert "record no more than --samples 3" in error_line(capsys)
    assert run_main([*command, "--record-spikes", "--samples", "3"]) == 0


def damaged(tiny: Tiny, folder: Path, name: str, change: Callable[[bytes], bytes | None]) -> Path:
    copy = tiny.copied_build(folder)
    content = change((copy / name).read_bytes())
    if content is None:
        (copy / name).unlink()
    else:
        (copy / name).write_bytes(content)
    return copy


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("program.safetensors", lambda content: content[:-1000], "program.safetensors"),
        ("program.safetensors", lambda content: content[:100], "program.safetensors"),
        ("program.safetensors", lambda _content: b"", "program.safetensors"),
        ("program.safetensors", lambda content: content.replace(b"LIF", b"LIE"), "LIE"),
        ("program.safetensors", lambda content: content.replace(b"resformer-program", b"another-program!!"), "not a"),
        ("program.safetensors", lambda _content: None, "compile with --target lava"),
        ("report.json", lambda content: content[:100], "report.json: damaged"),
        ("report.json", lambda _content: b"[]", "report.json"),
        ("report.json", lambda content: content.replace(b'"format_version": 1', b'"format_version": 7'), "version 7"),
        ("report.json", lambda _content: None, "no build"),
    ],
)
def test_damaged_builds(
    tiny: Tiny, tmp_path: Path, capsys: Capture, name: str, change: Callable[[bytes], bytes | None], says: str
) -> None:
    copy = damaged(tiny, tmp_path, name, change)
    for command in (run_main, verify_main):
        assert command([str(copy), "--input", str(tiny.images), "--backend", "reference"]) == 1
        assert says in error_line(capsys)


@pytest.mark.parametrize("name", ["quantized.pt", "network.nir"])
@pytest.mark.parametrize("change", [lambda content: content[: len(content) // 2], lambda _content: None])
def test_damaged_sides_of_a_verification(
    tiny: Tiny, tmp_path: Path, capsys: Capture, name: str, change: Callable[[bytes], bytes | None]
) -> None:
    copy = damaged(tiny, tmp_path, name, change)
    arguments = ["--input", str(tiny.images), "--model", str(tiny.model), "--backend", "reference"]
    assert verify_main([str(copy), *arguments]) == 1
    assert name in error_line(capsys)


def test_a_rate_of_the_quantized_checkpoint_that_has_no_root(tiny: Tiny, tmp_path: Path, capsys: Capture) -> None:
    copy = shutil.copytree(tiny.build, tmp_path / "build")
    content = torch.load(copy / "quantized.pt", weights_only=True)
    arguments = [str(copy), "--input", str(tiny.images), "--model", str(tiny.model), "--backend", "reference"]
    rate = next(name for name in content["model"] if name.endswith("firing_rate_attn"))
    torch.save(content | {"model": content["model"] | {rate: -content["model"][rate]}}, copy / "quantized.pt")
    assert verify_main(arguments) == 1
    line = error_line(capsys)
    assert "quantized.pt" in line
    assert f"{rate}: head 0 has the firing rate" in line


def test_what_is_no_build(tiny: Tiny, tmp_path: Path, capsys: Capture) -> None:
    for path, says in ((tmp_path / "none", "no such folder"), (tmp_path, "no build"), (tiny.model, "not a folder")):
        assert run_main([str(path), "--input", str(tiny.images)]) == 1
        assert says in error_line(capsys)


def test_another_networks_checkpoint(
    tiny: Tiny, make_model: Callable[..., Any], tmp_path: Path, capsys: Capture
) -> None:
    torch.save(make_model(num_classes=3).state_dict(), tmp_path / "other.pt")
    arguments = ["--input", str(tiny.images), "--model", str(tmp_path / "other.pt"), "--backend", "reference"]
    assert verify_main([str(tiny.build), *arguments]) == 1
    assert "another network" in error_line(capsys)


def test_a_folder_that_is_no_build_is_left_alone(tiny: Tiny, tmp_path: Path, capsys: Capture) -> None:
    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "chapter1.tex").write_text("It was a dark and stormy night")
    for output in (precious, precious / "chapter1.tex"):
        assert compile_main([str(tiny.model), "--target", "lava", "-o", str(output), *tiny.arguments]) == 1
        assert str(output) in error_line(capsys)
    assert [path.name for path in tmp_path.rglob("*")] == ["thesis", "chapter1.tex"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_write_that_fails_leaves_the_older_build(
    tiny: Tiny, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    output = tiny.copied_build(tmp_path)
    before = {path.name: path.read_bytes() for path in output.iterdir()}

    def fail(_program: Any, path: Path) -> None:
        path.write_bytes(b"half of it")
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(build, "write_program", fail)
    assert compile_main([str(tiny.model), "--target", "lava", "-o", str(output), *tiny.arguments]) == 1
    assert f"{output / 'program.safetensors'}: {os.strerror(number)}" in error_line(capsys)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before
    assert list(tmp_path.iterdir()) == [output]


LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
from resformer.runtime.cli.compile_options import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
@pytest.mark.parametrize("limit", [2_000, 40_000])
def test_files_that_cannot_grow(tiny: Tiny, tmp_path: Path, limit: int, launcher: subprocess.Popen[str]) -> None:
    """The libraries that write files then fail as on a full disk."""
    command = [str(tiny.model), "--target", "onnx", "-o", str(tmp_path / "b"), *tiny.arguments]
    done = alone(launcher, LIMITED, arguments=[str(limit), *command], modules=[cli.__name__])
    assert (done.status, done.out) == (1, "")
    assert done.err.count("\n") == 1, done.err
    assert "File too large" in done.err
    assert list(tmp_path.iterdir()) == []


def test_outputs_that_cannot_be_written_are_refused_before_the_work(
    tiny: Tiny, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (run_command, verify_command):
        monkeypatch.setattr(module, "read_given", lambda _arguments, _directory: pytest.fail("work was begun"))
    (tmp_path / "file").touch()
    for output in (tmp_path / "file" / "none" / "o", tmp_path):
        for command, option in ((run_main, "-o"), (verify_main, "--json")):
            assert command([str(tiny.build), "--input", str(tiny.images), option, str(output)]) == 1
            assert str(tmp_path) in error_line(capsys)


def test_a_failed_result_leaves_the_older_one(
    tiny: Tiny, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "o.npz"
    output.write_bytes(b"older")

    def fail(*_arguments: Any, **_options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez", fail)
    arguments = ["--input", str(tiny.images), "--backend", "reference", "-o", str(output)]
    assert run_main([str(tiny.build), *arguments]) == 1
    assert f"{output}: No space left" in error_line(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["o.npz"]
    assert output.read_bytes() == b"older"


WITHOUT_LAVA = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "lava":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
from resformer.runtime.cli.run import main as run_main
from resformer.runtime.cli.verify import main as verify_main
sys.exit({"run": run_main, "verify": verify_main}[sys.argv[1]](sys.argv[2:]))
"""


@pytest.mark.parametrize("command", ["run", "verify"])
def test_lava_not_installed(tiny: Tiny, command: str, launcher: subprocess.Popen[str]) -> None:
    arguments = [command, str(tiny.build), "--input", str(tiny.images), "--backend", "lava"]
    done = alone(launcher, WITHOUT_LAVA, arguments=arguments, modules=[run_command.__name__, verify_command.__name__])
    assert (done.status, done.out) == (1, "")
    assert done.err.count("\n") == 1, done.err
    assert "pip install" in done.err


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError()])
def test_interrupts_and_exhausted_memory_are_one_line(
    tiny: Tiny, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(_program: Any, path: Path) -> None:
        path.write_bytes(b"half of it")
        raise error

    monkeypatch.setattr(build, "write_program", fail)
    status = compile_main([str(tiny.model), "--target", "lava", "-o", str(tmp_path / "b"), *tiny.arguments])
    assert status == (130 if isinstance(error, KeyboardInterrupt) else 1)
    assert ("interrupted" if status == 130 else "out of memory") in error_line(capsys)
    assert list(tmp_path.iterdir()) == []


def test_bugs_are_not_hidden(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "compile_options", lambda _arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        compile_main([str(tiny.model), "--target", "lava", "-o", str(tmp_path / "b")])


@contextmanager
def started(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
def test_ctrl_c_ends_a_run(tiny: Tiny, tmp_path: Path) -> None:
    many = tmp_path / "many.npy"
    np.save(many, np.tile(np.load(tiny.images), (3000, 1, 1, 1)))
    output = tmp_path / "o.npz"
    imports = "import sys; from resformer.runtime.cli.run import main as run_main"
    code = f"{imports}; print('go', flush=True); sys.exit(run_main())"
    arguments = [str(tiny.build), "--input", str(many), "--backend", "reference", "-o", str(output)]
    with started([sys.executable, "-c", code, *arguments]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "go\n"
        time.sleep(1.5)
        assert process.poll() is None, "it was done before the signal: this test cannot fail"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == "resformer-run: error: interrupted\n"
    assert list(tmp_path.iterdir()) == [many]
