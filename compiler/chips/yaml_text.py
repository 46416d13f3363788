"""The gate of chip descriptions: plain YAML of a bounded size, without aliases and tags, which expand or run code."""

from __future__ import annotations

from typing import Any

import yaml
from yaml.constructor import SafeConstructor
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from resformer.errors import FileFormatError
from resformer.models.limits import DEEPEST_YAML, LONGEST_NUMBER, MOST_YAML_ITEMS, allowed, quote

NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
LISTS = ("range",)
"""The keys inside a constant whose value is a list."""


def read_mapping(text: str, where: str) -> tuple[dict[str, Any], dict[str, int]]:
    """Read a chip description as a mapping.

    Args:
        text: The text of the file.
        where: The file, as errors name it.

    Returns:
        The value of each key, a mapping or a plain value; and the line of each key, where keys inside a mapping are
        named ``outer.inner``.

    Raises:
        FileFormatError: The text is no mapping, or has a tag, an alias, too many items or items nested too deeply; the
            message names the line.
    """
    try:
        _check_events(text, where)
        # nodes rather than values: they know their lines
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f" in line {mark.line + 1}"
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise FileFormatError(f"{where}: no YAML: {quote(problem)}{line}") from error
    if not isinstance(root, MappingNode):
        raise FileFormatError(f"{where}: no chip: write a mapping of constants, as the packaged loihi2.yaml is")
    lines = {}
    for key, value in root.value:
        lines[_key(key, where)] = _line(key)
        if isinstance(value, MappingNode):
            lines |= {f"{_key(key, where)}.{_key(inner, where)}": _line(inner) for inner, _ in value.value}
    return _mapping(root, where), lines


def _check_events(text: str, where: str) -> None:
    """Refuse aliases, tags and too many or too deep items, without building any value from the text."""
    depth = items = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        at = f"{where}:{event.start_mark.line + 1}"
        if isinstance(event, yaml.AliasEvent):
            raise FileFormatError(f"{at}: *{quote(event.anchor)} stands for another value; write the value itself")
        # a node without a tag of its own has None, or "!" if it is quoted
        if isinstance(event, yaml.NodeEvent) and (tag := getattr(event, "tag", None)) not in (None, "!"):
            raise FileFormatError(f"{at}: the tag {quote(tag)} gives a value another type; write it without")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        items += isinstance(event, yaml.NodeEvent)
        if depth > DEEPEST_YAML:
            raise FileFormatError(f"{at}: nested too deeply: the limit is {DEEPEST_YAML} levels")
        if items > allowed(MOST_YAML_ITEMS):
            raise FileFormatError(
                f"{at}: more than {allowed(MOST_YAML_ITEMS)} keys and values, the limit; name each constant once"
            )


def _mapping(node: MappingNode, where: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for key_node, value in node.value:
        key, line = _key(key_node, where), _line(key_node)
        if key in found:
            raise FileFormatError(f"{where}:{line}: {quote(key)} is there already, in line {lines[key]}")
        if key in LISTS and isinstance(value, SequenceNode):
            found[key] = [_value(each, where) for each in value.value]
        else:
            found[key] = _value(value, where)
        lines[key] = line
    return found


def _key(node: Node, where: str) -> str:
    if not isinstance(node, ScalarNode):
        raise FileFormatError(f"{where}:{_line(node)}: no YAML of names and values: a key is a list or a mapping")
    return str(node.value)


def _value(node: Node, where: str) -> Any:
    if isinstance(node, MappingNode):
        return _mapping(node, where)
    at = f"{where}:{_line(node)}"
    if not isinstance(node, ScalarNode):
        raise FileFormatError(f"{at}: a list, where a number, a text or a mapping is expected")
    if node.tag in NUMBERS and len(node.value) > LONGEST_NUMBER:
        raise FileFormatError(f"{at}: a number of {len(node.value)} digits, the limit is {LONGEST_NUMBER}")
    try:
        return SafeConstructor().construct_document(node)
    except Exception as error:  # a date of month 13, a number without digits: whatever YAML's own reader trips over
        raise FileFormatError(f"{at}: {quote(node.value)!r} is no value; write a number or a text") from error


def _line(node: Node) -> int:
    line: int = node.start_mark.line
    return line + 1
