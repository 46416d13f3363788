"""Programs as safetensors files: arrays as tensors, all else as JSON in the header; safe to load from anyone."""

from __future__ import annotations

import dataclasses
import json
import math
import reprlib
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from resformer.compiler.ir.arrays import require
from resformer.compiler.ir.bounds import check_declared
from resformer.compiler.ir.effort import PRODUCTS_PER_SECOND, padded_values, peak_bytes, products
from resformer.compiler.ir.graph import Node
from resformer.compiler.ir.ops import OPERATIONS, Delay, MaxPool2d, Op
from resformer.compiler.ir.ops.formats import Array, Flag, RowsAndColumns, Whole, formats_of
from resformer.compiler.ir.program import Program, Scheduled, Unscheduled
from resformer.compiler.ir.signal import Signal, SignalKind
from resformer.compiler.ir.verify import verify_program
from resformer.errors import FileFormatError, RangeError
from resformer.models.boundary import boundary
from resformer.models.json_text import parse_json
from resformer.models.limits import (
    LARGEST_RUN,
    LARGEST_SAFETENSORS_HEADER,
    LONGEST_MESSAGE,
    LONGEST_NAME,
    LONGEST_SAMPLE,
    MOST_VALUES,
    MOST_WORK,
    WORK_SHARE,
    allowed,
    cut,
    printable,
    quote,
    require_within,
)

FORMAT = "resformer-program"
FORMAT_VERSION = 2

HEADER_SIZE_BYTES = 8
"""The number of bytes at the beginning of a safetensors file that hold the size of the header behind them."""
INTEGER_LIMIT = 2**40
"""The largest magnitude of a number in the header, and the most values of a node over all steps; no program that
resformer writes comes near it."""
SCALE_EXP_LIMIT = 64
"""The largest magnitude of a scale's exponent; no program that resformer writes comes near it."""
BRIEF = 200
"""The most characters that an error quotes from a file."""


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
    # not save_file: only the owner can read its files, and it raises no OSError on a full disk
    path.write_bytes(_in_order(save(tensors, metadata)))


def _in_order(content: bytes) -> bytes:
    """A safetensors file with its header's keys sorted: safetensors puts the metadata in another order each time, and
    builds of one network should be equal, byte for byte.
    """
    size = int.from_bytes(content[:HEADER_SIZE_BYTES], "little")
    header = json.loads(content[HEADER_SIZE_BYTES : HEADER_SIZE_BYTES + size])
    ordered = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    require(len(ordered) <= size, "the sorted header is longer")
    return content[:HEADER_SIZE_BYTES] + ordered.ljust(size) + content[HEADER_SIZE_BYTES + size :]


def read_program(path: Path) -> Program:
    """Read what :func:`write_program` wrote.

    Raises:
        FileFormatError: The file is absent, damaged, of another format or version, or describes no valid program.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        what = "not a file" if path.exists() else "no such file"
        raise FileFormatError(f"{path}: {what}; compile the model first")
    with boundary(path, "compile the model again", what="not a readable safetensors file"):
        size = _check_header(path)
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        except SafetensorError as error:
            raise ValueError(_brief(error)) from error
    if metadata.get("format") != FORMAT:
        raise FileFormatError(f"{path}: a safetensors file, but not a {FORMAT}; give the program of a build")
    if metadata.get("version") != str(FORMAT_VERSION):
        raise FileFormatError(
            f"{path}: format version {_shown(metadata.get('version'))}, this resformer reads {FORMAT_VERSION}; "
            "compile the model again"
        )
    try:
        program = _program(parse_json(_entry(metadata, "program", str)), tensors, size)
    except FileFormatError as error:
        raise FileFormatError(f"{path}: {error}") from error
    except _DAMAGE as error:
        raise FileFormatError(f"{path}: damaged: {_brief(error)}; compile the model again") from error
    try:
        check_declared(program)
    except (AssertionError, RangeError) as error:
        raise FileFormatError(
            f"{path}: {_brief(error)}, so what it holds was changed since it was written; compile the model again"
        ) from error
    return program


def _check_header(path: Path) -> int:
    """Refuse a file whose header is too large, before the header is read, and return the file's size."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header = int.from_bytes(file.read(HEADER_SIZE_BYTES), "little")
    if header <= size:
        require_within(header, LARGEST_SAFETENSORS_HEADER, "its header has {} bytes")
    return size


def _check_effort(program: Program, size: int) -> None:
    """Refuse a program whose runs would take memory or time out of all proportion to its file of ``size`` bytes.

    Raises:
        FileFormatError: The program exceeds a limit; the message names the limit.
    """
    require_within(program.timesteps, LONGEST_SAMPLE, "a sample has {} timesteps")
    require_within(peak_bytes(program), LARGEST_RUN, "a sample takes {} bytes")
    work = products(program)
    require_within(
        work - allowed(WORK_SHARE) * size,
        MOST_WORK,
        f"a sample takes {{}} products of values and weights beside the {allowed(WORK_SHARE)} for each byte of the "
        f"file (in all about {quote(work // PRODUCTS_PER_SECOND)} s in the reference interpreter)",
    )


_DAMAGE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RangeError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What reading and checking a damaged file may raise; only a bug of ours raises anything else."""


def _program(header: Any, tensors: dict[str, np.ndarray[Any, Any]], size: int) -> Program:
    unread = dict(tensors)
    nodes = tuple(_node(entry, unread) for entry in _entry(header, "nodes", list))
    if unread:
        raise ValueError(f"no node has the tensor {next(iter(unread))}")
    offsets: dict[str, int] | None = None
    if header.get("offsets", "absent") is not None:
        steps = _entry(header, "offsets", dict)
        offsets = {name: _integer(step, f"the step of {name}") for name, step in steps.items()}
        strangers = offsets.keys() - {node.name for node in nodes}
        if strangers:
            raise ValueError(f"the schedule names {min(strangers)}, which is no node")
    timesteps = _integer(_entry(header, "timesteps", int), "timesteps")
    metadata = _entry(header, "metadata", dict)
    program: Program
    if offsets is None:
        program = Unscheduled(nodes, timesteps, metadata)
    else:
        program = Scheduled(nodes, timesteps, metadata, offsets)
    verify_program(program)
    _check_metadata(metadata)
    _check_sizes(program)
    _check_effort(program, size)
    return program


def _node(entry: Any, unread: dict[str, np.ndarray[Any, Any]]) -> Node[Op]:
    """One node; its tensors are removed from ``unread``."""
    name, kind = _entry(entry, "name", str), _entry(entry, "op", str)
    if not name.isprintable() or not 0 < len(name) <= allowed(LONGEST_NAME):
        raise ValueError(f"the name {_shown(name)} is no printable text of up to {allowed(LONGEST_NAME)} characters")
    if kind not in OPERATIONS:
        raise ValueError(f"{name} is a {kind}, which is no operation")
    values: dict[str, Any] = {"signal": _signal(_entry(entry, "signal", list))}
    scalars = _entry(entry, "values", dict)
    for field, form in formats_of(OPERATIONS[kind]).items():
        where = f"{name}/{field}"
        match form:
            case Array():
                values[field] = _array(where, form, unread)
            case RowsAndColumns():
                values[field] = _integers(_entry(scalars, field, list), where)
            case Whole():
                values[field] = _integer(_entry(scalars, field, int), where)
            case Flag():
                values[field] = _entry(scalars, field, bool)
    inputs, shape = _entry(entry, "inputs", list), _entry(entry, "shape", list)
    return Node(name, OPERATIONS[kind](**values), tuple(inputs), _integers(shape, f"the shape of {name}"))


def _signal(entry: list[Any]) -> Signal:
    kind, scale_exp, *bounds = entry
    low, high = (None if bound is None else _integer(bound, "a signal's bound") for bound in bounds)
    if abs(_integer(scale_exp, "a scale's exponent")) > SCALE_EXP_LIMIT:
        raise ValueError(f"a scale's exponent is {scale_exp}")
    return Signal(SignalKind(kind), scale_exp, low, high)


def _check_metadata(metadata: dict[str, Any]) -> None:
    """Refuse metadata that are neither short texts nor plain numbers: programs have no others."""
    for key, value in metadata.items():
        number = isinstance(value, int | float) and abs(value) <= INTEGER_LIMIT
        if not number and not (isinstance(value, str) and len(value) <= LONGEST_MESSAGE):
            raise ValueError(f"metadata: {_shown(key)} is {_shown(value)}")


T = TypeVar("T")


def _entry(holder: Any, key: str, wanted: type[T]) -> T:
    """An entry of a JSON object, of exactly this type."""
    if not isinstance(holder, dict) or key not in holder:
        raise ValueError(f"there is no {key} in {_shown(holder)}")
    value = holder[key]
    if type(value) is not wanted:
        raise ValueError(f"{key} is {_shown(value)}, not of type {wanted.__name__}")
    return value


def _integer(value: Any, what: str) -> int:
    if type(value) is not int or abs(value) > INTEGER_LIMIT:
        raise ValueError(f"{what} is {_shown(value)}")
    return value


def _integers(values: list[Any], what: str) -> tuple[int, ...]:
    return tuple(_integer(value, what) for value in values)


def _array(key: str, form: Array, unread: dict[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    if key not in unread:
        raise ValueError(f"the tensor {key} is missing")
    array = unread.pop(key)
    if array.dtype.type not in form.dtypes:
        raise ValueError(f"the tensor {key} is {array.dtype}, not {np.dtype(next(iter(form.dtypes)))}")
    return array


def _check_sizes(program: Program) -> None:
    """Refuse sizes, delays and padding that would take memory out of all proportion to the file and the samples."""
    for node in program:
        elements = program.timesteps * math.prod(node.shape)
        require(elements <= INTEGER_LIMIT, f"{node.name} has {elements} values over all steps")
        require_within(math.prod(node.shape), MOST_VALUES, f"{quote(node.name)} has {{}} values a step")
        if isinstance(node.op, Delay):
            steps = node.op.steps
            fits = steps <= len(program)
            require(fits, f"{node.name} waits {steps} steps in a program of {len(program)} nodes")
        padded = padded_values(program, node)
        require_within(padded, MOST_VALUES, f"{quote(node.name)} pads what it reads to {{}} values a step")
        if isinstance(node.op, MaxPool2d):
            window = node.op.window
            # otherwise a window could lie wholly in the padding and have no maximum
            fits = all(pad < span for pad, span in zip(window.padding, window.span, strict=True))
            require(fits, f"{node.name} pads by {window.padding} for windows of {window.span}")


def _shown(value: Any) -> str:
    """A value from a file, short enough for one line of an error."""
    return reprlib.repr(value)


def _brief(error: Exception) -> str:
    """An error as one printable line; names in it come from the file."""
    return cut(printable(" ".join(str(error).split()) or type(error).__name__), BRIEF)
