"""What a file of a stranger may cost, and how its text is quoted: every budget of every reader is a number here.

Each budget is above what files of the largest published network need, many times over. ``raised`` multiplies all of
them for a while; ``--limits`` of the commands does. What bounds how deep something nests, how long a number is written
or how many axes an array has is no budget, and stays as it is: no honest file comes near it.
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
"""Items of a tuple with those of the tuples inside: hashing visits each as often as it is referred to."""

MOST_KEYS = 2**13
"""Keys of a pickle's mappings that are neither text nor a number below :data:`DENSE_KEYS`, items of tuples counted:
whoever chooses them can make each meet all others, so that time grows with the square of their number."""

DENSE_KEYS = 2**16
"""Whole numbers below are keys that never meet."""

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
"""Bytes of a compressed array once it is unpacked, to a temporary file."""

LONGEST_ARRAY_HEADER = 10_000
"""Bytes of the header of an array's file, which names its type and shape; NumPy itself reads no longer ones."""

# recordings of event cameras

LARGEST_EVENT_PACKET = 2**26
"""Bytes of a packet of events, also when unpacked; DV writes packets of 10 ms, of a few 100 kB."""

EVENT_EXPANSION_SHARE = 64
"""How many times its own size a recording's events may have, beside :data:`LARGEST_UNPACKED`: each packet may pack ten
thousand times as much."""

MOST_FRAMES = 2**14
"""Frames of a recording, beside :data:`FRAMES_AN_EVENT`: two times far apart take few bytes, and hours to run."""

FRAMES_AN_EVENT = 16
"""How many more frames a recording may make for each of its events. A sensor that looks at nothing sends dozens a
millisecond."""

# images

LARGEST_IMAGE_FILE = 2**28
"""Bytes of an image file."""

MOST_PIXELS = 50_000_000
"""Of an image, as it is in its file and as it is resized; Pillow warns from 89 million on."""

LARGE_PIXELS = 2**23
"""From here on one image is decoded at a time, so that memory does not depend on the number of cores."""

# HDF5: NIR files

MOST_OBJECTS = 2**17
"""Groups and data sets; a node takes about ten."""

DEEPEST_GROUP = 32
"""Groups inside each other; graphs inside graphs take two each."""

LONGEST_NAME = 1024
"""Bytes of the name of a group, a data set or a node; characters of that of a class."""

LONGEST_PATH = 4096
"""Characters of the names of groups inside each other, together."""

LARGEST_EXPANSION = 2**28
"""Bytes by which a file's compressed arrays may be larger than its :data:`EXPANSION_SHARE`."""

EXPANSION_SHARE = 4
"""How many times its own size a file's compressed arrays may have."""

MOST_CHUNKS = 2**20
"""Chunks of an array; writers make them of 8 KiB or more."""

LARGEST_REPEATED = 2**27
"""Bytes of an array that is stored as one value, which it repeats; it takes none until something changes it."""

LARGEST_REPEATED_SUM = 2**31
"""Bytes of all of these."""

MOST_TEXTS = 2**20
"""Texts in arrays of texts: two an edge."""

LARGEST_TEXTS = 2**26
"""Bytes of these texts together: many may be one and the same in the file."""

MOST_NODES = 2**13
"""Nodes of a network: time grows with the square of their number in places. SpikingResformer-L has a few hundred."""

MOST_EDGES = 2**18
"""Nodes that the nodes of a network read, together, once nodes that only pass on or add are left out: each such node
may double what the next one reads."""

MOST_VALUES = 2**24
"""Values of one node of a network for one sample and step, for each of which parameters may be kept; a population of
SpikingResformer-L has at most 2^20."""

# JSON and YAML

LARGEST_JSON = 2**24
"""Bytes of a JSON file."""

DEEPEST_JSON = 64
"""Lists and objects inside each other."""

LONGEST_NUMBER = 64
"""Characters of a number; the longest that is written for a float has 24."""

LARGEST_YAML = 2**18
"""Bytes of a chip's description; the packaged ones have 5000."""

DEEPEST_YAML = 8
"""Mappings inside each other; a description has two."""

MOST_YAML_ITEMS = 2**12
"""Keys and values of a chip's description; it has 34 constants of 4 each."""

# names of classes

LARGEST_CLASSES = 2**22
"""Bytes of a file of names; the 21,841 of ImageNet-21K take 1.5 million with all their synonyms."""

# placements

MOST_CORES = 150_000
"""Cores that a network may be cut into, each of which ``placement.json`` names; the largest system, Hala Point, has
138,240."""

# programs, and what runs of them

LONGEST_SAMPLE = 2**16
"""Steps of a sample. What neurons may gather is bounded step by step, so a slip of the keyboard would take hours."""

LARGEST_RUN = 2**30
"""Bytes that the largest operation of a program may take for one sample over all steps, as the reference interpreter
computes it."""

MOST_WORK = 2**32
"""Products of a value and a weight that one sample may take over all steps, beside :data:`WORK_SHARE`: 14 seconds in
the reference interpreter. It is no less, since honest networks for events have few weights, large maps and many steps:
a first layer of 16 kernels of 5x5 on 128 x 128 pixels takes 4 * 10^9 in 300 steps."""

WORK_SHARE = 2**14
"""How many more a sample may take for each byte of the program's file: large networks come in large files. The authors'
network for DVS-Gesture takes 2.3 * 10^10 in 16 steps of 64 x 64 pixels, and 2.8 megabytes: 2^13 is too few for 20."""

# texts

LONGEST_QUOTE = 80
"""Characters of a name or text from a file that a message repeats."""

LONGEST_MESSAGE = 1000
"""Characters of one line of an error."""

UNPRINTABLE = "\N{REPLACEMENT CHARACTER}"
"""What stands for a control character."""

_factors = [1.0]
"""What ``raised`` multiplies by; the last counts. Not one a thread: threads that read for one that raised must know."""


@contextlib.contextmanager
def raised(factor: float) -> Iterator[None]:
    """Multiply all budgets, for files that are large and trusted.

    Args:
        factor: At least 1.
    """
    _factors.append(factor)
    try:
        yield
    finally:
        _factors.pop()


def allowed(budget: int) -> int:
    """A budget as ``raised`` has it."""
    return int(budget * _factors[-1])


def require_within(found: int, budget: int, what: str) -> None:
    """Refuse what takes more than a budget allows.

    Args:
        found: How much it takes.
        budget: One of this module's numbers.
        what: What is counted, with a blank for the number, such as ``"holds {} objects"``; braces in names before it
            stay as they are.

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
    """What to do where more is found than a budget allows, for the end of a message."""
    factor = math.ceil(found / budget)
    return f"raise all limits with --limits{f' {factor}' if factor <= 1000 else ''}"


def quote(text: object) -> str:
    """Return text from a file as one that is safe to print: without control characters, and cut.

    Args:
        text: a string; of other values only numbers and None are shown, as others may be without end when printed.
    """
    if not isinstance(text, str):
        if text is not None and not isinstance(text, int | float):
            return f"a value of type {type(text).__name__}"
        text = hex(text) if isinstance(text, int) and abs(text) >= 2**64 else repr(text)
    return cut(printable(text[: LONGEST_QUOTE + 1]), LONGEST_QUOTE)


def printable(text: str) -> str:
    """A text without control characters, directions of writing and halves of characters; uncut."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else UNPRINTABLE for each in text)


def cut(text: str, longest: int) -> str:
    """The beginning of a text that is too long."""
    return text if len(text) <= longest else text[: longest - 1] + "…"
