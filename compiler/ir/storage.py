"""How weights are stored: mantissas, the two synapses of a wide one, and the memory that they take.

A layer takes rows of all its weights or, where that is less, of those that are not zero.
"""

from __future__ import annotations

import numpy as np

from resformer.compiler.ir.arrays import Int8Array, Int64Array, WeightArray
from resformer.compiler.target import LOIHI

OUTLIER_BITS = LOIHI.weight_bits_max + 1
"""A bit more than a synapse holds: a second one for the few weights that are too large for the first."""

NEXT_WIDTH = {7: 8}
"""Of a width that synapses cannot have, the one that they take."""


def mantissa_bits(weight: WeightArray) -> int:
    """The bits that mantissas need, sign included."""
    return 1 + int(np.abs(weight.astype(np.int64)).max(initial=0)).bit_length()


def synapse_bits(weight: WeightArray) -> int:
    """The bits that a core keeps of each of a layer's weights.

    There is no sign where no weight is negative, or none positive. Seven bits are kept as eight: Loihi knows widths of
    1 to 6 and 8, and lava-dl's netx/oxford/run.ipynb prints 8 for weights that seven would hold.
    """
    signed = bool((weight > 0).any()) and bool((weight < 0).any())
    bits = mantissa_bits(weight) - (not signed)
    return NEXT_WIDTH.get(bits, max(bits, 1))


def stored_share(weight: WeightArray, index_bits: int) -> float:
    """The share of a convolution's weights that are stored: all, or only those that are not zero, if that takes less.

    Args:
        weight: Mantissas.
        index_bits: Of what names the target of a weight that is stored by itself; with 0 none can be.
    """
    if index_bits == 0:
        return 1.0
    bits, nonzero = mantissa_bits(weight), int(np.count_nonzero(weight))
    return nonzero / weight.size if nonzero * (bits + index_bits) < weight.size * bits else 1.0


def stored_bits(weight: WeightArray, index_bits: int) -> int:
    """The bits that a convolution's weights take, with their indices if they have any; headers of rows left out."""
    bits, share = mantissa_bits(weight), stored_share(weight, index_bits)
    return weight.size * bits if share == 1 else int(np.count_nonzero(weight)) * (bits + index_bits)


def mantissa_max(bits: int) -> int:
    """The largest magnitude of a mantissa of so many bits, sign included."""
    if bits == OUTLIER_BITS:
        return 2 * mantissa_max(LOIHI.weight_bits_max)
    largest: int = 2 ** (bits - 1) - 1
    return largest


def split_mantissas(weight: WeightArray) -> tuple[Int8Array, Int8Array, int]:
    """Parts of mantissas m with m = hi * 2^s + lo, both of m's sign, and s, the least with which all hi fit.

    Where s is zero, lo is as large as it can be, so that hi is zero but for the few m that a synapse cannot hold. Like
    signs let range analysis prove of the parts' sum just what it proves of the whole.
    """
    magnitude, sign = np.abs(weight.astype(np.int32)), np.sign(weight)
    largest, most = mantissa_max(LOIHI.weight_bits_max), int(magnitude.max(initial=0))
    if most <= 2 * largest:
        shift, low = 0, np.minimum(magnitude, largest)
    else:
        shift = most.bit_length() - (LOIHI.weight_bits_max - 1)
        low = magnitude & ((1 << shift) - 1)
    high = (magnitude - low) >> shift
    return (sign * high).astype(np.int8), (sign * low).astype(np.int8), shift


def whole_exponent(weight: Int64Array) -> int:
    """The largest exponent e, of those that a synapse has, with which all weights are whole numbers times 2^e."""
    met = int(np.bitwise_or.reduce(np.abs(weight), axis=None))
    return min((met & -met).bit_length() - 1, LOIHI.weight_exp_max) if met else 0
