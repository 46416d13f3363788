"""JSON from strangers, with a limit on how deeply it is nested."""

import json

from resformer.models.limits import DEEPEST_JSON


def parse_json(text: str) -> object:
    """The value of a JSON text.

    Raises:
        ValueError: The text is no JSON, nests too deeply, or holds NaN, Infinity or a number of more digits than
            Python reads (4300); the message is one line. A number beyond a float's range becomes an infinity.
    """
    try:
        value: object = json.loads(text, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    _check_depth(value)
    return value


def _check_depth(value: object) -> None:
    level, depth = [value], 0
    while level:
        if depth > DEEPEST_JSON:
            raise ValueError(f"nested too deeply: the limit is {DEEPEST_JSON} lists and objects inside each other")
        inside = (each.values() if isinstance(each, dict) else each if isinstance(each, list) else () for each in level)
        level = [each for every in inside for each in every if isinstance(each, dict | list)]
        depth += 1


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number in JSON")
