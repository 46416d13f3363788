"""What ``import resformer`` shows, and what it costs."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import resformer

PUBLIC = {
    "BackendFailedError",
    "BackendMissingError",
    "CapacityError",
    "CompileOptions",
    "Compiled",
    "FileFormatError",
    "InputError",
    "RangeError",
    "ResformerError",
    "ResformerWarning",
    "UnsupportedError",
    "__version__",
    "compile",
    "errors",
    "load",
    "load_spikes",
    "quantize",
}


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_only_public_names_show() -> None:
    importlib.import_module("resformer.runtime.compiled")  # packages that were imported do not show either
    assert set(dir(resformer)) == set(resformer.__all__) == PUBLIC
    assert all(getattr(resformer, name) is not None for name in PUBLIC)
    with pytest.raises(AttributeError, match="no attribute 'compil'"):
        _ = resformer.compil  # type: ignore[attr-defined]


def test_every_error_is_there() -> None:
    deliberate = {each.__name__ for each in resformer.ResformerError.__subclasses__()}
    assert deliberate | {"ResformerError"} == {name for name in PUBLIC if name.endswith("Error")}


def test_importing_is_light_and_registers_our_nodes() -> None:
    heavy = "{'torch', 'spikingjelly', 'rich', 'lava', 'onnx', 'numba'}"
    assert python(f"import sys, resformer; print({heavy} & set(sys.modules))") == "set()"
    assert python("import resformer, nir; print(hasattr(nir.ir, 'SpikeMatMul'))") == "True"
    assert python("import nir; print(hasattr(nir.ir, 'SpikeMatMul'))") == "False"


@pytest.mark.parametrize("module", ["compile", "run", "verify", "report"])
def test_commands_tell_their_version_at_once(module: str) -> None:
    code = (
        f"import sys; from resformer.runtime.cli.{module} import main; status = main(['--version']); "
        "print(status, 'torch' in sys.modules)"
    )
    command, version, *rest = python(code).split()
    assert command.startswith("resformer-")
    assert (version, rest) == (resformer.__version__, ["0", "False"])


@pytest.mark.parametrize(("program", "meaning"), [("resformer-run", "SIG_DFL"), ("other", "default_int_handler")])
def test_an_interrupt_as_a_command_loads_ends_it_without_a_traceback(program: str, meaning: str) -> None:
    lines = f"import signal, sys; sys.argv = ['bin/{program}']; import resformer"
    says = f"print(signal.getsignal(signal.SIGINT) is signal.{meaning})"
    # a shell's background job ignores the signal
    asked = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {lines}; {says}"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
