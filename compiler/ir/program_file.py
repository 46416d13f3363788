"""Programs as safetensors files: arrays as tensors, all else as JSON in the header; safe to load from anyone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from resformer.compiler.ir import program as ops
from resformer.compiler.ir.graph import Node
from resformer.compiler.ir.program import Op, Program, Signal, SignalKind
from resformer.errors import FileFormatError

FORMAT = "resformer-program"
FORMAT_VERSION = 1

_OPS: dict[str, type[Op]] = {
    each.__name__: each
    for each in (
        ops.Input,
        ops.Conv2d,
        ops.Dense,
        ops.SumPool2d,
        ops.MaxPool2d,
        ops.Add,
        ops.Relay,
        ops.LIF,
        ops.SpikeMatMul,
        ops.Delay,
        ops.Flatten,
        ops.Output,
    )
}
_ARRAY_TYPES = {
    "Int8Array": np.int8,
    "Int16Array": np.int16,
    "Int32Array": np.int32,
    "Float64Array": np.float64,
}


def write_program(program: Program, path: Path) -> None:
    """Write a program to one safetensors file.

    Raises:
        OSError: The file cannot be written.
    """
    from safetensors.numpy import save

    tensors: dict[str, np.ndarray[Any, Any]] = {}
    nodes = []
    for node in program:
        values: dict[str, Any] = {}
        for field in dataclasses.fields(node.op):
            value = getattr(node.op, field.name)
            if isinstance(value, np.ndarray):
                tensors[f"{node.name}/{field.name}"] = np.ascontiguousarray(value)
            elif field.name != "signal":
                values[field.name] = value
        signal = node.op.signal
        nodes.append(
            {
                "name": node.name,
                "op": type(node.op).__name__,
                "inputs": node.inputs,
                "shape": node.shape,
                "signal": [signal.kind.value, signal.scale_exp, signal.low, signal.high],
                "values": values,
            }
        )
    header = {
        "timesteps": program.timesteps,
        "metadata": dict(program.metadata),
        "offsets": program.offsets,
        "nodes": nodes,
    }
    metadata = {"format": FORMAT, "version": str(FORMAT_VERSION), "program": json.dumps(header)}
    # not save_file: its files are private to their owner, and a full disk is no OSError to it
    path.write_bytes(save(tensors, metadata))


def read_program(path: Path) -> Program:
    """Read what :func:`write_program` wrote.

    Raises:
        FileFormatError: The file is absent, damaged, of another format or version, or describes no valid program.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileFormatError(f"{path}: no such file; compile the model first")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise FileFormatError(f"{path}: not a readable safetensors file ({error}); compile the model again") from error
    if metadata.get("format") != FORMAT:
        raise FileFormatError(f"{path}: a safetensors file, but not a {FORMAT}; give the program of a build")
    if metadata.get("version") != str(FORMAT_VERSION):
        raise FileFormatError(
            f"{path}: format version {metadata.get('version')}, this resformer reads {FORMAT_VERSION}; "
            "compile the model again"
        )
    try:
        return _program(json.loads(metadata["program"]), tensors)
    except (KeyError, ValueError, TypeError, AttributeError, AssertionError) as error:
        raise FileFormatError(f"{path}: damaged: {error}; compile the model again") from error


def _program(header: dict[str, Any], tensors: dict[str, np.ndarray[Any, Any]]) -> Program:
    from resformer.compiler.ir.verify import verify_program

    nodes = []
    for each in header["nodes"]:
        kind, scale_exp, low, high = each["signal"]
        signal = Signal(SignalKind(kind), scale_exp, low, high)
        if each["op"] not in _OPS:
            raise ValueError(f"{each['name']} is a {each['op']}, which is no operation")
        op_type = _OPS[each["op"]]
        values: dict[str, Any] = {"signal": signal}
        for field in dataclasses.fields(op_type):
            if field.name == "signal":
                continue
            if str(field.type) in _ARRAY_TYPES:
                values[field.name] = _array(each["name"], field, tensors)
            else:
                value = each["values"][field.name]
                values[field.name] = tuple(value) if isinstance(value, list) else value
        nodes.append(Node(each["name"], op_type(**values), tuple(each["inputs"]), tuple(each["shape"])))
    program = Program(tuple(nodes), header["timesteps"], header["metadata"], header["offsets"])
    verify_program(program)
    return program


def _array(name: str, field: dataclasses.Field[Any], tensors: dict[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    key = f"{name}/{field.name}"
    if key not in tensors:
        raise ValueError(f"the tensor {key} is missing")
    wanted = np.dtype(_ARRAY_TYPES[str(field.type)])
    if tensors[key].dtype != wanted:
        raise ValueError(f"the tensor {key} is {tensors[key].dtype}, not {wanted}")
    return tensors[key]
