"""The locks hold all that pyproject.toml asks for, hashed, no address in them; the Dockerfile finds what it copies."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from support import scripts

ROOT = Path(__file__).parents[2]
LOCKS = ("setup", "run", "cuda", "torch-cpu")
PYTHONS = ("3.10", "3.11", "3.12")
PLATFORMS = (("linux", "Linux", "x86_64"), ("linux", "Linux", "aarch64"), ("darwin", "Darwin", "arm64"))

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = scripts.load(ROOT / "tools" / "lock.py", "resformer_lock").EXTRAS


def locked(name: str) -> list[Requirement]:
    text = (ROOT / "locks" / f"{name}.lock").read_text(encoding="utf-8")
    return [Requirement(line.split(" \\")[0]) for line in text.splitlines() if re.match("[a-z0-9]", line)]


def applies(requirement: Requirement, python: str, platform: tuple[str, str, str], extra: str = "") -> bool:
    """Whether a requirement's marker holds."""
    sys_platform, system, machine = platform
    told = {
        "python_version": python,
        "python_full_version": f"{python}.9",
        "sys_platform": sys_platform,
        "platform_system": system,
        "platform_machine": machine,
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "extra": extra,
    }
    return requirement.marker is None or requirement.marker.evaluate(told)


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("platform", PLATFORMS, ids=lambda each: f"{each[0]}-{each[2]}")
@pytest.mark.parametrize("name", ["setup", "run"])
def test_locks_hold_one_version_of_all_that_is_asked_for(
    name: str, python: str, platform: tuple[str, str, str]
) -> None:
    here = [each for each in locked(name) if applies(each, python, platform)]
    versions = {canonicalize_name(each.name): str(each.specifier).removeprefix("==") for each in here}
    assert len(versions) == len(here), "a package is there twice"
    optional = PROJECT["optional-dependencies"]
    asked = map(Requirement, [*PROJECT["dependencies"], *(each for extra in EXTRAS[name] for each in optional[extra])])
    for requirement in asked:
        if applies(requirement, python, platform):
            version = versions.get(canonicalize_name(requirement.name))
            assert version is not None, f"{requirement.name} is not locked: make lock"
            assert requirement.specifier.contains(version, prereleases=True), f"{requirement}: {version}: make lock"
    assert versions["lava-nc"] == "0.10.0"
    assert not [each for each in versions if re.match("(nvidia|cuda)-", each)], "CUDA is for those who have one"


def test_the_image_is_locked_to_the_versions_that_are_tested() -> None:
    run, setup = ({(each.name, str(each.specifier)) for each in locked(name)} for name in ("run", "setup"))
    assert run <= setup
    (torch,) = (each for each in locked("setup") if each.name == "torch")
    (cpu,) = locked("torch-cpu")
    assert str(cpu) == f"{torch}+cpu"
    assert set(EXTRAS["setup"]) == PROJECT["optional-dependencies"].keys() - {"sanafe"}, "GPL, never unasked"


@pytest.mark.parametrize("name", LOCKS)
def test_locks_are_hashed_and_name_no_registry(name: str) -> None:
    text = (ROOT / "locks" / f"{name}.lock").read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.search(r"^\s*-(?!-hash=sha256:[0-9a-f]{64}( \\)?$)", text, re.MULTILINE)
    for block in re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]:
        head, *hashes = block.rstrip("\n").split(" \\\n")
        assert re.fullmatch(r"[a-z0-9-]+==[^ ]+( ; .*)?", head)
        assert hashes
        assert all(each.startswith("    --hash=sha256:") for each in hashes), block


def copied() -> list[str]:
    """What the Dockerfile copies from the checkout."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    return [
        source for line in lines if line.startswith("COPY ") and "--from=" not in line for source in line.split()[1:-1]
    ]


def test_the_dockerfile_copies_what_is_there_and_let_in() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignored
    assert copied()
    for source in copied():
        assert (ROOT / source).exists(), source
        assert f"!{source}" in ignored, source


def test_the_dockerfile_has_all_that_the_wheel_is_built_from() -> None:
    links = [path.name for path in (ROOT / "src" / "resformer").iterdir() if path.is_symlink()]
    assert set(copied()) >= {"setup.py", "pyproject.toml", "README.md", "LICENSE", "src", "locks", *links}


def test_the_image_runs_compile_as_nobody_in_particular() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    last = lines[max(number for number, line in enumerate(lines) if line.startswith("FROM ")) :]
    users = [line.split()[1] for line in last if line.startswith("USER ")]
    assert users
    assert users[-1] not in ("root", "0")
    assert 'ENTRYPOINT ["resformer-compile"]' in last
    assert "resformer-compile" in PROJECT["scripts"]


def test_the_forge_runs_what_ci_runs() -> None:
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert "run: bash .ci/run\n" in workflow
    targets = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"run: make ([a-z-]+)", workflow):
        assert f"\n{target}:" in targets, target
