"""What weights take in a core's memory: rows of all of them or, where that is less, of those that are not zero."""

from __future__ import annotations

import numpy as np

from resformer.compiler.ir.arrays import WeightArray


def mantissa_bits(weight: WeightArray) -> int:
    """The bits that mantissas need, sign included."""
    return 1 + int(np.abs(weight.astype(np.int64)).max(initial=0)).bit_length()


def stored_share(weight: WeightArray, index_bits: int) -> float:
    """The share of a convolution's weights that are stored: all, or only those that are not zero, if that takes less.

    Args:
        weight: Mantissas.
        index_bits: Of what names the target of a weight that is stored by itself.
    """
    bits, nonzero = mantissa_bits(weight), int(np.count_nonzero(weight))
    return nonzero / weight.size if nonzero * (bits + index_bits) < weight.size * bits else 1.0


def stored_bits(weight: WeightArray, index_bits: int) -> int:
    """The bits that a convolution's weights take, with their indices if they have any; headers of rows left out."""
    bits, share = mantissa_bits(weight), stored_share(weight, index_bits)
    return weight.size * bits if share == 1 else int(np.count_nonzero(weight)) * (bits + index_bits)
