"""Networks as ONNX files, and programs run from them."""

from __future__ import annotations

import importlib
from typing import Any

from resformer.errors import BackendMissingError


def require(package: str) -> Any:
    """Import onnx or onnxruntime, and return it.

    Raises:
        BackendMissingError: It is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise BackendMissingError(
            f"{package} cannot be imported ({error}): pip install 'resformer[onnx]' or pip install onnx onnxruntime"
        ) from error
