"""resformer's own JSON files: read strictly, and checked against a schema that is also their type.

A schema is a ``TypedDict``. Its fields are ``int``, ``float``, ``str``, ``bool``, ``Literal`` of texts, ``list[…]``,
``dict[str, …]``, other typed dicts, and unions of these with each other and None. ``Annotated`` adds a :class:`Within`
or a :class:`Length`. Fields of a base with ``total=False`` may be absent. No object may have any other field.
"""

from __future__ import annotations

import functools
import json
import types
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

from resformer.errors import FileFormatError
from resformer.models.boundary import require_regular
from resformer.models.json_text import parse_json
from resformer.models.limits import LARGEST_JSON, printable

LARGEST = 2**63 - 1
"""The largest magnitude of a number whose schema states no narrower range."""
SHOWN = 60
"""The most characters of a value that an error shows."""
KINDS: Mapping[str, Any] = types.MappingProxyType(
    {
        "an object": Mapping,
        "a list": (list, tuple),
        "a text": str,
        "a whole number": int,
        "a number": (int, float),
        "null": types.NoneType,
        "true or false": bool,
    }
)
"""The Python types of each kind of JSON value, by the kind's name in errors."""


@dataclass(frozen=True)
class Within:
    """The range of a number, both ends included."""

    least: float
    most: float = LARGEST


@dataclass(frozen=True)
class Length:
    """The number of items of a list."""

    items: int


Count = Annotated[int, Within(0)]
"""A whole number from 0."""
Positive = Annotated[int, Within(1)]
"""A whole number from 1."""
Bounds = Annotated[list[int], Length(2)]
"""The smallest and the largest of some integers."""


def read_json(path: Path) -> object:
    """The content of a JSON file.

    Raises:
        ValueError: The file is not a regular file, too large, not UTF-8, not JSON or nested too deeply, or holds NaN,
            an infinity or a number of too many digits; the message is one line and does not name the file.
        OSError: The file cannot be read.
    """
    try:
        require_regular(path, largest=LARGEST_JSON)
    except FileFormatError as error:
        raise ValueError(str(error)) from error
    return parse_json(path.read_text(encoding="utf-8"))


def check(value: object, schema: Any, place: str = "") -> None:
    """Check a value against a schema.

    Args:
        value: The value, as ``json`` reads it or will write it.
        schema: A typed dict, or any type that a field of a typed dict may have.
        place: The place of the value in the file, for errors.

    Raises:
        FileFormatError: It does not match; the message names the first missing key, unknown key, wrong type or value
            out of its range, with its place.
    """
    origin, arguments = _parts(schema)
    if origin is Annotated:
        base, *limits = arguments
        stated = [limit for limit in limits if isinstance(limit, Within)]
        _check_plain(value, base, place, stated[0] if stated else None)
        for limit in limits:
            if isinstance(limit, Length) and isinstance(value, Collection) and len(value) != limit.items:
                raise _wrong(place, f"has {len(value)} items, not {limit.items}")
    elif origin in (Union, types.UnionType):
        check(value, _member(value, schema, place), place)
    else:
        _check_plain(value, schema, place, None)


def _check_plain(value: object, schema: Any, place: str, within: Within | None) -> None:
    """Check a value against a type that is neither a union nor annotated; ``within`` is the range of a number."""
    if not _has_form(value, schema):
        raise _wrong(place, f"is {shown(value)}, not {_form(schema)}")
    origin, arguments = _parts(schema)
    if is_typeddict(schema):
        assert isinstance(value, Mapping)
        _check_object(value, schema, place)
    elif origin is list:
        assert isinstance(value, list | tuple)
        for index, each in enumerate(value):
            check(each, arguments[0], f"{place}[{index}]")
    elif origin is dict:
        assert isinstance(value, Mapping)
        for key, each in value.items():
            check(each, arguments[1], _below(place, key))
    elif origin is Literal:
        if value not in arguments:
            raise _wrong(place, f"is {shown(value)}, none of {', '.join(arguments)}")
    elif isinstance(value, int | float):
        limits = within or Within(-LARGEST)
        if not limits.least <= value <= limits.most:  # NaN fails this comparison too
            raise _wrong(place, f"is {shown(value)}, outside {limits.least} to {limits.most}")


def _check_object(value: Mapping[Any, object], schema: Any, place: str) -> None:
    fields = _fields(schema)
    for key in fields:
        if key in schema.__required_keys__ and key not in value:
            raise _wrong(_below(place, key), "is missing")
    for key in value:
        if key not in fields:
            raise _wrong(_below(place, key), "is unknown")
    for key, kind in fields.items():
        if key in value:
            check(value[key], kind, _below(place, key))


def _member(value: object, union: Any, place: str) -> Any:
    """The member of a union to check a value against; among typed dicts, the one that has most of the value's keys.

    Raises:
        FileFormatError: The value has the form of no member.
    """
    members = [each for each in get_args(union) if _has_form(value, each)]
    if not members:
        raise _wrong(place, f"is {shown(value)}, not {' or '.join(dict.fromkeys(map(_form, get_args(union))))}")
    if isinstance(value, Mapping) and len(members) > 1:
        return max(members, key=lambda each: sum(key in value for key in _fields(each)))
    return members[0]


@functools.cache
def _fields(schema: Any) -> dict[str, Any]:
    """The fields of a typed dict and their types; cached, since Python resolves the types anew at each call."""
    return get_type_hints(schema, include_extras=True)


@functools.cache
def _parts(schema: Any) -> tuple[Any, tuple[Any, ...]]:
    """The origin and the arguments of a generic type."""
    return get_origin(schema), get_args(schema)


def _has_form(value: object, schema: Any) -> bool:
    """Whether a value is of the kind of JSON that a schema asks for, whatever its content."""
    form = _form(schema)
    if isinstance(value, bool):
        return form == "true or false"
    return isinstance(value, KINDS[form])


@functools.cache
def _form(schema: Any) -> str:
    """The kind of JSON that a schema asks for, in words."""
    if get_origin(schema) is Annotated:
        return _form(get_args(schema)[0])
    if is_typeddict(schema) or get_origin(schema) is dict:
        return "an object"
    if get_origin(schema) is list:
        return "a list"
    if get_origin(schema) is Literal:
        return "a text"
    names = {str: "a text", bool: "true or false", int: "a whole number", float: "a number", types.NoneType: "null"}
    return names[schema]


def _below(place: str, key: object) -> str:
    # a key comes from the file, so it may hold line ends or be very long
    name = printable(repr(str(key)[:SHOWN])[1:-1])
    return f"{place}.{name}" if place else name


def shown(value: object) -> str:
    """A value as an error shows it, in one short line."""
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int) and abs(value) > LARGEST:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _wrong(place: str, what: str) -> FileFormatError:
    return FileFormatError(f"'{place}' {what}" if place else what)
