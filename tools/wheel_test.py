"""Install the wheel and use it as a user does: in a clean environment for each Python, outside this checkout.

    make wheel-test                       # each of 3.10, 3.11 and 3.12 that is here
    make wheel-test PYTHONS="3.11"

The test builds the source distribution and, from it, the wheel. Then it installs ``resformer[lava,onnx,sim]`` with the
versions of constraints.txt, and runs the quickstart on the digits. It needs a package index, and for each Python some
minutes and 1 GB of disk, or 6 GB if the index only offers CUDA builds of torch.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.10", "3.11", "3.12")
LEFT = (".git", ".venv", "build", "dist", "site", "*.egg-info", "__pycache__", ".*_cache")
"""Patterns of names in the checkout that no build reads, and that are not copied."""
BUILD = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
LAVA = ("--no-deps", "--ignore-requires-python", "lava-nc==0.10.0")
"""Arguments of the ``pip install`` that docs/quickstart.md adds on Python 3.11 and later."""
FILES = ("spikingresformer_mnist.pt", "test_images.npy", "test_labels.npy")
VERIFY = "resformer-verify build --model spikingresformer_mnist.pt --input test_images.npy"
COMMANDS = (
    "resformer-compile --version",
    "resformer-compile spikingresformer_mnist.pt --target lava,onnx -o build",
    "resformer-run build --input test_images.npy --samples 2 --backend lava -o out.npz --record-spikes",
    f"{VERIFY} --labels test_labels.npy --samples 2 --backend lava --json report.json",
    f"{VERIFY} --samples 8 --backend onnx",
    f"{VERIFY} --samples 8 --backend sim",
    "resformer-report build/ --input test_images.npy --samples 4 --verify report.json -o report.html",
)
CODE = """
import json, pathlib, resformer
assert "site-packages" in resformer.__file__, resformer.__file__
assert json.loads(pathlib.Path("report.json").read_text())["equivalent"] is True
compiled = resformer.load("build", model="spikingresformer_mnist.pt")
assert compiled.verify("test_images.npy", samples=2, backend="sim").equivalent
assert compiled.place().cores > 0
print("python: equivalent, on", compiled.place().cores, "cores")
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Try each Python; return 1 if one failed or none was found, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pythons", nargs="+", default=PYTHONS, metavar="VERSION")
    arguments = parser.parse_args(argv)
    told, status = [], 1
    with tempfile.TemporaryDirectory() as folder:
        wheel = build(Path(folder))
        for version in arguments.pythons:
            python = find(version)
            if python is None:
                told.append(f"Python {version}: not here, so not tried")
                continue
            start = time.perf_counter()
            try:
                use(wheel, python, version, Path(folder) / f"python{version}")
            except subprocess.CalledProcessError as error:
                told.append(f"Python {version}: FAILED: {shlex.join(map(str, error.cmd))}")
            else:
                told.append(
                    f"Python {version}: installed, compiled and verified in {time.perf_counter() - start:.0f} s"
                )
            shutil.rmtree(Path(folder) / f"python{version}", ignore_errors=True)
        tried = [line for line in told if "not here" not in line]
        status = int(not tried or any("FAILED" in line for line in tried))
    print("", *told, sep="\n")
    return status


def build(folder: Path) -> Path:
    """Build the source distribution of this checkout, and from it the wheel; return the wheel's path.

    Args:
        folder: The folder that everything is written to.
    """
    shutil.copytree(ROOT, folder / "checkout", symlinks=True, ignore=shutil.ignore_patterns(*LEFT))
    shown([sys.executable, "-m", "venv", folder / "builder"])
    python = folder / "builder" / "bin" / "python"
    shown([python, "-m", "pip", "install", "--quiet", "setuptools>=77", "tomli"])
    shown([python, "-c", BUILD, folder], cwd=folder / "checkout", quiet=True)
    (source,) = folder.glob("*.tar.gz")
    shown([python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder / "wheels", source])
    (wheel,) = (folder / "wheels").glob("*.whl")
    return wheel


def find(version: str) -> str | None:
    """The interpreter of a Python version, from the path, from pyenv or from uv; None if there is none."""
    candidates = [f"python{version}"]
    if shutil.which("pyenv"):
        root = subprocess.run(["pyenv", "root"], capture_output=True, text=True, check=True).stdout.strip()
        candidates += map(str, sorted(Path(root).glob(f"versions/{version}.*/bin/python{version}")))
    if shutil.which("uv"):
        found = subprocess.run(["uv", "python", "find", version], capture_output=True, text=True, check=False)
        candidates += found.stdout.split()
    for candidate in candidates:
        # pyenv has a shim for every version, but a shim only runs if its version is switched on
        tried = shutil.which(candidate)
        if tried and subprocess.run([tried, "-c", "import venv"], capture_output=True, check=False).returncode == 0:
            return tried
    return None


def use(wheel: Path, python: str, version: str, folder: Path) -> None:
    """Install the wheel for one Python and run the quickstart.

    Raises:
        CalledProcessError: A command failed; its output has been shown.
    """
    print(f"\nPython {version}: {python}", flush=True)
    shown([python, "-m", "venv", folder / "environment"])
    environment = folder / "environment" / "bin"
    install = [environment / "python", "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt"]
    shown([*install, f"{wheel}[lava,onnx,sim]"])
    if version != "3.10":
        shown([*install, *LAVA])
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    for name in FILES:
        shutil.copy(ROOT / "examples" / "mnist" / name, elsewhere)
    for command in COMMANDS:
        name, *words = command.split()
        shown([environment / name, *words], cwd=elsewhere)
    shown([environment / "python", "-c", CODE], cwd=elsewhere)


def shown(command: Sequence[str | Path], *, cwd: Path | None = None, quiet: bool = False) -> None:
    """Print a command and run it without ``PYTHONPATH`` and ``PYTHONHOME``, so that only its own packages are found."""
    words = list(map(str, command))
    print(f"$ {shlex.join([Path(words[0]).name, *words[1:]])}"[:200], flush=True)
    subprocess.run(words, cwd=cwd, env=clean(os.environ), check=True, stdout=subprocess.DEVNULL if quiet else None)


def clean(environment: Mapping[str, str]) -> dict[str, str]:
    """Environment variables without those that change where Python looks for packages."""
    return {name: value for name, value in environment.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


if __name__ == "__main__":
    sys.exit(main())
