"""What a checkpoint of a stranger may cost, and how its text is quoted.

Every number is above what a checkpoint of the largest published network with its optimizer needs, many times over.
"""

LARGEST_PICKLE = 2**24
"""Bytes of a file's pickled part, which names its tensors but does not hold them."""

MOST_OPERATIONS = 2**20
"""Pickle operations of a file; one tensor takes about 40."""

MOST_TUPLE_ITEMS = 2**16
"""Items of a tuple with those of the tuples inside: hashing visits each as often as it is referred to."""

MOST_MEMBERS = 2**17
"""Members of a zip archive; one tensor takes one."""

LARGEST_SAFETENSORS_HEADER = 2**24
"""Bytes of the JSON object at the beginning of a safetensors file."""

MOST_AXES = 8
"""Axes of a tensor; a SpikingResformer's have at most 5."""

LONGEST_QUOTE = 80
"""Characters of a name or text from a file that a message repeats."""


def quote(text: object) -> str:
    """Return text from a file as one that is safe to print: without control characters, and cut.

    Args:
        text: a string; of other values only numbers and None are shown, as others may be without end when printed.
    """
    if not isinstance(text, str):
        if text is not None and not isinstance(text, int | float):
            return f"a value of type {type(text).__name__}"
        text = hex(text) if isinstance(text, int) and abs(text) >= 2**64 else repr(text)
    kept = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text[: LONGEST_QUOTE + 1])
    return kept if len(kept) <= LONGEST_QUOTE else kept[: LONGEST_QUOTE - 1] + "…"
