"""Program files taken apart and put together again, for tests that damage them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

Tensors = dict[str, np.ndarray[Any, Any]]


def take_apart(path: Path) -> tuple[dict[str, str], Any, Tensors]:
    """The file's metadata without the program, the program's JSON, and the tensors."""
    with safe_open(path, framework="numpy") as file:
        metadata = dict(file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    return metadata, json.loads(metadata.pop("program")), tensors


def put_together(path: Path, metadata: dict[str, str], program: Any, tensors: Tensors) -> None:
    """Write what :func:`take_apart` read."""
    save_file(tensors, path, metadata | {"program": json.dumps(program)})
