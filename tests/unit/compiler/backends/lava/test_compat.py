"""Lava can be imported on every Python we support, and where it is missing, the user is told how to get it."""

import dataclasses
import subprocess
import sys

import pytest

from resformer.compiler.backends.lava._compat import import_lava


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("missing", ["lava", "asteval", "networkx", "scipy"])
def test_what_is_missing_is_named_with_the_way_to_get_it(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; import resformer.compiler.backends.lava.backend"
    last = run(code).stderr.splitlines()[-1]
    assert last.startswith(f"resformer.errors.BackendMissingError: the Lava backend needs {missing}, ")
    assert "pip install 'resformer[lava]'" in last
    if sys.version_info >= (3, 11):
        assert last.endswith("&& pip install --no-deps --ignore-requires-python lava-nc==0.10.0")


def test_instances_do_not_share_their_defaults() -> None:
    import_lava()
    from lava.magma.compiler.var_model import ByteEncoder, CoreEncoder

    one, other = CoreEncoder(), CoreEncoder()
    assert one.x == ByteEncoder()
    one.x.base = 5
    assert other.x.base == 0
    assert CoreEncoder().y.base == 0


def test_the_repair_ends_with_the_import() -> None:
    import_lava()
    with pytest.raises(ValueError, match="mutable default"):
        dataclasses.make_dataclass("Refused", [("x", list, [])])
    assert dataclasses.dataclass.__module__ == "dataclasses"


@pytest.mark.parametrize(
    ("before", "method"), [("", "fork"), ("multiprocessing.set_start_method('spawn')", "spawn")], ids=["unset", "set"]
)
def test_a_start_method_once_chosen_stays(before: str, method: str) -> None:
    code = f"import multiprocessing; {before}\nimport resformer.compiler.backends.lava\n"
    result = run(code + "print(multiprocessing.get_start_method())")
    assert (result.stdout, result.stderr) == (f"{method}\n", "")
