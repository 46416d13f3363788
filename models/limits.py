"""Budgets for files from strangers, and how text from them is quoted: every limit of every reader is a number here.

Each budget is many times what files of the largest published network need. ``raised`` multiplies all budgets for a
while, as the option ``--limits`` of the commands does. Limits on how deeply something is nested, how many characters a
number has or how many axes an array has are not budgets, and are not multiplied: no honest file comes near them.
"""

import contextlib
import math
from collections.abc import Iterator

from resformer.errors import FileFormatError

# pickles, zip archives and safetensors

LARGEST_PICKLE = 2**24
"""Bytes of a file's pickled part, which names its tensors but does not hold them."""

MOST_OPERATIONS = 2**20
"""Pickle operations of a file; one tensor takes about 40."""

MOST_TUPLE_ITEMS = 2**16
"""Items of a tuple, including the items of all tuples inside; hashing visits an inner tuple once for each reference."""

MOST_KEYS = 2**13
"""Keys of a pickle's mappings that are neither text nor a whole number below :data:`DENSE_KEYS`; a tuple counts all of
its items. Such keys can be chosen so that all collide, and then time grows with the square of their number."""

DENSE_KEYS = 2**16
"""Whole numbers from 0 to below this one are keys that do not collide."""

MOST_MEMBERS = 2**17
"""Members of a zip archive; one tensor takes one."""

LARGEST_DIRECTORY = 2**24
"""Bytes of a zip archive's directory, which is held in memory."""

LARGEST_SAFETENSORS_HEADER = 2**24
"""Bytes of the JSON object at the beginning of a safetensors file."""

MOST_AXES = 8
"""Axes of a tensor; a SpikingResformer's have at most 5."""

# arrays of NumPy

LARGEST_UNPACKED = 2**30
"""Bytes of a compressed array, or of a recording's events, once they are unpacked to a temporary file."""

LONGEST_ARRAY_HEADER = 10_000
"""Bytes of the header of an array's file, which names its type and shape; NumPy itself has the same limit."""

# recordings of event cameras

LARGEST_EVENT_PACKET = 2**26
"""Bytes of a packet of events, as stored and also when unpacked; DV writes packets of 10 ms, of a few 100 kB."""

EVENT_EXPANSION_SHARE = 64
"""A recording's events may have this many times the bytes of its file, plus :data:`LARGEST_UNPACKED`; without a limit,
each packet could unpack to ten thousand times its size."""

MOST_FRAMES = 2**14
"""Frames of a recording, plus :data:`FRAMES_AN_EVENT` for each event: two events far apart in time take few bytes, but
the frames between them can take hours to run."""

FRAMES_AN_EVENT = 16
"""How many more frames a recording may make for each of its events. Even a sensor that sees nothing move sends dozens
of events a millisecond."""

# images

LARGEST_IMAGE_FILE = 2**28
"""Bytes of an image file."""

MOST_PIXELS = 50_000_000
"""Pixels of an image, both as it is in its file and as it is resized; Pillow warns from 89 million on."""

LARGE_PIXELS = 2**23
"""Images of more pixels are decoded one at a time, so that memory does not depend on the number of cores."""

# HDF5: NIR files

MOST_OBJECTS = 2**17
"""Groups and data sets of a file; a node takes about ten."""

DEEPEST_GROUP = 32
"""Depth of groups inside each other; each graph inside a graph takes two levels."""

LONGEST_NAME = 1024
"""Bytes of the name of a group, a data set or a node; characters of the name of a class."""

LONGEST_PATH = 4096
"""Characters of a path: the names of groups inside each other, together."""

LARGEST_EXPANSION = 2**28
"""Bytes that a file's compressed arrays may take beyond :data:`EXPANSION_SHARE` times the size of the file."""

EXPANSION_SHARE = 4
"""A file's compressed arrays may take this many times the size of the file, plus :data:`LARGEST_EXPANSION`."""

MOST_CHUNKS = 2**20
"""Chunks of an array; writers make them of 8 KiB or more."""

LARGEST_REPEATED = 2**27
"""Bytes of an array that is stored as one repeated value; in memory it takes none until something changes it."""

LARGEST_REPEATED_SUM = 2**31
"""Bytes of all arrays of a file that are stored as one repeated value."""

MOST_TEXTS = 2**20
"""Texts in a file's arrays of texts; each edge takes two."""

LARGEST_TEXTS = 2**26
"""Bytes of these texts together; the file may hold a text once and refer to it many times."""

MOST_NODES = 2**13
"""Nodes of a network; some parts take time that grows with the square of this number. SpikingResformer-L has a few
hundred."""

MOST_EDGES = 2**18
"""Inputs of all nodes of a network together, once nodes that only pass on or add values are left out; leaving one out
may double the number of nodes that the next one reads."""

MOST_VALUES = 2**24
"""Values of one node of a network for one sample and step; each value may have parameters of its own. A population of
SpikingResformer-L has at most 2^20."""

# JSON and YAML

LARGEST_JSON = 2**24
"""Bytes of a JSON file."""

DEEPEST_JSON = 64
"""Depth of lists and objects inside each other."""

LONGEST_NUMBER = 64
"""Characters of a number in YAML; the longest that Python writes for a float has 24."""

LARGEST_YAML = 2**18
"""Bytes of a chip's description; the packaged ones have 7000 at most."""

DEEPEST_YAML = 8
"""Depth of mappings inside each other; a description has two levels."""

MOST_YAML_ITEMS = 2**12
"""Keys and values of a chip's description; it has about 40 constants, each a mapping of up to 4 entries."""

# names of classes

LARGEST_CLASSES = 2**22
"""Bytes of a file of class names; the 21,841 classes of ImageNet-21K take 1.5 million with all their synonyms."""

# placements

MOST_CORES = 150_000
"""Cores that a network may be divided into; ``placement.json`` names each of them. The largest system, Hala Point, has
138,240."""

# programs, and what runs of them

LONGEST_SAMPLE = 2**16
"""Steps of a sample. Bounds on what neurons accumulate are computed step by step, so a mistyped number of steps could
take hours."""

LARGEST_RUN = 2**30
"""Bytes that the largest operation of a program may take for one sample over all steps, as the reference interpreter
computes it."""

MOST_WORK = 2**32
"""Products of a value and a weight that one sample may take over all steps, plus :data:`WORK_SHARE` for each byte of
the file; this many take 14 seconds in the reference interpreter. A smaller number would refuse honest networks for
events, which have few weights, large maps and many steps: a first layer of 16 kernels of 5x5 on 128 x 128 pixels takes
4 * 10^9 in 300 steps."""

WORK_SHARE = 2**14
"""How many more products a sample may take for each byte of the program's file: large networks come in large files. The
authors' network for DVS-Gesture takes 2.3 * 10^10 products in 16 steps of 64 x 64 pixels, and its file has 2.8
megabytes; 2^13 would be too few for 20 steps."""

# texts

LONGEST_QUOTE = 80
"""Characters of a name or text from a file that a message repeats."""

LONGEST_MESSAGE = 1000
"""Characters of one line of an error message."""

UNPRINTABLE = "\N{REPLACEMENT CHARACTER}"
"""The character shown in place of one that cannot be printed."""

_factors = [1.0]
"""The factors of all calls of ``raised`` in force; the last factor counts. All threads share the list, since a thread
may read files on behalf of the thread that called ``raised``."""


@contextlib.contextmanager
def raised(factor: float) -> Iterator[None]:
    """Multiply all budgets, for files that are large and trusted.

    Args:
        factor: The factor, at least 1.
    """
    _factors.append(factor)
    try:
        yield
    finally:
        _factors.pop()


def allowed(budget: int) -> int:
    """A budget times the factor of ``raised``."""
    return int(budget * _factors[-1])


def require_within(found: int, budget: int, what: str) -> None:
    """Refuse a file that takes more than a budget allows.

    Args:
        found: The amount that was found.
        budget: One of this module's numbers.
        what: What is counted, with ``{}`` for the number, such as ``"holds {} objects"``; only the last ``{}`` is
            replaced, so braces in a name before it stay as they are.

    Raises:
        FileFormatError: The message names both numbers and the way to raise the limit.
    """
    limit = allowed(budget)
    if found > limit:
        before, _, after = what.rpartition("{}")
        raise FileFormatError(
            f"{before}{quote(found)}{after}, the limit is {limit}; if you trust the file, {raise_limits(found, budget)}"
        )


def raise_limits(found: int, budget: int) -> str:
    """Advice to raise the limits for a file that exceeds a budget, for the end of a message."""
    factor = math.ceil(found / budget)
    return f"raise all limits with --limits{f' {factor}' if factor <= 1000 else ''}"


def quote(text: object) -> str:
    """Return text from a file in a form that is safe to print: without control characters, and not too long.

    Args:
        text: a string, a number or None; of any other value only its type is shown, as its text may have no end.
    """
    if not isinstance(text, str):
        if text is not None and not isinstance(text, int | float):
            return f"a value of type {type(text).__name__}"
        text = hex(text) if isinstance(text, int) and abs(text) >= 2**64 else repr(text)
    return cut(printable(text[: LONGEST_QUOTE + 1]), LONGEST_QUOTE)


def printable(text: str) -> str:
    """A text, at full length, with control characters, marks of writing direction and surrogates replaced."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else UNPRINTABLE for each in text)


def cut(text: str, longest: int) -> str:
    """A text of at most ``longest`` characters: the text itself, or its beginning and an ellipsis."""
    return text if len(text) <= longest else text[: longest - 1] + "…"
