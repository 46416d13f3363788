"""Run notebooks and write their outputs into them.

    make notebooks

A notebook runs in its own folder, from top to bottom, in a new kernel of this environment.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

TIMEOUT = 300
"""The most seconds for one cell; enough on a busy machine."""


class ThisPython(AsyncKernelManager):
    """The manager of a kernel in this environment, whatever other kernels the user has installed."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """The command that starts the kernel."""
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=command, display_name="Python 3", language="python")


def execute(path: Path) -> Any:
    """Run a notebook from its first cell to its last.

    Args:
        path: The notebook's file, which is read but not written.

    Returns:
        The notebook with its outputs.

    Raises:
        CellExecutionError: A cell failed; the message holds its code and its traceback.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": str(path.resolve().parent)}}
        client = NotebookClient(
            notebook,
            kernel_manager_class=ThisPython,
            timeout=TIMEOUT,
            startup_timeout=TIMEOUT,
            record_timing=False,
            coalesce_streams=True,  # otherwise printed text arrives in one part or in several, by chance
            resources=resources,
        )
        # the sockets are files in a private folder: ports would be open to everyone on this machine
        kernel = client.create_kernel_manager()
        kernel.transport, kernel.ip = "ipc", f"{folder}/kernel"
        client.execute()
    # these replace metadata that only tell on which machine the notebook ran
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def main(argv: Sequence[str] | None = None) -> int:
    """Run each notebook and write it; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="+", type=Path, metavar="NOTEBOOK")
    for path in parser.parse_args(argv).notebooks:
        nbformat.write(execute(path), path)
        print(f"wrote {path} ({path.stat().st_size / 1000:.0f} kB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
