"""The gate of HDF5 files: all objects are looked at before the first value is read.

HDF5 can name other files (external and soft links, external storage, virtual data sets), hold an object under many
names, and declare arrays of any size in a few bytes. A network needs none of these. A file passes if it is a tree of
groups and plain data sets, its declared bytes are within budgets, and its compressed chunks unpack to the sizes that
they declare. Data sets of texts of any length are checked in the same way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import h5py
from h5py import h5d, h5f, h5g, h5l, h5o, h5p, h5t

from resformer.compiler.files.hdf5_chunks import check_chunks
from resformer.compiler.files.hdf5_heaps import REWRITE
from resformer.compiler.files.hdf5_texts import Texts
from resformer.errors import FileFormatError
from resformer.models.limits import (
    DEEPEST_GROUP,
    EXPANSION_SHARE,
    LARGEST_EXPANSION,
    LARGEST_REPEATED,
    LARGEST_REPEATED_SUM,
    LARGEST_TEXTS,
    LONGEST_NAME,
    LONGEST_PATH,
    MOST_AXES,
    MOST_OBJECTS,
    MOST_TEXTS,
    allowed,
    quote,
    require_within,
)

LINKS = {h5l.TYPE_SOFT: "a soft link", h5l.TYPE_EXTERNAL: "a link into another file"}
CLASSES = (h5t.INTEGER, h5t.FLOAT, h5t.STRING, h5t.ENUM)
"""The HDF5 classes of types that values may have: numbers, texts, and booleans, which h5py stores as enumerations."""


@dataclass
class _Seen:
    """What the check of a file has met so far.

    Attributes:
        size: The size of the file, in bytes.
        stored: The file's texts of variable length.
        objects: For the address of each object, the name under which it was first met, as messages call it.
        compressed: Declared bytes of all arrays that are compressed or were never written.
        repeated: Declared bytes of all chunked arrays that repeat one value.
        texts: The number of texts.
        text_bytes: The stated bytes of all texts of variable length.
    """

    size: int
    stored: Texts
    objects: dict[int, str] = field(default_factory=dict)
    compressed: int = 0
    repeated: int = 0
    texts: int = 0
    text_bytes: int = 0


def check_hdf5(file: h5py.File, size: int) -> None:
    """Refuse a file that is not a tree of plain groups and data sets within budgets, before HDF5 unpacks a value.

    Args:
        file: The file, open for reading.
        size: The size of the file, in bytes.

    Raises:
        FileFormatError: The file is not such a tree; the message names the object or the budget.
        Exception: The file is damaged; h5py raises errors of many types.
    """
    with Path(file.filename).open("rb") as opened:
        _check_objects(file, _Seen(size, Texts(file, opened, size)))


def _check_objects(file: h5py.File, seen: _Seen) -> None:
    """Check all objects of a file."""
    seen.objects[_address(file.id, b".")] = "/"
    todo = [("", file.id, 0)]
    while todo:
        path, group, depth = todo.pop()
        if depth > DEEPEST_GROUP:
            raise FileFormatError(f"{quote(path)}: nested too deeply: the limit is {DEEPEST_GROUP} groups; {REWRITE}")
        _check_links(path, group)
        require_within(len(seen.objects) + group.get_num_objs(), MOST_OBJECTS, "holds {} groups and data sets or more")
        for name in _names(group):
            inner = f"{path}/{_text(path, name)}"
            kind = group.links.get_info(name).type
            if kind != h5l.TYPE_HARD:
                raise FileFormatError(
                    f"{quote(inner)}: is {LINKS.get(kind, 'a link of an unknown kind')}, where a value is expected; "
                    f"{REWRITE} without links"
                )
            address = _address(group, name)
            if address in seen.objects:
                raise FileFormatError(
                    f"{quote(inner)}: is {seen.objects[address]} under another name; {REWRITE}, each value once"
                )
            seen.objects[address] = quote(inner)
            item = h5o.open(group, name)
            if isinstance(item, h5g.GroupID):
                todo.append((inner, item, depth + 1))
            elif isinstance(item, h5d.DatasetID):
                _check_dataset(inner, item, seen)
            else:
                raise FileFormatError(f"{quote(inner)}: is neither a group nor a data set; {REWRITE}")


def _check_links(path: str, group: h5g.GroupID) -> None:
    """Refuse a group whose list of links is compressed: HDF5 would unpack it into as much memory as it yields."""
    made = (h5g.open(group, b"/") if isinstance(group, h5f.FileID) else group).get_create_plist()
    # h5py tells the filters only of data sets, although groups have the same property
    filters = h5p.PropDCID(made.id)
    filters.locked = True  # both objects have one identifier, which `made` closes
    if filters.get_nfilters():
        raise FileFormatError(f"{quote(path or '/')}: its list of what it holds is compressed; {REWRITE} without")


def _names(group: h5g.GroupID) -> list[bytes]:
    """The names in a group; a damaged group's list may have no end, so more than ``MOST_OBJECTS`` are refused."""
    names: list[bytes] = []

    def take(name: bytes) -> bool | None:
        names.append(name)
        return len(names) > allowed(MOST_OBJECTS) or None

    group.links.iterate(take)
    require_within(len(names), MOST_OBJECTS, "holds {} groups and data sets or more")
    return names


def _text(path: str, name: bytes) -> str:
    """A name as text, which must be printable and short enough for messages and other files."""
    text = name.decode("utf-8", "replace")
    shown = quote(f"{path}/{text}")
    require_within(len(path), LONGEST_PATH, f"{shown}: names of {{}} characters together")
    require_within(len(name), LONGEST_NAME, f"{shown}: a name of {{}} bytes")
    if not text.isprintable() or text.encode() != name:
        raise FileFormatError(f"{shown}: a name that is no printable text; {REWRITE}")
    return text


def _address(group: h5g.GroupID, name: bytes) -> int:
    info = h5o.get_info(group, name)
    address: int = info.addr
    return address


def _check_dataset(path: str, dataset: h5d.DatasetID, seen: _Seen) -> None:
    """Refuse a data set whose values lie elsewhere, or that declares more bytes or texts than the budgets allow."""
    shown = quote(path)
    kind = dataset.get_type()
    if kind.get_class() not in CLASSES:
        raise FileFormatError(f"{shown}: holds neither numbers nor texts; {REWRITE}")
    made = dataset.get_create_plist()
    layout = made.get_layout()
    if layout == h5d.VIRTUAL:
        raise FileFormatError(f"{shown}: is a virtual data set, of values in other places; {REWRITE}")
    if made.get_external_count():
        raise FileFormatError(f"{shown}: its values lie in another file; {REWRITE} with its values inside")
    shape = dataset.shape
    if len(shape) > MOST_AXES:
        raise FileFormatError(f"{shown}: has {len(shape)} axes, the limit is {MOST_AXES}; {REWRITE}")
    count, item = math.prod(map(int, shape)), int(kind.get_size())
    of_references = isinstance(kind, h5t.TypeStringID) and kind.is_variable_str()
    if layout == h5d.CHUNKED:
        check_chunks(shown, dataset, seen.stored.reference if of_references else item)
    if isinstance(kind, h5t.TypeStringID):
        seen.texts += count
        require_within(seen.texts, MOST_TEXTS, "holds {} texts")
        if of_references:
            _check_texts(shown, dataset, seen)
            return
    declared = count * item
    if not dataset.get_storage_size() and shape:
        if layout == h5d.CHUNKED:
            require_within(declared, LARGEST_REPEATED, f"{shown}: repeats a value over {{}} bytes")
            seen.repeated += declared
            require_within(seen.repeated, LARGEST_REPEATED_SUM, "repeats values over {} bytes")
            return
        if declared:
            # zeros that were never written take memory once they are read, as other values do
            seen.compressed += declared
    elif declared > dataset.get_storage_size() or made.get_nfilters():
        seen.compressed += declared
    require_expansion(shown, seen.compressed, seen.size)


def _check_texts(shown: str, dataset: h5d.DatasetID, seen: _Seen) -> None:
    """Refuse texts whose stated length exceeds the size of the file, or whose lengths together exceed the budget."""
    lengths = seen.stored.lengths(shown, dataset)
    if (longest := int(lengths.max(initial=0))) > seen.size:
        raise FileFormatError(
            f"{shown}: damaged: states a text of {longest} bytes, the file has {seen.size}; {REWRITE}"
        )
    seen.text_bytes += int(lengths.sum())
    require_within(seen.text_bytes, LARGEST_TEXTS, f"{shown}: with it, texts have {{}} bytes")


def require_expansion(shown: str, declared: int, size: int) -> None:
    """Refuse a file whose arrays take far more bytes than the file has.

    Args:
        shown: The array that was added last, as messages call it.
        declared: Declared bytes of all arrays so far that are compressed or were never written.
        size: The size of the file, in bytes.

    Raises:
        FileFormatError: The arrays take more bytes than the budget allows for the size of the file.
    """
    require_within(
        declared - allowed(EXPANSION_SHARE) * size,
        LARGEST_EXPANSION,
        f"{shown}: with it, arrays are {{}} bytes larger than {allowed(EXPANSION_SHARE)} times the file",
    )
