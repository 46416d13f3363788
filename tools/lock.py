"""Write the lock files: versions and hashes of everything that ``make setup`` and the Dockerfile install.

    make lock               # keeps the versions that are locked, where pyproject.toml still admits them
    make lock UPGRADE=1     # takes the newest

Each lock is for Linux and macOS and for every Python that pyproject.toml admits; markers say which requirement is for
which. Three things need an explanation:

- Packages that only CUDA builds of torch need take gigabytes, and are in a lock of their own. PyPI's torch is such a
  build on Linux; ``make setup`` takes the build for CPUs (``2.13.0+cpu``) if a registry offers it.
- The build for CPUs has a lock of its own too, since pip prefers PyPI's files if it finds their hashes. PyPI does not
  have the build's hashes; this tool adds the hash of the file that a registry offers to this Python, if one does.
- lava-nc 0.10.0 declares Python below 3.11 but works on later ones (docs/quickstart.md), so it is locked for all.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ROOT / "locks"
EXTRAS = {
    "setup": ("lava", "onnx", "sim", "images", "events", "plot", "completion", "examples", "frameworks", "dev"),
    "run": ("lava", "onnx", "sim", "images", "events", "plot", "completion"),
}
"""The extras of pyproject.toml in each lock: ``setup`` is for a clone, ``run`` for those who only use the package."""
BESIDE = ("lava-nc==0.10.0", "setuptools>=77", "tomli>=2; python_version < '3.11'")
"""Requirements that are in no extra: Lava for Python after 3.10, and what a build of this package imports."""
CUDA = re.compile(r"(nvidia|cuda)-")
"""Matches the beginning of the names of packages that only CUDA builds of torch need."""
COMPILE = (
    *("-m", "uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.10"),
    *("--generate-hashes", "--no-annotate", "--no-header", "--no-emit-index-url", "--no-emit-find-links"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Write all locks; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions, not those that are locked")
    arguments = parser.parse_args(argv)
    cuda: dict[str, str] = {}
    for name, extras in EXTRAS.items():
        locked = resolve(extras, upgrade=arguments.upgrade and name == "setup")
        cuda |= {each: locked.pop(each) for each in list(locked) if CUDA.match(each)}
        if name == "run":
            # only CUDA builds and the tests of kernels need Triton, and users of this lock run no tests
            cuda |= {each: locked.pop(each) for each in list(locked) if each.startswith("triton=")}
        write(name, locked)
    write("cuda", cuda)
    (torch,) = (each for each in locked if each.startswith("torch=="))
    write("torch-cpu", {torch: cpu_builds(torch)})
    return 0


def resolve(extras: Sequence[str], *, upgrade: bool) -> dict[str, str]:
    """The content of a lock: each requirement with its version and marker, and the lines of its entry.

    Args:
        extras: Extras of pyproject.toml.
        upgrade: Whether the newest versions are taken, not those that are locked.
    """
    held = [path for path in (LOCKS / "setup.lock", LOCKS / "cuda.lock") if path.exists() and not upgrade]
    with tempfile.TemporaryDirectory() as folder:
        beside, output = Path(folder) / "beside.in", Path(folder) / "output.txt"
        beside.write_text("\n".join(BESIDE) + "\n", encoding="utf-8")
        # uv keeps the versions that it finds in the file that it writes
        output.write_text("".join(path.read_text(encoding="utf-8") for path in held), encoding="utf-8")
        named = [word for extra in extras for word in ("--extra", extra)]
        subprocess.run(
            [sys.executable, *COMPILE, *named, "-c", "constraints.txt", "-o", output, "pyproject.toml", beside],
            cwd=ROOT,
            check=True,
        )
        return entries(output.read_text(encoding="utf-8"))


def entries(text: str) -> dict[str, str]:
    """A lock's entries: each requirement, which is the beginning of its entry, and the whole entry."""
    found: dict[str, str] = {}
    for block in re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE):
        if not block.startswith("#") and block.strip():
            found[block.split(" \\\n")[0]] = block
    return found


def cpu_builds(torch: str) -> str:
    """The entry of torch's build for CPUs: its version, the hashes known so far, and that of the file on offer here.

    Args:
        torch: The requirement of torch, without ``+cpu``.
    """
    wanted = f"{torch}+cpu"
    held = entries((LOCKS / "torch-cpu.lock").read_text(encoding="utf-8"))
    hashes = set(re.findall(r"sha256:[0-9a-f]{64}", held.get(wanted, "")))
    asked = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps", "--ignore-installed", "--quiet"]
    done = subprocess.run([*asked, "--report", "-", wanted], capture_output=True, check=False)
    if done.returncode == 0:
        (offered,) = json.loads(done.stdout)["install"]
        hashes.add(f"sha256:{offered['download_info']['archive_info']['hashes']['sha256']}")
    return " \\\n    ".join([wanted, *(f"--hash={each}" for each in sorted(hashes))]) + "\n"


def write(name: str, locked: dict[str, str]) -> None:
    """Write a lock."""
    head = f"# {HEADS[name]}\n# `make lock` writes this from pyproject.toml and constraints.txt.\n"
    (LOCKS / f"{name}.lock").write_text(head + "".join(locked.values()), encoding="utf-8")


HEADS = {
    "setup": "What make setup installs.",
    "run": "What users of the Dockerfile's image need: setup.lock without what tests and examples need.",
    "torch-cpu": "The build of torch for CPUs, which is not on PyPI: make setup takes it where a registry offers it.",
    "cuda": "What setup.lock and run.lock need beside a CUDA build of torch, and nobody else does.",
}

if __name__ == "__main__":
    sys.exit(main())
