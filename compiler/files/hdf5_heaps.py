"""The global heaps of an HDF5 file, which hold its texts; they are walked through here before HDF5 does so.

A heap is a header and then objects, one behind the other, each with its number and its size. HDF5 goes from object to
object by their sizes, so a damaged object of size zero would make it loop for ever. Here each step must lead forward
and stay inside the heap (HDF5 file format specification, section III.E: global heap).
"""

from __future__ import annotations

from typing import BinaryIO

from resformer.errors import FileFormatError

SIGNATURE, VERSION = b"GCOL", 1
FIXED_BYTES = 8
"""Bytes before the size, in the header of a heap (signature, version, 3 reserved bytes) and in the header of an object
(number, count of references, 4 reserved bytes)."""
NUMBER_BYTES = 2
ALIGNMENT = 8
REWRITE = "write the network again"


class Heaps:
    """The heaps of a file that texts refer to.

    Args:
        opened: The file, open for reading bytes.
        base: The offset in the file, in bytes, from which its addresses count.
        size: The size of the file, in bytes.
        length_bytes: The number of bytes in which this file states a size.
    """

    def __init__(self, opened: BinaryIO, base: int, size: int, length_bytes: int) -> None:
        self._opened, self._base, self._size, self._length_bytes = opened, base, size, length_bytes
        self._header = _aligned(FIXED_BYTES + length_bytes)
        self._seen: set[int] = set()
        self._left = size

    def check(self, shown: str, address: int) -> None:
        """Check a heap, if it was not checked before.

        Args:
            shown: The data set whose text lies there, as messages call it.
            address: The address of the heap, as the file states it.

        Raises:
            FileFormatError: There is no heap at the address, or it cannot be walked through.
        """
        if address in self._seen:
            return
        self._seen.add(address)
        self._opened.seek(min(self._base + address, self._size))
        header = self._opened.read(self._header)
        if header[: len(SIGNATURE) + 1] != SIGNATURE + bytes([VERSION]) or len(header) < self._header:
            raise FileFormatError(f"{shown}: damaged: its texts are not where it says; {REWRITE}")
        size = int.from_bytes(header[FIXED_BYTES : FIXED_BYTES + self._length_bytes], "little")
        # heaps do not overlap, so all of them together fit into the file
        self._left -= size
        if size < self._header or self._left < 0:
            raise FileFormatError(f"{shown}: damaged: its texts lie in {size} bytes of a smaller file; {REWRITE}")
        heap = header + self._opened.read(size - self._header)
        if len(heap) < size:
            raise FileFormatError(f"{shown}: damaged: its texts end with the file; {REWRITE}")
        self._walk(shown, heap)

    def _walk(self, shown: str, heap: bytes) -> None:
        """Go through a heap from object to object; each step must lead forward and stay inside the heap."""
        at = self._header
        while at + self._header <= len(heap):
            number = int.from_bytes(heap[at : at + NUMBER_BYTES], "little")
            size = int.from_bytes(heap[at + FIXED_BYTES : at + FIXED_BYTES + self._length_bytes], "little")
            # free space has the number 0, and its size includes its header
            step = self._header + _aligned(size) if number else size
            if step < self._header or step > len(heap) - at:
                raise FileFormatError(f"{shown}: damaged: a text of {size} bytes leads nowhere; {REWRITE}")
            at += step


def _aligned(size: int) -> int:
    """A size rounded up to a multiple of ``ALIGNMENT``, where the next object may begin."""
    return -(-size // ALIGNMENT) * ALIGNMENT
